"""What an attempt at a shard does next. Pure: decided by what was read and by what has happened so far.

The attempt (``shard_attempt.py``) carries a step out, adds what came of it, and asks again, until the step is an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus
from airflow_batchexec.exceptions import ExecutionCancelledError, JobTimeoutError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_batchexec.engine.execution.plan import FileTask
    from airflow_batchexec.exceptions import BatchExecError

__all__ = ["Fail", "Finish", "Predict", "Read", "Seen", "Skip", "Step", "next_step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an attempt has read, and what has happened.

    Attributes:
        files: The file tasks of the shard.
        generation: How often the run has been cleared.
        may_retry: Whether Airflow would try the task again.
        job_timeout: Seconds; 0 for no limit.
        started_at: When the execution began, in seconds since the epoch.
        stopped: Whether another file has failed the execution.
        cancelled: Why the execution was cancelled; ``None`` if it was not.
        killed: Why this task is being terminated; ``None`` if it is not.
        records: The newest record of each file; ``None`` before they are read.
        execution_finished: Whether the manifest says that the execution finished.
        tried: The files that were given to the predictor; ``None`` before that.
        finished: How many of those have their result.
        error: Why predicting them ended early; ``None`` if it did not.
    """

    files: Sequence[FileTask]
    generation: int = 0
    may_retry: bool = False
    job_timeout: float = 0.0
    started_at: float = 0.0
    stopped: bool = False
    cancelled: ExecutionCancelledError | None = None
    killed: ExecutionCancelledError | None = None
    records: Mapping[str, FileRecord] | None = None
    execution_finished: bool = False
    tried: Sequence[FileTask] | None = None
    finished: int = 0
    error: BatchExecError | None = None

    @property
    def left(self) -> int:
        """How many of the tried files have no result."""
        return len(self.tried or ()) - self.finished


@dataclass(frozen=True, slots=True)
class Read:
    """Take the execution's lock, and read what earlier attempts have done."""


@dataclass(frozen=True, slots=True)
class Predict:
    """Send these files through the predictor."""

    files: Sequence[FileTask]


@dataclass(frozen=True, slots=True)
class Skip:
    """End as skipped: the execution ended before this attempt began."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """End as succeeded: every file has its result.

    Attributes:
        skip_siblings: Whether to skip the mapped tasks that are not queued yet.
    """

    skip_siblings: bool = False


@dataclass(frozen=True, slots=True)
class Fail:
    """End as failed.

    Attributes:
        message: Why, for Airflow.
        error: What failed.
        retry: Whether Airflow may try the task again.
        end_execution: Whether no further file of the execution is to be started.
        skip_siblings: Whether to skip the mapped tasks that are not queued yet.
        record_cancelled: Whether to record the first file as cancelled, in case none was started.
    """

    message: str
    error: BatchExecError | None = None
    retry: bool = False
    end_execution: bool = False
    skip_siblings: bool = False
    record_cancelled: bool = False


Step = Read | Predict | Skip | Finish | Fail


def next_step(seen: Seen, *, now: float) -> Step:
    """What to do next.

    Args:
        seen: What was read, and what has happened.
        now: Seconds since the epoch.
    """
    if seen.tried is not None:
        return _after_predicting(seen)
    if seen.cancelled is not None or seen.stopped:
        why = seen.cancelled.message if seen.cancelled else "Another file has failed."
        return Skip(f"The execution has ended, so this was not started. {why}")
    if seen.records is None:
        return Read()
    files = _to_do(seen, seen.records)
    if not files:
        return Finish()
    if seen.job_timeout and now >= seen.started_at + seen.job_timeout:
        return _failure(seen, JobTimeoutError.after(seen.job_timeout))
    return Predict(files)


def _to_do(seen: Seen, records: Mapping[str, FileRecord]) -> Sequence[FileTask]:
    """The files without a result for their present content.

    Where all have one, a clear of an execution that finished means to predict them again; of any other it means to
    continue, and nothing is left to do here.
    """
    done = {
        task.file: record
        for task in seen.files
        if (record := records.get(task.file)) is not None
        and record.status is FileStatus.FINISHED
        and record.etag == task.etag
    }
    left = [task for task in seen.files if task.file not in done]
    if left:
        return left
    all_in_this_generation = all(record.generation == seen.generation for record in done.values())
    return seen.files if seen.execution_finished and not all_in_this_generation else []


def _after_predicting(seen: Seen) -> Finish | Fail:
    ending = next((one for one in (seen.killed, seen.cancelled) if one is not None), None)
    if ending is not None and (seen.error is None or seen.error is ending):
        return _after_ending(seen, ending)
    if seen.error is not None:
        return _failure(seen, seen.error)
    if not seen.left:
        return Finish()
    if seen.stopped:
        return Fail(
            f"{seen.left} of {len(seen.tried or ())} files were not started: another file has failed, and so the "
            f"execution."
        )
    return _failure(seen, JobTimeoutError.after(seen.job_timeout))


def _after_ending(seen: Seen, reason: ExecutionCancelledError) -> Finish | Fail:
    """The end of an attempt that was terminated, or whose execution was cancelled."""
    if reason is seen.killed:
        # Airflow may be about to try the task again, or have cleared it.
        return Fail(reason.message, reason, retry=True, record_cancelled=True) if seen.left else Finish()
    if not seen.left:
        return Finish(skip_siblings=True)
    message = f"The execution was cancelled. {reason.message}"
    return Fail(message, reason, skip_siblings=True, record_cancelled=True)


def _failure(seen: Seen, error: BatchExecError) -> Fail:
    """Unless the task is tried again, its failure ends the execution."""
    retry = error.retryable and seen.may_retry
    return Fail(error.message, error, retry=error.retryable, end_execution=not retry)
