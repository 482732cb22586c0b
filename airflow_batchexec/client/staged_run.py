"""One execution on a server over a frame's files in a staging folder, which is gone in the end, however that comes."""

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
# How long a cancelled execution may take to end before its folder is removed under it.
_MOST_SECONDS_TO_END = 60.0
_POLL_SECONDS = 0.5

logger = logging.getLogger(__name__)


def run_staged(
    manager: BatchJobManagerClient,
    config: ExecutionConfig,
    place: StagingFolder,
    *,
    parts: Sequence[Path],
    names: Sequence[str],
    results: Path,
    keep: bool,
    progress: bool | None,
) -> None:
    """Stage files, execute, and fetch the results.

    Args:
        manager: The client of the server.
        config: What is to be executed: from and to the folders of ``place``.
        place: The staging folder.
        parts: The files; they are moved.
        names: What their results are called.
        results: The folder of this machine that these go to.
        keep: Whether what lies in the staging folder stays.
        progress: Whether to draw a bar on standard error; ``None``: where that is a terminal.

    Raises:
        ExecutionFailedError: A file has no result.
        PlanningError: The server refuses the execution.
        StorageError: The staging folder cannot be written or read.
        ServerError: The server gives no answer, or no right.
    """
    begun: list[StartExecutionResult] = []
    try:
        place.upload(parts)
        try:
            started, ended = manager.run_execution(config, progress=progress, on_started=begun.append)
        except BaseException:
            # Nothing may write into the folder once it is removed.
            if begun and begun[0].success:
                _end(manager, begun[0].execution_id)
            raise
        if ended is None:
            refused = ExecutionRunningError if started.status_code == _CONFLICT else PlanningError
            raise refused(
                f"{manager.settings.server} refuses the execution: {started.failure_message}",
                execution_id=started.execution_id,
                status_code=started.status_code,
            )
        if ended.status is not JobStatus.BATCH_JOB_FINISHED_STATUS:
            raise _failed(manager, started.execution_id, ended)
        place.download(names, results)
    finally:
        if keep:
            logger.info("The files and their results stay in %s.", place.location.uri)
        else:
            _remove(place)


def _failed(
    manager: BatchJobManagerClient, execution_id: str, ended: ExecutionStatusResult
) -> ExecutionFailedError:
    try:
        records = manager.get_execution_report(execution_id).records
    except BatchExecError as error:
        records = [f"Its report cannot be read: {error}"]
    return ExecutionFailedError(
        f"The execution {execution_id} is {ended.status.short}. {records[-1] if records else ended.failure_message}",
        execution_id=execution_id,
        status=ended.status.short,
        report=records,
    )


def _end(manager: BatchJobManagerClient, execution_id: str) -> None:
    """Wait until an execution has ended that is given up, and cancel it where nobody has."""
    deadline = time.monotonic() + _MOST_SECONDS_TO_END
    try:
        manager.cancel_execution(execution_id)
        while not manager.get_execution_status(execution_id).ended:
            if time.monotonic() > deadline:
                logger.warning("The execution %s is cancelled, but has not ended yet.", execution_id)
                return
            time.sleep(_POLL_SECONDS)
    except BatchExecError as error:
        logger.warning("Whether the execution %s has ended cannot be told: %s", execution_id, error)


def _remove(place: StagingFolder) -> None:
    try:
        place.remove()
    except BatchExecError as error:
        # An error here must not stand in for the result, or for the error before it.
        logger.warning("%s could not be removed: %s", place.location.uri, error)
