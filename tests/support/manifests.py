"""Manifests of executions that did not happen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.execution.ledger import FileStatus
from airflow_batchexec.engine.execution.manifest import MANIFEST_VERSION, ExecutionStatus, Manifest

if TYPE_CHECKING:
    from airflow_batchexec.engine.execution.ledger import FileRecord

__all__ = ["make_manifest"]


def make_manifest(*files: FileRecord, **changes: Any) -> Manifest:
    """A manifest of these files; by default, of an execution that finished.

    Args:
        files: What happened to each file.
        changes: Values of fields, instead of the defaults.
    """
    finished = sum(record.status is FileStatus.FINISHED for record in files)
    values: dict[str, Any] = {
        "version": MANIFEST_VERSION,
        "execution_id": "daily",
        "status": ExecutionStatus.FINISHED,
        "reason": "",
        "model_id": "totals",
        "build_id": "v7",
        "source": "s3://shop/orders",
        "destination": "s3://results/totals",
        "purchase_option": "",
        "input_file_type": "CSV",
        "output_file_type": "CSV",
        "manifest": "s3://results/totals/_batchexec/daily/manifest.json",
        "started_at": 100.0,
        "ended_at": 107.5,
        "seconds": 7.5,
        "total_files": len(files),
        "finished_files": finished,
        "failed_files": len(files) - finished,
        "not_started_files": 0,
        "skipped_files": 0,
        "rows_in": 0,
        "rows": 0,
    }
    return Manifest(**(values | changes), files=files, skipped=())
