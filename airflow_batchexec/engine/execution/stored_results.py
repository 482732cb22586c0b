"""Finds the results that are in the destination: from a listing as far as that is cheaper, else one by one."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import Scheme
from airflow_batchexec.engine.execution.ledger import FileStatus
from airflow_batchexec.engine.parallel import parallel_map
from airflow_batchexec.exceptions import ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.execution.file_table import FileRow, FileTable
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["list_results", "with_results"]

_THREADS = 16
_PAGE_OBJECTS = 1_000
# A page of a listing costs about as much as this many lookups.
_LOOKUPS_PER_PAGE = 10
_ROWS_AT_ONCE = 1_000


def list_results(storage: Storage, destination: Location, table: FileTable) -> None:
    """Add the stored results to the table, as far as a listing is cheaper than looking them up.

    On disk, a listing makes the same system calls as lookups. In a bucket, it answers a thousand lookups with one request,
    unless the folder contains many other objects: the listing ends when that would make it the more expensive way.
    """
    missing = table.finished_files()
    if destination.scheme is Scheme.FILE or missing <= _THREADS:
        return
    first, last = table.result_range()
    folder = _common_folder(first, last)
    listed = storage.list(destination.join(folder) if folder else destination)
    for _ in range(-(-missing // _LOOKUPS_PER_PAGE)):
        page = list(islice(listed, _PAGE_OBJECTS))
        missing -= table.add_stored((destination.relative(info.location), info.size_bytes) for info in page)
        if not missing or len(page) < _PAGE_OBJECTS:
            return


def with_results(storage: Storage, destination: Location, rows: Iterator[FileRow]) -> Iterator[FileRow]:
    """The rows with the stored results of finished files; what the listing lacks or contradicts is looked up."""
    while batch := list(islice(rows, _ROWS_AT_ONCE)):
        unclear = [number for number, row in enumerate(batch) if not _is_settled(row)]
        # Each thread takes every sixteenth, as most lookups on disk take less time than handing them to a thread.
        found = parallel_map(
            lambda part: [_look_up(storage, destination.join(batch[n].task.result)) for n in part],
            filter(None, (unclear[start::_THREADS] for start in range(_THREADS))),
            threads=_THREADS,
            name="stat",
        )
        for start, results in enumerate(found):
            for number, stored in zip(unclear[start::_THREADS], results, strict=True):
                batch[number] = batch[number]._replace(stored_bytes=stored)
        yield from batch


def _common_folder(first: str, last: str) -> str:
    """The longest folder that contains two paths, and so all that sort between them; empty for the root."""
    common: list[str] = []
    for left, right in zip(first.split("/")[:-1], last.split("/")[:-1], strict=False):
        if left != right:
            break
        common.append(left)
    return "/".join(common)


def _is_settled(row: FileRow) -> bool:
    """Whether the row needs no lookup."""
    record = row.record
    if record is None or record.status is not FileStatus.FINISHED or record.output is None:
        return True
    return row.stored_bytes == record.output.size_bytes


def _look_up(storage: Storage, location: Location) -> int | None:
    try:
        return storage.stat(location).size_bytes
    except ObjectNotFoundError:
        return None
