"""A plan task that was marked failed while it was planning, because its run was cancelled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow_batchexec import settings
from airflow_batchexec.exceptions import BatchExecError, ExecutionCancelledError, ObjectNotFoundError
from airflow_batchexec.names import EXECUTION_KEY, REFUSED_KEY
from airflow_batchexec.operators.plan_execution import PlanExecutionOperator
from airflow_batchexec.runs.handle import ExecutionHandle, dag_run_start, execution_id_of

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import Logger

__all__ = ["UnfinishedPlan"]

_POLL_SECONDS = 0.5


class UnfinishedPlan:
    """The plan task, as a later task of its run sees it.

    Args:
        context: The later task's context.
        task_id: The plan task.
        name: Distinguishes several executions in one run; empty if the run is the execution.
        log: The later task's log.
    """

    def __init__(self, context: Context, *, task_id: str, name: str, log: Logger) -> None:
        self._context = context
        self._task_id = task_id
        self._name = name
        self._log = log

    def pull(self, key: str) -> Any:
        """One of its XComs; ``None`` if it does not exist."""
        return self._context["ti"].xcom_pull(task_ids=self._task_id, key=key)

    def has_ended(self) -> bool:
        """Whether it has planned or refused the execution."""
        return bool(self.pull(EXECUTION_KEY) or self.pull(REFUSED_KEY))

    def end(self, reason: str) -> Any:
        """End it: its process learns of the end only at its next heartbeat, and could take the lock until then.

        Args:
            reason: Why, as a sentence.

        Returns:
            The XCom ``execution`` if there is a plan by now; else ``None``.
        """
        handle = self._handle()
        # The plan task looks for it before it takes the lock, and after it has written its documents.
        mark = handle.cancel_mark() if handle else None
        if mark:
            mark.set(ExecutionCancelledError(reason))
        deadline = time.monotonic() + settings.task_end_seconds()
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        execution = self.pull(EXECUTION_KEY)
        if handle and not self.has_ended() and self._is_prepared(handle):
            # It was killed after it had taken the lock and written its documents.
            execution = handle.to_dict()
        if mark:
            mark.remove()
        return execution

    def _handle(self) -> ExecutionHandle | None:
        """The handle that the plan task is about to push; ``None`` if it will refuse the execution."""
        from airflow_batchexec.engine.config.locations import canonical  # noqa: PLC0415  as above
        from airflow_batchexec.engine.config.model import ExecutionConfig  # noqa: PLC0415  not for parsing

        plan = self._context["dag"].get_task(self._task_id)
        if not isinstance(plan, PlanExecutionOperator) or plan.fields is not None:
            # In a task group, only the task itself has its rendered fields.
            return None
        try:
            config = ExecutionConfig.from_fields(**plan.fields_of_run(self._context))
            destination = canonical(config.destination, field="destination_folder")
            settings.allowed_locations().check(destination, field="destination_folder")
            handle = ExecutionHandle(
                execution_id=execution_id_of(self._context["ti"], self._name),
                destination=destination.uri,
                fields=config.fields(),
                batch_execution_conn_id=plan.batch_execution_conn_id,
            )
            handle.cancel_mark()
        except BatchExecError as error:
            self._log.info(
                "The plan task needs no cancel mark, because it will refuse the execution: %s", error
            )
            return None
        return handle

    def _is_prepared(self, handle: ExecutionHandle) -> bool:
        """Whether the documents of this generation's plan exist."""
        from airflow_batchexec.engine.execution.spec import read_spec  # noqa: PLC0415  not for parsing

        _, storage, folder = handle.open()
        try:
            return read_spec(storage, folder).started_at == dag_run_start(self._context)
        except ObjectNotFoundError:
            return False
