"""What Airflow shows of a task's files: a label in place of the map index, and lines in the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_batchexec import internals
from airflow_batchexec.engine.execution.ledger import FileStatus

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import Logger

    from airflow_batchexec.engine.execution.ledger import FileRecord

__all__ = ["FileLog", "label_map_index"]

_FEW_FILES = 20
_PROGRESS_SECONDS = 1.0


def label_map_index(context: Context, label: str) -> None:
    """Show a label in place of the map index, unless the author of the DAG has set a template for it; theirs finds
    the label as ``{{ file }}``.

    Airflow reads the template from the mapped operator, which lacks the defaults of an operator's class, so a default
    there would never be used.
    """
    context["file"] = label  # type: ignore[typeddict-unknown-key]  # a key of ours
    is_mapped = context["ti"].map_index not in {None, -1}
    if is_mapped and context["map_index_template"] is None:
        context["map_index_template"] = "{{ file }}"
        internals.expect_map_index_label(context["ti"], label)


class FileLog:
    """Writes records to a log: each of a few files, the progress of many, and every failure.

    A line in a task's log passes through several processes and costs milliseconds, as much as predicting a small
    file. So for many files only the progress is logged, once a second; the manifest has each file.

    Args:
        log: The task's log.
        files: How many files the task has.
    """

    def __init__(self, *, log: Logger, files: int) -> None:
        self._log = log
        self._files = files
        self._started = 0
        self._finished = 0
        self._rows = 0
        self._logged_at = float("-inf")

    @property
    def started(self) -> int:
        """How many files have been started."""
        return self._started

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
            self._started += 1
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
