"""The execution DAG: each run is one execution, and its conf says what is predicted, from where to where."""

from __future__ import annotations

from airflow_batchexec import create_execution_dag

dag = create_execution_dag()
