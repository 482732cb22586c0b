"""A file on its way through the pipeline of a pod."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, StoredFile, now
from airflow_batchexec.exceptions import ExecutionCancelledError, FileTimeoutError, JobTimeoutError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from airflow_batchexec.engine.execution.plan import FileTask
    from airflow_batchexec.engine.predictor.process import Prediction
    from airflow_batchexec.exceptions import BatchExecError

__all__ = ["FileJob"]


@dataclass(slots=True, kw_only=True)
class FileJob:
    """A file in the pipeline.

    Attributes:
        task: The file.
        number: Its number among the pipeline's files, from 1.
        pod: The name of the pod, for the records.
        attempt: The number of this attempt, for the records.
        generation: How many times the run had been cleared, for the records.
        fetched: The path to read; set once the fetch has been started.
        output_path: Where the pod writes the result.
        deadline: When to terminate the pod, on the clock of ``time.monotonic``; set when the file has been sent.
        prediction: What the pod reported; ``None`` until the file has been predicted.
        seconds: The durations of the steps so far.
    """

    task: FileTask
    number: int
    pod: str
    attempt: int
    generation: int
    output_path: Path
    fetched: Future[Path] | None = None
    deadline: float | None = None
    prediction: Prediction | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def is_fetched(self) -> bool:
        """Whether its fetch has ended, successfully or not."""
        return self.fetched is not None and self.fetched.done()

    @property
    def output_bytes(self) -> int:
        """The current size of the result; 0 if it does not exist."""
        with suppress(OSError):
            return self.output_path.stat().st_size
        return 0

    def started(self) -> FileRecord:
        """The record of its start."""
        return self._record(FileStatus.STARTED)

    def finished(self, *, source: StoredFile, result: StoredFile) -> FileRecord:
        """The record of its end, with a result."""
        return self._record(FileStatus.FINISHED, source=source, result=result)

    def failed(self, error: BatchExecError) -> FileRecord:
        """The record of its end, without a result."""
        status = FileStatus.FAILED
        if isinstance(error, (FileTimeoutError, JobTimeoutError)):
            status = FileStatus.TIMEOUT
        elif isinstance(error, ExecutionCancelledError):
            status = FileStatus.CANCELLED
        return self._record(status, error=error)

    def _record(
        self,
        status: FileStatus,
        *,
        source: StoredFile | None = None,
        result: StoredFile | None = None,
        error: BatchExecError | None = None,
    ) -> FileRecord:
        return FileRecord(
            file=self.task.file,
            etag=self.task.etag,
            status=status,
            pod=self.pod,
            attempt=self.attempt,
            at=now(),
            generation=self.generation,
            input=source,
            output=result,
            seconds=dict(self.seconds),
            peak_memory_bytes=self.prediction.peak_memory_bytes if self.prediction else 0,
            reason=error.message if error else "",
            error=type(error).__name__ if error else "",
            traceback=error.details.get("traceback", "") if error else "",
        )
