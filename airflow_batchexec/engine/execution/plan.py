"""What an execution will do, decided before any file is touched: which files, under which names, in which shares.

Pure: takes a listing, gives a plan.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from airflow_batchexec.engine.config.locations import Scheme, check_relative_path
from airflow_batchexec.engine.standalone.file_types import SUFFIXES, FileType, match_suffix, result_name
from airflow_batchexec.exceptions import LocationError, NoInputFilesError, ResultCollisionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import ObjectInfo

__all__ = [
    "FileTask",
    "Plan",
    "Share",
    "SkippedFile",
    "make_plan",
    "make_shares",
    "read_tasks",
    "shares_document",
]

# What a file costs beyond its size, in bytes that take as long: with it, many tiny files also spread evenly.
_FILE_OVERHEAD_BYTES = 64 << 10


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
        """One line of the plan document."""
        return json.dumps(asdict(self), ensure_ascii=False)

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
    """All file tasks, largest first, and what was left out.

    Attributes:
        root: The folder that every ``file`` is relative to: the source folder, or the folder of a source that is one
            file.
        tasks: What is to be done.
        skipped: What is not, and why.
    """

    root: Location
    tasks: tuple[FileTask, ...]
    skipped: tuple[SkippedFile, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """The file tasks of one pod, as their place in the plan document.

    Attributes:
        offset: Where its lines begin, in bytes.
        length: How long they are, in bytes.
        files: How many they are.
    """

    offset: int
    length: int
    files: int

    def to_descriptor(self) -> list[int]:
        """The smallest thing that a mapped task can be given: every one of them is sent the whole list."""
        return [self.offset, self.length, self.files]

    @classmethod
    def from_descriptor(cls, descriptor: Sequence[Any]) -> Share:
        """The inverse of ``to_descriptor``."""
        return cls(*(int(number) for number in descriptor))


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
        listing: Everything that lies below ``source``; or, where ``source`` is one file, that file.
        source: The source folder, or the one file.
        destination: The destination folder.
        input_type: The type of the files to take.
        output_type: The type of the results.

    Raises:
        NoInputFilesError: There is no file of the type.
        LocationError: A file of the type has a path that no result can have.
        ResultCollisionError: Two inputs would give one result, or a result would overwrite an input.
    """
    tasks: list[FileTask] = []
    skipped: list[SkippedFile] = []
    root = source
    for info in listing:
        if info.location == source:
            root = source.parent
        file = root.relative(info.location)
        reason = _reason_to_skip(file, info, destination, root, input_type)
        if reason:
            skipped.append(SkippedFile(_printable(file) or ".", reason))
        else:
            _check_path(file, source)
            tasks.append(
                FileTask(file, info.size_bytes, info.etag, result_name(file, input_type, output_type))
            )
    if not tasks:
        raise _no_input_files(source, input_type, skipped)
    _check_results(tasks, root, destination)
    tasks.sort(key=lambda task: (-task.size_bytes, task.file))
    return Plan(root, tuple(tasks), tuple(skipped))


def make_shares(*, tasks: Sequence[FileTask], pods: int | None, most_shares: int) -> list[list[FileTask]]:
    """Deal file tasks out to mapped tasks: one file each, or where there are fewer pods than files, one share a pod.

    Every task is in exactly one share, no share is empty, and the largest share is at most one file heavier than it
    need be (each file goes to the lightest share, largest first).

    Args:
        tasks: The file tasks, largest first.
        pods: How many pods there are; ``None`` or 0 for one mapped task per file.
        most_shares: How many mapped tasks there may be at the most.
    """
    count = min(len(tasks), most_shares, pods or len(tasks))
    if count == len(tasks):
        return [[task] for task in tasks]
    shares: list[list[FileTask]] = [[] for _ in range(count)]
    lightest = [(0, index) for index in range(count)]
    for task in tasks:
        weight, index = heapq.heappop(lightest)
        shares[index].append(task)
        heapq.heappush(lightest, (weight + task.size_bytes + _FILE_OVERHEAD_BYTES, index))
    return shares


