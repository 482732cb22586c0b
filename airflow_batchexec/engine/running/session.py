"""A predictor and the files that it processes: shared by local mode and the tasks in Airflow."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batchexec.engine.predictor.child import DeadlineExceeded
from airflow_batchexec.engine.predictor.process import Predictor
from airflow_batchexec.engine.predictor.spec import PredictorSpec
from airflow_batchexec.engine.running.deadline import JobDeadline
from airflow_batchexec.engine.running.pipeline import FileRoute, Limits, run_files
from airflow_batchexec.engine.storage.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.execution.plan import FileTask
    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.exceptions import BatchExecError

__all__ = ["PredictorSession", "scratch_folder"]


class PredictorSession:
    """Starts a predictor, sends files through it, and cleans up after it.

    Args:
        spec: The execution.
        name: The name of the predictor in records and logs.
        on_line: Receives each line that the model prints, as (file, stream, line); the file is empty while the build
            is loaded. Called from several threads.
        deadline: The deadline of the execution's ``job_timeout``.
        predictors_on_machine: The number of predictors that share this machine's cores; ``None`` if the instance's
            cores are reserved for this one.
        load_timeout_seconds: The maximum time to load the build.
        scratch_root: Where the scratch folder is created; ``None`` for the system's temporary folder.
    """

    def __init__(
        self,
        spec: ExecutionSpec,
        *,
        name: str,
        on_line: Callable[[str, str, str], None],
        deadline: JobDeadline = JobDeadline(),  # noqa: B008  immutable
        predictors_on_machine: int | None = None,
        load_timeout_seconds: float = 1800.0,
        scratch_root: Path | None = None,
    ) -> None:
        self.spec = spec
        self.name = name
        self._on_line = on_line
        self._deadline = deadline
        self._threads = _threads(spec, predictors_on_machine)
        self._load_timeout_seconds = load_timeout_seconds
        self._scratch_root = scratch_root
        self._pod: Predictor | None = None
        self._ended_by: BatchExecError | None = None

    @contextmanager
    def started(self, build_folder: Path) -> Iterator[None]:
        """Start the predictor and load its build; on exit, end the predictor and remove its scratch folder.

        Args:
            build_folder: The local folder of the build.

        Raises:
            BatchExecError: The build cannot be loaded, or :meth:`end` was called; then its reason.
            JobTimeoutError: The deadline passed before the build was loaded.
        """
        with scratch_folder(self._scratch_root) as scratch:
            pod_spec = self._pod_spec(build_folder, scratch)
            with Predictor(spec=pod_spec, name=self.name, on_line=self._print) as pod:
                self._pod = pod
                if self._ended_by is not None:
                    raise self._ended_by
                try:
                    pod.start(deadline=self._deadline.at)
                except DeadlineExceeded:
                    raise self._deadline.error() from None
                yield

    def run(
        self,
        tasks: Iterator[FileTask],
        *,
        route: FileRoute,
        record: Callable[[FileRecord], None],
        attempt: int = 1,
        generation: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> BatchExecError | None:
        """Process file tasks with the started predictor until none is left, one fails, or it is time to stop.

        Args:
            tasks: The file tasks; each is consumed only when its file is about to be fetched.
            route: Where files come from and go to.
            record: Called with a record of each file's start and end, from several threads.
            attempt: The number of this attempt, for the records.
            generation: How many times the run had been cleared, for the records.
            should_stop: Whether to start no more files; called before each file.

        Returns:
            The error of the first failing file; ``None`` if none failed.
        """
        assert self._pod is not None
        return run_files(
            tasks=tasks,
            pod=self._pod,
            attempt=attempt,
            generation=generation,
            route=route,
            limits=Limits(
                file_timeout=self.spec.config.execution.file_timeout,
                job=self._deadline,
                should_stop=lambda: should_stop() or self._deadline.has_passed(),
            ),
            record=record,
        )

    @property
    def scratch(self) -> Path:
        """The scratch folder of the started predictor."""
        assert self._pod is not None
        return self._pod.spec.scratch

    @property
    def load_seconds(self) -> float:
        """The time that loading the build took, in seconds."""
        return self._pod.load_seconds if self._pod else 0.0

    def end(self, reason: BatchExecError) -> None:
        """End the predictor, or prevent its start; may be called from any thread and from a signal handler."""
        self._ended_by = self._ended_by or reason
        if self._pod is not None:
            self._pod.end(reason)

    def _print(self, stream: str, line: str) -> None:
        self._on_line(self._pod.file if self._pod else "", stream, line)

    def _pod_spec(self, build_folder: Path, scratch: Path) -> PredictorSpec:
        spec = self.spec
        return PredictorSpec(
            kind=spec.build.kind.value,
            folder=build_folder,
            entrypoint=spec.build.entrypoint,
            interpreter=spec.build.interpreter,
            requirements=spec.build.requirements,
            instance=spec.instance,
            threads=self._threads,
            parameters=spec.config.execution.parameters,
            scratch=scratch,
            load_timeout_seconds=self._load_timeout_seconds,
        )


@contextmanager
def scratch_folder(root: Path | None = None) -> Iterator[Path]:
    """Create a local folder that is removed on exit.

    Args:
        root: Where to create it; ``None`` for the system's temporary folder.

    Raises:
        StorageError: The folder cannot be created.
    """
    with disk_errors("make a scratch folder in", str(root or tempfile.gettempdir())):
        folder = Path(tempfile.mkdtemp(prefix="batchexec-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _threads(spec: ExecutionSpec, predictors_on_machine: int | None) -> int:
    """The number of threads for a predictor's libraries: oversubscribed cores would slow down every predictor."""
    threads = math.ceil(spec.instance.cpus)
    if predictors_on_machine is not None:
        threads = min(threads, len(os.sched_getaffinity(0)) // predictors_on_machine)
    return max(1, threads)
