"""The audit of an execution against its plan: account for every file and verify every result. Pure functions.

The invariant: listed = finished + failed + not started. An execution is FINISHED only if no file failed, none is left
over, and every result is in the destination with the size that it was published with.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus
from airflow_batchexec.engine.execution.manifest import ExecutionStatus
from airflow_batchexec.exceptions import ObjectChangedError, ObjectNotFoundError, PodDiedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_batchexec.engine.execution.plan import FileTask
    from airflow_batchexec.engine.storage.base import ObjectInfo

__all__ = ["Audit", "audit"]

_MAX_NAMED_FILES = 3
_NOT_FAILED = frozenset({FileStatus.FINISHED, FileStatus.NOT_STARTED})


@dataclass(frozen=True, slots=True)
class Audit:
    """The audited outcome of an execution.

    Attributes:
        status: FINISHED, FAILED, CANCELLED or TIMEOUT.
        reason: Why it did not finish; empty if it did.
        records: The final record of each file, in the order of the plan.
    """

    status: ExecutionStatus
    reason: str
    records: tuple[FileRecord, ...]

    @property
    def finished_files(self) -> int:
        """Files with a result."""
        return sum(record.status is FileStatus.FINISHED for record in self.records)

    @property
    def not_started_files(self) -> int:
        """Files that no pod started."""
        return sum(record.status is FileStatus.NOT_STARTED for record in self.records)

    @property
    def failed_files(self) -> int:
        """Files that were started and have no result."""
        return len(self.records) - self.finished_files - self.not_started_files

    @property
    def rows_in(self) -> int:
        """Rows read from the finished files."""
        return sum(record.input.rows for record in self.records if record.input and record.output)

    @property
    def rows_out(self) -> int:
        """Rows in all results."""
        return sum(record.output.rows for record in self.records if record.output)


def audit(
    *,
    tasks: Sequence[FileTask],
    records: Mapping[str, FileRecord],
    results: Mapping[str, ObjectInfo | None],
    end_status: ExecutionStatus | None = None,
    end_reason: str = "",
) -> Audit:
    """Compare the ledger and the stored results with the plan.

    Args:
        tasks: The plan.
        records: The latest record of each file, by file. Records whose etag is not the planned one do not count.
        results: The stored result of each finished file, by file; ``None`` if it is missing.
        end_status: The status, if the records alone do not determine it, such as CANCELLED or TIMEOUT. If ``None``, an
            execution without failed files is CANCELLED if any of its files were.
        end_reason: The reason for ``end_status``.
    """
    last = tuple(_audit_file(task, records.get(task.file), results) for task in tasks)
    counts = Counter(record.status for record in last)
    if counts[FileStatus.FINISHED] == len(last):
        return Audit(ExecutionStatus.FINISHED, "", last)
    reasons = (end_reason if end_status else "", _describe_failures(last), _describe_unprocessed(last))
    return Audit(end_status or _status(counts), " ".join(filter(None, reasons)), last)


def _status(counts: Counter[FileStatus]) -> ExecutionStatus:
    failed = any(
        counts[status] for status in FileStatus if status not in {*_NOT_FAILED, FileStatus.CANCELLED}
    )
    cancelled = counts[FileStatus.CANCELLED] and not failed
    return ExecutionStatus.CANCELLED if cancelled else ExecutionStatus.FAILED


def _audit_file(
    task: FileTask, record: FileRecord | None, results: Mapping[str, ObjectInfo | None]
) -> FileRecord:
    if record is None or record.etag != task.etag:
        return FileRecord(file=task.file, etag=task.etag, status=FileStatus.NOT_STARTED)
    if record.status is FileStatus.STARTED:
        return replace(
            record,
            status=FileStatus.FAILED,
            error=PodDiedError.__name__,
            reason="It was started but did not end: its process was killed or lost.",
        )
    if record.status is FileStatus.FINISHED:
        found = results.get(task.file)
        assert record.output is not None
        if found is None or found.size_bytes != record.output.size_bytes:
            state = "is now missing" if found is None else f"now has {found.size_bytes:,} bytes"
            return replace(
                record,
                status=FileStatus.FAILED,
                error=(ObjectNotFoundError if found is None else ObjectChangedError).__name__,
                reason=f"Its result {record.output.uri} was published with {record.output.size_bytes:,} bytes and "
                f"{state}: something else is writing to the destination.",
            )
    return record


def _describe_failures(records: Sequence[FileRecord]) -> str:
    failed = [r for r in records if r.status not in {*_NOT_FAILED, FileStatus.CANCELLED}]
    if not failed:
        return ""
    named = "; ".join(f"{record.file}: {_inline(record)}" for record in failed[:_MAX_NAMED_FILES])
    files = "files" if len(records) > 1 else "file"
    return f"{len(failed)} of {len(records)} {files} failed: {named}{_more(failed, '; ')}."


def _inline(record: FileRecord) -> str:
    """The reason without the file name and final period, to follow the file name in a sentence."""
    return record.reason.removeprefix(f"{record.file}: ").rstrip(". \n") or record.status.value.lower()


def _describe_unprocessed(records: Sequence[FileRecord]) -> str:
    """The files that were cancelled or not started."""
    return " ".join(
        sentence
        for status, what in ((FileStatus.CANCELLED, "cancelled"), (FileStatus.NOT_STARTED, "not started"))
        if (sentence := _sentence([r for r in records if r.status is status], what))
    )


def _sentence(records: Sequence[FileRecord], what: str) -> str:
    if not records:
        return ""
    verb = "file was" if len(records) == 1 else "files were"
    named = ", ".join(record.file for record in records[:_MAX_NAMED_FILES])
    return f"{len(records)} {verb} {what}: {named}{_more(records, ' ')}."


def _more(records: Sequence[FileRecord], separator: str) -> str:
    return f"{separator}and {len(records) - _MAX_NAMED_FILES} more" if len(records) > _MAX_NAMED_FILES else ""
