"""The configuration of an execution, under the module name that existing code imports it from."""

from __future__ import annotations

from airflow_batchexec.config import ExecutionConfig

__all__ = ["ExecutionConfig"]
