"""The trigger that waits for an execution, and cancels it if its task is ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_batchexec.internals import is_task_in, shortest_deferral_seconds
from airflow_batchexec.runs.control import cancel
from airflow_batchexec.runs.handle import ExecutionHandle
from airflow_batchexec.triggers.run_watch import watch_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["BatchExecutionTrigger"]


class BatchExecutionTrigger(BaseTrigger):
    """Waits for the end of an execution's run.

    Its event is ``{"state": …}``: ``success`` or ``failed``; ``missing`` if the run does not exist; ``timeout`` after
    ``give_up_at``.

    Args:
        dag_id: The execution DAG.
        run_id: The execution's run.
        poll_interval: Seconds between two checks.
        execution: The handle (``ExecutionHandle.to_dict``) of an execution that the waiting task owns: it is cancelled
            if a user marks or clears the task, or after ``give_up_at``. ``None`` if the task only observes it.
        give_up_at: When to stop waiting, in seconds since the epoch.
        not_before: When to emit the event at the earliest, in seconds since the epoch; default: the start of the trigger
            plus the time that Airflow needs to register the deferral.
    """

    def __init__(
        self,
        *,
        dag_id: str,
        run_id: str,
        poll_interval: float,
        execution: dict[str, Any] | None = None,
        give_up_at: float | None = None,
        not_before: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's trigger ships no types
        self.dag_id = dag_id
        self.run_id = run_id
        self.poll_interval = poll_interval
        self.execution = execution
        self.give_up_at = give_up_at
        self.not_before = time.time() + shortest_deferral_seconds() if not_before is None else not_before

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What another triggerer needs to continue."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "dag_id": self.dag_id,
                "run_id": self.run_id,
                "poll_interval": self.poll_interval,
                "execution": self.execution,
                "give_up_at": self.give_up_at,
                "not_before": self.not_before,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait."""
        left = None if self.give_up_at is None else max(0.0, self.give_up_at - time.time())
        waiting = watch_of(self.dag_id).ended(self.run_id, poll_seconds=self.poll_interval)
        try:
            state = await asyncio.wait_for(waiting, left)
        except TimeoutError:
            await self._cancel("The task that started it exceeded its execution_timeout.")
            state = "timeout"
        await asyncio.sleep(max(0.0, self.not_before - time.time()))
        yield TriggerEvent({"state": state or "missing"})  # type: ignore[no-untyped-call]  # as above

    async def on_kill(self) -> None:
        """Cancel the execution: a user has marked or cleared the waiting task, or ended its run.

        Airflow also calls this if another triggerer has taken over the trigger; then the task is still deferred.
        """
        if self.execution is None or await asyncio.to_thread(self._is_deferred):
            return
        await self._cancel("The task that started it was terminated or cleared.")

    def _is_deferred(self) -> bool:
        ti = self.task_instance
        return ti is not None and is_task_in(
            ["deferred"], dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=ti.map_index
        )

    async def _cancel(self, reason: str) -> None:
        if self.execution is None:
            return
        handle = ExecutionHandle.from_dict(self.execution)

        def leave_mark() -> bool:
            return cancel(handle.cancel_mark(), dag_id=self.dag_id, run_id=self.run_id, reason=reason)

        # If many are ended at once, Airflow may stop waiting before all are done.
        if await asyncio.shield(asyncio.to_thread(leave_mark)):
            self.log.info("Execution %s is being cancelled.", handle.execution_id)
