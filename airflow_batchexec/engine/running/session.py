"""A predictor and the files that it processes: used by local mode and the tasks in Airflow."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_batchexec.engine.predictor.child import DeadlineExceeded
from airflow_batchexec.engine.predictor.process import Predictor
from airflow_batchexec.engine.running.deadline import JobDeadline
from airflow_batchexec.engine.running.pipeline import FileRoute, Limits, run_files
from airflow_batchexec.engine.running.predictor_spec import Workload, predictor_spec, threads_for
from airflow_batchexec.engine.storage.disk import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.execution.plan import FileTask
    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.running.shared_pods import SharedPods
    from airflow_batchexec.exceptions import BatchExecError

__all__ = ["PredictorSession"]

# A task that has waited long looks less often: many may be waiting, and each look takes 0.15 ms of CPU time.
_POLL_SECONDS = 0.05
_MAX_POLL_SECONDS = 0.5
_POLL_SHARE = 0.05
_NOTICE_SECONDS = 5.0


class PredictorSession:
    """Starts a predictor, or takes one that is ready on this machine, and sends files through it.

    Args:
        spec: The execution.
        name: The name of the predictor in records and logs.
        on_line: Receives each line that the model prints, as (file, stream, line); the file is empty while the build
            is loaded. Called from several threads.
        deadline: The deadline of the execution's ``job_timeout``.
    """

    def __init__(
        self,
        spec: ExecutionSpec,
        *,
        name: str,
        on_line: Callable[[str, str, str], None],
        deadline: JobDeadline = JobDeadline(),  # noqa: B008  immutable
    ) -> None:
        self.spec = spec
        self.name = name
        self._on_line = on_line
        self._deadline = deadline
        self._pod: Predictor | None = None
        self._scratch: Path | None = None
        self._ended_by: BatchExecError | None = None

    @contextmanager
    def started(
        self,
        build_folder: Path,
        *,
        predictors_on_machine: int | None = None,
        load_timeout_seconds: float = 1800.0,
        scratch_root: Path | None = None,
        gpus: tuple[str, ...] = (),
    ) -> Iterator[None]:
        """Start a predictor and load its build; on exit, end the predictor and remove its scratch folder.

        Args:
            build_folder: The local folder of the build.
            predictors_on_machine: The number of predictors that share this machine's cores; ``None`` if the
                instance's cores are reserved for this one.
            load_timeout_seconds: The maximum time to load the build.
            scratch_root: Where the scratch folder is created; ``None`` for the system's temporary folder.
            gpus: The ids of its GPUs; empty for all that this process may use.

        Raises:
            BatchExecError: The build cannot be loaded, or :meth:`end` was called; then its reason.
            JobTimeoutError: The deadline passed before the build was loaded.
        """
        with scratch_folder(scratch_root) as scratch:
            pod_spec = predictor_spec(
                Workload.of(self.spec),
                build_folder=build_folder,
                scratch=scratch,
                threads=threads_for(self.spec.instance, predictors_on_machine),
                load_timeout_seconds=load_timeout_seconds,
                gpus=gpus,
            )
            with Predictor(spec=pod_spec, name=self.name, on_line=self._print) as pod:
                self._start(pod)
                self._scratch = scratch
                yield

    @contextmanager
    def shared(
        self,
        pods: SharedPods,
        build_folder: Callable[[], Path],
        *,
        should_stop: Callable[[], bool],
        on_wait: Callable[[], None],
    ) -> Iterator[bool]:
        """Take a pod that is ready on this machine, or start one as soon as there is room; on exit, leave it to others.

        Args:
            pods: The pods of the execution.
            build_folder: Returns the local folder of the build; called only if no pod is ready.
            should_stop: Whether to stop waiting for room.
            on_wait: Called once if the wait is long enough to be noticed.

        Yields:
            Whether there is a predictor; ``False`` if it was time to stop.

        Raises:
            BatchExecError: The build cannot be loaded, or :meth:`end` was called; then its reason.
            JobTimeoutError: The deadline passed before the build was loaded.
        """
        pod = self._take(pods, build_folder, should_stop, on_wait)
        if pod is None:
            yield False
            return
        # In the pod's folder, which is removed even if this process is killed.
        with pod, scratch_folder(pod.spec.scratch.parent, prefix="files-") as scratch:
            self._scratch = scratch
            yield True

    def run(
        self,
        tasks: Iterator[FileTask],
        *,
        route: FileRoute,
        record: Callable[[FileRecord], None],
        attempt: int = 1,
        generation: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
        may_look_ahead: Callable[[], bool] = lambda: True,
    ) -> BatchExecError | None:
        """Process file tasks with the started predictor until none is left, one fails, or it is time to stop.

        Args:
            tasks: The file tasks; each is consumed only when its file is about to be fetched.
            route: Where files come from and go to.
            record: Called with a record of each file's start and end, from several threads.
            attempt: The number of this attempt, for the records.
            generation: How many times the run had been cleared, for the records.
            should_stop: Whether to start no more files; called before each file.
            may_look_ahead: Whether a file on this disk may be consumed while the predictor has another.

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
            may_look_ahead=may_look_ahead,
        )

    @property
    def scratch(self) -> Path:
        """A folder for files on their way through the predictor, removed with the session."""
        assert self._scratch is not None
        return self._scratch

    @property
    def load_seconds(self) -> float:
        """The time that loading the build took, in seconds; 0 if it had been loaded before."""
        return self._pod.load_seconds if self._pod else 0.0

    def end(self, reason: BatchExecError) -> None:
        """End the predictor, or prevent its start; may be called from any thread and from a signal handler."""
        self._ended_by = self._ended_by or reason
        if self._pod is not None:
            self._pod.end(reason)

    def _print(self, stream: str, line: str) -> None:
        self._on_line(self._pod.file if self._pod else "", stream, line)

    def _take(
        self,
        pods: SharedPods,
        build_folder: Callable[[], Path],
        should_stop: Callable[[], bool],
        on_wait: Callable[[], None],
    ) -> Predictor | None:
        folder: Path | None = None
        started = time.monotonic()
        notice_at = started + _NOTICE_SECONDS
        while True:
            self._check_not_over()
            if should_stop():
                return None
            claimed = pods.claim_idle()
            if claimed is None:
                folder = folder or build_folder()
                claimed = pods.claim_new()
            if claimed is None:
                waited = time.monotonic() - started
                time.sleep(min(max(_POLL_SECONDS, _POLL_SHARE * waited), _MAX_POLL_SECONDS))
                if time.monotonic() >= notice_at:
                    notice_at = math.inf
                    on_wait()
                continue
            spec = pods.predictor_spec(claimed, folder)
            child = pods.child(claimed, spec, name=self.name)
            pod = Predictor(spec=spec, name=self.name, on_line=self._print, child=child)
            try:
                self._start(pod)
            except OSError:
                # It has ended since it was claimed.
                pod.close()
                time.sleep(_POLL_SECONDS)
            except BaseException:
                pod.close()
                raise
            else:
                return pod

    def _start(self, pod: Predictor) -> None:
        self._pod = pod
        self._check_not_over()
        try:
            pod.start(deadline=self._deadline.at)
        except DeadlineExceeded:
            raise self._deadline.error() from None

    def _check_not_over(self) -> None:
        if self._ended_by is not None:
            raise self._ended_by
        if self._deadline.has_passed():
            raise self._deadline.error()
