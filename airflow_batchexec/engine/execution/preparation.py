"""Prepares an execution: everything that is decided and written before its first file.

``spec.py`` lists the documents that this module writes.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import canonical
from airflow_batchexec.engine.execution import lock
from airflow_batchexec.engine.execution.planning import PLAN_NAME, SKIPPED_NAME, make_plan
from airflow_batchexec.engine.execution.resolution import resolve
from airflow_batchexec.engine.execution.spec import ExecutionFolder, ExecutionSpec
from airflow_batchexec.engine.execution.stop import StopMark
from airflow_batchexec.engine.storage.disk import scratch_folder
from airflow_batchexec.exceptions import (
    ExecutionCancelledError,
    ExecutionRunningError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_batchexec.engine.config.instances import Instance, InstanceTable
    from airflow_batchexec.engine.config.locations import AllowedLocations, Location
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState
    from airflow_batchexec.engine.execution.plan import Plan
    from airflow_batchexec.engine.execution.resolution import Resolution
    from airflow_batchexec.engine.repository.repository import ModelRepository
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["Prepared", "prepare"]

# How long to wait for a cancelled execution to release its lock.
_CANCEL_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Prepared:
    """An execution that is ready to start.

    Attributes:
        spec: The specification.
        plan: What was planned.
    """

    spec: ExecutionSpec
    plan: Plan


def prepare(
    *,
    config: ExecutionConfig,
    owner: LockOwner,
    owner_state: Callable[[LockOwner], OwnerState],
    round_id: str,
    started_at: float,
    repository: ModelRepository,
    instances: InstanceTable,
    open_storage: Callable[[Location], Storage],
    allowed: AllowedLocations,
    default_pods: int,
    max_shards: int,
    map_per_file: bool = False,
    default_purchase_option: str = "",
    admit: Callable[[Instance, str], None] = lambda _instance, _purchase_option: None,
    on_resolved: Callable[[Resolution], None] = lambda _: None,
    scratch_root: Path | None = None,
) -> Prepared:
    """Validate the request, list the source, acquire the lock and write the plan. Touches no input and no result.

    A refused execution leaves nothing in the destination, so the lock is the first thing written to it.

    Args:
        config: The request.
        owner: The owner to acquire the lock for.
        owner_state: Determines whether the owner of a lock is still running.
        round_id: The name of this round of planning, unique within the execution.
        started_at: When the execution started, in seconds since the epoch.
        repository: The model repository.
        instances: The available instances.
        open_storage: Opens the storage of a location.
        allowed: The locations that executions may use.
        default_pods: The number of pods if neither the request nor the deployment sets it; 0 for no limit.
        max_shards: The maximum number of mapped tasks.
        map_per_file: Whether to put each file in its own shard even if there are fewer pods than files.
        default_purchase_option: The purchase option if neither the request nor the deployment sets it; empty for none.
        admit: Raises a ``ConfigurationError`` if the resolved instance and purchase option are not available.
        on_resolved: Called when the build and its pods are known, before the source is listed.
        scratch_root: Where to create a temporary folder; ``None`` for the system's temporary folder.

    Raises:
        ConfigurationError: A field is invalid.
        RepositoryError: The build does not exist.
        PlanningError: There are no input files, results would collide, or an execution with the same identity is
            running.
        ExecutionCancelledError: The execution was cancelled before it was planned.
        StorageError: A folder cannot be listed or written, or the temporary folder cannot be used.
    """
    source = canonical(config.source, field="source_folder")
    destination = canonical(config.destination, field="destination_folder")
    allowed.check(source, field="source_folder")
    allowed.check(destination, field="destination_folder")
    ExecutionFolder(destination, owner.execution_id)
    resolved = resolve(
        config,
        repository=repository,
        instances=instances,
        default_pods=default_pods,
        default_purchase_option=default_purchase_option,
    )
    admit(resolved.instance, resolved.purchase_option)
    on_resolved(resolved)
    with scratch_folder(scratch_root) as scratch:
        plan = make_plan(
            listing=open_storage(source).list(source),
            source=source,
            destination=destination,
            input_type=config.execution.input_file_type,
            output_type=config.execution.output_file_type,
            allowed=allowed,
            pods=None if map_per_file else resolved.pods,
            max_shards=max_shards,
            round_id=round_id,
            folder=scratch,
        )
        spec = ExecutionSpec(
            execution_id=owner.execution_id,
            round_id=round_id,
            config=config,
            build=resolved.build,
            instance=resolved.instance,
            purchase_option=resolved.purchase_option,
            pods=resolved.pods,
            source=source,
            root=plan.root,
            destination=destination,
            owner=owner,
            started_at=started_at,
            total_files=plan.total_files,
            total_bytes=plan.total_bytes,
            skipped_files=plan.skipped_files,
            shards=len(plan.shards),
        )
        _commit(open_storage(destination), spec, scratch, owner_state)
    return Prepared(spec, plan)


def _commit(
    storage: Storage,
    spec: ExecutionSpec,
    scratch: Path,
    owner_state: Callable[[LockOwner], OwnerState],
) -> None:
    """Acquire the lock and write the documents, or leave nothing."""
    cancel = StopMark(storage=storage, location=spec.folder.cancel)
    _refuse_if_cancelled(cancel)
    acquired = _acquire_lock(storage, spec, owner_state)
    try:
        _write_documents(storage, spec, scratch)
        # No pod watches for a cancellation that arrived during planning.
        _refuse_if_cancelled(cancel)
    except BaseException as error:
        if acquired or isinstance(error, ExecutionCancelledError):
            _roll_back(storage, spec)
        raise


def _refuse_if_cancelled(cancel: StopMark) -> None:
    mark = cancel.read()
    if mark is not None:
        # Once it has taken effect, it must not cancel the run again after a clear.
        cancel.remove()
        raise ExecutionCancelledError(mark["reason"])


def _acquire_lock(
    storage: Storage, spec: ExecutionSpec, owner_state: Callable[[LockOwner], OwnerState]
) -> bool:
    """Acquire the lock, waiting for its holder if that is being cancelled.

    Raises:
        ExecutionRunningError: An execution with the same identity is running.
    """
    deadline = time.monotonic() + _CANCEL_TIMEOUT_SECONDS
    while True:
        try:
            return lock.acquire(storage=storage, location=spec.lock, owner=spec.owner, state_of=owner_state)
        except ExecutionRunningError as error:
            holder = error.details.get("execution_id")
            if holder is None or time.monotonic() > deadline:
                raise
            folder = ExecutionFolder(spec.destination, holder)
            if StopMark(storage=storage, location=folder.cancel).read() is None:
                # The holder may have ended since the first attempt.
                return lock.acquire(
                    storage=storage, location=spec.lock, owner=spec.owner, state_of=owner_state
                )
        time.sleep(_POLL_SECONDS)


def _write_documents(storage: Storage, spec: ExecutionSpec, scratch: Path) -> None:
    """Write the specification after the documents that it refers to, then delete an earlier ``_SUCCESS``."""
    folder = spec.folder
    storage.publish(scratch / PLAN_NAME, folder.plan)
    if spec.skipped_files:
        storage.publish(scratch / SKIPPED_NAME, folder.skipped)
    storage.write(folder.spec, spec.to_json())
    storage.delete(folder.success)


def _roll_back(storage: Storage, spec: ExecutionSpec) -> None:
    """Delete an incomplete plan. Storage errors are ignored: the caller raises the one that caused them."""
    folder = spec.folder
    with suppress(StorageError):
        for location in (folder.spec, folder.plan, folder.skipped):
            storage.delete(location)
        lock.release(storage=storage, location=spec.lock, owner=spec.owner)
