"""The ledger: the records of what happened to each file while an execution runs.

Records are written in segments, ``<writer>-<number>.jsonl``, in one folder per shard. At most once a second, a writer
puts its new records into its next segment. So the start of a slow file is visible while the file is predicted, a
thousand quick files cost a handful of objects, and no two writers ever touch the same object.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from airflow_batchexec.engine.parallel import parallel_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import ObjectInfo, Storage

__all__ = [
    "FileRecord",
    "FileStatus",
    "LedgerWriter",
    "StoredFile",
    "latest",
    "list_segments",
    "now",
    "read_ledger",
    "read_segments",
]

_SEGMENT_SECONDS = 1.0
# A file that ends within this time needs one segment, not two: most tasks are for one quick file.
_FIRST_SEGMENT_SECONDS = 0.2
_READ_THREADS = 16
# Bounds the memory for segments that have been read and not processed.
_SEGMENTS_AT_ONCE = 4 * _READ_THREADS


class FileStatus(StrEnum):
    """The status of one file."""

    STARTED = "STARTED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    NOT_STARTED = "NOT_STARTED"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An input as it was read, or a result as it was published."""

    uri: Annotated[str, Field(description="Its URI.")]
    size_bytes: Annotated[int, Field(description="Its size, in bytes.")]
    etag: Annotated[str, Field(description="Its etag, which identifies its content.")]
    rows: Annotated[int, Field(description="The number of its rows.")]

    @classmethod
    def of(cls, info: ObjectInfo, *, rows: int) -> StoredFile:
        """Describe an object with the given number of rows."""
        return cls(info.location.uri, info.size_bytes, info.etag, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What happened to one file: a line of the ledger, and an entry of the manifest."""

    file: Annotated[str, Field(description="The path of the input file, below the source folder.")]
    etag: Annotated[str, Field(description="The etag of the input file when the execution was planned.")]
    status: Annotated[FileStatus, Field(description="Its status; never STARTED in a manifest.")]
    pod: Annotated[str, Field(description="The pod that processed it; not set if it was not started.")] = ""
    attempt: Annotated[
        int, Field(description="The attempt of its task, from 1; not set if it was not started.")
    ] = 0
    at: Annotated[
        float,
        Field(
            description="When this was recorded, in seconds since the epoch (UTC); not set if it was not started."
        ),
    ] = 0.0
    generation: Annotated[int, Field(description="How many times the run had been cleared.")] = 0
    input: Annotated[StoredFile | None, Field(description="The input file as it was read.")] = None
    output: Annotated[StoredFile | None, Field(description="The result as it was published.")] = None
    seconds: Annotated[
        dict[str, float],
        Field(description="The seconds of each step: fetch, read, predict, write, publish."),
    ] = field(default_factory=dict)
    peak_memory_bytes: Annotated[
        int, Field(description="The peak memory usage of the pod until then, in bytes.")
    ] = 0
    reason: Annotated[str, Field(description="Why it has no result.")] = ""
    error: Annotated[str, Field(description="The name of the error.")] = ""
    traceback: Annotated[str, Field(description="The traceback of the model's exception.")] = ""

    @property
    def order(self) -> tuple[int, int, bool, float]:
        """The position among the records of its file.

        Attempts are ordered by number, not by time: the clocks of two workers may differ.
        """
        return self.generation, self.attempt, self.status is not FileStatus.STARTED, self.at

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, without what is unset; ``seconds`` in whole microseconds."""
        values = {name: getattr(self, name) for name in _FIELDS}
        values["status"] = self.status.value
        values["seconds"] = {name: round(value, 6) for name, value in self.seconds.items()}
        for name in ("input", "output"):
            stored = values[name]
            if stored is not None:
                values[name] = {field: getattr(stored, field) for field in _STORED_FIELDS}
        return {name: value for name, value in values.items() if name not in _UNSET or value != _UNSET[name]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FileRecord:
        """The inverse of ``to_dict``."""
        values = dict(values, status=FileStatus(values["status"]))
        for name in ("input", "output"):
            if name in values:
                values[name] = StoredFile(**values[name])
        return cls(**values)


# Not ``asdict``, which copies deeply, at several times the cost.
_FIELDS = tuple(f.name for f in fields(FileRecord))
_STORED_FIELDS = tuple(f.name for f in fields(StoredFile))
_UNSET: dict[str, Any] = {
    f.name: f.default if f.default_factory is MISSING else f.default_factory()
    for f in fields(FileRecord)
    if f.default is not MISSING or f.default_factory is not MISSING
}


class LedgerWriter:
    """Writes the records of one pod. Thread-safe; :meth:`close` writes the remaining records.

    Args:
        storage: The storage of the ledger.
        folder: The folder to write segments to.
        writer: A name unique among all writers of the folder, across attempts.

    Raises:
        StorageError: Raised by ``close`` or the next ``add`` after a segment could not be written.
    """

    def __init__(self, *, storage: Storage, folder: Location, writer: str) -> None:
        self._storage = storage
        self._folder = folder
        self._writer = writer
        self._pending: list[FileRecord] = []
        self._segments = 0
        self._error: BaseException | None = None
        self._closing = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def add(self, record: FileRecord) -> None:
        """Add a record; it is stored within about a second."""
        with self._condition:
            if self._error is not None:
                raise self._error
            if self._closing:
                raise RuntimeError(f"{record.file}: the ledger is closed; this record would be lost.")
            self._pending.append(record)
            if len(self._pending) == 1:
                self._condition.notify()

    def close(self) -> None:
        """Store all added records."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                if not self._segments:
                    self._condition.wait_for(lambda: self._closing, timeout=_FIRST_SEGMENT_SECONDS)
                records, self._pending = self._pending, []
            try:
                self._write(records)
            except BaseException as error:  # noqa: BLE001  raised by the next add or close
                with self._condition:
                    self._error = error
                return
            with self._condition:
                self._condition.wait_for(lambda: self._closing, timeout=_SEGMENT_SECONDS)

    def _write(self, records: Iterable[FileRecord]) -> None:
        lines = "".join(json.dumps(record.to_dict(), ensure_ascii=False) + "\n" for record in records)
        self._storage.write(self._folder.join(f"{self._writer}-{self._segments:06d}.jsonl"), lines.encode())
        self._segments += 1


def read_ledger(storage: Storage, folder: Location) -> list[FileRecord]:
    """Read all records below a folder of the ledger, in the order in which they were made."""
    records = [
        FileRecord.from_dict(json.loads(line))
        for segment in read_segments(storage, list_segments(storage, folder))
        for line in segment.splitlines()
    ]
    records.sort(key=lambda record: (record.at, record.attempt))
    return records


def list_segments(storage: Storage, folder: Location) -> Iterator[Location]:
    """List the segments below a folder of the ledger."""
    return (info.location for info in storage.list(folder) if info.location.name.endswith(".jsonl"))


def read_segments(storage: Storage, segments: Iterable[Location]) -> Iterator[bytes]:
    """Read segments, several at a time, in their order; each is a line of JSON per record."""
    rest = iter(segments)
    while batch := list(islice(rest, _SEGMENTS_AT_ONCE)):
        yield from parallel_map(storage.read, batch, threads=_READ_THREADS, name="ledger")


def latest(records: Iterable[FileRecord]) -> dict[str, FileRecord]:
    """The latest record of each file: the end of its last attempt, or its start if it has not ended."""
    last: dict[str, FileRecord] = {}
    for record in records:
        known = last.get(record.file)
        if known is None or record.order >= known.order:
            last[record.file] = record
    return last


def now() -> float:
    """The time for new records, in seconds since the epoch."""
    return time.time()
