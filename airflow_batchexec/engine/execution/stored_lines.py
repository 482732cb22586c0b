"""Reads the lines of large documents of an execution in pieces: its plan, and its skipped files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["stored_lines"]

_READ_BYTES = 4 * 1024 * 1024


def stored_lines(storage: Storage, location: Location) -> Iterator[bytes]:
    """The lines of a document, in a fixed amount of memory.

    Raises:
        ObjectNotFoundError: It does not exist.
    """
    start, rest, length = 0, b"", _READ_BYTES
    while length == _READ_BYTES:
        piece = storage.read(location, start=start, length=_READ_BYTES)
        length = len(piece)
        start += length
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest
