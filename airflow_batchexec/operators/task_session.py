"""The pod of an Airflow task: begun with the task's build, ended with the task, its output in the task's log."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_batchexec import settings
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow.sdk.types import Logger

    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.predictor.process import Pod
    from airflow_batchexec.exceptions import BatchExecError

__all__ = ["TaskPod"]


class TaskPod:
    """The one pod of a task.

    Args:
        name: How records and messages call it.
        log: The task's log.
        batch_execution_conn_id: The connection that the model repository is reached through.
        on_line: Is also given what the model prints, as (file, stream, line); the file is empty while it is loaded.
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
        self._pod: Pod | None = None
        self._ended_by: BatchExecError | None = None

    @contextmanager
    def started(
        self, spec: ExecutionSpec, *, pods_at_once: int, deadline: float | None = None
    ) -> Iterator[Pod]:
        """The pod, with its build loaded; nothing of it is left afterwards.

        Args:
            spec: What it works for.
            pods_at_once: How many pods like this one may be at work.
            deadline: When to give up loading, on ``time.monotonic``'s clock.

        Raises:
            BatchExecError: The build cannot be had or does not load; or the pod was ended meanwhile, with the reason.
            DeadlineExceeded: The deadline passed.
        """
        from airflow_batchexec.engine.predictor.process import Pod  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.running.pipeline import pod_spec, scratch_folder  # noqa: PLC0415  as above

        builds = BatchExecutionHook(self._batch_execution_conn_id)
        with scratch_folder(settings.scratch_folder()) as scratch:
            made_of = pod_spec(
                spec,
                build_folder=settings.model_repository(builds.open_storage).fetch(spec.build),
                scratch=scratch,
                pods_on_machine=pods_at_once if settings.machine_is_shared() else None,
                load_timeout_seconds=settings.load_timeout_seconds(),
            )
            with Pod(spec=made_of, name=self._name, on_line=self._print) as pod:
                self._pod = pod
                if self._ended_by is not None:
                    raise self._ended_by
                pod.start(deadline=deadline)
                self._log.info("The build was loaded in %.2f s.", pod.load_seconds)
                yield pod

    def end(self, reason: BatchExecError) -> None:
        """End the pod, or keep it from being started; may be called from any thread and from a signal handler."""
        self._ended_by = self._ended_by or reason
        if self._pod is not None:
            self._pod.end(reason)

    def _print(self, stream: str, line: str) -> None:
        # First, so that a log that cannot be written is not in its way.
        self._on_line(self._pod.file if self._pod else "", stream, line)
        self._log.info("[%s] %s", stream, line)
