"""What a task logs about its files: each of a few, the progress of many, and every failure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_batchexec.engine.execution.ledger import FileStatus

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_batchexec.engine.execution.ledger import FileRecord

__all__ = ["FileLog"]

_FEW_FILES = 20
_PROGRESS_SECONDS = 1.0


class FileLog:
    """Writes records to a log.

    A line in a task's log passes through several processes and costs milliseconds, as much as predicting a small
    file. So for many files only the progress is logged, once a second; the manifest has each file.

    Args:
        log: The task's log.
        files: How many files the task has.
    """

    def __init__(self, *, log: Logger, files: int) -> None:
        self._log = log
        self._files = files
        self._begun = 0
        self._finished = 0
        self._rows = 0
        self._logged_at = float("-inf")

    @property
    def begun(self) -> int:
        """How many files have been started."""
        return self._begun

    @property
    def finished(self) -> int:
        """How many files have finished."""
        return self._finished

    def add(self, record: FileRecord) -> None:
        """Log the start or end of a file; called from one thread at a time."""
        if record.status is FileStatus.FINISHED and record.output is not None:
            self._finished += 1
            self._rows += record.output.rows
            self._log_finished(record, record.output.rows)
        elif record.status is FileStatus.STARTED:
            self._begun += 1
        else:
            self._log.error("%s", record.reason)
            if record.traceback:
                self._log.error("%s", record.traceback)

    def _log_finished(self, record: FileRecord, rows: int) -> None:
        if self._files <= _FEW_FILES:
            seconds = ", ".join(f"{name} {value:.3f}" for name, value in record.seconds.items())
            self._log.info("%s: %d rows (%s s).", record.file, rows, seconds)
            return
        moment = time.monotonic()
        if self._finished == self._files or moment - self._logged_at >= _PROGRESS_SECONDS:
            self._logged_at = moment
            self._log.info(
                "%d of %d files have finished, %s rows.", self._finished, self._files, f"{self._rows:,}"
            )