def shares_document(shares: Sequence[Sequence[FileTask]]) -> tuple[bytes, list[Share]]:
    """The plan document, a line per file task with each share's lines together, and where each share lies in it."""
    document = bytearray()
    places = []
    for share in shares:
        lines = "".join(task.to_json() + "\n" for task in share).encode()
        places.append(Share(len(document), len(lines), len(share)))
        document += lines
    return bytes(document), places


def read_tasks(document: bytes) -> tuple[FileTask, ...]:
    """The file tasks of a plan document, or of a share's part of it."""
    return tuple(FileTask.from_json(line) for line in document.splitlines())


def _reason_to_skip(
    file: str, info: ObjectInfo, destination: Location, root: Location, input_type: FileType
) -> str | None:
    if not file or file.endswith("/"):
        return "is the mark of a folder"
    if reason := _reason_to_hide(file):
        return reason
    if destination != root and root.contains(destination) and destination.contains(info.location):
        return "lies in the destination folder"
    if match_suffix(file, input_type) is None:
        return f"is no {input_type.value} file ({', '.join(SUFFIXES[input_type])})"
    return None


def _reason_to_hide(file: str) -> str | None:
    *folders, name = file.split("/")
    for folder in folders:
        # '.' and '..' are no names: a path that holds them is refused, not hidden.
        if folder.startswith((".", "_")) and folder not in {".", ".."}:
            return f"lies in the folder {_printable(folder)}, whose name starts with {folder[0]!r}"
    if name.startswith("."):
        return "is hidden"
    return "has a name that starts with '_'" if name.startswith("_") else None


def _printable(file: str) -> str:
    """Documents are UTF-8; a name on disk need not be."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _check_path(file: str, source: Location) -> None:
    try:
        check_relative_path(file, field="source_folder")
    except LocationError as error:
        raise LocationError(
            f"{_printable(error.message)} No result can be named like this file of {source.uri}: rename it, or let its "
            f"name start with '_' to have it skipped.",
            field="source_folder",
            file=_printable(file),
        ) from error


def _no_input_files(
    source: Location, input_type: FileType, skipped: Sequence[SkippedFile]
) -> NoInputFilesError:
    if not skipped:
        return NoInputFilesError(
            f"source_folder: {source.uri} is missing or empty.", field="source_folder", uri=source.uri
        )
    first = skipped[0]
    return NoInputFilesError(
        f"source_folder: {source.uri} holds no {input_type.value} file; {len(skipped)} "
        f"file{'s were' if len(skipped) > 1 else ' was'} skipped ({first.file} {first.reason}).",
        field="source_folder",
        uri=source.uri,
    )


def _check_results(tasks: Sequence[FileTask], root: Location, destination: Location) -> None:
    by_result: dict[str, str] = {}
    for task in tasks:
        if task.result in by_result:
            raise ResultCollisionError(
                f"{by_result[task.result]} and {task.file} would both give {task.result} in "
                f"{destination.uri}: rename one of them.",
                files=[by_result[task.result], task.file],
            )
        by_result[task.result] = task.file
    if destination.scheme is Scheme.FILE:
        _check_folders(by_result, destination)
    inputs = {root.join(task.file) for task in tasks}
    for task in tasks:
        result = destination.join(task.result)
        if result in inputs:
            raise ResultCollisionError(
                f"destination_folder: the result of {task.file} would overwrite the input {result.uri}. Take another "
                f"destination folder or output file type.",
                field="destination_folder",
                files=[task.file],
            )


def _check_folders(by_result: Mapping[str, str], destination: Location) -> None:
    """On disk, ``a.csv`` cannot be a result and the folder of another; in a bucket it can."""
    for result, file in by_result.items():
        for folder in PurePosixPath(result).parents:
            if str(folder) in by_result:
                raise ResultCollisionError(
                    f"The result of {by_result[str(folder)]} would be named {folder}, which is the folder of the result "
                    f"of {file} in {destination.uri}: rename one of them.",
                    files=[by_result[str(folder)], file],
                )
