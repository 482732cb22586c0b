"""The execution DAG: each run is one execution, whose conf sets the model, the source and the destination."""

from __future__ import annotations

from airflow_batchexec import create_execution_dag

dag = create_execution_dag()
