"""Every use of Airflow beyond its public interface, as read in the source of Airflow 3.3.2 (task SDK 1.3.2)."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.sdk import BaseOperator
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

__all__ = [
    "begin_dag_run",
    "count_dag_runs",
    "dag_run_state",
    "die_with_supervisor",
    "expect_map_index_label",
    "is_dag_paused",
    "is_made_by_mapping",
    "is_supervised",
    "is_task_in",
    "lookup_failed",
    "read_xcom",
    "shortest_deferral_seconds",
    "skip_mapped_tasks",
]

_PR_SET_PDEATHSIG = 1


def skip_mapped_tasks(task_id: str, map_indexes: Iterable[int]) -> bool:
    """Skip the mapped siblings of the running task that have not been queued yet.

    Sends the message behind ``SkipMixin`` (``airflow/sdk/execution_time/comms.py``), which on its own does not change
    the running task's state. Without it, a failing execution only takes longer to end.

    Returns:
        Whether the message could be sent.
    """
    try:
        from airflow.sdk.execution_time.comms import SkipDownstreamTasks  # noqa: PLC0415  internal, may move
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS  # noqa: PLC0415  as above
    except ImportError:
        return False
    SUPERVISOR_COMMS.send(SkipDownstreamTasks(tasks=[(task_id, index) for index in map_indexes]))
    return True


def expect_map_index_label(ti: RuntimeTaskInstanceProtocol, label: str) -> None:
    """Let a label that the task's template will render to be sent with the task's end, not in a request of its own.

    ``_execute_task`` in ``airflow/sdk/execution_time/task_runner.py`` renders the template after ``execute``, and sends
    it only if it has changed; the message about the task's end has it in any case.
    """
    if hasattr(ti, "rendered_map_index"):
        ti.rendered_map_index = label


def begin_dag_run(*, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str) -> bool:
    """Start a run of another DAG.

    Sends the message behind ``TriggerDagRunOperator``. The operator itself cannot resume waiting for an existing run:
    it skips or fails if the run id exists.

    Returns:
        Whether a run was started; ``False`` if one with this id exists.

    Raises:
        AirflowRuntimeError: The DAG does not exist, or Airflow rejects the run.
    """
    from airflow.sdk.exceptions import ErrorType  # noqa: PLC0415  not for parsing
    from airflow.sdk.execution_time.comms import ErrorResponse, TriggerDagRun  # noqa: PLC0415  as above
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS  # noqa: PLC0415  as above

    response = SUPERVISOR_COMMS.send(TriggerDagRun(dag_id=dag_id, run_id=run_id, conf=dict(conf), note=note))
    exists = isinstance(response, ErrorResponse) and response.error == ErrorType.DAGRUN_ALREADY_EXISTS
    return not exists


def dag_run_state(dag_id: str, run_id: str) -> str | None:
    """The state of a run; ``None`` if no run has this id.

    Also works in triggers, which may make the same requests as tasks but have no task instance to make them through.
    Blocks; do not call it from an event loop.

    Raises:
        AirflowRuntimeError: The request fails.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError  # noqa: PLC0415  not for parsing
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415  as above

    try:
        state = RuntimeTaskInstance.get_dagrun_state(dag_id, run_id)
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") == 404:  # noqa: PLR2004  not found
            return None
        raise
    return str(getattr(state, "value", state))


def count_dag_runs(dag_id: str, run_ids: list[str], states: list[str] | None = None) -> int:
    """Count the runs that exist or, given ``states``, are in one of them, with a single request. Blocks.

    Raises:
        AirflowRuntimeError: The request fails.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415  not for parsing

    return RuntimeTaskInstance.get_dr_count(dag_id, run_ids=run_ids, states=states)


def is_task_in(
    states: Iterable[str], *, dag_id: str, run_id: str, task_id: str, map_index: int | None
) -> bool:
    """Whether a task instance is in one of these states; ``null`` means no state. Blocks.

    Also works in triggers, which have no task instance to make the request through.

    Raises:
        AirflowRuntimeError: The request fails.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415  not for parsing

    count = RuntimeTaskInstance.get_ti_count(
        dag_id, map_index=map_index, task_ids=[task_id], run_ids=[run_id], states=list(states)
    )
    return bool(count)


