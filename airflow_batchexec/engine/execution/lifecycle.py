"""An execution's beginning and end: what is decided and written before the first file, and after the last.

``spec.py`` lists the documents that this writes.
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
    Share,
    SkippedFile,
    make_plan,
    make_shares,
    read_tasks,
    shares_document,
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
# How long an execution that was cancelled may take to release its lock, and how often one looks.
_CANCEL_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_GOING_ON = {FileStatus.STARTED, FileStatus.FINISHED}


@dataclass(frozen=True, slots=True)
class Prepared:
    """An execution that may begin.

    Attributes:
        spec: What was decided.
        plan: The file tasks, and what was skipped.
        shares: The file tasks of each mapped task.
        places: Where each share lies in the plan document.
    """

    spec: ExecutionSpec
    plan: Plan
    shares: Sequence[Sequence[FileTask]]
    places: Sequence[Share]


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
    pods_by_default: int,
    most_shares: int,
    share_files: bool = True,
    purchase_option_by_default: str = "",
    admit: Callable[[Instance, str], None] = lambda _instance, _purchase_option: None,
) -> Prepared:
    """Validate everything, list the source, take the lock, and write the plan. Touches no input and no result.

    An execution that is refused leaves nothing in the destination, so the lock is the first thing written to it.

    Args:
        config: The request.
        owner: Who will hold the lock.
        owner_state: Finds out whether the owner of a lock still runs.
        round_id: A name for this planning.
        started_at: When the execution began, in seconds since the epoch.
        repository: Where builds come from.
        instances: The instances of this deployment.
        open_storage: Opens the storage that a location lies in.
        allowed: Which locations may be touched.
        pods_by_default: How many pods there are where neither request nor deployment says; 0 for no limit.
        most_shares: How many mapped tasks there may be.
        share_files: Whether fewer pods than files means a share of several files each.
        purchase_option_by_default: The purchase option where neither request nor deployment says; empty for none.
        admit: Refuses, with a ``ConfigurationError``, the instance and purchase option that this execution would have.

    Raises:
        ConfigurationError: A field is wrong.
        RepositoryError: There is no such build.
        PlanningError: There is nothing to do, results would collide, or a twin is running.
        ExecutionCancelledError: It was ended before it began.
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
        pods_by_default=pods_by_default,
        purchase_option_by_default=purchase_option_by_default,
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
    shares = make_shares(
        tasks=plan.tasks, pods=resolved.pods if share_files else None, most_shares=most_shares
    )
    document, places = shares_document(shares)
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
        shares=len(shares),
    )
    storage = open_storage(destination)
    cancel = StopMark(storage=storage, location=spec.folder.cancel)
    _refuse_if_cancelled(cancel)
    taken = _take_lock(storage, spec, owner_state)
    try:
        _write_documents(storage, spec, document, plan)
        # Whoever ended the execution before it had a plan may not have been seen by any pod.
        _refuse_if_cancelled(cancel)
    except BaseException as error:
        if taken or isinstance(error, ExecutionCancelledError):
            _give_up(storage, spec)
        raise
    return Prepared(spec, plan, shares, places)


def _refuse_if_cancelled(cancel: StopMark) -> None:
    mark = cancel.read()
    if mark is not None:
        # It has done its work. Whoever clears the run means to go on.
        cancel.remove()
        raise ExecutionCancelledError(mark["reason"])


def _take_lock(storage: Storage, spec: ExecutionSpec, owner_state: Callable[[LockOwner], OwnerState]) -> bool:
    """Take the lock; one whose holder is being cancelled is waited for.

    Raises:
        ExecutionRunningError: A twin is running.
    """
    deadline = time.monotonic() + _CANCEL_SECONDS
    while True:
        try:
            return lock.acquire(storage=storage, location=spec.lock, owner=spec.owner, state_of=owner_state)
        except ExecutionRunningError as error:
            holder = error.details.get("execution_id")
            if holder is None or time.monotonic() > deadline:
                raise
            folder = ExecutionFolder(spec.destination, holder)
            if StopMark(storage=storage, location=folder.cancel).read() is None:
                # It may have ended since it was found to hold the lock.
                return lock.acquire(
                    storage=storage, location=spec.lock, owner=spec.owner, state_of=owner_state
                )
        time.sleep(_LOOK_SECONDS)


