"""The Airflow plugin."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

__all__ = ["BatchExecPlugin"]


class BatchExecPlugin(AirflowPlugin):
    """What this package adds to Airflow's server."""

    name = "batchexec"
