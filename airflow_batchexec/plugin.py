"""The Airflow plugin."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_batchexec import run_notes

__all__ = ["BatchExecPlugin"]


class BatchExecPlugin(AirflowPlugin):
    """What this package adds to Airflow's server: notes on runs."""

    name = "batchexec"
    listeners: list[Any] = [run_notes]  # noqa: RUF012  as Airflow reads it
