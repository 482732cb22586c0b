"""The plan of an execution, made before any file is touched: the input files, the names of results, and the shards.

Pure functions: they turn a listing into a plan.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass
from operator import attrgetter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from airflow_batchexec.engine.config.locations import Scheme, check_relative_path
from airflow_batchexec.engine.standalone.file_types import SUFFIXES, FileType, match_suffix, result_name
from airflow_batchexec.exceptions import LocationError, NoInputFilesError, ResultCollisionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import IO

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import ObjectInfo

__all__ = [
    "FileTask",
    "Plan",
    "Shard",
    "SkippedFile",
    "make_plan",
    "make_shards",
    "read_tasks",
    "write_shards",
]

# The fixed cost per file, in bytes that take as long to process; makes many tiny files spread evenly, too.
_FILE_OVERHEAD_BYTES = 64 << 10
_encode = json.JSONEncoder(ensure_ascii=False).encode


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
        values = {
            "file": self.file,
            "size_bytes": self.size_bytes,
            "etag": self.etag,
            "result": self.result,
        }
        return _encode(values)

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


@dataclass(frozen=True, slots=True)
class Plan:
    """All file tasks, largest first, and the skipped files.

    Attributes:
        root: The folder that every ``file`` is relative to: the source folder, or the parent folder of a source that is
            a single file.
        tasks: The file tasks.
        skipped: The skipped files, with reasons.
    """

    root: Location
    tasks: tuple[FileTask, ...]
    skipped: tuple[SkippedFile, ...]


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


def make_plan(
    *,
    listing: Iterable[ObjectInfo],
    source: Location,
    destination: Location,
    input_type: FileType,
    output_type: FileType,
) -> Plan:
    """Turn the source folder's listing into file tasks.

    Args:
        listing: Everything below ``source``, or just the file if ``source`` is a single file.
        source: The source folder, or a single file.
        destination: The destination folder.
        input_type: The file type of the inputs.
        output_type: The file type of the results.

    Raises:
        NoInputFilesError: The source has no files of the input type.
        LocationError: The path of an input is not valid for a result.
        ResultCollisionError: Two inputs map to one result, or a result would overwrite an input.
    """
    tasks: list[FileTask] = []
    skipped: list[SkippedFile] = []
    root = source
    for info in listing:
        if info.location == source:
            root = source.parent
        file = root.relative(info.location)
        reason = _skip_reason(file, info, destination, root, input_type)
        if reason:
            skipped.append(SkippedFile(_printable(file) or ".", reason))
        else:
            _check_path(file, source)
            result = result_name(file, input_type, output_type)
            # One string for both, if they are equal, for the sake of plans of a million files.
            tasks.append(FileTask(file, info.size_bytes, info.etag, file if result == file else result))
    if not tasks:
        raise _no_input_files_error(source, input_type, skipped)
    _check_results(tasks, root, destination)
    # Twice, as sorting is stable, and a key of both would be another object per file.
    tasks.sort(key=attrgetter("file"))
    tasks.sort(key=attrgetter("size_bytes"), reverse=True)
    return Plan(root, tuple(tasks), tuple(skipped))


def make_shards(*, tasks: Sequence[FileTask], pods: int | None, max_shards: int) -> list[list[FileTask]]:
    """Distribute file tasks among shards: one file per shard, or one shard per pod if there are fewer pods than files.

    Every task is in exactly one shard, and no shard is empty. Each file goes to the lightest shard, largest file first,
    so the heaviest shard exceeds the optimum by at most one file.

    Args:
        tasks: The file tasks, largest first.
        pods: The number of pods; ``None`` or 0 for one shard per file.
        max_shards: The maximum number of shards.
    """
    count = min(len(tasks), max_shards, pods or len(tasks))
    if count == len(tasks):
        return [[task] for task in tasks]
    shards: list[list[FileTask]] = [[] for _ in range(count)]
    lightest = [(0, index) for index in range(count)]
    for task in tasks:
        weight, index = heapq.heappop(lightest)
        shards[index].append(task)
        heapq.heappush(lightest, (weight + task.size_bytes + _FILE_OVERHEAD_BYTES, index))
    return shards


def write_shards(file: IO[bytes], shard_tasks: Iterable[Sequence[FileTask]], *, round_id: str) -> list[Shard]:
    """Write the plan document, with one line per file task grouped by shard.

    Args:
        file: Where to write it.
        shard_tasks: The file tasks of each shard.
        round_id: The round of planning.

    Returns:
        The position of each shard in the document.
    """
    offset = 0
    shards = []
    for tasks in shard_tasks:
        length = sum(file.write(f"{task.to_json()}\n".encode()) for task in tasks)
        shards.append(Shard(offset, length, len(tasks), round_id))
        offset += length
    return shards


def read_tasks(document: bytes) -> tuple[FileTask, ...]:
    """Parse the file tasks of a plan document, or of one shard's range of it."""
    return tuple(FileTask.from_json(line) for line in document.splitlines())


