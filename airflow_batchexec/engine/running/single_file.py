"""Prediction of a single file, without a plan or a manifest.

Nothing but the result is ever written to the destination. It is staged in the pod's scratch folder and published from
there: on disk with a rename if both are on one file system, otherwise with a copy next to the final name and a rename.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.file_request import refuse_overwriting, result_of
from airflow_batchexec.engine.config.locations import Scheme, canonical
from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.execution.resolution import resolve
from airflow_batchexec.engine.execution.spec import ExecutionSpec
from airflow_batchexec.engine.running.pipeline import FileRoute
from airflow_batchexec.exceptions import ConfigurationError, ObjectNotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_batchexec.engine.config.instances import InstanceTable
    from airflow_batchexec.engine.config.locations import AllowedLocations, Location
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.execution.lock import LockOwner
    from airflow_batchexec.engine.repository.repository import ModelRepository
    from airflow_batchexec.engine.running.session import PredictorSession
    from airflow_batchexec.engine.storage.base import ObjectInfo, Storage

__all__ = ["PreparedFile", "predict_file", "prepare_file"]


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A file that is ready to be predicted.

    Attributes:
        spec: The specification of an execution of this one file; it is not stored.
        task: The file task.
    """

    spec: ExecutionSpec
    task: FileTask


def prepare_file(
    *,
    config: ExecutionConfig,
    owner: LockOwner,
    started_at: float,
    repository: ModelRepository,
    instances: InstanceTable,
    open_storage: Callable[[Location], Storage],
    allowed: AllowedLocations,
) -> PreparedFile:
    """Validate the request and look up the file. Writes nothing.

    Args:
        config: The request, as returned by ``file_config``.
        owner: The owner of the execution; no lock is acquired.
        started_at: When the task started, in seconds since the epoch.
        repository: The model repository.
        instances: The available instances.
        open_storage: Opens the storage of a location.
        allowed: The locations that executions may use.

    Raises:
        ConfigurationError: A field is invalid, or ``file`` is a folder.
        RepositoryError: The build does not exist.
        ResultCollisionError: The result would overwrite the file.
        StorageError: The file does not exist or cannot be accessed.
    """
    requested = config.source
    # Do not resolve the file itself if it is a link: the result is named after the link.
    source = canonical(requested.parent, field="file").join(requested.name)
    destination = canonical(config.destination, field="destination_folder")
    allowed.check(source, field="file")
    allowed.check(destination, field="destination_folder")
    result = result_of(source, config.execution.output_file_type)
    for location in (source, canonical(source, field="file")):
        refuse_overwriting(location, result=destination.join(result))
    resolved = resolve(config, repository=repository, instances=instances)
    info = _stat(open_storage(source), source)
    spec = ExecutionSpec(
        execution_id=owner.execution_id,
        round_id="",
        config=config,
        build=resolved.build,
        instance=resolved.instance,
        purchase_option=resolved.purchase_option,
        pods=1,
        source=source,
        root=source.parent,
        destination=destination,
        owner=owner,
        started_at=started_at,
        total_files=1,
        total_bytes=info.size_bytes,
        skipped_files=0,
    )
    return PreparedFile(spec, FileTask(source.name, info.size_bytes, info.etag, result))


def predict_file(
    prepared: PreparedFile,
    *,
    session: PredictorSession,
    attempt: int,
    generation: int,
    source: Storage,
    destination: Storage,
    record: Callable[[FileRecord], None],
) -> FileRecord:
    """Predict the file and publish the result atomically.

    Args:
        prepared: The file.
        session: A session with a started predictor.
        attempt: The number of this attempt, for the records.
        generation: How many times the run had been cleared, for the records.
        source: The storage of the file.
        destination: The storage of the result.
        record: Called with a record of the file's start and end, from several threads.

    Returns:
        The record of its end.

    Raises:
        BatchExecError: The file failed.
    """
    spec = prepared.spec
    records: list[FileRecord] = []

    def keep_and_record(entry: FileRecord) -> None:
        records.append(entry)
        record(entry)

    execution = spec.config.execution
    error = session.run(
        iter([prepared.task]),
        attempt=attempt,
        generation=generation,
        route=FileRoute(
            source=source,
            root=spec.root,
            input_type=execution.input_file_type,
            destination=destination,
            results=spec.destination,
            output_type=execution.output_file_type,
            scratch=session.scratch / "inputs",
            staging=session.scratch / "results",
        ),
        record=keep_and_record,
    )
    if error is not None:
        raise error
    return records[-1]


def _stat(storage: Storage, location: Location) -> ObjectInfo:
    try:
        return storage.stat(location)
    except ObjectNotFoundError:
        if _is_folder(storage, location):
            raise ConfigurationError(
                f"file: {location.uri} is a folder, not a file. To predict all files of a folder, start an execution.",
                field="file",
            ) from None
        raise ObjectNotFoundError(
            f"file: {location.uri} does not exist.", field="file", uri=location.uri
        ) from None


def _is_folder(storage: Storage, location: Location) -> bool:
    if location.scheme is Scheme.FILE:
        return location.path.is_dir()
    try:
        return any(True for _ in storage.list(location))
    except StorageError:
        # Permission to read a file does not imply permission to list.
        return False
