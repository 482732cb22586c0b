"""The predictor of an Airflow task: started with the task's build, ended with the task, its output in the task's log."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_batchexec import settings
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow.sdk.types import Logger

    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.running.deadline import JobDeadline
    from airflow_batchexec.engine.running.session import PredictorSession
    from airflow_batchexec.exceptions import BatchExecError

__all__ = ["TaskSession"]


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
        self, spec: ExecutionSpec, *, at_once: int, deadline: JobDeadline | None = None
    ) -> Iterator[PredictorSession]:
        """Start the predictor and load its build; nothing of it is left afterwards.

        Args:
            spec: The execution.
            at_once: How many predictors like this one may run at the same time.
            deadline: When the execution exceeds its ``job_timeout``.

        Raises:
            BatchExecError: The build cannot be fetched or loaded, or :meth:`end` was called; then its reason.
        """
        from airflow_batchexec.engine.running.deadline import JobDeadline  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.running.session import PredictorSession  # noqa: PLC0415  as above

        builds = BatchExecutionHook(self._batch_execution_conn_id)
        build_folder = settings.model_repository(builds.open_storage).fetch(spec.build)
        session = PredictorSession(
            spec,
            name=self._name,
            on_line=self._print,
            deadline=deadline or JobDeadline(),
            predictors_on_machine=at_once if settings.machine_is_shared() else None,
            load_timeout_seconds=settings.load_timeout_seconds(),
            scratch_root=settings.scratch_folder(),
        )
        self._session = session
        if self._ended_by is not None:
            raise self._ended_by
        with session.started(build_folder):
            self._log.info("The build was loaded in %.2f s.", session.load_seconds)
            yield session

    def end(self, reason: BatchExecError) -> None:
        """End the predictor, or prevent its start; may be called from any thread and from a signal handler."""
        self._ended_by = self._ended_by or reason
        if self._session is not None:
            self._session.end(reason)

    def _print(self, file: str, stream: str, line: str) -> None:
        # First, so that a log that cannot be written does not lose the line.
        self._on_line(file, stream, line)
        self._log.info("[%s] %s", stream, line)
