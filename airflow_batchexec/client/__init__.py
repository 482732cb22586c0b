"""The client for the REST API, and for executions on this machine.

It does not need Airflow. The names below are imported on first use, which keeps importing the package cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_batchexec.client.client_settings import ClientSettings
    from airflow_batchexec.client.inference import BatchInferenceClient
    from airflow_batchexec.client.local_run import LocalRunResult
    from airflow_batchexec.client.manager import BatchJobManagerClient
    from airflow_batchexec.client.results import (
        BatchJob,
        BatchJobSummary,
        CancelExecutionResult,
        ExecutionFileDetails,
        ExecutionStatusResult,
        GetBatchJobDetailsResult,
        GetExecutionReportResult,
        ListBatchJobsResult,
        ReportMessage,
        StartExecutionResult,
        TaskExecution,
    )
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.wire.values import JobStatus, TaskStatus

_RESULTS = "airflow_batchexec.client.results"
_MODULES = {
    "BatchInferenceClient": "airflow_batchexec.client.inference",
    "BatchJob": _RESULTS,
    "BatchJobManagerClient": "airflow_batchexec.client.manager",
    "BatchJobSummary": _RESULTS,
    "CancelExecutionResult": _RESULTS,
    "ClientSettings": "airflow_batchexec.client.client_settings",
    "ExecutionConfig": "airflow_batchexec.engine.config.model",
    "ExecutionFileDetails": _RESULTS,
    "ExecutionStatusResult": _RESULTS,
    "GetBatchJobDetailsResult": _RESULTS,
    "GetExecutionReportResult": _RESULTS,
    "JobStatus": "airflow_batchexec.wire.values",
    "ListBatchJobsResult": _RESULTS,
    "LocalRunResult": "airflow_batchexec.client.local_run",
    "ReportMessage": _RESULTS,
    "StartExecutionResult": _RESULTS,
    "TaskExecution": _RESULTS,
    "TaskStatus": "airflow_batchexec.wire.values",
}

__all__ = [
    "BatchInferenceClient",
    "BatchJob",
    "BatchJobManagerClient",
    "BatchJobSummary",
    "CancelExecutionResult",
    "ClientSettings",
    "ExecutionConfig",
    "ExecutionFileDetails",
    "ExecutionStatusResult",
    "GetBatchJobDetailsResult",
    "GetExecutionReportResult",
    "JobStatus",
    "ListBatchJobsResult",
    "LocalRunResult",
    "ReportMessage",
    "StartExecutionResult",
    "TaskExecution",
    "TaskStatus",
]


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
