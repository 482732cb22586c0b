"""Whether an execution did what was planned: every file accounted for, every result there. Pure.

The invariant: listed = finished + failed + not started, and an execution has finished only where nothing failed,
nothing was left, and every result lies in the destination with the size it was published with.
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

_NAMED_FILES = 3
_UNFAILED = frozenset({FileStatus.FINISHED, FileStatus.NOT_STARTED})


@dataclass(frozen=True, slots=True)
class Audit:
    """The account of one execution.

    Attributes:
        status: FINISHED, FAILED, CANCELLED or TIMEOUT.
        reason: Why it did not finish; empty where it did.
        records: The last word on each file, in the plan's order.
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
        """Files that no pod began."""
        return sum(record.status is FileStatus.NOT_STARTED for record in self.records)

    @property
    def failed_files(self) -> int:
        """Files that were begun and have no result."""
        return len(self.records) - self.finished_files - self.not_started_files

    @property
    def rows_in(self) -> int:
        """Rows read by the files that finished."""
        return sum(record.input.rows for record in self.records if record.input and record.output)

    @property
    def rows_out(self) -> int:
        """Rows of all results."""
        return sum(record.output.rows for record in self.records if record.output)


def audit(
    *,
    tasks: Sequence[FileTask],
    records: Mapping[str, FileRecord],
    results: Mapping[str, ObjectInfo | None],
    ended_as: ExecutionStatus | None = None,
    ended_because: str = "",
) -> Audit:
    """Hold what was recorded, and what is there, against what was planned.

    Args:
        tasks: The plan.
        records: The last word on each file; records of another content than the planned one do not count.
        results: What lies where each finished file's result was published, by file; ``None`` where nothing does.
        ended_as: The status of an execution that was ended from outside: CANCELLED or TIMEOUT. Without one, an
            execution none of whose files failed is CANCELLED where some of them were.
        ended_because: The reason for it.
    """
    last = tuple(_account(task, records.get(task.file), results) for task in tasks)
    counts = Counter(record.status for record in last)
    if counts[FileStatus.FINISHED] == len(last):
        return Audit(ExecutionStatus.FINISHED, "", last)
    reasons = (ended_because if ended_as else "", _failures(last), _left(last))
    return Audit(ended_as or _status(counts), " ".join(filter(None, reasons)), last)


def _status(counts: Counter[FileStatus]) -> ExecutionStatus:
    failed = any(counts[status] for status in FileStatus if status not in {*_UNFAILED, FileStatus.CANCELLED})
    cancelled = counts[FileStatus.CANCELLED] and not failed
    return ExecutionStatus.CANCELLED if cancelled else ExecutionStatus.FAILED


def _account(
    task: FileTask, record: FileRecord | None, results: Mapping[str, ObjectInfo | None]
) -> FileRecord:
    if record is None or record.etag != task.etag:
        return FileRecord(file=task.file, etag=task.etag, status=FileStatus.NOT_STARTED)
    if record.status is FileStatus.STARTED:
        return replace(
            record,
            status=FileStatus.FAILED,
            error=PodDiedError.__name__,
            reason="It was started and has no end: the process that had it was killed or lost.",
        )
    if record.status is FileStatus.FINISHED:
        found = results.get(task.file)
        assert record.output is not None
        if found is None or found.size_bytes != record.output.size_bytes:
            state = "is not there" if found is None else f"has {found.size_bytes:,} bytes"
            return replace(
                record,
                status=FileStatus.FAILED,
                error=(ObjectNotFoundError if found is None else ObjectChangedError).__name__,
                reason=f"Its result {record.output.uri} was published with {record.output.size_bytes:,} bytes and "
                f"now {state}: something else writes to the destination.",
            )
    return record


def _failures(records: Sequence[FileRecord]) -> str:
    failed = [r for r in records if r.status not in {*_UNFAILED, FileStatus.CANCELLED}]
    if not failed:
        return ""
    named = "; ".join(f"{record.file}: {_inline(record)}" for record in failed[:_NAMED_FILES])
    files = "files" if len(records) > 1 else "file"
    return f"{len(failed)} of {len(records)} {files} failed: {named}{_more(failed, '; ')}."


def _inline(record: FileRecord) -> str:
    """A reason within a sentence that names the file already."""
    return record.reason.removeprefix(f"{record.file}: ").rstrip(". \n") or record.status.value.lower()


def _left(records: Sequence[FileRecord]) -> str:
    """What the end of the execution has left undone."""
    return " ".join(
        sentence
        for status, what in ((FileStatus.CANCELLED, "cancelled"), (FileStatus.NOT_STARTED, "not started"))
        if (sentence := _sentence([r for r in records if r.status is status], what))
    )


def _sentence(records: Sequence[FileRecord], what: str) -> str:
    if not records:
        return ""
    verb = "file was" if len(records) == 1 else "files were"
    named = ", ".join(record.file for record in records[:_NAMED_FILES])
    return f"{len(records)} {verb} {what}: {named}{_more(records, ' ')}."


def _more(records: Sequence[FileRecord], separator: str) -> str:
    return f"{separator}and {len(records) - _NAMED_FILES} more" if len(records) > _NAMED_FILES else ""
