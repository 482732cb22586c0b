"""Storage-based batch inference as Apache Airflow runs.

Each CSV, Parquet or Feather file in a folder is passed through a model's ``predict``, and the results are written to
another folder. Public names are loaded on first use, so importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_batchexec._version import __version__

if TYPE_CHECKING:
    from airflow_batchexec.dags.factory import batch_execution_group, create_execution_dag
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
    from airflow_batchexec.operators.batch_execution import BatchExecutionOperator
    from airflow_batchexec.operators.predict_file import PredictFileOperator
    from airflow_batchexec.sensors.batch_execution import BatchExecutionSensor
    from airflow_batchexec.triggers.batch_execution import BatchExecutionTrigger

_LAZY_IMPORTS = {
    "BatchExecutionHook": "airflow_batchexec.hooks.batch_execution",
    "BatchExecutionOperator": "airflow_batchexec.operators.batch_execution",
    "BatchExecutionSensor": "airflow_batchexec.sensors.batch_execution",
    "BatchExecutionTrigger": "airflow_batchexec.triggers.batch_execution",
    "ExecutionConfig": "airflow_batchexec.engine.config.model",
    "PredictFileOperator": "airflow_batchexec.operators.predict_file",
    "batch_execution_group": "airflow_batchexec.dags.factory",
    "create_execution_dag": "airflow_batchexec.dags.factory",
}

__all__ = [
    "BatchExecutionHook",
    "BatchExecutionOperator",
    "BatchExecutionSensor",
    "BatchExecutionTrigger",
    "ExecutionConfig",
    "PredictFileOperator",
    "__version__",
    "batch_execution_group",
    "create_execution_dag",
]


def __getattr__(name: str) -> Any:
    try:
        module = _LAZY_IMPORTS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
