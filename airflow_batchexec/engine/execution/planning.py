"""Plans an execution: turns a listing into the plan document and the document of skipped files.

Files are processed as a stream: their number affects the space that this needs in the temporary folder, but not the
memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, TYPE_CHECKING

from airflow_batchexec.engine.config.locations import AllowedLocations, Location, Scheme
from airflow_batchexec.engine.execution.plan import (
    FileTask,
    Plan,
    SkippedFile,
    assign_shards,
    count_shards,
    write_shards,
)
from airflow_batchexec.engine.execution.plan_table import open_plan_table
from airflow_batchexec.engine.execution.selection import Selection
from airflow_batchexec.engine.journal.listed_files import are_listed
from airflow_batchexec.engine.storage.disk import disk_errors
from airflow_batchexec.exceptions import NoInputFilesError, ResultCollisionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from airflow_batchexec.engine.execution.plan_table import PlanTable
    from airflow_batchexec.engine.standalone.file_types import FileType
    from airflow_batchexec.engine.storage.base import ObjectInfo

__all__ = ["PLAN_NAME", "SKIPPED_NAME", "make_plan"]

PLAN_NAME = "plan.jsonl"
SKIPPED_NAME = "skipped.jsonl"
_MAX_NAMED_SKIPPED = 100


def make_plan(
    *,
    listing: Iterable[ObjectInfo],
    source: Location,
    destination: Location,
    input_type: FileType,
    output_type: FileType,
    allowed: AllowedLocations,
    pods: int | None,
    max_shards: int,
    round_id: str,
    folder: Path,
) -> Plan:
    """Turn the source folder's listing into file tasks, and write the documents.

    Args:
        listing: Everything below ``source``, or just the file if ``source`` is a single file.
        source: The source folder, or a single file.
        destination: The destination folder.
        input_type: The file type of the inputs.
        output_type: The file type of the results.
        allowed: The locations that executions may use.
        pods: The number of pods; ``None`` or 0 for one shard per file.
        max_shards: The maximum number of shards.
        round_id: The round of planning.
        folder: A temporary folder. The documents are written there, as ``PLAN_NAME`` and ``SKIPPED_NAME``.

    Raises:
        NoInputFilesError: The source has no files of the input type.
        LocationError: The path of an input is not valid for a result, or a symbolic link leads out of the allowed
            locations.
        ResultCollisionError: Two inputs map to one result, or a result would overwrite an input.
        StorageError: The temporary folder cannot be used.
    """
    listing, root = _with_root(iter(listing), source)
    selection = Selection(
        root=root, source=source, destination=destination, input_type=input_type, output_type=output_type
    )
    with (
        open_plan_table(folder) as table,
        disk_errors("write", f"the plan to {folder}"),
        (folder / PLAN_NAME).open("wb") as document,
        (folder / SKIPPED_NAME).open("wb") as skipped_document,
    ):
        skipped = _Skipped(skipped_document)
        table.add_tasks(_file_tasks(listing, selection, skipped))
        total_files, total_bytes = table.totals()
        if not total_files:
            raise _no_input_files_error(source, input_type, skipped)
        _check_results(table, root, destination)
        _check_links(table, root, destination, allowed)
        count = count_shards(files=total_files, pods=pods, max_shards=max_shards)
        table.place(assign_shards(table.sizes(), count=count))
        return Plan(
            root=root,
            total_files=total_files,
            total_bytes=total_bytes,
            shards=tuple(write_shards(document, table.shards(), round_id=round_id)),
            listed_files=tuple(table.shard_of_files()) if are_listed(total_files) else (),
            skipped_files=skipped.files,
            named_skipped=tuple(skipped.named),
        )


@dataclass(slots=True)
class _Skipped:
    """Writes the skipped files, and keeps the first of them."""

    document: IO[bytes]
    files: int = 0
    named: list[SkippedFile] = field(default_factory=list)

    def add(self, file: SkippedFile) -> None:
        if self.files < _MAX_NAMED_SKIPPED:
            self.named.append(file)
        self.files += 1
        self.document.write(f"{file.to_json()}\n".encode())


def _with_root(listing: Iterator[ObjectInfo], source: Location) -> tuple[Iterator[ObjectInfo], Location]:
    """The listing, and the folder that contains all its files."""
    first = next(listing, None)
    if first is None:
        return listing, source
    return chain([first], listing), source.parent if first.location == source else source


def _file_tasks(listing: Iterable[ObjectInfo], selection: Selection, skipped: _Skipped) -> Iterator[FileTask]:
    for info in listing:
        selected = selection.select(info)
        if isinstance(selected, FileTask):
            yield selected
        else:
            skipped.add(selected)


def _no_input_files_error(source: Location, input_type: FileType, skipped: _Skipped) -> NoInputFilesError:
    if not skipped.files:
        return NoInputFilesError(
            f"source_folder: {source.uri} is missing or empty.", field="source_folder", uri=source.uri
        )
    first = skipped.named[0]
    return NoInputFilesError(
        f"source_folder: {source.uri} contains no {input_type.value} files; {skipped.files} "
        f"file{'s were' if skipped.files > 1 else ' was'} skipped ({first.file} {first.reason}).",
        field="source_folder",
        uri=source.uri,
    )


def _check_results(table: PlanTable, root: Location, destination: Location) -> None:
    """Check that all results can be written, and that none overwrites an input."""
    if conflict := table.same_result():
        raise ResultCollisionError(
            f"{conflict.other} and {conflict.file} would both produce {conflict.result} in {destination.uri}: rename "
            f"one of them.",
            files=[conflict.other, conflict.file],
        )
    # A result can be the folder of another in a bucket, but not on disk.
    if destination.scheme is Scheme.FILE and (conflict := table.result_in_result()):
        raise ResultCollisionError(
            f"The result of {conflict.other} would be named {conflict.result}, which is the folder of the result of "
            f"{conflict.file} in {destination.uri}: rename one of them.",
            files=[conflict.other, conflict.file],
        )
    # Files in a destination that is a subfolder of the source are skipped, so they are not inputs.
    if not destination.contains(root):
        return
    inputs = destination.relative(root)
    if conflict := table.result_on_input(f"{inputs}/" if inputs else ""):
        raise ResultCollisionError(
            f"destination_folder: the result of {conflict.file} would overwrite the input "
            f"{destination.join(conflict.result).uri}. Use a different destination folder or output file type.",
            field="destination_folder",
            files=[conflict.file],
        )


def _check_links(table: PlanTable, root: Location, destination: Location, allowed: AllowedLocations) -> None:
    """Check that no symbolic link in an allowed folder leads out of the allowed locations.

    Raises:
        LocationError: A link does.
    """
    if root.scheme is Scheme.FILE:
        for file in table.files():
            _check_link(root.join(file), allowed, field="source_folder")
    if destination.scheme is Scheme.FILE:
        for folder in table.result_folders():
            _check_link(
                destination.join(folder) if folder else destination, allowed, field="destination_folder"
            )


def _check_link(location: Location, allowed: AllowedLocations, *, field: str) -> None:
    # Every check resolves the allowed roots, so check only paths that contain a link.
    if os.path.realpath(location.key) != location.key:
        allowed.check(location, field=field)
