"""The execution that a mapped task belongs to: read from a note in a pod on this machine, or else where plan wrote it.

A pod has a note from its start or its first user on. So only the first tasks on a machine request the XCom of ``plan`` and
read the specification in the destination. A note belongs to one round of planning, and is of no use to tasks of another.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batchexec import settings
from airflow_batchexec.exceptions import BatchExecError
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
from airflow_batchexec.names import EXECUTION_KEY
from airflow_batchexec.runs.handle import ExecutionHandle, execution_id_of

if TYPE_CHECKING:
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.machine.pod_folder import PodNote
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["PlannedExecution", "find_execution", "note_of"]

_INVALID = (AttributeError, BatchExecError, KeyError, TypeError, ValueError)
"""What reading a note raises that another release wrote, or that is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedExecution:
    """An execution, and the access to its folders.

    Attributes:
        spec: The execution.
        hook: Opens storages with its credentials.
        storage: The storage of its destination.
        note: What to leave in its pods; ``None`` if tasks do not share pods here.
    """

    spec: ExecutionSpec
    hook: BatchExecutionHook
    storage: Storage
    note: PodNote | None


def note_of(spec: ExecutionSpec, *, batch_execution_conn_id: str) -> PodNote:
    """The note on an execution. Like its documents, it contains the names of secrets, never their values."""
    from airflow_batchexec.engine.machine.pod_folder import PodNote  # noqa: PLC0415  not for parsing

    values = {"batch_execution_conn_id": batch_execution_conn_id, "spec": spec.to_json().decode()}
    return PodNote(spec.round_id, json.dumps(values).encode())


def find_execution(
    ti: RuntimeTaskInstanceProtocol, *, round_id: str, plan_task_id: str, name: str
) -> PlannedExecution:
    """The execution that a mapped task belongs to.

    Args:
        ti: The mapped task.
        round_id: The round of planning that made its shard; empty if it is unknown, then no note is used.
        plan_task_id: The task ``plan``.
        name: Distinguishes several executions in one run; empty if the run is the execution.

    Raises:
        BatchExecError: The execution has no plan, or its destination cannot be opened or read.
    """
    owner = (settings.deployment_name(), ti.dag_id, execution_id_of(ti, name))
    noted = _find_note(owner, round_id) if settings.shares_pods() and round_id else None
    if noted is None:
        return _read_planned(ti, plan_task_id)
    spec, conn_id, note = noted
    hook = BatchExecutionHook.for_execution(spec.config, batch_execution_conn_id=conn_id)
    return PlannedExecution(spec=spec, hook=hook, storage=hook.open_storage(spec.destination), note=note)


def _read_planned(ti: RuntimeTaskInstanceProtocol, plan_task_id: str) -> PlannedExecution:
    from airflow_batchexec.engine.execution.spec import read_spec  # noqa: PLC0415  not for parsing

    execution = ti.xcom_pull(task_ids=plan_task_id, key=EXECUTION_KEY, map_indexes=None)
    hook, storage, folder = ExecutionHandle.from_dict(execution).open()
    spec = read_spec(storage, folder)
    conn_id = hook.batch_execution_conn_id
    note = note_of(spec, batch_execution_conn_id=conn_id) if settings.shares_pods() else None
    return PlannedExecution(spec=spec, hook=hook, storage=storage, note=note)


def _find_note(owner: tuple[str, ...], round_id: str) -> tuple[ExecutionSpec, str, PodNote] | None:
    """The execution and the connection as a note has them; ``None`` if no note can be read, whatever the reason."""
    from airflow_batchexec.engine.execution.spec import ExecutionSpec  # noqa: PLC0415  not for parsing
    from airflow_batchexec.engine.machine.pod_folder import PodNote  # noqa: PLC0415  as above
    from airflow_batchexec.engine.running.shared_pods import find_notes  # noqa: PLC0415  as above

    with suppress(OSError, *_INVALID):
        for content in find_notes(settings.machine(), owner, round_id):
            with suppress(*_INVALID):
                values = json.loads(content)
                spec = ExecutionSpec.from_json(values["spec"])
                if (spec.pods_owner, spec.round_id) == (owner, round_id):
                    return spec, str(values["batch_execution_conn_id"]), PodNote(round_id, content)
    return None
