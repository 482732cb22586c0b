"""The audit of an execution against its plan: account for every file and verify every result. No I/O.

The invariant: listed = finished + failed + not started. An execution is FINISHED only if no file failed, none is left
over, and every result is in the destination with the size that it was published with.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus
from airflow_batchexec.engine.execution.manifest import ExecutionStatus
from airflow_batchexec.exceptions import ObjectChangedError, ObjectNotFoundError, PodDiedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_batchexec.engine.execution.plan import FileTask

__all__ = ["MAX_UNFINISHED", "Audit", "audit_file"]

MAX_UNFINISHED = 10_000
"""The maximum number of files without a result that an audit names, of those that were started and of the others."""

_MAX_NAMED_FILES = 3


def audit_file(task: FileTask, record: FileRecord | None, stored_bytes: int | None) -> FileRecord:
    """The final record of a file.

    Args:
        task: The file task.
        record: The latest record of the file. It does not count if its etag is not the planned one.
        stored_bytes: The size of the result that is in the destination; ``None`` if there is none.
    """
    if record is None or record.etag != task.etag:
        return FileRecord(file=task.file, etag=task.etag, status=FileStatus.NOT_STARTED)
    if record.status is FileStatus.STARTED:
        return replace(
            record,
            status=FileStatus.FAILED,
            error=PodDiedError.__name__,
            reason="It was started but did not end: its process was killed or lost.",
        )
    if record.status is not FileStatus.FINISHED:
        return record
    published = record.output
    assert published is not None
    # Not its etag: a lost task may have published the same result once more.
    if stored_bytes == published.size_bytes:
        return record
    state = "is now missing" if stored_bytes is None else f"now has {stored_bytes:,} bytes"
    return replace(
        record,
        status=FileStatus.FAILED,
        error=(ObjectNotFoundError if stored_bytes is None else ObjectChangedError).__name__,
        reason=f"Its result {published.uri} was published with {published.size_bytes:,} bytes and {state}: something "
        f"else is writing to the destination.",
    )


class Audit:
    """The audited outcome of an execution, from the final records of its files in the order of the plan.

    Attributes:
        rows_in: Rows read from the finished files.
        rows_out: Rows in all results.
        bytes_in: The size of the finished files, in bytes.
        bytes_out: The size of all results, in bytes.
        traceback: The first traceback of a file; empty without any.
    """

    def __init__(self) -> None:
        self.rows_in = self.rows_out = self.bytes_in = self.bytes_out = 0
        self.traceback = ""
        self._counts: Counter[FileStatus] = Counter()
        self._unfinished: defaultdict[bool, dict[str, FileStatus]] = defaultdict(dict)
        self._named: defaultdict[str, list[FileRecord]] = defaultdict(list)

    def add(self, record: FileRecord) -> None:
        """Add the next file."""
        self._counts[record.status] += 1
        self.traceback = self.traceback or record.traceback
        if record.status is FileStatus.FINISHED:
            assert record.input is not None
            assert record.output is not None
            self.rows_in += record.input.rows
            self.rows_out += record.output.rows
            self.bytes_in += record.input.size_bytes
            self.bytes_out += record.output.size_bytes
            return
        unfinished = self._unfinished[record.status is FileStatus.NOT_STARTED]
        if len(unfinished) < MAX_UNFINISHED:
            unfinished[record.file] = record.status
        named = self._named[_kind(record.status)]
        if len(named) < _MAX_NAMED_FILES:
            named.append(record)

    @property
    def total_files(self) -> int:
        """All files."""
        return self._counts.total()

    @property
    def finished_files(self) -> int:
        """Files with a result."""
        return self._counts[FileStatus.FINISHED]

    @property
    def not_started_files(self) -> int:
        """Files that no pod started."""
        return self._counts[FileStatus.NOT_STARTED]

    @property
    def failed_files(self) -> int:
        """Files that were started and have no result."""
        return self.total_files - self.finished_files - self.not_started_files

    @property
    def unfinished(self) -> dict[str, FileStatus]:
        """The status of files without a result: first those that were started, at most ``MAX_UNFINISHED`` of each."""
        return {**self._unfinished[False], **self._unfinished[True]}

    def outcome(
        self, *, end_status: ExecutionStatus | None = None, end_reason: str = ""
    ) -> tuple[ExecutionStatus, str]:
        """How the execution ended, and why it did not finish; the reason is empty if it did.

        Args:
            end_status: The status, if the records alone do not determine it, such as CANCELLED or TIMEOUT. If ``None``,
                an execution without failed files is CANCELLED if any of its files were.
            end_reason: The reason for ``end_status``.
        """
        if self.finished_files == self.total_files:
            return ExecutionStatus.FINISHED, ""
        reasons = (
            end_reason if end_status else "",
            self._describe_failures(),
            self._sentence(FileStatus.CANCELLED, "cancelled"),
            self._sentence(FileStatus.NOT_STARTED, "not started"),
        )
        return end_status or self._status(), " ".join(filter(None, reasons))

    def _failures(self) -> int:
        return self.failed_files - self._counts[FileStatus.CANCELLED]

    def _status(self) -> ExecutionStatus:
        cancelled = self._counts[FileStatus.CANCELLED] and not self._failures()
        return ExecutionStatus.CANCELLED if cancelled else ExecutionStatus.FAILED

    def _describe_failures(self) -> str:
        failures, named = self._failures(), self._named[_kind(FileStatus.FAILED)]
        if not failures:
            return ""
        reasons = "; ".join(f"{record.file}: {_inline(record)}" for record in named)
        files = "files" if self.total_files > 1 else "file"
        return f"{failures} of {self.total_files} {files} failed: {reasons}{_more(failures, named, '; ')}."

    def _sentence(self, status: FileStatus, what: str) -> str:
        count, named = self._counts[status], self._named[_kind(status)]
        if not count:
            return ""
        verb = "file was" if count == 1 else "files were"
        files = ", ".join(record.file for record in named)
        return f"{count} {verb} {what}: {files}{_more(count, named, ' ')}."


def _kind(status: FileStatus) -> str:
    """What a sentence of the reason says of files with this status."""
    return status.value if status in {FileStatus.CANCELLED, FileStatus.NOT_STARTED} else "failed"


def _inline(record: FileRecord) -> str:
    """The reason without the file name and final period, to follow the file name in a sentence."""
    return record.reason.removeprefix(f"{record.file}: ").rstrip(". \n") or record.status.value.lower()


def _more(count: int, named: Sequence[FileRecord], separator: str) -> str:
    return f"{separator}and {count - len(named)} more" if count > len(named) else ""
