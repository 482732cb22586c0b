"""The execution lock: an object in the destination that only one execution of each identity can hold.

It is created with create-if-absent, so exactly one of several concurrent executions acquires it, regardless of how and
where they were started. It names its owner. The lock of an owner that has ended is taken over; a lock whose owner's
state cannot be determined is not.
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
"""The folder of the locks, next to the folders of the executions."""
_MAX_ATTEMPTS = 10


class OwnerState(StrEnum):
    """The state of a lock's owner."""

    RUNNING = "RUNNING"
    ENDED = "ENDED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The owner of a lock.

    Attributes:
        execution_id: The execution.
        deployment: The Airflow deployment: two deployments may have runs with the same id.
        dag_id: The DAG; empty for a local execution.
        run_id: The DAG run.
        host: The host of a local execution.
        pid: The process of a local execution.
        started: When that process started, in seconds since the epoch, because process ids are reused.
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
        """The owner for a local execution by this process."""
        import psutil  # noqa: PLC0415  an execution in Airflow never needs it here

        return cls(
            execution_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
        )

    def is_same_execution(self, other: LockOwner) -> bool:
        """Whether both are the same execution, which may hold its lock from several processes."""
        return self.pods_owner == other.pods_owner

    @property
    def pods_owner(self) -> tuple[str, str, str]:
        """What identifies the execution among those that share a machine; in Airflow, all its tasks know it.

        Should two executions have the same, they could only share pods that run the same build in the same way.
        """
        return (self.deployment, self.dag_id, self.execution_id)

    @property
    def place(self) -> str:
        """Where the owner runs, for error messages."""
        if self.dag_id:
            airflow = f" of {self.deployment}" if self.deployment else ""
            return f"DAG {self.dag_id}, run {self.run_id}{airflow}"
        return f"process {self.pid} on {self.host}"


def lock_location(destination: Location, identity: Identity) -> Location:
    """The location of the lock for an identity."""
    return destination.join(f"_batchexec/{FOLDER}/{identity.digest}.json")


def acquire(
    *,
    storage: Storage,
    location: Location,
    owner: LockOwner,
    state_of: Callable[[LockOwner], OwnerState],
) -> bool:
    """Acquire the lock. Does nothing if the same execution already holds it.

    Args:
        storage: The lock's storage.
        location: The lock.
        owner: The owner to acquire it for.
        state_of: Determines whether another owner is still running.

    Returns:
        ``True`` if the lock was acquired, ``False`` if the same execution already held it.

    Raises:
        ExecutionRunningError: The lock is held by another execution that is running, or whose state is unknown.
    """
    data = json.dumps(asdict(owner)).encode()
    for _ in range(_MAX_ATTEMPTS):
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
                raise _running_error(holder, state, location)
            storage.replace(location, data, etag=etag)
        except (ObjectNotFoundError, ObjectChangedError):
            # The lock was released or taken over since it was read: retry.
            continue
        return True
    raise ExecutionRunningError(
        f"The lock {location.uri} changed owners during every attempt to acquire it; try again.",
        uri=location.uri,
    )


def release(*, storage: Storage, location: Location, owner: LockOwner) -> None:
    """Release the lock if this execution holds it."""
    try:
        content, etag = storage.read_with_etag(location)
        holder = _read_owner(content, location)
        if holder.is_same_execution(owner):
            storage.delete(location, etag=etag)
    except (ObjectNotFoundError, ObjectChangedError, ExecutionRunningError):
        return


def is_held_by_another(*, storage: Storage, location: Location, owner: LockOwner) -> bool:
    """Whether another execution holds the lock, or might: its owner may be unreadable."""
    try:
        return not _read_owner(storage.read(location), location).is_same_execution(owner)
    except ObjectNotFoundError:
        return False
    except ExecutionRunningError:
        return True


def local_owner_state(owner: LockOwner) -> OwnerState:
    """The state of a local execution on this host; UNKNOWN for all other owners."""
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
            f"The lock {location.uri} does not name its owner. If no execution with the same model, build, source and "
            f"destination is running, delete it.",
            uri=location.uri,
        ) from error


def _running_error(holder: LockOwner, state: OwnerState, location: Location) -> ExecutionRunningError:
    text = (
        f"An execution with the same model, build, source and destination is running: {holder.execution_id} "
        f"({holder.place})."
    )
    if state is OwnerState.UNKNOWN:
        text = (
            f"The execution {holder.execution_id} ({holder.place}), with the same model, build, source and "
            f"destination, may be running; its state cannot be determined from here. If it is not running, "
            f"delete {location.uri}."
        )
    return ExecutionRunningError(text, execution_id=holder.execution_id, uri=location.uri)
