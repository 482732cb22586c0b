"""The pods that an execution starts before its mapped tasks do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from airflow_batchexec import internals, settings
from airflow_batchexec.exceptions import BatchExecError
from airflow_batchexec.operators.planned_execution import note_of
from airflow_batchexec.operators.task_session import fetch_build, shared_pods

if TYPE_CHECKING:
    from types import TracebackType

    from airflow.sdk.types import Logger

    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.running.predictor_spec import Workload

__all__ = ["PodsAhead", "end_pods"]


class PodsAhead:
    """Starts pods that load while Airflow plans an execution and schedules its tasks, if these will run on this machine.

    The first pod starts in a thread as soon as the build is known, the others when the plan is complete: planning needs
    a core, too. Leaving the block with an error ends the pods. If a pod cannot be started, that is only logged: the
    first mapped task meets the same error.

    Args:
        owner: What identifies the execution among those that share the machine.
        batch_execution_conn_id: The connection to reach the model repository with.
        log: The task's log.
    """

    def __init__(self, owner: tuple[str, ...], *, batch_execution_conn_id: str, log: Logger) -> None:
        self._owner = owner
        self._conn_id = batch_execution_conn_id
        self._log = log
        self._first: threading.Thread | None = None
        self._is_enabled = bool(
            settings.shares_pods()
            and settings.tasks_share_one_machine()
            and settings.pod_idle_timeout_seconds()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._first is not None:
            self._first.join()
            if error is not None:
                end_pods(self._owner, log=self._log)

    def begin(self, workload: Workload) -> None:
        """Start the first pod in the background."""
        # Fetching the build may send requests to the supervisor.
        if self._is_enabled and internals.is_supervised():
            self._first = threading.Thread(target=self._start, args=(1, workload), name="pods-ahead")
            self._first.start()

    def complete(self, spec: ExecutionSpec) -> None:
        """Start the other pods; all of them get a note on the execution."""
        from airflow_batchexec.engine.running.predictor_spec import Workload  # noqa: PLC0415  not for parsing

        if self._first is not None:
            self._first.join()
        if self._is_enabled:
            self._start(min(spec.pods_at_once, spec.shards), Workload.of(spec), spec)

    def _start(self, count: int, workload: Workload, spec: ExecutionSpec | None = None) -> None:
        note = None if spec is None else note_of(spec, batch_execution_conn_id=self._conn_id)
        try:
            build_folder = fetch_build(workload.build, batch_execution_conn_id=self._conn_id)
            shared_pods(workload, self._owner, note).start_ahead(count, build_folder)
        except BatchExecError as error:
            self._log.warning("No pod was started ahead: %s", error.message)


def end_pods(owner: tuple[str, ...], *, log: Logger) -> None:
    """End an execution's idle pods on this machine. On others, they end when nothing has used them for a while."""
    from airflow_batchexec.engine.running.shared_pods import end_idle_pods  # noqa: PLC0415  not for parsing

    if not settings.shares_pods():
        return
    try:
        end_idle_pods(settings.machine(), owner)
    except BatchExecError as error:
        log.warning("The pods on this machine end later, as they are idle: %s", error.message)
