"""Runs an execution on a server over a frame's files in a staging folder, which is then removed even on errors."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from airflow_batchexec.exceptions import (
    BatchExecError,
    ExecutionFailedError,
    ExecutionRunningError,
    PlanningError,
)
from airflow_batchexec.wire.values import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from airflow_batchexec.client.manager import BatchJobManagerClient
    from airflow_batchexec.client.results import ExecutionStatusResult, StartExecutionResult
    from airflow_batchexec.client.staging import StagingFolder
    from airflow_batchexec.engine.config.model import ExecutionConfig

__all__ = ["run_staged"]

_CONFLICT = 409
# How long to wait for a cancelled execution to end before its folder is removed anyway.
_MAX_CANCEL_SECONDS = 60.0
_POLL_SECONDS = 0.5

log = logging.getLogger(__name__)


def run_staged(
    manager: BatchJobManagerClient,
    config: ExecutionConfig,
    staging: StagingFolder,
    *,
    parts: Sequence[Path],
    names: Sequence[str],
    results: Path,
    keep: bool,
    progress: bool | None,
) -> None:
    """Upload files to a staging folder, run an execution, and download the results.

    Args:
        manager: The client for the server.
        config: The configuration of the execution, from and to the folders of ``staging``.
        staging: The staging folder.
        parts: The files; they are moved.
        names: The names of their results.
        results: The local folder to download the results to.
        keep: Whether to keep the staging folder.
        progress: Whether to draw a bar on standard error; ``None``: only if it is a terminal.

    Raises:
        ExecutionFailedError: A file has no result.
        PlanningError: The server refused the execution.
        StorageError: The staging folder cannot be written or read.
        ServerError: The server did not respond, or the user lacks the permission.
    """
    start_results: list[StartExecutionResult] = []
    try:
        staging.upload(parts)
        try:
            started, ended = manager.run_execution(config, progress=progress, on_started=start_results.append)
        except BaseException:
            # Nothing may write into the folder once it is removed.
            if start_results and start_results[0].success:
                _cancel_and_wait(manager, start_results[0].execution_id)
            raise
        if ended is None:
            error_class = ExecutionRunningError if started.status_code == _CONFLICT else PlanningError
            raise error_class(
                f"{manager.settings.server} refused the execution: {started.failure_message}",
                execution_id=started.execution_id,
                status_code=started.status_code,
            )
        if ended.status is not JobStatus.BATCH_JOB_FINISHED_STATUS:
            raise _failed(manager, started.execution_id, ended)
        staging.download(names, results)
    finally:
        if keep:
            log.info("The files and their results are kept in %s.", staging.location.uri)
        else:
            _remove(staging)


def _failed(
    manager: BatchJobManagerClient, execution_id: str, ended: ExecutionStatusResult
) -> ExecutionFailedError:
    try:
        records = manager.get_execution_report(execution_id).records
    except BatchExecError as error:
        records = [f"The report cannot be read: {error}"]
    return ExecutionFailedError(
        f"Execution {execution_id} is {ended.status.short}. {records[-1] if records else ended.failure_message}",
        execution_id=execution_id,
        status=ended.status.short,
        report=records,
    )


def _cancel_and_wait(manager: BatchJobManagerClient, execution_id: str) -> None:
    """Cancel an abandoned execution, unless it has ended, and wait for it to end."""
    deadline = time.monotonic() + _MAX_CANCEL_SECONDS
    try:
        manager.cancel_execution(execution_id)
        while not manager.get_execution_status(execution_id).ended:
            if time.monotonic() > deadline:
                log.warning("Execution %s is cancelled, but has not ended yet.", execution_id)
                return
            time.sleep(_POLL_SECONDS)
    except BatchExecError as error:
        log.warning("Cannot determine whether execution %s has ended: %s", execution_id, error)


def _remove(staging: StagingFolder) -> None:
    try:
        staging.remove()
    except BatchExecError as error:
        # An error here must not replace the result, or an earlier error.
        log.warning("%s could not be removed: %s", staging.location.uri, error)
