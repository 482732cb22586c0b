"""Write a frame as CSV: the output of ``DataFrame.to_csv``, several times faster.

``to_csv`` creates a Python object for every value. Here each column is a sequence of strings; Arrow gathers those of a
slice of rows, row by row, into a buffer that holds the very bytes of the file. Columns with few distinct values are
tables (``csv_columns.py``); commas and line ends are tables of one string. Adjacent tables are merged while they stay
small, which leaves fewer strings to gather for each row.

For some thousand rows, the tables do not pay off (``csv_small_frames.py``). For a hundred, nothing beats ``to_csv``.
"""

# ruff: noqa: PLC0415  pandas, NumPy and pyarrow are imported in functions, as in reading.py

from __future__ import annotations

import csv
import io
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from .csv_columns import Lookup, Strings, concat, content, encode_column, string_array
from .csv_small_frames import render_small_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

__all__ = ["write_csv"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MAX_PANDAS_ROWS = (
    100  # up to which to_csv is faster; its cost and ours grow alike with the number of columns
)
_CHUNK_CELLS = 100_000  # DataFrame.to_csv formats this many values at a time
_CHUNKS_PER_SLICE = 6  # a slice is rendered at a time: a few megabytes per thread, which fit the CPU cache
_MAX_TABLE_STRINGS = 1 << 18  # in all tables of a frame, since each slice copies them
_MAX_COLUMN_STRINGS = 1 << 15  # in the table of one column
_MAX_MERGED_STRINGS = 1 << 12  # in a merged table, to keep building it cheap


def write_csv(frame: pd.DataFrame, path: Path, *, threads: int) -> None:
    """Write a frame without its index.

    Args:
        frame: The frame; its column names are unique strings.
        path: The file to write.
        threads: The maximum number of threads that render rows.

    Raises:
        UnencodableTextError: A string cannot be encoded in UTF-8.
        OSError: The disk is full, or failed otherwise.
    """
    rows, columns = frame.shape
    if rows <= _MAX_PANDAS_ROWS or columns == 0:
        text = _render_with_pandas(frame)
        if text is not None:
            path.write_bytes(text)
            return
    with path.open("wb") as file:
        file.write(_render_header(frame))
        for rendered in _render_rows(frame, threads):
            file.write(rendered)


def _render_with_pandas(frame: pd.DataFrame) -> bytes | None:
    """Render a frame with ``to_csv``; ``None`` if its text needs more care than ``to_csv`` takes."""
    text = frame.to_csv(index=False, lineterminator="\n")
    if "\r" in text:
        return None  # in older Pythons, to_csv does not quote it
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None  # its column is to be named


def _render_header(frame: pd.DataFrame) -> bytes:
    text = io.StringIO(newline="")
    # With both characters in the line terminator, a name that contains either of them is quoted.
    csv.writer(text, lineterminator="\r\n").writerow(frame.columns)
    return (text.getvalue().removesuffix("\r\n") + "\n").encode()


def _render_rows(frame: pd.DataFrame, threads: int) -> Iterator[memoryview]:
    rows, columns = frame.shape
    chunk = max(1, _CHUNK_CELLS // columns)
    # csv writes the null of a single column as "", since readers would skip a blank line.
    null = '""' if columns == 1 else ""
    if rows <= chunk:
        if rows:
            yield render_small_frame(frame, null=null)
        return
    step = _CHUNKS_PER_SLICE * chunk
    slices = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    parts = _row_parts(frame, null=null, chunk=chunk, threads=threads if len(slices) > 1 else 1)
    yield from _map_in_order(lambda rows: _render(parts, rows), slices, threads)


def _map_in_order(
    function: Callable[[_Item], _Result], items: Sequence[_Item], threads: int
) -> Iterator[_Result]:
    """``map`` on several threads, at most one item per thread ahead of the consumer, to bound memory."""
    if threads <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(function, item) for item in items[: threads + 1])
        for item in items[threads + 1 :]:
            yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()


def _row_parts(frame: pd.DataFrame, *, null: str, chunk: int, threads: int) -> list[Lookup | Strings]:
    """Return the parts of a row, from left to right: columns, commas and the line end."""
    rows, columns = frame.shape
    limit = min(rows, _MAX_COLUMN_STRINGS, _MAX_TABLE_STRINGS // columns)

    def encode(column: pd.Series[Any]) -> Lookup | Strings:
        return encode_column(column, null=null, limit=limit, chunk=chunk)

    comma, line_end = (Lookup(string_array([mark]), lambda _: 0) for mark in ",\n")
    parts: list[Lookup | Strings] = []
    group: list[Lookup] = []
    for position, part in enumerate(_map_in_order(encode, [column for _, column in frame.items()], threads)):
        for piece in (part, comma if position < columns - 1 else line_end):
            if group and not (isinstance(piece, Lookup) and _can_merge([*group, piece])):
                parts.append(_merge(group))
                group = []
            if isinstance(piece, Lookup):
                group.append(piece)
            else:
                parts.append(piece)
    return [*parts, _merge(group)]


def _can_merge(group: list[Lookup]) -> bool:
    sizes = [len(lookup.strings) for lookup in group if len(lookup.strings) > 1]
    return len(sizes) <= 1 or math.prod(sizes) <= _MAX_MERGED_STRINGS


def _merge(group: list[Lookup]) -> Lookup:
    """Merge adjacent parts of a row into one, whose table contains every combination of their strings."""
    import numpy as np
    import pyarrow as pa

    if len(group) == 1:
        return group[0]
    varied = [lookup for lookup in group if len(lookup.strings) > 1]
    positions = np.arange(math.prod(len(lookup.strings) for lookup in varied))
    repeats = len(positions)
    columns: list[Any] = []
    for lookup in group:
        if len(lookup.strings) == 1:
            columns.append(lookup.strings[0])
        else:
            repeats //= len(lookup.strings)
            columns.append(lookup.strings.take(pa.array(positions // repeats % len(lookup.strings))))

    def codes(rows: slice) -> Any:
        total = varied[0].codes(rows)
        for lookup in varied[1:]:
            total = total * len(lookup.strings) + lookup.codes(rows)
        return total

    return Lookup(
        concat(*columns) if varied else string_array(["".join(map(str, columns))]),
        codes if varied else lambda _: 0,
    )


def _render(parts: list[Lookup | Strings], rows: slice) -> memoryview:
    """Render a slice of the rows to the bytes of the file."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    count = rows.stop - rows.start
    order = np.empty((count, len(parts)), np.int32)
    sources: list[pa.LargeStringArray] = []
    base = 0
    for position, part in enumerate(parts):
        if isinstance(part, Lookup):
            source = part.strings
            order[:, position] = part.codes(rows) + base
        else:
            source = part.strings(rows)
            order[:, position] = np.arange(base, base + count)
        sources.append(source)
        base += len(source)
    gathered = pc.take(pa.concat_arrays(sources), pa.array(order.reshape(-1)), boundscheck=False)
    return content(gathered)
