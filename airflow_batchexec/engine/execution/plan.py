"""The plan of an execution, made before any file is touched: its file tasks and skipped files, and its shards."""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import IO

    from airflow_batchexec.engine.config.locations import Location

__all__ = [
    "FileTask",
    "Plan",
    "Shard",
    "SkippedFile",
    "assign_shards",
    "count_shards",
    "read_tasks",
    "write_shards",
]

# The fixed cost per file, in bytes that take as long to process; makes many tiny files spread evenly, too.
_FILE_OVERHEAD_BYTES = 64 << 10
_quote = json.encoder.encode_basestring


@dataclass(frozen=True, slots=True)
class FileTask:
    """One input file.

    Attributes:
        file: Its path below the source folder; the task's identity within an execution.
        size_bytes: Its size when it was listed.
        etag: Its etag when it was listed.
        result: The path of its result below the destination folder.
    """

    file: str
    size_bytes: int
    etag: str
    result: str

    def to_json(self) -> str:
        """The file task as a line of the plan document."""
        # An encoder for each line would take most of the time to write a plan.
        file, etag, result = _quote(self.file), _quote(self.etag), _quote(self.result)
        return f'{{"file": {file}, "size_bytes": {self.size_bytes}, "etag": {etag}, "result": {result}}}'

    @classmethod
    def from_json(cls, line: str | bytes) -> FileTask:
        """The inverse of ``to_json``."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file of the source folder that is not an input, and why."""

    file: Annotated[
        str, Field(description="Its path below the source folder; printable even if not Unicode.")
    ]
    reason: Annotated[str, Field(description='Why it is not an input, to be read after "it": "is hidden".')]

    def to_json(self) -> str:
        """The skipped file as a line of the document of skipped files."""
        return f'{{"file": {_quote(self.file)}, "reason": {_quote(self.reason)}}}'


@dataclass(frozen=True, slots=True)
class Shard:
    """The file tasks of one mapped task, as a range of the plan document.

    Attributes:
        offset: The offset of its lines, in bytes.
        length: The length of its lines, in bytes.
        files: The number of its file tasks.
        round_id: The round of planning that wrote the document; empty in descriptors from releases that did not
            write it.
    """

    offset: int
    length: int
    files: int
    round_id: str = ""

    def to_descriptor(self) -> list[int | str]:
        """A minimal descriptor, because every mapped task pulls the whole list of them."""
        return [self.offset, self.length, self.files, self.round_id]

    @classmethod
    def from_descriptor(cls, descriptor: Sequence[Any]) -> Shard:
        """The inverse of ``to_descriptor``."""
        offset, length, files, *round_id = descriptor
        return cls(int(offset), int(length), int(files), *map(str, round_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was planned. The file tasks and the skipped files are in documents, because there may be millions of them.

    Attributes:
        root: The folder that every ``file`` is relative to: the source folder, or the parent folder of a source that is
            a single file.
        total_files: The number of file tasks.
        total_bytes: The total size of the inputs, in bytes.
        shards: The position of each mapped task's shard in the plan document.
        listed_files: Each file and the index of its shard, largest file first; empty if the tasks of an execution of so
            many files do not report every file.
        skipped_files: The number of skipped files.
        named_skipped: The first of them, at most 100.
    """

    root: Location
    total_files: int
    total_bytes: int
    shards: tuple[Shard, ...]
    listed_files: tuple[tuple[str, int], ...]
    skipped_files: int
    named_skipped: tuple[SkippedFile, ...]

    @property
    def unnamed_skipped(self) -> int:
        """The number of skipped files that are only in the document."""
        return self.skipped_files - len(self.named_skipped)


def count_shards(*, files: int, pods: int | None, max_shards: int) -> int:
    """The number of shards: one per file, or one per pod if there are fewer pods than files.

    Args:
        files: The number of file tasks.
        pods: The number of pods; ``None`` or 0 for one shard per file.
        max_shards: The maximum number of shards.
    """
    return min(files, max_shards, pods or files)


def assign_shards(sizes: Iterable[int], *, count: int) -> Iterator[int]:
    """Distribute file tasks among shards.

    Each file goes to the lightest shard, largest file first, so the heaviest shard exceeds the optimum by at most one
    file. No shard is empty if there are as many files.

    Args:
        sizes: The sizes of the files in bytes, largest first.
        count: The number of shards.

    Returns:
        The index of each file's shard.
    """
    lightest = [(0, index) for index in range(count)]
    for size in sizes:
        weight, index = lightest[0]
        yield index
        heapq.heapreplace(lightest, (weight + size + _FILE_OVERHEAD_BYTES, index))


def write_shards(
    document: IO[bytes], shard_tasks: Iterable[Iterable[FileTask]], *, round_id: str
) -> list[Shard]:
    """Write the plan document, with one line per file task grouped by shard.

    Args:
        document: Where to write it.
        shard_tasks: The file tasks of each shard.
        round_id: The round of planning.

    Returns:
        The position of each shard in the document.
    """
    offset = 0
    shards = []
    for tasks in shard_tasks:
        length = files = 0
        for task in tasks:
            length += document.write(f"{task.to_json()}\n".encode())
            files += 1
        shards.append(Shard(offset, length, files, round_id))
        offset += length
    return shards


def read_tasks(document: bytes) -> tuple[FileTask, ...]:
    """Parse the file tasks of a plan document, or of one shard's range of it."""
    return tuple(FileTask.from_json(line) for line in document.splitlines())
