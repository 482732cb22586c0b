"""``ExecutionConfig`` under the module name that existing code imports it from."""

from __future__ import annotations

from airflow_batchexec.engine.config.model import ExecutionConfig

__all__ = ["ExecutionConfig"]
