"""The file pipeline of one pod: while a file is predicted, the next ones are fetched and the previous ones published.

The pod gets its next file as soon as it has answered, before its answer is dealt with. Every started file gets exactly
one final record, whatever happens. No file is started after the first failure.
"""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_batchexec.engine.execution.ledger import StoredFile
from airflow_batchexec.engine.predictor.child import DeadlineExceeded
from airflow_batchexec.engine.running.deadline import JobDeadline
from airflow_batchexec.engine.running.file_job import FileJob
from airflow_batchexec.engine.running.transfers import TRANSFER_BYTES, Fetches, Publications
from airflow_batchexec.engine.standalone.file_types import SUFFIXES, FileType
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.disk import disk_errors
from airflow_batchexec.exceptions import BatchExecError, FileTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.execution.plan import FileTask
    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.predictor.process import Predictor
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
        prefetch_bytes: Fetch no further file ahead while those before it have this many bytes in total; 0 if fetching
            copies no data.
    """

    source: Storage
    root: Location
    input_type: FileType
    destination: Storage
    results: Location
    output_type: FileType
    scratch: Path
    staging: Path
    prefetch_bytes: int = TRANSFER_BYTES

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
            prefetch_bytes=TRANSFER_BYTES if source.staging(spec.root) is None else 0,
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


def run_files(
    *,
    tasks: Iterator[FileTask],
    pod: Predictor,
    attempt: int,
    generation: int = 0,
    route: FileRoute,
    limits: Limits,
    record: Callable[[FileRecord], None],
    may_look_ahead: Callable[[], bool] = lambda: True,
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
        may_look_ahead: Whether a file on this disk may be consumed while the pod has another.

    Returns:
        The error of the first file that failed; ``None`` if none failed.
    """
    jobs = (
        FileJob(
            task=task,
            number=number,
            pod=pod.name,
            attempt=attempt,
            generation=generation,
            output_path=route.staging / f"{number}{SUFFIXES[route.output_type][0]}",
        )
        for number, task in enumerate(tasks, start=1)
    )
    pipeline = _Pipeline(
        jobs=jobs, pod=pod, route=route, limits=limits, record=record, may_look_ahead=may_look_ahead
    )
    try:
        for folder in (route.scratch, route.staging):
            with disk_errors("make the folder", str(folder)):
                folder.mkdir(parents=True, exist_ok=True)
        return pipeline.run()
    finally:
        pipeline.close()
        shutil.rmtree(route.scratch, ignore_errors=True)
        shutil.rmtree(route.staging, ignore_errors=True)


class _Pipeline:
    def __init__(
        self,
        *,
        jobs: Iterator[FileJob],
        pod: Predictor,
        route: FileRoute,
        limits: Limits,
        record: Callable[[FileRecord], None],
        may_look_ahead: Callable[[], bool],
    ) -> None:
        self._pod = pod
        self._route = route
        self._limits = limits
        self._record = record
        self._fetches = Fetches(
            jobs, self._fetch, max_bytes=route.prefetch_bytes, may_look_ahead=may_look_ahead
        )
        self._publications = Publications(self._publish)
        # Held while a file is started, so that none is after another has failed.
        self._starting = threading.Lock()
        self._error: BatchExecError | None = None

    def run(self) -> BatchExecError | None:
        current = self._start(self._next())
        while current is not None:
            self._fetches.look_ahead()
            if not self._receive(current):
                break
            current = self._continue_after(current)
        self._publications.close()
        self._publications.check()
        return self._error

    def close(self) -> None:
        self._fetches.close()
        self._publications.close()

    def _continue_after(self, predicted: FileJob) -> FileJob | None:
        """Send the next file to the pod and publish the predicted one; first whichever need not wait."""
        job = self._next()
        if job is None or not job.is_fetched or not self._publications.have_room:
            self._hand_over(predicted)
            return self._start(job)
        try:
            return self._start(job)
        finally:
            self._hand_over(predicted)

    def _hand_over(self, predicted: FileJob) -> None:
        """Have the result published. Free the input here, not there: otherwise, inputs could pile up on the disk."""
        self._discard_input(predicted)
        self._publications.add(predicted)

    def _next(self) -> FileJob | None:
        return None if self._error is not None or self._limits.should_stop() else self._fetches.take()

    def _fetch(self, job: FileJob) -> Path:
        task, route = job.task, self._route
        started = time.perf_counter()
        info = ObjectInfo(route.root.join(task.file), task.size_bytes, task.etag)
        path = route.source.fetch(info, self._scratch_file(job))
        job.seconds["fetch"] = time.perf_counter() - started
        return path

    def _start(self, job: FileJob | None) -> FileJob | None:
        """Record the start of a file and send it to the pod; return it unless it failed or must not be started."""
        self._publications.check()
        if job is None:
            return None
        with self._starting:
            if self._error is not None or self._limits.should_stop():
                return None
            self._record(job.started())
        try:
            with disk_errors("process", job.task.file):
                assert job.fetched is not None
                self._send(job, job.fetched.result())
        except BatchExecError as error:
            self._fail(job, error)
            return None
        return job

    def _send(self, job: FileJob, input_path: Path) -> None:
        limits, route = self._limits, self._route
        deadlines = [] if limits.job.at is None else [limits.job.at]
        if limits.file_timeout:
            deadlines.append(time.monotonic() + limits.file_timeout)
        job.deadline = min(deadlines, default=None)
        self._pod.send(
            input_path=input_path,
            input_name=job.task.file,
            input_type=route.input_type,
            output_path=job.output_path,
            output_type=route.output_type,
        )

    def _receive(self, job: FileJob) -> bool:
        """Wait until the pod has predicted the file; return whether it succeeded."""
        try:
            with disk_errors("process", job.task.file):
                job.prediction = self._pod.receive(deadline=job.deadline)
        except DeadlineExceeded:
            self._fail(job, self._timeout_error(job.task))
            return False
        except BatchExecError as error:
            self._fail(job, error)
            return False
        job.seconds.update(job.prediction.seconds)
        return True

    def _publish(self, job: FileJob) -> None:
        task, route, prediction = job.task, self._route, job.prediction
        assert prediction is not None
        started = time.perf_counter()
        try:
            info = route.destination.publish(job.output_path, route.results.join(task.result))
        except BatchExecError as error:
            self._fail(job, error)
            return
        job.seconds["publish"] = time.perf_counter() - started
        source = StoredFile(route.root.join(task.file).uri, task.size_bytes, task.etag, prediction.rows_in)
        self._record(job.finished(source=source, result=StoredFile.of(info, rows=prediction.rows_out)))

    def _fail(self, job: FileJob, error: BatchExecError) -> None:
        """Record the failure of a file, and start no more files."""
        with self._starting:
            self._error = self._error or error
        self._record(job.failed(error))
        job.output_path.unlink(missing_ok=True)
        self._discard_input(job)
        error.details.setdefault("file", job.task.file)

    def _discard_input(self, job: FileJob) -> None:
        """Free the scratch disk; an input that is read in place is the user's own file and stays."""
        if self._route.prefetch_bytes:
            self._scratch_file(job).unlink(missing_ok=True)

    def _scratch_file(self, job: FileJob) -> Path:
        return self._route.scratch / f"{job.number}-input"

    def _timeout_error(self, task: FileTask) -> BatchExecError:
        limits = self._limits
        if limits.job.has_passed():
            return limits.job.error(file=task.file)
        return FileTimeoutError(
            f"{task.file}: exceeded the file_timeout of {limits.file_timeout:g} s; its pod was terminated.",
            file=task.file,
        )
