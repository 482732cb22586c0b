"""Prepares an execution: everything that is decided and written before its first file.

``spec.py`` lists the documents that this module writes.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import AllowedLocations, Location, Scheme, canonical
from airflow_batchexec.engine.execution import lock
from airflow_batchexec.engine.execution.plan import (
    FileTask,
    Plan,
    Shard,
    make_plan,
    make_shards,
    write_shards,
)
from airflow_batchexec.engine.execution.resolution import resolve
from airflow_batchexec.engine.execution.spec import ExecutionFolder, ExecutionSpec
from airflow_batchexec.engine.execution.stop import StopMark
from airflow_batchexec.engine.storage.disk import disk_errors
from airflow_batchexec.exceptions import (
    ExecutionCancelledError,
    ExecutionRunningError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_batchexec.engine.config.instances import Instance, InstanceTable
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState
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
        plan: The file tasks and the skipped files.
        shards: The position of each mapped task's shard in the plan document.
        shard_tasks: The file tasks of each shard.
    """

    spec: ExecutionSpec
    plan: Plan
    shards: Sequence[Shard]
    shard_tasks: Sequence[Sequence[FileTask]]


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

    Raises:
        ConfigurationError: A field is invalid.
        RepositoryError: The build does not exist.
        PlanningError: There are no input files, results would collide, or an execution with the same identity is
            running.
        ExecutionCancelledError: The execution was cancelled before it was planned.
        StorageError: A folder cannot be listed or written.
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
    plan = make_plan(
        listing=open_storage(source).list(source),
        source=source,
        destination=destination,
        input_type=config.execution.input_file_type,
        output_type=config.execution.output_file_type,
    )
    _check_links(plan, destination, allowed)
    shard_tasks = make_shards(
        tasks=plan.tasks, pods=None if map_per_file else resolved.pods, max_shards=max_shards
    )
    with tempfile.TemporaryDirectory() as scratch:
        document = Path(scratch, "plan.jsonl")
        with disk_errors("write", str(document)), document.open("wb") as file:
            shards = write_shards(file, shard_tasks, round_id=round_id)
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
            total_files=len(plan.tasks),
            total_bytes=sum(task.size_bytes for task in plan.tasks),
            skipped_files=len(plan.skipped),
            shards=len(shards),
        )
        _commit(open_storage(destination), spec, document, plan, owner_state)
    return Prepared(spec, plan, shards, shard_tasks)


def _commit(
    storage: Storage,
    spec: ExecutionSpec,
    document: Path,
    plan: Plan,
    owner_state: Callable[[LockOwner], OwnerState],
) -> None:
    """Acquire the lock and write the documents, or leave nothing."""
    cancel = StopMark(storage=storage, location=spec.folder.cancel)
    _refuse_if_cancelled(cancel)
    acquired = _acquire_lock(storage, spec, owner_state)
    try:
        _write_documents(storage, spec, document, plan)
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


def _write_documents(storage: Storage, spec: ExecutionSpec, document: Path, plan: Plan) -> None:
    """Write the specification after the documents that it refers to, then delete an earlier ``_SUCCESS``."""
    folder = spec.folder
    storage.publish(document, folder.plan)
    if plan.skipped:
        lines = [json.dumps(asdict(file), ensure_ascii=False) for file in plan.skipped]
        storage.write(folder.skipped, ("\n".join(lines) + "\n").encode())
    storage.write(folder.spec, spec.to_json())
    storage.delete(folder.success)


def _roll_back(storage: Storage, spec: ExecutionSpec) -> None:
    """Delete an incomplete plan. Storage errors are ignored: the caller raises the one that caused them."""
    folder = spec.folder
    with suppress(StorageError):
        for location in (folder.spec, folder.plan, folder.skipped):
            storage.delete(location)
        lock.release(storage=storage, location=spec.lock, owner=spec.owner)


def _check_links(plan: Plan, destination: Location, allowed: AllowedLocations) -> None:
    """Check that no symbolic link in an allowed folder leads out of the allowed locations.

    Raises:
        LocationError: A link does.
    """
    if plan.root.scheme is Scheme.FILE:
        for task in plan.tasks:
            _check_link(plan.root.join(task.file), allowed, field="source_folder")
    if destination.scheme is Scheme.FILE:
        for folder in sorted({destination.join(task.result).parent for task in plan.tasks}):
            _check_link(folder, allowed, field="destination_folder")


def _check_link(location: Location, allowed: AllowedLocations, *, field: str) -> None:
    # Every check resolves the allowed roots, so check only paths that contain a link.
    if os.path.realpath(location.key) != location.key:
        allowed.check(location, field=field)
