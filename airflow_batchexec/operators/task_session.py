"""The predictor of an Airflow task: shared with other tasks on the machine or its own, its output in the task's log."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_batchexec import settings
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow.sdk.types import Logger

    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.machine.pod_folder import PodNote
    from airflow_batchexec.engine.repository.builds import Build
    from airflow_batchexec.engine.running.deadline import JobDeadline
    from airflow_batchexec.engine.running.predictor_spec import Workload
    from airflow_batchexec.engine.running.session import PredictorSession
    from airflow_batchexec.engine.running.shared_pods import SharedPods
    from airflow_batchexec.exceptions import BatchExecError

__all__ = ["TaskSession", "fetch_build", "shared_pods"]


class TaskSession:
    """The one predictor of a task.

    Args:
        name: How records and messages call it.
        log: The task's log.
        batch_execution_conn_id: The connection to reach the model repository with.
        on_line: Also receives what the model prints, as (file, stream, line); the file is empty during loading.
    """

    def __init__(
        self,
        *,
        name: str,
        log: Logger,
        batch_execution_conn_id: str,
        on_line: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        self._name = name
        self._log = log
        self._batch_execution_conn_id = batch_execution_conn_id
        self._on_line = on_line
        self._session: PredictorSession | None = None
        self._ended_by: BatchExecError | None = None

    @contextmanager
    def started(
        self,
        spec: ExecutionSpec,
        *,
        owner: tuple[str, ...],
        note: PodNote | None = None,
        deadline: JobDeadline | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PredictorSession | None]:
        """Take a pod that is ready on this machine, or start one; nothing of the task is left in it afterwards.

        Args:
            spec: The execution.
            owner: What the pods on a machine serve; tasks with the same owner share them.
            note: What to leave in a shared pod for later tasks.
            deadline: When the execution exceeds its ``job_timeout``.
            should_stop: Whether to stop waiting for room on this machine.

        Yields:
            The session; ``None`` if it was time to stop.

        Raises:
            BatchExecError: The build cannot be fetched or loaded, or :meth:`end` was called; then its reason.
        """
        from airflow_batchexec.engine.running.deadline import JobDeadline  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.running.predictor_spec import Workload  # noqa: PLC0415  as above
        from airflow_batchexec.engine.running.session import PredictorSession  # noqa: PLC0415  as above

        session = PredictorSession(
            spec, name=self._name, on_line=self._print, deadline=deadline or JobDeadline()
        )
        self._session = session
        if self._ended_by is not None:
            raise self._ended_by
        if settings.shares_pods():
            pods = shared_pods(Workload.of(spec), owner, note)
            with session.shared(
                pods, lambda: self._fetch(spec), should_stop=should_stop, on_wait=lambda: self._log_wait(spec)
            ) as is_ready:
                yield session if is_ready else None
            return
        with session.started(
            self._fetch(spec),
            load_timeout_seconds=settings.load_timeout_seconds(),
            scratch_root=settings.scratch_folder(),
        ):
            yield session

    def end(self, reason: BatchExecError) -> None:
        """End the predictor, or prevent its start; may be called from any thread and from a signal handler."""
        self._ended_by = self._ended_by or reason
        if self._session is not None:
            self._session.end(reason)

    def _fetch(self, spec: ExecutionSpec) -> Path:
        return fetch_build(spec.build, batch_execution_conn_id=self._batch_execution_conn_id)

    def _log_wait(self, spec: ExecutionSpec) -> None:
        self._log.info("Waiting until this machine has room for another pod of instance %s.", spec.instance)

    def _print(self, file: str, stream: str, line: str) -> None:
        # First, so that a log that cannot be written does not lose the line.
        self._on_line(file, stream, line)
        self._log.info("[%s] %s", stream, line)


def shared_pods(workload: Workload, owner: tuple[str, ...], note: PodNote | None = None) -> SharedPods:
    """The pods on this machine that tasks with this owner share."""
    from airflow_batchexec.engine.running.shared_pods import SharedPods  # noqa: PLC0415  not for parsing

    return SharedPods(
        machine=settings.machine(),
        workload=workload,
        owner=owner,
        idle_seconds=settings.pod_idle_timeout_seconds(),
        load_timeout_seconds=settings.load_timeout_seconds(),
        note=note,
    )


def fetch_build(build: Build, *, batch_execution_conn_id: str) -> Path:
    """The local folder of a build.

    Raises:
        BatchExecError: It cannot be fetched.
    """
    builds = BatchExecutionHook(batch_execution_conn_id)
    return settings.model_repository(builds.open_storage).fetch(build)
