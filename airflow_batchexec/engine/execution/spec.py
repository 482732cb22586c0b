"""What an execution knows of itself, and where it keeps it.

Everything that an execution knows of itself lies in ``<destination>/_batchexec/<execution_id>/``::

    execution.json        the specification: configuration, build, instance, where everything lies
    plan.jsonl            a line per file task
    skipped.jsonl         what was listed and is no input, and why
    ledger/<round>/…      what happened to each file, a folder for each share
    stop-<generation>     begin no further file: one has failed for good
    cancel                end all that is at work: somebody has ended the execution
    manifest.json         the account of all files, at the end

``<destination>/_SUCCESS`` is written after all of this, and only where every file has its result.
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
# Airflow's default pattern for run ids: an execution's id is the id of its run.
_EXECUTION_ID = re.compile(r"[A-Za-z0-9_.~:+-]{1,250}")


@dataclass(frozen=True, slots=True)
class ExecutionFolder:
    """Where the documents of one execution lie.

    Raises:
        ConfigurationError: The execution id is no plain name.
    """

    destination: Location
    execution_id: str

    def __post_init__(self) -> None:
        if not _EXECUTION_ID.fullmatch(self.execution_id) or self.execution_id in {".", "..", lock.FOLDER}:
            raise ConfigurationError(
                f"execution_id: {self.execution_id!r} is no execution's id: it holds up to 250 letters, digits and "
                f"_ . ~ : + - only, and is neither '.', '..' nor {lock.FOLDER!r}.",
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
        """The files that are no input."""
        return self.location.join("skipped.jsonl")

    @property
    def manifest(self) -> Location:
        """The account at the end."""
        return self.location.join("manifest.json")

    @property
    def success(self) -> Location:
        """The mark that whoever reads the results waits for."""
        return self.destination.join("_SUCCESS")

    def ledger(self, round_id: str) -> Location:
        """The ledger of one round; planning anew begins a new one."""
        return self.location.join(f"ledger/{round_id}")

    @property
    def cancel(self) -> Location:
        """The mark that somebody has ended the execution; its end takes the mark away."""
        return self.location.join("cancel")

    def stop(self, generation: str) -> Location:
        """The mark that no further file is begun; a clear begins a new generation."""
        return self.location.join(f"stop-{generation}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSpec:
    """Everything that is decided before the first file; holds names of secrets, never secrets.

    Attributes:
        execution_id: The execution.
        round_id: Which planning this is.
        config: The request.
        build: The build that it resolved to.
        instance: What each pod may use.
        purchase_option: ``spot`` or ``on-demand``, how the machines are bought; empty where nobody has said.
        pods: How many pods there are at most; 0 where Airflow's own limits decide.
        source: The folder, or the one file, that is read.
        root: The folder that file tasks are relative to.
        destination: The destination folder.
        owner: Who holds the lock.
        started_at: When the execution began, in seconds since the epoch; ``job_timeout`` counts from here.
        total_files: File tasks.
        total_bytes: The size of all inputs.
        skipped_files: Files that are no input.
        shares: Mapped tasks; 0 in documents of versions that did not say.
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
    shares: int = 0

    @property
    def folder(self) -> ExecutionFolder:
        """Where its documents lie."""
        return ExecutionFolder(self.destination, self.execution_id)

    @property
    def pods_at_once(self) -> int:
        """How many pods may work at the same time: without a limit, one per file."""
        return min(self.pods or self.total_files, self.total_files)

    @property
    def lock(self) -> Location:
        """Where its lock lies."""
        identity = Identity.of(
            model_id=self.build.model_id,
            build_id=self.build.build_id,
            source=self.source,
            destination=self.destination,
        )
        return lock.lock_location(self.destination, identity)

    def to_json(self) -> bytes:
        """The specification document."""
        values = {name: getattr(self, name) for name in self.__slots__}
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
    def from_json(cls, data: bytes) -> ExecutionSpec:
        """The inverse of ``to_json``."""
        values = json.loads(data)
        del values["version"]
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
    """The specification of a prepared execution.

    Raises:
        ObjectNotFoundError: It has not been prepared.
    """
    return ExecutionSpec.from_json(storage.read(folder.spec))
