"""The start and end of an execution: what is decided and written before the first file and after the last.

``spec.py`` lists the documents that this module writes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import AllowedLocations, Location, Scheme, canonical
from airflow_batchexec.engine.execution import lock
from airflow_batchexec.engine.execution.audit import Audit, audit
from airflow_batchexec.engine.execution.ledger import FileStatus, latest, read_ledger
from airflow_batchexec.engine.execution.manifest import MANIFEST_VERSION, ExecutionStatus, Manifest
from airflow_batchexec.engine.execution.plan import (
    FileTask,
    Plan,
    Shard,
    SkippedFile,
    make_plan,
    make_shards,
    read_tasks,
    shards_document,
)
from airflow_batchexec.engine.execution.resolution import resolve
from airflow_batchexec.engine.execution.spec import ExecutionFolder, ExecutionSpec
from airflow_batchexec.engine.execution.stop import StopMark
from airflow_batchexec.engine.parallel import parallel_map
from airflow_batchexec.exceptions import (
    ExecutionCancelledError,
    ExecutionRunningError,
    ObjectNotFoundError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_batchexec.engine.config.instances import Instance, InstanceTable
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState
    from airflow_batchexec.engine.repository.repository import ModelRepository
    from airflow_batchexec.engine.storage.base import ObjectInfo, Storage

__all__ = ["Prepared", "conclude", "prepare", "read_manifest", "wait_for_pods"]

_STAT_THREADS = 16
# How long to wait for a cancelled execution to release its lock.
_CANCEL_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.5
# A pod may continue after a file with one of these statuses; after any other, it ends.
_ACTIVE_POD_STATUSES = {FileStatus.STARTED, FileStatus.FINISHED}


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
    document, shards = shards_document(shard_tasks)
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
    storage = open_storage(destination)
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
    return Prepared(spec, plan, shards, shard_tasks)


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


def _write_documents(storage: Storage, spec: ExecutionSpec, document: bytes, plan: Plan) -> None:
    """Write the specification after the documents that it refers to, then delete an earlier ``_SUCCESS``."""
    folder = spec.folder
    storage.write(folder.plan, document)
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


def conclude(
    *,
    spec: ExecutionSpec,
    storage: Storage,
    ended_at: float,
    end_status: ExecutionStatus | None = None,
    end_reason: str = "",
) -> Manifest:
    """Audit an execution, write its manifest and, on success, ``_SUCCESS``. Then release the lock.

    The cancel mark is deleted: it has taken effect or came too late, and must not cancel the run again after a clear.

    Args:
        spec: The execution.
        storage: The destination's storage.
        ended_at: When it ended, in seconds since the epoch.
        end_status: The status, if the records alone do not determine it; see :func:`audit`.
        end_reason: The reason for ``end_status``.

    Returns:
        The manifest.
    """
    folder = spec.folder
    tasks = read_tasks(storage.read(folder.plan))
    records = latest(read_ledger(storage, folder.ledger(spec.round_id)))
    finished = [t for t in tasks if t.file in records and records[t.file].status is FileStatus.FINISHED]
    found = parallel_map(
        lambda task: _stat(storage, spec.destination.join(task.result)),
        finished,
        threads=_STAT_THREADS,
        name="stat",
    )
    results = {task.file: info for task, info in zip(finished, found, strict=True)}
    audited = audit(
        tasks=tasks, records=records, results=results, end_status=end_status, end_reason=end_reason
    )
    skipped = _read_skipped(storage, folder) if spec.skipped_files else ()
    manifest = _make_manifest(spec, audited, skipped, ended_at)
    # If this is a repeated call, another execution may hold the lock by now; then ``_SUCCESS`` belongs to that one.
    owns_success = not lock.is_held_by_another(storage=storage, location=spec.lock, owner=spec.owner)
    if not manifest.has_finished and owns_success:
        # The execution may have finished, been cleared, and then failed.
        storage.delete(folder.success)
    storage.write(folder.manifest, manifest.to_json())
    if manifest.has_finished and owns_success:
        mark = {
            "execution_id": manifest.execution_id,
            "finished_files": manifest.finished_files,
            "rows": manifest.rows,
            "manifest": manifest.manifest,
        }
        storage.write(folder.success, (json.dumps(mark) + "\n").encode())
    staging = storage.staging(folder.location)
    if staging is not None:
        # Pods that were killed leave unpublished results.
        shutil.rmtree(staging, ignore_errors=True)
    storage.delete(folder.cancel)
    lock.release(storage=storage, location=spec.lock, owner=spec.owner)
    return manifest


def wait_for_pods(
    *, spec: ExecutionSpec, storage: Storage, generation: int, pods: int, seconds: float
) -> bool:
    """Wait until terminated pods have recorded their end; until then, they may still publish results.

    Args:
        spec: The execution.
        storage: The destination's storage.
        generation: How many times the run has been cleared.
        pods: The number of pods.
        seconds: The maximum time to wait. Pods that were lost never record an end.

    Returns:
        Whether all pods have recorded their end.
    """
    deadline = time.monotonic() + seconds
    while True:
        records = read_ledger(storage, spec.folder.ledger(spec.round_id))
        ended = {
            record.pod
            for record in latest(records).values()
            if record.generation == generation and record.status not in _ACTIVE_POD_STATUSES
        }
        if len(ended) >= pods:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)


def read_manifest(storage: Storage, folder: ExecutionFolder) -> Manifest:
    """Read the manifest of an execution that has ended.

    Raises:
        ObjectNotFoundError: The execution has no manifest yet.
        ConfigurationError: A newer release wrote it, in a version that this one cannot read.
        ObjectChangedError: It is damaged.
    """
    return Manifest.read(storage.read(folder.manifest), folder.manifest.uri)


def _make_manifest(
    spec: ExecutionSpec, audited: Audit, skipped: Sequence[SkippedFile], ended_at: float
) -> Manifest:
    execution = spec.config.execution
    return Manifest(
        version=MANIFEST_VERSION,
        execution_id=spec.execution_id,
        status=audited.status,
        reason=audited.reason,
        model_id=spec.build.model_id,
        build_id=spec.build.build_id,
        source=spec.root.uri,
        destination=spec.destination.uri,
        purchase_option=spec.purchase_option,
        input_file_type=execution.input_file_type.value,
        output_file_type=execution.output_file_type.value,
        manifest=spec.folder.manifest.uri,
        started_at=spec.started_at,
        ended_at=ended_at,
        seconds=round(ended_at - spec.started_at, 3),
        total_files=len(audited.records),
        finished_files=audited.finished_files,
        failed_files=audited.failed_files,
        not_started_files=audited.not_started_files,
        skipped_files=len(skipped),
        rows_in=audited.rows_in,
        rows=audited.rows_out,
        files=audited.records,
        skipped=tuple(skipped),
    )


def _read_skipped(storage: Storage, folder: ExecutionFolder) -> tuple[SkippedFile, ...]:
    return tuple(SkippedFile(**json.loads(line)) for line in storage.read(folder.skipped).splitlines())


def _stat(storage: Storage, location: Location) -> ObjectInfo | None:
    try:
        return storage.stat(location)
    except ObjectNotFoundError:
        return None


def _check_links(plan: Plan, destination: Location, allowed: AllowedLocations) -> None:
    """Check that no symbolic link in an allowed folder leads out of the allowed locations.

    Raises:
        LocationError: A link does.
    """
    locations = [(plan.root.join(task.file), "source_folder") for task in plan.tasks]
    folders = {destination.join(task.result).parent for task in plan.tasks}
    locations += [(folder, "destination_folder") for folder in sorted(folders)]
    for location, field in locations:
        # Every check resolves the allowed roots, so check only paths that contain a link.
        if location.scheme is Scheme.FILE and os.path.realpath(location.key) != location.key:
            allowed.check(location, field=field)