def _skip_reason(
    file: str, info: ObjectInfo, destination: Location, root: Location, input_type: FileType
) -> str | None:
    if not file or file.endswith("/"):
        return "is a folder marker"
    if reason := _hidden_reason(file):
        return reason
    if destination != root and root.contains(destination) and destination.contains(info.location):
        return "is in the destination folder"
    if match_suffix(file, input_type) is None:
        return f"is not a {input_type.value} file ({', '.join(SUFFIXES[input_type])})"
    return None


def _hidden_reason(file: str) -> str | None:
    *folders, name = file.split("/")
    for folder in folders:
        # Paths with '.' or '..' are refused, not hidden.
        if folder.startswith((".", "_")) and folder not in {".", ".."}:
            return f"is in the folder {_printable(folder)}, whose name starts with {folder[0]!r}"
    if name.startswith("."):
        return "is hidden"
    return "has a name that starts with '_'" if name.startswith("_") else None


def _printable(file: str) -> str:
    """Escape what cannot be encoded as UTF-8; file names on disk may contain any bytes."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _check_path(file: str, source: Location) -> None:
    try:
        check_relative_path(file, field="source_folder")
    except LocationError as error:
        raise LocationError(
            f"{_printable(error.message)} A result cannot have the name of this file of {source.uri}: rename it, or "
            f"prefix its name with '_' to skip it.",
            field="source_folder",
            file=_printable(file),
        ) from error


def _no_input_files_error(
    source: Location, input_type: FileType, skipped: Sequence[SkippedFile]
) -> NoInputFilesError:
    if not skipped:
        return NoInputFilesError(
            f"source_folder: {source.uri} is missing or empty.", field="source_folder", uri=source.uri
        )
    first = skipped[0]
    return NoInputFilesError(
        f"source_folder: {source.uri} contains no {input_type.value} files; {len(skipped)} "
        f"file{'s were' if len(skipped) > 1 else ' was'} skipped ({first.file} {first.reason}).",
        field="source_folder",
        uri=source.uri,
    )


def _check_results(tasks: Sequence[FileTask], root: Location, destination: Location) -> None:
    if len({task.result for task in tasks}) < len(tasks):
        raise _collision_error(tasks, destination)
    if destination.scheme is Scheme.FILE:
        _check_folders({task.result: task.file for task in tasks}, destination)
    if not (root.contains(destination) or destination.contains(root)):
        return
    inputs = {task.file for task in tasks}
    for task in tasks:
        result = destination.join(task.result)
        if root.contains(result) and root.relative(result) in inputs:
            raise ResultCollisionError(
                f"destination_folder: the result of {task.file} would overwrite the input {result.uri}. Use a "
                f"different destination folder or output file type.",
                field="destination_folder",
                files=[task.file],
            )


def _collision_error(tasks: Sequence[FileTask], destination: Location) -> ResultCollisionError:
    """The error for the first two file tasks with the same result."""
    by_result: dict[str, str] = {}
    for task in tasks:
        other = by_result.setdefault(task.result, task.file)
        if other != task.file:
            break
    return ResultCollisionError(
        f"{other} and {task.file} would both produce {task.result} in {destination.uri}: rename one of them.",
        files=[other, task.file],
    )


def _check_folders(by_result: Mapping[str, str], destination: Location) -> None:
    """Check that no result is also the folder of another one, which is possible in a bucket but not on disk."""
    for result, file in by_result.items():
        for folder in PurePosixPath(result).parents:
            if str(folder) in by_result:
                raise ResultCollisionError(
                    f"The result of {by_result[str(folder)]} would be named {folder}, which is the folder of the result "
                    f"of {file} in {destination.uri}: rename one of them.",
                    files=[by_result[str(folder)], file],
                )
