"""Concludes an execution: the audit, the manifest and the release of the lock, after its last file.

``spec.py`` lists the documents that this module writes. Files are processed as a stream: their number affects the space
that this needs in the machine's temporary folder, but not the memory.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batchexec.engine.execution import lock
from airflow_batchexec.engine.execution.audit import Audit, audit_file
from airflow_batchexec.engine.execution.file_table import open_file_table
from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, list_segments, read_segments
from airflow_batchexec.engine.execution.manifest import (
    MANIFEST_VERSION,
    ExecutionStatus,
    Manifest,
    ManifestHeader,
)
from airflow_batchexec.engine.execution.manifest_text import entry_pieces, header_of, manifest_pieces
from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.execution.stored_lines import stored_lines
from airflow_batchexec.engine.execution.stored_results import list_results, with_results
from airflow_batchexec.engine.storage.disk import disk_errors, scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.execution.spec import ExecutionFolder, ExecutionSpec
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["Conclusion", "conclude", "read_header", "read_manifest", "wait_for_pods"]

_READ_BYTES = 4 * 1024 * 1024
_HEADER_BYTES = 64 * 1024
_POLL_SECONDS = 0.5
# A pod may continue after a file with one of these statuses; after any other, it ends.
_ACTIVE_POD_STATUSES = {FileStatus.STARTED, FileStatus.FINISHED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """How an execution ended.

    Attributes:
        header: Its manifest without the lists of files.
        audit: What the audit found.
    """

    header: ManifestHeader
    audit: Audit


def conclude(
    *,
    spec: ExecutionSpec,
    storage: Storage,
    ended_at: float,
    end_status: ExecutionStatus | None = None,
    end_reason: str = "",
    scratch_root: Path | None = None,
) -> Conclusion:
    """Audit an execution, write its manifest and, on success, ``_SUCCESS``. Then release the lock.

    The cancel mark is deleted: it has taken effect or came too late, and must not cancel the run again after a clear.

    Args:
        spec: The execution.
        storage: The destination's storage.
        ended_at: When it ended, in seconds since the epoch.
        end_status: The status, if the records alone do not determine it; see :meth:`Audit.outcome`.
        end_reason: The reason for ``end_status``.
        scratch_root: Where to create temporary files; ``None`` for the system's temporary folder.
    """
    folder = spec.folder
    audit = Audit()
    with (
        disk_errors(
            "write", f"the entries of {folder.manifest.uri} to {scratch_root or tempfile.gettempdir()}"
        ),
        tempfile.TemporaryFile("w+", encoding="utf-8", newline="", dir=scratch_root) as entries,
    ):
        entries.writelines(entry_pieces(_audit_files(spec, storage, audit, scratch_root)))
        status, reason = audit.outcome(end_status=end_status, end_reason=end_reason)
        header = _make_header(spec, audit, status, reason, ended_at)
        # If this is a repeated call, another execution may hold the lock by now; then ``_SUCCESS`` belongs to that one.
        owns_success = not lock.is_held_by_another(storage=storage, location=spec.lock, owner=spec.owner)
        if not header.has_finished and owns_success:
            # The execution may have finished, been cleared, and then failed.
            storage.delete(folder.success)
        _write_manifest(spec, storage, header, entries, scratch_root)
    if header.has_finished and owns_success:
        mark = {
            "execution_id": header.execution_id,
            "finished_files": header.finished_files,
            "rows": header.rows,
            "manifest": header.manifest,
        }
        storage.write(folder.success, (json.dumps(mark) + "\n").encode())
    staging = storage.staging(folder.location)
    if staging is not None:
        # Pods that were killed leave unpublished results.
        shutil.rmtree(staging, ignore_errors=True)
    storage.delete(folder.cancel)
    lock.release(storage=storage, location=spec.lock, owner=spec.owner)
    return Conclusion(header=header, audit=audit)


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
    read: set[Location] = set()
    # The last attempt of each pod, and whether it has ended.
    attempts: dict[str, tuple[int, bool]] = {}
    while True:
        new = [
            segment
            for segment in list_segments(storage, spec.folder.ledger(spec.round_id))
            if segment not in read
        ]
        read.update(new)
        for line in _lines(read_segments(storage, new)):
            record = FileRecord.from_dict(json.loads(line))
            if record.generation == generation:
                attempt = (record.attempt, record.status not in _ACTIVE_POD_STATUSES)
                attempts[record.pod] = max(attempt, attempts.get(record.pod, attempt))
        if sum(has_ended for _, has_ended in attempts.values()) >= pods:
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


def read_header(storage: Storage, folder: ExecutionFolder) -> ManifestHeader:
    """Like :func:`read_manifest`, without the lists of files, and without reading them."""
    start = storage.read(folder.manifest, length=_HEADER_BYTES)
    header = header_of(start.decode("utf-8", "ignore"))
    if header is None:
        return read_manifest(storage, folder).header()
    return ManifestHeader.of_document(header, folder.manifest.uri)


def _audit_files(
    spec: ExecutionSpec, storage: Storage, audit: Audit, scratch_root: Path | None
) -> Iterator[dict[str, object]]:
    """Audit all files, and yield their entries of the manifest."""
    with open_file_table(scratch_root) as table:
        table.add_tasks(map(FileTask.from_json, stored_lines(storage, spec.folder.plan)))
        segments = read_segments(storage, list_segments(storage, spec.folder.ledger(spec.round_id)))
        table.add_records(_lines(segments))
        list_results(storage, spec.destination, table)
        for row in with_results(storage, spec.destination, table.rows()):
            record = audit_file(row.task, row.record, row.stored_bytes)
            audit.add(record)
            yield record.to_dict()


def _write_manifest(
    spec: ExecutionSpec, storage: Storage, header: ManifestHeader, entries: IO[str], scratch_root: Path | None
) -> None:
    folder = spec.folder
    skipped = map(json.loads, stored_lines(storage, folder.skipped)) if spec.skipped_files else ()
    entries.seek(0)
    files = iter(lambda: entries.read(_READ_BYTES), "")
    # On the same disk as the manifest, if the storage has one.
    staging = storage.staging(folder.location)
    if staging is not None:
        staging.mkdir(parents=True, exist_ok=True)
    with scratch_folder(staging or scratch_root) as scratch:
        path = scratch / folder.manifest.name
        with path.open("w", encoding="utf-8", newline="") as file:
            file.writelines(manifest_pieces(header.to_dict(), files, entry_pieces(skipped)))
        storage.publish(path, folder.manifest)


def _make_header(
    spec: ExecutionSpec, audit: Audit, status: ExecutionStatus, reason: str, ended_at: float
) -> ManifestHeader:
    execution = spec.config.execution
    return ManifestHeader(
        version=MANIFEST_VERSION,
        execution_id=spec.execution_id,
        status=status,
        reason=reason,
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
        total_files=audit.total_files,
        finished_files=audit.finished_files,
        failed_files=audit.failed_files,
        not_started_files=audit.not_started_files,
        skipped_files=spec.skipped_files,
        rows_in=audit.rows_in,
        rows=audit.rows_out,
    )


def _lines(segments: Iterator[bytes]) -> Iterator[bytes]:
    return (line for segment in segments for line in segment.splitlines())
