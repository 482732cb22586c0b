"""The specification of an execution, and the locations of its documents.

All documents of an execution are in ``<destination>/_batchexec/<execution_id>/``::

    execution.json        the specification: configuration, build, instance, locations
    plan.jsonl            the file tasks, one per line
    skipped.jsonl         the listed files that are not inputs, and why
    ledger/<round>/…      what happened to each file, one folder per shard
    stop-<generation>     a file has failed for good: start no more files
    cancel                the execution was cancelled: terminate the pods
    manifest.json         the report on all files, written at the end

``<destination>/_SUCCESS`` is written last, and only if every file has its result.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.instances import Instance
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.config.model import ExecutionConfig, Identity
from airflow_batchexec.engine.execution import lock
from airflow_batchexec.engine.repository.builds import Build
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_batchexec.engine.execution.lock import LockOwner
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["FORMAT_VERSION", "ExecutionFolder", "ExecutionSpec", "read_spec"]

FORMAT_VERSION = 1
"""The version of the specification document."""
# Keys of the document that differ from the attributes.
_KEYS = {"shards": "shares"}
# Airflow's default pattern for run ids, because an execution's id is the id of its run.
_EXECUTION_ID = re.compile(r"[A-Za-z0-9_.~:+-]{1,250}")


@dataclass(frozen=True, slots=True)
class ExecutionFolder:
    """The locations of an execution's documents.

    Raises:
        ConfigurationError: The execution id is invalid.
    """

    destination: Location
    execution_id: str

    def __post_init__(self) -> None:
        if not _EXECUTION_ID.fullmatch(self.execution_id) or self.execution_id in {".", "..", lock.FOLDER}:
            raise ConfigurationError(
                f"execution_id: {self.execution_id!r} is not a valid execution id. Use 1 to 250 letters, digits and "
                f"_ . ~ : + - but not '.', '..' or {lock.FOLDER!r}.",
                field="execution_id",
            )

    @property
    def location(self) -> Location:
        """The folder itself."""
        return self.destination.join(f"_batchexec/{self.execution_id}")

    @property
    def spec(self) -> Location:
        """The specification."""
        return self.location.join("execution.json")

    @property
    def plan(self) -> Location:
        """The file tasks."""
        return self.location.join("plan.jsonl")

    @property
    def skipped(self) -> Location:
        """The files that are not inputs."""
        return self.location.join("skipped.jsonl")

    @property
    def manifest(self) -> Location:
        """The manifest, written at the end."""
        return self.location.join("manifest.json")

    @property
    def success(self) -> Location:
        """The marker that consumers of the results wait for."""
        return self.destination.join("_SUCCESS")

    def ledger(self, round_id: str) -> Location:
        """The ledger of one round of planning."""
        return self.location.join(f"ledger/{round_id}")

    @property
    def cancel(self) -> Location:
        """The mark that the execution was cancelled; deleted when the execution ends."""
        return self.location.join("cancel")

    def stop(self, generation: str) -> Location:
        """The mark after which no more files are started; a clear starts a new generation."""
        return self.location.join(f"stop-{generation}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSpec:
    """Everything that is decided before the first file. Contains the names of secrets, never their values.

    Attributes:
        execution_id: The execution.
        round_id: The round of planning.
        config: The request.
        build: The resolved build.
        instance: The instance of each pod.
        purchase_option: ``spot`` or ``on-demand``, how the machines are bought; empty if not set.
        pods: The maximum number of pods; 0 if only Airflow's own limits apply.
        source: The source folder, or a single source file.
        root: The folder that file tasks are relative to.
        destination: The destination folder.
        owner: The owner of the lock.
        started_at: When the execution started, in seconds since the epoch; ``job_timeout`` counts from here.
        total_files: The number of file tasks.
        total_bytes: The total size of the inputs, in bytes.
        skipped_files: The number of files that are not inputs.
        shards: The number of mapped tasks; 0 in documents from releases that did not write it.
    """

    execution_id: str
    round_id: str
    config: ExecutionConfig
    build: Build
    instance: Instance
    pods: int
    source: Location
    root: Location
    destination: Location
    owner: LockOwner
    started_at: float
    total_files: int
    total_bytes: int
    skipped_files: int
    purchase_option: str = ""
    shards: int = 0

    @property
    def folder(self) -> ExecutionFolder:
        """The locations of its documents."""
        return ExecutionFolder(self.destination, self.execution_id)

    @property
    def pods_at_once(self) -> int:
        """The maximum number of concurrent pods: without a limit, one per file."""
        return min(self.pods or self.total_files, self.total_files)

    @property
    def pods_owner(self) -> tuple[str, ...]:
        """What identifies the execution among those that share a machine."""
        return self.owner.pods_owner

    @property
    def lock(self) -> Location:
        """The location of its lock."""
        identity = Identity.of(
            model_id=self.build.model_id,
            build_id=self.build.build_id,
            source=self.source,
            destination=self.destination,
        )
        return lock.lock_location(self.destination, identity)

    def to_json(self) -> bytes:
        """The specification document."""
        values = {_KEYS.get(name, name): getattr(self, name) for name in self.__slots__}
        values |= {
            "version": FORMAT_VERSION,
            "config": self.config.fields(),
            "build": self.build.to_dict(),
            "instance": asdict(self.instance),
            "source": self.source.uri,
            "root": self.root.uri,
            "destination": self.destination.uri,
            "owner": asdict(self.owner),
        }
        return json.dumps(values, indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> ExecutionSpec:
        """The inverse of ``to_json``."""
        values = json.loads(data)
        del values["version"]
        values |= {name: values.pop(key) for name, key in _KEYS.items() if key in values}
        values |= {
            "config": ExecutionConfig.from_fields(**values["config"]),
            "build": Build.from_dict(values["build"]),
            "instance": Instance(**values["instance"]),
            "source": Location.parse(values["source"]),
            "root": Location.parse(values["root"]),
            "destination": Location.parse(values["destination"]),
            "owner": lock.LockOwner(**values["owner"]),
        }
        return cls(**values)


def read_spec(storage: Storage, folder: ExecutionFolder) -> ExecutionSpec:
    """Read the specification of a prepared execution.

    Raises:
        ObjectNotFoundError: The execution has not been prepared.
    """
    return ExecutionSpec.from_json(storage.read(folder.spec))