def _write_documents(storage: Storage, spec: ExecutionSpec, document: bytes, plan: Plan) -> None:
    """The specification after what it speaks of; the mark of an earlier success goes when all else is there."""
    folder = spec.folder
    storage.write(folder.plan, document)
    if plan.skipped:
        lines = [json.dumps(asdict(file), ensure_ascii=False) for file in plan.skipped]
        storage.write(folder.skipped, ("\n".join(lines) + "\n").encode())
    storage.write(folder.spec, spec.to_json())
    storage.delete(folder.success)


def _give_up(storage: Storage, spec: ExecutionSpec) -> None:
    """Half a plan must not be taken for one. What fails here follows from the failure that the caller is told of."""
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
    ended_as: ExecutionStatus | None = None,
    ended_because: str = "",
) -> Manifest:
    """Audit an execution and write its manifest; on success ``_SUCCESS`` after it. Then release the lock.

    A mark that somebody cancelled it has done its work then, or came too late, and is taken away: a clear means to go on.

    Args:
        spec: The execution.
        storage: The destination's storage.
        ended_at: When it ended, in seconds since the epoch.
        ended_as: The status of an execution that was ended from outside.
        ended_because: The reason for that.

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
    account = audit(
        tasks=tasks, records=records, results=results, ended_as=ended_as, ended_because=ended_because
    )
    skipped = _read_skipped(storage, folder) if spec.skipped_files else ()
    manifest = _manifest(spec, account, skipped, ended_at)
    # This may be done a second time, after the lock was released: then the mark is that of a twin that has begun since.
    mark_is_ours = not lock.is_held_by_another(storage=storage, location=spec.lock, owner=spec.owner)
    if not manifest.has_finished and mark_is_ours:
        # An execution that had finished may have been cleared, and failed since.
        storage.delete(folder.success)
    storage.write(folder.manifest, manifest.to_json())
    if manifest.has_finished and mark_is_ours:
        mark = {
            "execution_id": manifest.execution_id,
            "finished_files": manifest.finished_files,
            "rows": manifest.rows,
            "manifest": manifest.manifest,
        }
        storage.write(folder.success, (json.dumps(mark) + "\n").encode())
    staging = storage.staging(folder.location)
    if staging is not None:
        # What pods that were killed had not published.
        shutil.rmtree(staging, ignore_errors=True)
    storage.delete(folder.cancel)
    lock.release(storage=storage, location=spec.lock, owner=spec.owner)
    return manifest


def wait_for_pods(
    *, spec: ExecutionSpec, storage: Storage, generation: int, pods: int, seconds: float
) -> bool:
    """Wait until pods that were told to end have said so: until then, one of them may still publish a result.

    Args:
        spec: The execution.
        storage: The destination's storage.
        generation: How often the run has been cleared.
        pods: How many there are.
        seconds: How long to wait at most. A pod that was lost says nothing.

    Returns:
        Whether all have said so.
    """
    deadline = time.monotonic() + seconds
    while True:
        records = read_ledger(storage, spec.folder.ledger(spec.round_id))
        ended = {
            record.pod
            for record in latest(records).values()
            if record.generation == generation and record.status not in _GOING_ON
        }
        if len(ended) >= pods:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)


def read_manifest(storage: Storage, folder: ExecutionFolder) -> Manifest:
    """The manifest of an execution that has ended.

    Raises:
        ObjectNotFoundError: There is none yet.
        ConfigurationError: A newer release wrote it, in a version that this one cannot read.
        ObjectChangedError: It is damaged.
    """
    return Manifest.read(storage.read(folder.manifest), folder.manifest.uri)


def _manifest(
    spec: ExecutionSpec, account: Audit, skipped: Sequence[SkippedFile], ended_at: float
) -> Manifest:
    execution = spec.config.execution
    return Manifest(
        version=MANIFEST_VERSION,
        execution_id=spec.execution_id,
        status=account.status,
        reason=account.reason,
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
        total_files=len(account.records),
        finished_files=account.finished_files,
        failed_files=account.failed_files,
        not_started_files=account.not_started_files,
        skipped_files=len(skipped),
        rows_in=account.rows_in,
        rows=account.rows_out,
        files=account.records,
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
    """On disk, a symbolic link in an allowed folder may lead out of all that are.

    Raises:
        LocationError: One does.
    """
    places = [(plan.root.join(task.file), "source_folder") for task in plan.tasks]
    folders = {destination.join(task.result).parent for task in plan.tasks}
    places += [(folder, "destination_folder") for folder in sorted(folders)]
    for place, field in places:
        # The roots are resolved for every check, so only what a link leads to is checked.
        if place.scheme is Scheme.FILE and os.path.realpath(place.key) != place.key:
            allowed.check(place, field=field)
