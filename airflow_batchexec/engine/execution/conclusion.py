"""Concludes an execution: the audit, the manifest and the release of the lock, after its last file.

``spec.py`` lists the documents that this module writes.
"""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING

from airflow_batchexec.engine.execution import lock
from airflow_batchexec.engine.execution.audit import Audit, audit
from airflow_batchexec.engine.execution.ledger import FileStatus, latest, read_ledger
from airflow_batchexec.engine.execution.manifest import MANIFEST_VERSION, ExecutionStatus, Manifest
from airflow_batchexec.engine.execution.plan import SkippedFile, read_tasks
from airflow_batchexec.engine.parallel import parallel_map
from airflow_batchexec.exceptions import ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.execution.spec import ExecutionFolder, ExecutionSpec
    from airflow_batchexec.engine.storage.base import ObjectInfo, Storage

__all__ = ["conclude", "read_manifest", "wait_for_pods"]

_STAT_THREADS = 16
_POLL_SECONDS = 0.5
# A pod may continue after a file with one of these statuses; after any other, it ends.
_ACTIVE_POD_STATUSES = {FileStatus.STARTED, FileStatus.FINISHED}


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
