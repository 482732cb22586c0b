"""What this package needs of Airflow beyond its public interface, all of it, read in Airflow 3.3.2 (task SDK 1.3.2)."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.sdk import BaseOperator

__all__ = [
    "begin_dag_run",
    "cannot_be_asked",
    "count_dag_runs",
    "dag_run_state",
    "die_with_supervisor",
    "is_dag_paused",
    "is_made_by_mapping",
    "is_supervised",
    "is_task_in",
    "read_xcom",
    "shortest_deferral_seconds",
    "skip_mapped_tasks",
]

_PR_SET_PDEATHSIG = 1


def skip_mapped_tasks(task_id: str, map_indexes: Iterable[int]) -> bool:
    """Skip those mapped siblings of the running task that have not been queued yet.

    The message is the one behind ``SkipMixin`` (``airflow/sdk/execution_time/comms.py``); sent by itself, it leaves
    the running task's own state alone. Without it an execution that fails takes longer to end, nothing worse.

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


def begin_dag_run(*, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str) -> bool:
    """Begin a run of another DAG.

    The message is the one behind ``TriggerDagRunOperator``, which itself cannot find a run again: where one of the id
    exists, it skips or fails.

    Returns:
        Whether the run was begun; ``False`` where there is one of that id.

    Raises:
        AirflowRuntimeError: There is no such DAG, or Airflow refuses the run.
    """
    from airflow.sdk.exceptions import ErrorType  # noqa: PLC0415  not for parsing
    from airflow.sdk.execution_time.comms import ErrorResponse, TriggerDagRun  # noqa: PLC0415  as above
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS  # noqa: PLC0415  as above

    answer = SUPERVISOR_COMMS.send(TriggerDagRun(dag_id=dag_id, run_id=run_id, conf=dict(conf), note=note))
    exists = isinstance(answer, ErrorResponse) and answer.error == ErrorType.DAGRUN_ALREADY_EXISTS
    return not exists


def dag_run_state(dag_id: str, run_id: str) -> str | None:
    """The state of a run; ``None`` where there is none of that id.

    For triggers, which may ask what a task may, but have no task instance to ask it of. Blocks; not for an event loop.

    Raises:
        AirflowRuntimeError: Airflow does not say.
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
    """How many of these runs there are, or are in one of these states: one question for all. Blocks.

    Raises:
        AirflowRuntimeError: Airflow does not say.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415  not for parsing

    return RuntimeTaskInstance.get_dr_count(dag_id, run_ids=run_ids, states=states)


def is_task_in(
    states: Iterable[str], *, dag_id: str, run_id: str, task_id: str, map_index: int | None
) -> bool:
    """Whether a task instance is in one of these states; ``null`` is none. Blocks.

    For triggers, which have no task instance to ask it of.

    Raises:
        AirflowRuntimeError: Airflow does not say.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415  not for parsing

    count = RuntimeTaskInstance.get_ti_count(
        dag_id, map_index=map_index, task_ids=[task_id], run_ids=[run_id], states=list(states)
    )
    return bool(count)


def is_dag_paused(dag_id: str) -> bool:
    """Whether a DAG is paused: a run of it would be queued until it is not.

    Raises:
        AirflowRuntimeError: There is no such DAG.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415  not for parsing

    return bool(RuntimeTaskInstance.get_dag(dag_id).is_paused)


def is_made_by_mapping(operator: BaseOperator) -> bool:
    """Whether an operator stands for one instance of a mapped task, and so is made when that runs; also in ``__init__``.

    The attribute is set around every ``__init__`` (``apply_defaults`` in ``airflow/sdk/bases/operator.py``).
    """
    return bool(getattr(operator, "_BaseOperator__from_mapped", False))


def read_xcom(key: str, *, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
    """An XCom of any task instance; ``None`` where there is none.

    For links, which have no task instance to ask it of. Goes through the deployment's own XCom backend.
    """
    from airflow.sdk.execution_time.xcom import XCom  # noqa: PLC0415  not for parsing

    return XCom.get_one(key=key, dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index)


def shortest_deferral_seconds() -> float:
    """How long a task should at least stay deferred.

    Its worker may notice only at its next heartbeat that the task has deferred. A scheduler that hears of that just
    when the task is queued to be resumed takes it for one that was lost, and fails it (``SchedulerJobRunner.
    process_executor_events``).
    """
    from airflow.sdk import conf  # noqa: PLC0415  not for parsing

    return float(conf.getint("workers", "min_heartbeat_interval", fallback=5)) + 5.0


def die_with_supervisor() -> None:
    """Let the kernel kill this task's process as soon as the process that supervises it has ended.

    A supervisor that is killed leaves its task running, with nobody to hear of it, and Airflow starts the task a second
    time. Only Linux knows of this. Does nothing where there is no supervisor: in ``DAG.test`` the parent is a shell.
    """
    import ctypes  # noqa: PLC0415  not for parsing

    if is_supervised() and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def is_supervised() -> bool:
    """Whether a process of its own supervises this task: one that any thread of the task may speak to.

    ``CommsDecoder.send`` holds a lock from question to answer, so it may not be used in a signal handler. Where a task
    runs within its supervisor's process (``DAG.test``), one that asks is in the way of another that does.
    """
    from airflow.sdk.execution_time import task_runner  # noqa: PLC0415  not for parsing
    from airflow.sdk.execution_time.comms import CommsDecoder  # noqa: PLC0415  as above

    return isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), CommsDecoder)


def cannot_be_asked(*, conn_id: str = "", variable: str = "") -> bool:
    """Whether Airflow cannot say if there is a connection or a variable.

    ``ExecutionAPISecretsBackend`` takes every answer but a refusal for "there is none", a failure of the API server's
    too. Outside of tasks and triggers nothing can be asked, and "there is none" is believed.
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
        answer = comms.send(GetConnection(conn_id=conn_id) if conn_id else GetVariable(key=variable))
    except AirflowRuntimeError:
        return True
    missing = {ErrorType.CONNECTION_NOT_FOUND, ErrorType.VARIABLE_NOT_FOUND}
    return isinstance(answer, ErrorResponse) and answer.error not in missing