def is_dag_paused(dag_id: str) -> bool:
    """Whether a DAG is paused; its new runs stay queued until it is unpaused.

    Raises:
        AirflowRuntimeError: The DAG does not exist.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415  not for parsing

    return bool(RuntimeTaskInstance.get_dag(dag_id).is_paused)


def is_made_by_mapping(operator: BaseOperator) -> bool:
    """Whether Airflow created this operator from a mapped task to run one of its instances. Works in ``__init__`` too.

    The attribute is set around every ``__init__`` (``apply_defaults`` in ``airflow/sdk/bases/operator.py``).
    """
    return bool(getattr(operator, "_BaseOperator__from_mapped", False))


def read_xcom(key: str, *, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
    """An XCom of any task instance; ``None`` if it does not exist.

    For links, which have no task instance to pull from. Uses the deployment's XCom backend.
    """
    from airflow.sdk.execution_time.xcom import XCom  # noqa: PLC0415  not for parsing

    return XCom.get_one(key=key, dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index)


def shortest_deferral_seconds() -> float:
    """The minimum time that a task should stay deferred.

    A worker may not notice until its next heartbeat that its task has deferred. If that report reaches the scheduler
    just when the task is queued to resume, the scheduler considers the task lost and fails it
    (``SchedulerJobRunner.process_executor_events``).
    """
    from airflow.sdk import conf  # noqa: PLC0415  not for parsing

    return float(conf.getint("workers", "min_heartbeat_interval", fallback=5)) + 5.0


def die_with_supervisor() -> None:
    """Have the kernel kill this task's process as soon as its supervisor process ends.

    If a supervisor is killed, its task would otherwise keep running unsupervised while Airflow starts the task a second
    time. Linux only. Does nothing without a supervisor: in ``DAG.test``, the parent process is a shell.
    """
    import ctypes  # noqa: PLC0415  not for parsing

    if is_supervised() and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def is_supervised() -> bool:
    """Whether a separate process supervises this task; any thread of the task may then send it requests.

    ``CommsDecoder.send`` holds a lock from request to response, so never call it from a signal handler. If a task runs
    in its supervisor's process (``DAG.test``), concurrent requests get in each other's way.
    """
    from airflow.sdk.execution_time import task_runner  # noqa: PLC0415  not for parsing
    from airflow.sdk.execution_time.comms import CommsDecoder  # noqa: PLC0415  as above

    return isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), CommsDecoder)


def lookup_failed(*, conn_id: str = "", variable: str = "") -> bool:
    """Whether a "not found" for a connection or a variable was in fact a failed lookup; repeats the request.

    ``ExecutionAPISecretsBackend`` reports every error except a denied permission as "not found", including failures of
    the API server. Outside tasks and triggers, no request can be made, and "not found" is taken at face value.
    """
    try:
        from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType  # noqa: PLC0415  not for parsing
        from airflow.sdk.execution_time import task_runner  # noqa: PLC0415  internal, may move
        from airflow.sdk.execution_time.comms import (  # noqa: PLC0415  as above
            ErrorResponse,
            GetConnection,
            GetVariable,
        )
    except ImportError:
        return False
    comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if comms is None:
        return False
    try:
        response = comms.send(GetConnection(conn_id=conn_id) if conn_id else GetVariable(key=variable))
    except AirflowRuntimeError:
        return True
    missing = {ErrorType.CONNECTION_NOT_FOUND, ErrorType.VARIABLE_NOT_FOUND}
    return isinstance(response, ErrorResponse) and response.error not in missing
