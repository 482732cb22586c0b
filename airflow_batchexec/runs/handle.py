"""The handle of an execution: its location, and the credentials to read it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec import settings
from airflow_batchexec.engine.execution.ids import id_in_run
from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState, local_owner_state
from airflow_batchexec.exceptions import BatchExecError
from airflow_batchexec.names import ENDED_RUN_STATES

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

    from airflow_batchexec.engine.execution.spec import ExecutionFolder
    from airflow_batchexec.engine.execution.stop import StopMark
    from airflow_batchexec.engine.storage.base import Storage
    from airflow_batchexec.hooks.batch_execution import BatchExecutionHook

__all__ = ["ExecutionHandle", "dag_run_start", "execution_id_of", "generation", "owner_state"]


@dataclass(frozen=True, slots=True)
class ExecutionHandle:
    """Locates an execution's documents; small, and free of secrets.

    Attributes:
        execution_id: The execution.
        destination: The destination folder's URI.
        fields: Its configuration by flat name.
        batch_execution_conn_id: The connection.
    """

    execution_id: str
    destination: str
    fields: dict[str, Any]
    batch_execution_conn_id: str

    def to_dict(self) -> dict[str, Any]:
        """The handle as an XCom."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> ExecutionHandle:
        """The inverse of ``to_dict``.

        Raises:
            BatchExecError: It is not a handle.
        """
        try:
            return cls(**values)
        except TypeError:
            raise BatchExecError("The execution has no plan: the task plan has not succeeded.") from None

    def open(self) -> tuple[BatchExecutionHook, Storage, ExecutionFolder]:
        """The hook with the execution's credentials, the destination's storage, and the execution's folder."""
        from airflow_batchexec.engine.config.locations import Location  # noqa: PLC0415  as above
        from airflow_batchexec.engine.config.model import ExecutionConfig  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.execution.spec import ExecutionFolder  # noqa: PLC0415  as above
        from airflow_batchexec.hooks.batch_execution import BatchExecutionHook  # noqa: PLC0415  as above

        destination = Location.parse(self.destination, field="destination_folder")
        hook = BatchExecutionHook.for_execution(
            ExecutionConfig.from_fields(**self.fields), batch_execution_conn_id=self.batch_execution_conn_id
        )
        return hook, hook.open_storage(destination), ExecutionFolder(destination, self.execution_id)

    def cancel_mark(self) -> StopMark:
        """The mark that cancels the execution.

        Raises:
            BatchExecError: The destination cannot be reached.
        """
        from airflow_batchexec.engine.execution.stop import StopMark  # noqa: PLC0415  not for parsing

        _, storage, folder = self.open()
        return StopMark(storage=storage, location=folder.cancel)


def execution_id_of(ti: RuntimeTaskInstanceProtocol, name: str) -> str:
    """The id of the execution that a task belongs to; ``name`` as for :func:`id_in_run`."""
    return id_in_run(dag_id=ti.dag_id, run_id=str(ti.run_id), name=name)


def dag_run_start(context: Context) -> float:
    """When the run started, in seconds since the epoch; a clear starts it anew."""
    start = context["dag_run"].start_date
    return start.timestamp() if start is not None else time.time()


def generation(context: Context) -> int:
    """How often the run has been cleared."""
    return context["dag_run"].clear_number or 0


def owner_state(ti: RuntimeTaskInstanceProtocol) -> Callable[[LockOwner], OwnerState]:
    """A function that determines whether a lock's owner is still running."""
    from airflow.sdk.exceptions import AirflowRuntimeError  # noqa: PLC0415  not for parsing

    def state(owner: LockOwner) -> OwnerState:
        if not owner.dag_id:
            return local_owner_state(owner)
        if owner.deployment != settings.deployment_name():
            # A run with this id here would be a different one.
            return OwnerState.UNKNOWN
        try:
            run_state = ti.get_dagrun_state(owner.dag_id, owner.run_id)
        except AirflowRuntimeError as error:
            detail = error.error.detail or {}
            # A deleted run has ended.
            return OwnerState.ENDED if detail.get("status_code") == 404 else OwnerState.UNKNOWN  # noqa: PLR2004
        return OwnerState.ENDED if run_state in ENDED_RUN_STATES else OwnerState.RUNNING

    return state
