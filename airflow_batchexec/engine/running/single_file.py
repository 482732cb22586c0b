"""One file through a pod, with no plan before it and no account after it.

Nothing but the result is ever written to the destination: it is staged in the pod's scratch folder, and published from
there. On disk that is a rename where both are on one file system, else a copy beside the final name and a rename.
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
    """A file that may be predicted.

    Attributes:
        spec: What was decided: an execution of one file, of which nothing is written down.
        task: The file, as it was found.
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
    """Validate everything, and look at the file. Writes nothing.

    Args:
        config: The request, as ``file_config`` gives it.
        owner: Who predicts the file; no lock is taken.
        started_at: When that began, in seconds since the epoch.
        repository: Where builds come from.
        instances: The instances of this deployment.
        open_storage: Opens the storage that a location lies in.
        allowed: Which locations may be touched.

    Raises:
        ConfigurationError: A field is wrong, or ``file`` is a folder.
        RepositoryError: There is no such build.
        ResultCollisionError: The result would overwrite the file.
        StorageError: The file is missing, or cannot be reached.
    """
    asked = config.source
    # Its own name, also where it is a link: the result is named after it.
    source = canonical(asked.parent, field="file").join(asked.name)
    destination = canonical(config.destination, field="destination_folder")
    allowed.check(source, field="file")
    allowed.check(destination, field="destination_folder")
    result = result_of(source, config.execution.output_file_type)
    for place in (source, canonical(source, field="file")):
        refuse_overwriting(place, result=destination.join(result))
    resolved = resolve(config, repository=repository, instances=instances)
    info = _look_at(open_storage(source), source)
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
    """Send the file through a pod, and publish the result, whole or not at all.

    Args:
        prepared: The file.
        session: A session whose predictor has been started.
        attempt: Which attempt this is, for the records.
        generation: How often the run had been cleared, for the records.
        source: The storage of the file.
        destination: The storage of the result.
        record: Is given the file's start and its end, from threads of this function's own.

    Returns:
        The record of its end.

    Raises:
        BatchExecError: It has no result; why.
    """
    spec = prepared.spec
    records: list[FileRecord] = []

    def keep(entry: FileRecord) -> None:
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
        record=keep,
    )
    if error is not None:
        raise error
    return records[-1]


def _look_at(storage: Storage, location: Location) -> ObjectInfo:
    try:
        return storage.stat(location)
    except ObjectNotFoundError:
        if _is_folder(storage, location):
            raise ConfigurationError(
                f"file: {location.uri} is a folder. One file is expected; a folder of them is an execution.",
                field="file",
            ) from None
        raise ObjectNotFoundError(
            f"file: there is no file {location.uri}.", field="file", uri=location.uri
        ) from None


def _is_folder(storage: Storage, location: Location) -> bool:
    if location.scheme is Scheme.FILE:
        return location.path.is_dir()
    try:
        return any(True for _ in storage.list(location))
    except StorageError:
        # Whoever may read a file need not be allowed to list.
        return False
