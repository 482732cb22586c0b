"""Executions as other tasks see them: runs of an execution DAG that are started, cancelled, and end with a summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batchexec.exceptions import ConfigurationError, ExecutionCancelledError
from airflow_batchexec.internals import dag_run_state, is_task_in
from airflow_batchexec.names import ENDED_RUN_STATES, FINISH_TASK_ID, RUN_KEY, SUMMARY_KEY
from airflow_batchexec.reporting.links import ExecutionLink

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

    from airflow_batchexec.engine.execution.manifest import Summary
    from airflow_batchexec.engine.execution.stop import StopMark

__all__ = [
    "End",
    "cancel",
    "check_run_state",
    "end_of",
    "is_still_active",
    "publish_run_link",
]

# A task may be running in another process: a scheduler that takes over from a lost one starts its tasks again.
_ACTIVE_STATES = ("null", "scheduled", "queued", "running", "deferred", "up_for_reschedule", "up_for_retry")


def publish_run_link(context: Context, *, dag_id: str, run_id: str) -> None:
    """Push the XCom that names the task's execution, and show the link to it."""
    context["ti"].xcom_push(RUN_KEY, {"dag_id": dag_id, "run_id": run_id})
    ExecutionLink.show(context["ti"], dag_id=dag_id, run_id=run_id)


def check_run_state(dag_id: str, run_id: str) -> str:
    """The state of an execution's run.

    Raises:
        ConfigurationError: It does not exist.
    """
    state = dag_run_state(dag_id, run_id)
    if state is None:
        raise ConfigurationError(
            f"execution_id: the DAG {dag_id} has no execution {run_id!r}.", field="execution_id"
        )
    return state


def is_still_active(ti: RuntimeTaskInstanceProtocol) -> bool:
    """Whether the task is still active although this process is being terminated: it is, or will be, tried again.

    Airflow terminates a task's process in the same way if a user marks or clears the task, if the worker stops, and if
    the task was started elsewhere because its scheduler was lost.

    Raises:
        AirflowRuntimeError: Airflow cannot be queried.
    """
    return is_task_in(
        _ACTIVE_STATES, dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=ti.map_index
    )


def cancel(mark: StopMark, *, dag_id: str, run_id: str, reason: str) -> bool:
    """Set the mark that cancels an execution, unless it has ended: a later clear would find the mark.

    Returns:
        Whether this call set it.

    Raises:
        AirflowRuntimeError: The state of its run cannot be determined.
        StorageError: The destination is not writable.
    """
    return dag_run_state(dag_id, run_id) not in ENDED_RUN_STATES and mark.set(ExecutionCancelledError(reason))


@dataclass(frozen=True, slots=True)
class End:
    """How an execution ended.

    Attributes:
        summary: The summary of its last task.
        failure: Why it did not finish, as a sentence; empty if it did.
        is_final: Whether starting it again is pointless: it was refused or cancelled.
    """

    summary: Summary
    failure: str = ""
    is_final: bool = False


def end_of(context: Context, *, dag_id: str, run_id: str, state: str) -> End:
    """How an execution ended whose run has ended.

    Args:
        context: The context of the calling task.
        dag_id: The execution DAG.
        run_id: The execution's run.
        state: The run's state.
    """
    from airflow_batchexec.engine.execution.manifest import (  # noqa: PLC0415  not for parsing
        ExecutionStatus,
        Summary,
    )

    found = context["ti"].xcom_pull(dag_id=dag_id, run_id=run_id, task_ids=FINISH_TASK_ID, key=SUMMARY_KEY)
    summary = (
        Summary.read(found)
        if found
        else Summary(execution_id=run_id, status=ExecutionStatus.FAILED, reason="")
    )
    if state == "success" and summary.has_finished:
        return End(summary)
    status = ExecutionStatus.FAILED if summary.has_finished else summary.status
    reason = summary.reason or f"Its run ended as {state}; see the log of its tasks in the DAG {dag_id}."
    is_final = status is ExecutionStatus.CANCELLED or (bool(found) and summary.header is None)
    return End(summary, f"Execution {run_id} ended as {status}: {reason}", is_final)
