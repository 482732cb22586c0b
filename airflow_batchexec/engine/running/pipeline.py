"""The file pipeline of one pod: while a file is predicted, the next one is fetched and the previous one published.

Every started file gets exactly one final record, whatever happens. No file is started after the first failure.
"""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, StoredFile, now
from airflow_batchexec.engine.predictor.child import DeadlineExceeded
from airflow_batchexec.engine.running.deadline import JobDeadline
from airflow_batchexec.engine.standalone.file_types import SUFFIXES, FileType
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.disk import disk_errors
from airflow_batchexec.exceptions import (
    BatchExecError,
    ExecutionCancelledError,
    FileTimeoutError,
    JobTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.execution.plan import FileTask
    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.predictor.process import Prediction, Predictor
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["FileRoute", "Limits", "run_files"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRoute:
    """The storages, folders and file types of inputs and results.

    Attributes:
        source: The storage of the inputs.
        root: The folder that file tasks are relative to.
        input_type: The file type of the inputs.
        destination: The storage of the results.
        results: The folder of the results.
        output_type: The file type of the results.
        scratch: A local folder for fetched inputs.
        staging: A local folder for results that are not published yet.
        prefetch: Whether to fetch a file ahead, which pays off if fetching copies data.
    """

    source: Storage
    root: Location
    input_type: FileType
    destination: Storage
    results: Location
    output_type: FileType
    scratch: Path
    staging: Path
    prefetch: bool = True

    @classmethod
    def of(
        cls, spec: ExecutionSpec, *, source: Storage, destination: Storage, scratch: Path, name: str
    ) -> FileRoute:
        """The route of an execution's files.

        Args:
            spec: The execution.
            source: The storage of its source folder.
            destination: The storage of its destination folder.
            scratch: The pod's local scratch folder.
            name: A name unique among all routes that stage results in the same folder.
        """
        execution = spec.config.execution
        staging = destination.staging(spec.folder.location) or scratch
        return cls(
            source=source,
            root=spec.root,
            input_type=execution.input_file_type,
            destination=destination,
            results=spec.destination,
            output_type=execution.output_file_type,
            scratch=scratch / "inputs",
            staging=staging / f"results-{name}",
            prefetch=source.staging(spec.root) is None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop.

    Attributes:
        file_timeout: Seconds for reading, predicting and writing one file; 0 for no limit.
        job: The deadline of the execution's ``job_timeout``.
        should_stop: Whether to start no more files; called before each file.
    """

    file_timeout: float = 0.0
    job: JobDeadline = field(default_factory=JobDeadline)
    should_stop: Callable[[], bool] = field(default=lambda: False)


@dataclass(slots=True)
class _Job:
    """A file in the pipeline."""

    task: FileTask
    number: int
    seconds: dict[str, float] = field(default_factory=dict)
    input_path: Path | None = None
    output_path: Path | None = None
    prediction: Prediction | None = None


def run_files(
    *,
    tasks: Iterator[FileTask],
    pod: Predictor,
    attempt: int,
    generation: int = 0,
    route: FileRoute,
    limits: Limits,
    record: Callable[[FileRecord], None],
) -> BatchExecError | None:
    """Process file tasks with a pod until none is left, one fails, or a limit is reached.

    Args:
        tasks: The file tasks; each is consumed only when its file is about to be fetched.
        pod: A pod that has loaded its build.
        attempt: The number of this attempt, for the records.
        generation: How many times the run had been cleared, for the records.
        route: Where files come from and go to.
        limits: When to stop.
        record: Called with a record of each file's start and end, from several threads.

    Returns:
        The error of the first failing file; ``None`` if none failed.
    """
    pipeline = _Pipeline(
        pod=pod, attempt=attempt, generation=generation, route=route, limits=limits, record=record
    )
    try:
        for folder in (route.scratch, route.staging):
            with disk_errors("make the folder", str(folder)):
                folder.mkdir(parents=True, exist_ok=True)
        return pipeline.run(tasks)
    finally:
        pipeline.shut_down()
        shutil.rmtree(route.scratch, ignore_errors=True)
        shutil.rmtree(route.staging, ignore_errors=True)


class _Pipeline:
    def __init__(
        self,
        *,
        pod: Predictor,
        attempt: int,
        generation: int,
        route: FileRoute,
        limits: Limits,
        record: Callable[[FileRecord], None],
    ) -> None:
        self._pod = pod
        self._attempt = attempt
        self._generation = generation
        self._route = route
        self._limits = limits
        self._record = record
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="files")
        self._jobs = 0

    def run(self, tasks: Iterator[FileTask]) -> BatchExecError | None:
        publishing: Future[BatchExecError | None] | None = None
        error: BatchExecError | None = None
        fetching = self._fetch_next(tasks)
        while fetching is not None and error is None and not self._limits.should_stop():
            job, fetched = fetching
            fetching = self._fetch_next(tasks) if self._route.prefetch else None
            error = self._predict(job, fetched)
            if publishing is not None:
                error = publishing.result() or error
                publishing = None
            if job.prediction is not None:
                publishing = self._threads.submit(self._publish, job)
            if error is None and not self._route.prefetch:
                fetching = self._fetch_next(tasks)
        if publishing is not None:
            error = publishing.result() or error
        return error

    def shut_down(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _fetch_next(self, tasks: Iterator[FileTask]) -> tuple[_Job, Future[None]] | None:
        if self._limits.should_stop():
            return None
        task = next(tasks, None)
        if task is None:
            return None
        self._jobs += 1
        job = _Job(task, self._jobs)
        return job, self._threads.submit(self._fetch, job)

    def _fetch(self, job: _Job) -> None:
        task, route = job.task, self._route
        started = time.perf_counter()
        info = ObjectInfo(route.root.join(task.file), task.size_bytes, task.etag)
        job.input_path = route.source.fetch(info, route.scratch / f"{job.number}-input")
        job.seconds["fetch"] = time.perf_counter() - started

    def _predict(self, job: _Job, fetched: Future[None]) -> BatchExecError | None:
        """Fetch, read, predict and write one file; sets ``job.prediction`` on success."""
        task, route = job.task, self._route
        self._record(self._make_record(job, FileStatus.STARTED))
        output = route.staging / f"{job.number}{SUFFIXES[route.output_type][0]}"
        job.output_path = output
        try:
            with disk_errors("process", task.file):
                fetched.result()
                assert job.input_path is not None
                job.prediction = self._request_prediction(job, job.input_path, output)
        except DeadlineExceeded:
            return self._fail(job, self._timeout_error(task))
        except BatchExecError as error:
            return self._fail(job, error)
        job.seconds.update(job.prediction.seconds)
        return None

    def _request_prediction(self, job: _Job, input_path: Path, output: Path) -> Prediction:
        limits, route = self._limits, self._route
        deadlines = [] if limits.job.at is None else [limits.job.at]
        if limits.file_timeout:
            deadlines.append(time.monotonic() + limits.file_timeout)
        return self._pod.predict(
            input_path=input_path,
            input_name=job.task.file,
            input_type=route.input_type,
            output_path=output,
            output_type=route.output_type,
            deadline=min(deadlines, default=None),
        )

    def _publish(self, job: _Job) -> BatchExecError | None:
        task, route, prediction = job.task, self._route, job.prediction
        assert job.output_path is not None
        assert prediction is not None
        started = time.perf_counter()
        try:
            info = route.destination.publish(job.output_path, route.results.join(task.result))
        except BatchExecError as error:
            return self._fail(job, error)
        job.seconds["publish"] = time.perf_counter() - started
        self._discard_input(job)
        source = StoredFile(route.root.join(task.file).uri, task.size_bytes, task.etag, prediction.rows_in)
        self._record(
            self._make_record(
                job, FileStatus.FINISHED, input=source, output=StoredFile.of(info, rows=prediction.rows_out)
            )
        )
        return None

    def _fail(self, job: _Job, error: BatchExecError) -> BatchExecError:
        status = FileStatus.FAILED
        if isinstance(error, (FileTimeoutError, JobTimeoutError)):
            status = FileStatus.TIMEOUT
        elif isinstance(error, ExecutionCancelledError):
            status = FileStatus.CANCELLED
        self._record(
            self._make_record(
                job,
                status,
                reason=error.message,
                error=type(error).__name__,
                traceback=error.details.get("traceback", ""),
            )
        )
        if job.output_path is not None:
            job.output_path.unlink(missing_ok=True)
        self._discard_input(job)
        error.details.setdefault("file", job.task.file)
        return error

    def _discard_input(self, job: _Job) -> None:
        """Free the scratch disk; an input that is read in place is the user's own file and stays."""
        if job.input_path is not None and job.input_path.parent == self._route.scratch:
            job.input_path.unlink(missing_ok=True)

    def _timeout_error(self, task: FileTask) -> BatchExecError:
        limits = self._limits
        if limits.job.has_passed():
            return limits.job.error(file=task.file)
        return FileTimeoutError(
            f"{task.file}: exceeded the file_timeout of {limits.file_timeout:g} s; its pod was terminated.",
            file=task.file,
        )

    def _make_record(
        self,
        job: _Job,
        status: FileStatus,
        *,
        input: StoredFile | None = None,  # noqa: A002  the name of the record's field
        output: StoredFile | None = None,
        reason: str = "",
        error: str = "",
        traceback: str = "",
    ) -> FileRecord:
        return FileRecord(
            file=job.task.file,
            etag=job.task.etag,
            status=status,
            pod=self._pod.name,
            attempt=self._attempt,
            at=now(),
            generation=self._generation,
            input=input,
            output=output,
            seconds=dict(job.seconds),
            peak_memory_bytes=job.prediction.peak_memory_bytes if job.prediction else 0,
            reason=reason,
            error=error,
            traceback=traceback,
        )
