"""Write a frame as CSV: the output of ``DataFrame.to_csv``, several times faster.

``to_csv`` creates a Python object for every value. Here each column is a sequence of strings; Arrow gathers those of a
slice of rows, row by row, into a buffer that holds the very bytes of the file. A column with few distinct values
becomes a table of strings and a code for each row. Commas and line ends are tables of one string. Adjacent tables are
merged while they stay small, which leaves fewer strings to gather for each row.
"""

# ruff: noqa: PLC0415  pandas, NumPy and pyarrow are imported in functions, as in reading.py

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import pyarrow as pa

__all__ = ["UnencodableTextError", "write_csv"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class UnencodableTextError(Exception):
    """A column contains text that UTF-8 cannot encode; the message names the column and a fix."""


_CHUNK_CELLS = 100_000  # DataFrame.to_csv formats this many values at a time
_CHUNKS_PER_SLICE = 6  # a slice is rendered at a time: a few megabytes per thread, which fit the CPU cache
_MAX_TABLE_STRINGS = 1 << 18  # in all tables of a frame, since each slice copies them
_MAX_COLUMN_STRINGS = 1 << 15  # in the table of one column
_MAX_MERGED_STRINGS = 1 << 12  # in a merged table, to keep building it cheap
_MASKED_DTYPES = {
    **{f"{sign}Int{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "boolean": "bool",
    "Float64": "float64",
}


class _Lookup(NamedTuple):
    """Part of a row: a string from a small table.

    Attributes:
        strings: The table, without nulls.
        codes: Returns the positions in the table for a slice of the rows: an array, or one number for all of them.
    """

    strings: pa.LargeStringArray
    codes: Callable[[slice], Any]


class _Strings(NamedTuple):
    """Part of a row: a separate string for each row.

    Attributes:
        strings: Returns the strings for a slice of the rows, without nulls.
    """

    strings: Callable[[slice], pa.LargeStringArray]


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
    if rows == 0 or columns == 0:
        frame.to_csv(path, index=False, lineterminator="\n")
        return
    step = _CHUNKS_PER_SLICE * _to_csv_chunk(columns)
    slices = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    # With both characters in the line terminator, a name that contains either of them is quoted.
    header = frame.iloc[:0].to_csv(index=False, lineterminator="\r\n").removesuffix("\r\n") + "\n"
    with path.open("wb") as file:
        file.write(header.encode())
        parts = _row_parts(frame, threads if len(slices) > 1 else 1)
        for rendered in _map_in_order(lambda rows: _render(parts, rows), slices, threads):
            file.write(rendered)


def _to_csv_chunk(columns: int) -> int:
    return max(1, _CHUNK_CELLS // columns)


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


def _row_parts(frame: pd.DataFrame, threads: int) -> list[_Lookup | _Strings]:
    """Return the parts of a row, from left to right: columns, commas and the line end."""
    rows, columns = frame.shape
    # csv writes the null of a single column as "", since readers would skip a blank line.
    null = '""' if columns == 1 else ""
    limit = min(rows, _MAX_COLUMN_STRINGS, _MAX_TABLE_STRINGS // columns)

    def encode(column: pd.Series[Any]) -> _Lookup | _Strings:
        return _encode(column, null, limit) or _format_with_pandas(column, null, _to_csv_chunk(columns))

    comma, line_end = (_Lookup(_string_array([mark]), lambda _: 0) for mark in ",\n")
    parts: list[_Lookup | _Strings] = []
    group: list[_Lookup] = []
    for position, part in enumerate(_map_in_order(encode, [column for _, column in frame.items()], threads)):
        for piece in (part, comma if position < columns - 1 else line_end):
            if group and not (isinstance(piece, _Lookup) and _can_merge([*group, piece])):
                parts.append(_merge(group))
                group = []
            if isinstance(piece, _Lookup):
                group.append(piece)
            else:
                parts.append(piece)
    return [*parts, _merge(group)]


def _can_merge(group: list[_Lookup]) -> bool:
    sizes = [len(lookup.strings) for lookup in group if len(lookup.strings) > 1]
    return len(sizes) <= 1 or math.prod(sizes) <= _MAX_MERGED_STRINGS


def _merge(group: list[_Lookup]) -> _Lookup:
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

    return _Lookup(
        _concat(*columns) if varied else _string_array(["".join(map(str, columns))]),
        codes if varied else lambda _: 0,
    )


def _render(parts: list[_Lookup | _Strings], rows: slice) -> memoryview:
    """Render a slice of the rows to the bytes of the file."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    count = rows.stop - rows.start
    order = np.empty((count, len(parts)), np.int32)
    sources: list[pa.LargeStringArray] = []
    base = 0
    for position, part in enumerate(parts):
        if isinstance(part, _Lookup):
            source = part.strings
            order[:, position] = part.codes(rows) + base
        else:
            source = part.strings(rows)
            order[:, position] = np.arange(base, base + count)
        sources.append(source)
        base += len(source)
    gathered = pc.take(pa.concat_arrays(sources), pa.array(order.reshape(-1)), boundscheck=False)
    _, offsets, data = gathered.buffers()
    end = np.frombuffer(offsets, np.int64)[len(gathered)]
    return memoryview(data)[:end] if data is not None else memoryview(b"")


def _encode(column: pd.Series[Any], null: str, limit: int) -> _Lookup | _Strings | None:
    """Encode a column of numbers or strings; ``None`` if only pandas can format it."""
    import numpy as np
    import pandas as pd

    kind = str(column.dtype)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _encode_categories(column, null, limit)
    if isinstance(column.dtype, pd.StringDtype) or kind == "object":
        if kind == "object" and pd.api.types.infer_dtype(column, skipna=True) not in {"string", "empty"}:
            return None
        return _Strings(lambda rows: _quote_strings(column.iloc[rows], null))
    if kind in _MASKED_DTYPES or isinstance(column.dtype, np.dtype):
        return _encode_numbers(column, null, limit)
    return None


def _encode_numbers(column: pd.Series[Any], null: str, limit: int) -> _Lookup | _Strings | None:
    import numpy as np

    kind = str(column.dtype)
    values: np.ndarray[Any, Any]
    missing: Callable[[slice], Any] | None = None
    if kind in _MASKED_DTYPES:
        missing = np.asarray(column.isna()).__getitem__
        values = column.to_numpy(_MASKED_DTYPES[kind], na_value=np.nan if kind == "Float64" else 0)
    else:
        values = column.to_numpy()
    if values.dtype.kind == "b":
        return _lookup(values, missing, 0, _string_array(["False", "True"]), null)
    if values.dtype.kind in "iu" and values.dtype.isnative:
        return _encode_integers(values, missing, null, limit)
    if values.dtype.kind == "f" and values.dtype.itemsize in {4, 8} and values.dtype.isnative:
        return _encode_floats(values, null, limit)
    return None


def _encode_categories(column: pd.Series[Any], null: str, limit: int) -> _Lookup | None:
    import numpy as np
    import pandas as pd

    categories = pd.Series(column.cat.categories)
    codes = np.asarray(column.cat.codes)
    if len(categories) > limit or pd.api.types.infer_dtype(categories) != "string":
        return None
    return _lookup(codes, lambda rows: codes[rows] < 0, 0, _quote_strings(categories, null), null)


def _encode_integers(
    values: np.ndarray[Any, Any], missing: Callable[[slice], Any] | None, null: str, limit: int
) -> _Lookup | _Strings:
    import numpy as np
    import pyarrow as pa

    low, high = int(values.min()), int(values.max())
    if high - low < limit and high <= np.iinfo(np.int64).max:
        return _lookup(values, missing, low, _to_strings(low + np.arange(high - low + 1)), null)
    return _Strings(
        lambda rows: _to_strings(
            pa.array(values[rows], mask=None if missing is None else missing(rows)), null
        )
    )


def _encode_floats(values: np.ndarray[Any, Any], null: str, limit: int) -> _Lookup | _Strings:
    """Encode floats; whole numbers of a small range (integer columns with nulls, as pandas reads them) as a table."""
    import numpy as np

    low, high = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))
    # False if all values are NaN; with an infinite one, the range is not small.
    if high - low < limit and max(-low, high) < _plain_range(values)[1] and _are_whole(values):
        strings = _concat(_to_strings(int(low) + np.arange(int(high - low) + 1)), ".0")
        return _lookup(values, lambda rows: np.isnan(values[rows]), int(low), strings, null)
    return _Strings(lambda rows: _format_floats(values[rows], null))


def _plain_range(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the magnitudes for which Arrow and NumPy format floats alike, except for the ``.0`` of whole numbers.

    Outside of them, one of the two writes an exponent and the other does not.
    """
    return (1e-4, 1e10) if values.dtype.itemsize == 8 else (1e-3, 1e6)  # noqa: PLR2004  bytes of a double


def _are_whole(values: np.ndarray[Any, Any]) -> bool:
    """Whether all values are whole numbers or NaN; negative zero does not count, as an integer would lose its sign."""
    import numpy as np

    size = 1 << 15  # fits the CPU cache, and mostly the first block decides
    for start in range(0, len(values), size):
        block = values[start : start + size]
        if (
            not ((np.rint(block) == block) | np.isnan(block)).all()
            or (np.signbit(block) & (block == 0)).any()
        ):
            return False
    return True


def _lookup(
    values: np.ndarray[Any, Any],
    missing: Callable[[slice], Any] | None,
    low: int,
    strings: pa.LargeStringArray,
    null: str,
) -> _Lookup:
    """Return a table of consecutive whole numbers from ``low`` on, with null as the last entry."""
    import numpy as np
    import pyarrow as pa

    size = len(strings)

    def codes(rows: slice) -> np.ndarray[Any, Any]:
        with np.errstate(invalid="ignore"):  # NaN casts to an arbitrary integer, which is replaced below
            positions = values[rows].astype(np.int64, copy=False) - low
        if missing is not None:
            positions[missing(rows)] = size
        return positions

    return _Lookup(strings if missing is None else pa.concat_arrays([strings, _string_array([null])]), codes)


def _format_floats(values: np.ndarray[Any, Any], null: str) -> pa.LargeStringArray:
    """Format floats like NumPy, and so ``to_csv``: the shortest strings that read back as the same values."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = np.isnan(values)
    magnitude = np.abs(values)
    smallest, largest = _plain_range(values)
    differs = ~((magnitude >= smallest) & (magnitude < largest) | (magnitude == 0) | missing)
    strings = _to_strings(pa.array(values, from_pandas=True), null)
    whole = np.rint(values) == values
    if whole.any():
        strings = _concat(
            strings, _string_array(["", ".0"]).take(pa.array((whole & ~differs).astype(np.int8)))
        )
    if differs.any():
        strings = pc.replace_with_mask(
            strings, pa.array(differs), _string_array(values[differs].astype(str).tolist())
        )
    return strings


def _quote_strings(column: pd.Series[Any], null: str) -> pa.LargeStringArray:
    """Quote strings as csv does."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        strings = pa.array(column, type=pa.large_string(), from_pandas=True)
    except UnicodeEncodeError as error:
        raise _unencodable(column.name, error) from error
    if isinstance(strings, pa.ChunkedArray):
        strings = strings.combine_chunks()
    if strings.null_count:
        strings = strings.fill_null("")
    if _may_need_quotes(strings):
        special = pc.match_substring_regex(strings, '[,"\r\n]')
        quoted = _concat('"', pc.replace_substring(strings.filter(special), '"', '""'), '"')
        strings = pc.replace_with_mask(strings, special, quoted)
    return pc.if_else(pc.equal(strings, ""), null, strings) if null else strings


def _may_need_quotes(strings: pa.LargeStringArray) -> bool:
    """Whether any string may need quotes: one search through the whole buffer is far cheaper than one per string."""
    import numpy as np

    _, offsets, data = strings.buffers()
    if data is None:
        return False
    start, end = np.frombuffer(offsets, np.int64)[[strings.offset, strings.offset + len(strings)]]
    content = memoryview(data)[start:end].tobytes()
    return any(character in content for character in (b",", b'"', b"\n", b"\r"))


def _format_with_pandas(column: pd.Series[Any], null: str, chunk: int) -> _Strings:
    """Format a column of dates, decimals, mixed or other values with pandas."""

    def strings(rows: slice) -> pa.LargeStringArray:
        part = column.iloc[rows].to_frame()
        values: list[str] = []
        length = 0
        # csv quotes strings with any character of the line terminator, so splitting at it is safe, unless a string
        # contains all of it: then a longer one is tried.
        while len(values) != len(part):
            length += 1
            end = "\r\n" + "\x1e" * length
            # The same chunks as to_csv's: whether dates are written with a time depends on the others in the chunk.
            values = part.to_csv(index=False, header=False, lineterminator=end, chunksize=chunk).split(end)[
                :-1
            ]
        try:
            return _string_array([null if value == '""' else value for value in values])
        except UnicodeEncodeError as error:
            raise _unencodable(column.name, error) from error

    return _Strings(strings)


def _unencodable(name: object, error: UnicodeEncodeError) -> UnencodableTextError:
    return UnencodableTextError(
        f"Column {name!r} of the result contains text that UTF-8 cannot encode ({error.reason}). "
        f"Fix it in predict, as in value.encode('utf-8', 'replace').decode()."
    )


def _string_array(values: list[str]) -> pa.LargeStringArray:
    import pyarrow as pa

    return pa.array(values, pa.large_string())


def _to_strings(values: Any, null: str = "") -> pa.LargeStringArray:
    import pyarrow as pa

    strings = pa.array(values).cast(pa.large_string())
    return strings.fill_null(null) if strings.null_count else strings


def _concat(*parts: Any) -> pa.LargeStringArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    empty = pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(
        *(pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in parts), empty
    )
