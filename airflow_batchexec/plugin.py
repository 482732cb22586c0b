"""The Airflow plugin."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_batchexec import preload
from airflow_batchexec.api import URL_PREFIX, LazyApp
from airflow_batchexec.reporting import run_notes

__all__ = ["BatchExecPlugin"]


class BatchExecPlugin(AirflowPlugin):
    """Adds notes on runs, the REST API, and a faster start of tasks to Airflow."""

    name = "batchexec"
    listeners: list[Any] = [preload, run_notes]  # noqa: RUF012  the type that Airflow expects
    fastapi_apps: list[Any] = [  # noqa: RUF012  as above
        {"app": LazyApp(), "url_prefix": URL_PREFIX, "name": "Batch execution"}
    ]
