"""Imports what tasks need in the scheduler, before it forks the processes that run them.

LocalExecutor forks its workers from the scheduler, and they fork a process for each task. A task inherits the modules that
were imported in the scheduler; importing them costs it half of its own CPU time. The DAG processor forks, too.

Airflow calls ``on_starting`` while it creates the job of a scheduler, DAG processor or triggerer, before any of them forks
(``Job.__init__`` in ``airflow/jobs/job.py``, ``LocalExecutor.start``; 3.3.2).
"""

from __future__ import annotations

import importlib
from typing import Any

from airflow.listeners import hookimpl

__all__ = ["MODULES", "on_starting"]

MODULES = (
    "airflow_batchexec.dags.factory",
    "airflow_batchexec.engine.execution.conclusion",
    "airflow_batchexec.engine.execution.preparation",
    "airflow_batchexec.engine.journal.replay",
    "airflow_batchexec.engine.journal.writer",
    "airflow_batchexec.engine.machine.pods",
    "airflow_batchexec.engine.repository.opening",
    "airflow_batchexec.engine.running.session",
    "airflow_batchexec.engine.running.shared_pods",
    "airflow_batchexec.engine.running.single_file",
    "airflow_batchexec.engine.storage.local",
    "airflow_batchexec.operators.predict_file",
    "psutil",
)
"""What the tasks of an execution import, directly or indirectly, except for buckets."""


@hookimpl
def on_starting(component: Any) -> None:  # noqa: ARG001  Airflow's signature
    """Import the modules."""
    for name in MODULES:
        importlib.import_module(name)
