"""The lock against a twin: an object in the destination that one execution of each identity can hold.

It is created with create-if-absent, so of several executions at once exactly one gets it, whoever started them and
wherever they run. It says who holds it. The lock of an owner that has ended is taken over; one whose owner's state
cannot be found out is not.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from airflow_batchexec.exceptions import (
    ExecutionRunningError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.config.model import Identity
    from airflow_batchexec.engine.storage.base import Storage

__all__ = [
    "FOLDER",
    "LockOwner",
    "OwnerState",
    "acquire",
    "is_held_by_another",
    "local_owner_state",
    "lock_location",
    "release",
]

FOLDER = "locks"
"""Where the locks lie, beside the folders of the executions."""
_ATTEMPTS = 10


class OwnerState(StrEnum):
    """What is known of a lock's owner."""

    RUNNING = "RUNNING"
    ENDED = "ENDED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who holds a lock.

    Attributes:
        execution_id: The execution.
        deployment: Which Airflow it runs in: two of them may have runs of the same name.
        dag_id: Its DAG; empty for an execution on one machine.
        run_id: Its DAG run.
        host: For an execution on one machine, the machine …
        pid: … the process …
        started: … and when that process started, in seconds since the epoch: a pid may be used again.
    """

    execution_id: str
    deployment: str = ""
    dag_id: str = ""
    run_id: str = ""
    host: str = ""
    pid: int = 0
    started: float = 0.0

    @classmethod
    def this_process(cls, execution_id: str) -> LockOwner:
        """An execution on this machine, by this process."""
        import psutil  # noqa: PLC0415  an execution in Airflow never needs it here

        return cls(
            execution_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
        )

    def is_same_execution(self, other: LockOwner) -> bool:
        """Whether both speak of one execution, which may hold its lock from several processes."""
        return (self.execution_id, self.deployment, self.dag_id) == (
            other.execution_id,
            other.deployment,
            other.dag_id,
        )

    @property
    def place(self) -> str:
        """Where the owner runs, for a person to look."""
        if self.dag_id:
            airflow = f" of {self.deployment}" if self.deployment else ""
            return f"DAG {self.dag_id}, run {self.run_id}{airflow}"
        return f"process {self.pid} on {self.host}"


def lock_location(destination: Location, identity: Identity) -> Location:
    """Where the lock of an identity lies."""
    return destination.join(f"_batchexec/{FOLDER}/{identity.digest}.json")


def acquire(
    *,
    storage: Storage,
    location: Location,
    owner: LockOwner,
    state_of: Callable[[LockOwner], OwnerState],
) -> bool:
    """Take the lock; whoever holds it already keeps it.

    Args:
        storage: Where the lock lies.
        location: The lock.
        owner: Who takes it.
        state_of: Finds out whether another owner still runs.

    Returns:
        Whether it was taken; ``False`` where the same execution had it before.

    Raises:
        ExecutionRunningError: Another execution holds it, and has not ended or may not have.
    """
    data = json.dumps(asdict(owner)).encode()
    for _ in range(_ATTEMPTS):
        try:
            storage.create(location, data)
        except ObjectExistsError:
            pass
        else:
            return True
        try:
            content, etag = storage.read_with_etag(location)
            holder = _read_owner(content, location)
            if holder.is_same_execution(owner):
                return False
            state = state_of(holder)
            if state is not OwnerState.ENDED:
                raise _running(holder, state, location)
            storage.replace(location, data, etag=etag)
        except (ObjectNotFoundError, ObjectChangedError):
            # It was released, or taken over by another, since it was read: look again.
            continue
        return True
    raise ExecutionRunningError(
        f"The lock {location.uri} changes hands too fast to be taken; try again.", uri=location.uri
    )


def release(*, storage: Storage, location: Location, owner: LockOwner) -> None:
    """Give the lock back; a lock that another holds is left alone."""
    try:
        content, etag = storage.read_with_etag(location)
        holder = _read_owner(content, location)
        if holder.is_same_execution(owner):
            storage.delete(location, etag=etag)
    except (ObjectNotFoundError, ObjectChangedError, ExecutionRunningError):
        return


def is_held_by_another(*, storage: Storage, location: Location, owner: LockOwner) -> bool:
    """Whether another execution holds the lock, or may."""
    try:
        return not _read_owner(storage.read(location), location).is_same_execution(owner)
    except ObjectNotFoundError:
        return False
    except ExecutionRunningError:
        return True


def local_owner_state(owner: LockOwner) -> OwnerState:
    """Whether an execution on one machine still runs; of other owners nothing is known here."""
    if owner.dag_id or owner.host != socket.gethostname():
        return OwnerState.UNKNOWN
    import psutil  # noqa: PLC0415  most executions meet no lock

    try:
        process = psutil.Process(owner.pid)
        same = abs(process.create_time() - owner.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return OwnerState.ENDED
    return OwnerState.RUNNING if same else OwnerState.ENDED


def _read_owner(content: bytes, location: Location) -> LockOwner:
    try:
        return LockOwner(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise ExecutionRunningError(
            f"{location.uri} does not say who holds it. If no execution with the same model, build, source and "
            f"destination is running, delete it.",
            uri=location.uri,
        ) from error


def _running(holder: LockOwner, state: OwnerState, location: Location) -> ExecutionRunningError:
    text = (
        f"An execution with the same model, build, source and destination is running: {holder.execution_id} "
        f"({holder.place})."
    )
    if state is OwnerState.UNKNOWN:
        text = (
            f"The execution {holder.execution_id} ({holder.place}), with the same model, build, source and "
            f"destination, may be running; from here that cannot be seen. If it is not, delete {location.uri}."
        )
    return ExecutionRunningError(text, execution_id=holder.execution_id, uri=location.uri)
