"""A frame as CSV: the text that ``DataFrame.to_csv`` gives, several times faster.

``to_csv`` makes a Python object of every value. Here each column is a sequence of texts that Arrow gathers, and the
texts of a slice of rows, gathered row by row, lie in memory as the file's very bytes. A column of few different values
is a table of texts and a code for each row; commas and line ends are tables of one text, and neighbouring tables are
merged while they stay small: fewer texts to gather for each row.
"""

# ruff: noqa: PLC0415  pandas, NumPy and pyarrow are imported where they are used, as in reading.py

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
_Made = TypeVar("_Made")


class UnencodableTextError(Exception):
    """A column holds text that UTF-8 cannot encode; the message names it and a way out."""


_CHUNK_CELLS = 100_000  # DataFrame.to_csv formats that many values at a time
_SLICE_CHUNKS = 6  # what is rendered at a time: some megabytes for each thread, in the processor's cache
_TABLE_TEXTS = 1 << 18  # all tables of a frame together; each slice copies them
_COLUMN_TEXTS = 1 << 15  # one column's table
_MERGED_TEXTS = 1 << 12  # a merged table: building it must stay cheap
_MASKED = {
    **{f"{sign}Int{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "boolean": "bool",
    "Float64": "float64",
}


class _Lookup(NamedTuple):
    """Part of a row: one of the texts of a small table.

    Attributes:
        texts: The table, without nulls.
        codes: For a slice of the rows, the positions in the table: an array, or one number for all of them.
    """

    texts: pa.LargeStringArray
    codes: Callable[[slice], Any]


class _Text(NamedTuple):
    """Part of a row: a text of its own.

    Attributes:
        texts: For a slice of the rows, their texts, without nulls.
    """

    texts: Callable[[slice], pa.LargeStringArray]


def write_csv(frame: pd.DataFrame, path: Path, *, threads: int) -> None:
    """Write a frame without its index.

    Args:
        frame: Its column names are unique strings.
        path: Where to.
        threads: How many threads may turn rows into text.

    Raises:
        UnencodableTextError: A text cannot be written.
        OSError: The disk is full, or fails otherwise.
    """
    rows, columns = frame.shape
    if rows == 0 or columns == 0:
        frame.to_csv(path, index=False, lineterminator="\n")
        return
    step = _SLICE_CHUNKS * _to_csv_chunk(columns)
    slices = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    # What ends a line here must not end it in a name: so a name that holds either character is quoted.
    header = frame.iloc[:0].to_csv(index=False, lineterminator="\r\n").removesuffix("\r\n") + "\n"
    with path.open("wb") as file:
        file.write(header.encode())
        parts = _row_parts(frame, threads if len(slices) > 1 else 1)
        for text in _in_order(lambda rows: _render(parts, rows), slices, threads):
            file.write(text)


def _to_csv_chunk(columns: int) -> int:
    return max(1, _CHUNK_CELLS // columns)


def _in_order(make: Callable[[_Item], _Made], items: Sequence[_Item], threads: int) -> Iterator[_Made]:
    """``map`` on a few threads, never more than one item for each ahead of the consumer: memory stays bounded."""
    if threads <= 1 or len(items) <= 1:
        yield from map(make, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(make, item) for item in items[: threads + 1])
        for item in items[threads + 1 :]:
            yield pending.popleft().result()
            pending.append(pool.submit(make, item))
        while pending:
            yield pending.popleft().result()


def _row_parts(frame: pd.DataFrame, threads: int) -> list[_Lookup | _Text]:
    """What a row consists of, from left to right: columns, commas, the line's end."""
    rows, columns = frame.shape
    # csv writes the only column's null as "": a blank line would be skipped on reading.
    null = '""' if columns == 1 else ""
    limit = min(rows, _COLUMN_TEXTS, _TABLE_TEXTS // columns)

    def encode(column: pd.Series[Any]) -> _Lookup | _Text:
        return _encode(column, null, limit) or _pandas_text(column, null, _to_csv_chunk(columns))

    comma, line_end = (_Lookup(_texts([mark]), lambda _: 0) for mark in ",\n")
    parts: list[_Lookup | _Text] = []
    group: list[_Lookup] = []
    for position, part in enumerate(_in_order(encode, [column for _, column in frame.items()], threads)):
        for piece in (part, comma if position < columns - 1 else line_end):
            if group and not (isinstance(piece, _Lookup) and _may_merge([*group, piece])):
                parts.append(_merged(group))
                group = []
            if isinstance(piece, _Lookup):
                group.append(piece)
            else:
                parts.append(piece)
    return [*parts, _merged(group)]


def _may_merge(group: list[_Lookup]) -> bool:
    sizes = [len(lookup.texts) for lookup in group if len(lookup.texts) > 1]
    return len(sizes) <= 1 or math.prod(sizes) <= _MERGED_TEXTS


def _merged(group: list[_Lookup]) -> _Lookup:
    """Neighbouring parts of a row as one: its table holds every combination of their texts."""
    import numpy as np
    import pyarrow as pa

    if len(group) == 1:
        return group[0]
    varied = [lookup for lookup in group if len(lookup.texts) > 1]
    positions = np.arange(math.prod(len(lookup.texts) for lookup in varied))
    repeats = len(positions)
    columns: list[Any] = []
    for lookup in group:
        if len(lookup.texts) == 1:
            columns.append(lookup.texts[0])
        else:
            repeats //= len(lookup.texts)
            columns.append(lookup.texts.take(pa.array(positions // repeats % len(lookup.texts))))

    def codes(rows: slice) -> Any:
        total = varied[0].codes(rows)
        for lookup in varied[1:]:
            total = total * len(lookup.texts) + lookup.codes(rows)
        return total

    return _Lookup(
        _joined(*columns) if varied else _texts(["".join(map(str, columns))]),
        codes if varied else lambda _: 0,
    )


def _render(parts: list[_Lookup | _Text], rows: slice) -> memoryview:
    """The bytes of a slice of the file."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    count = rows.stop - rows.start
    order = np.empty((count, len(parts)), np.int32)
    sources: list[pa.LargeStringArray] = []
    base = 0
    for position, part in enumerate(parts):
        if isinstance(part, _Lookup):
            source = part.texts
            order[:, position] = part.codes(rows) + base
        else:
            source = part.texts(rows)
            order[:, position] = np.arange(base, base + count)
        sources.append(source)
        base += len(source)
    gathered = pc.take(pa.concat_arrays(sources), pa.array(order.reshape(-1)), boundscheck=False)
    _, offsets, data = gathered.buffers()
    end = np.frombuffer(offsets, np.int64)[len(gathered)]
    return memoryview(data)[:end] if data is not None else memoryview(b"")


def _encode(column: pd.Series[Any], null: str, limit: int) -> _Lookup | _Text | None:
    """A column of numbers or texts as part of a row; ``None``: only pandas knows its texts."""
    import numpy as np
    import pandas as pd

    kind = str(column.dtype)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _encode_categories(column, null, limit)
    if isinstance(column.dtype, pd.StringDtype) or kind == "object":
        if kind == "object" and pd.api.types.infer_dtype(column, skipna=True) not in {"string", "empty"}:
            return None
        return _Text(lambda rows: _string_texts(column.iloc[rows], null))
    if kind in _MASKED or isinstance(column.dtype, np.dtype):
        return _encode_numbers(column, null, limit)
    return None


def _encode_numbers(column: pd.Series[Any], null: str, limit: int) -> _Lookup | _Text | None:
    import numpy as np

    kind = str(column.dtype)
    values: np.ndarray[Any, Any]
    missing: Callable[[slice], Any] | None = None
    if kind in _MASKED:
        missing = np.asarray(column.isna()).__getitem__
        values = column.to_numpy(_MASKED[kind], na_value=np.nan if kind == "Float64" else 0)
    else:
        values = column.to_numpy()
    if values.dtype.kind == "b":
        return _lookup(values, missing, 0, _texts(["False", "True"]), null)
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
    return _lookup(codes, lambda rows: codes[rows] < 0, 0, _string_texts(categories, null), null)


def _encode_integers(
    values: np.ndarray[Any, Any], missing: Callable[[slice], Any] | None, null: str, limit: int
) -> _Lookup | _Text:
    import numpy as np
    import pyarrow as pa

    low, high = int(values.min()), int(values.max())
    if high - low < limit and high <= np.iinfo(np.int64).max:
        return _lookup(values, missing, low, _cast(low + np.arange(high - low + 1)), null)
    return _Text(
        lambda rows: _cast(pa.array(values[rows], mask=None if missing is None else missing(rows)), null)
    )


def _encode_floats(values: np.ndarray[Any, Any], null: str, limit: int) -> _Lookup | _Text:
    """Whole numbers of a small range, which pandas reads wherever an integer column has gaps, are a table."""
    import numpy as np

    low, high = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))
    # False for a column of nothing but NaN; an infinite one has no small range.
    if high - low < limit and max(-low, high) < _plain_range(values)[1] and _are_whole(values):
        texts = _joined(_cast(int(low) + np.arange(int(high - low) + 1)), ".0")
        return _lookup(values, lambda rows: np.isnan(values[rows]), int(low), texts, null)
    return _Text(lambda rows: _float_texts(values[rows], null))


def _plain_range(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Sizes of floats for which Arrow and NumPy agree but for the ``.0`` of whole numbers; beyond, one of them writes
    an exponent where the other does not.
    """
    return (1e-4, 1e10) if values.dtype.itemsize == 8 else (1e-3, 1e6)  # noqa: PLR2004  the bytes of a double


def _are_whole(values: np.ndarray[Any, Any]) -> bool:
    """Whether all are whole numbers or NaN. The negative zero is not: as an integer it would lose its sign."""
    import numpy as np

    block = 1 << 15  # stays in the processor's cache, and mostly the first one tells
    for start in range(0, len(values), block):
        some = values[start : start + block]
        if not ((np.rint(some) == some) | np.isnan(some)).all() or (np.signbit(some) & (some == 0)).any():
            return False
    return True


def _lookup(
    values: np.ndarray[Any, Any],
    missing: Callable[[slice], Any] | None,
    low: int,
    texts: pa.LargeStringArray,
    null: str,
) -> _Lookup:
    """The table of consecutive whole numbers from ``low`` on, and of null behind them."""
    import numpy as np
    import pyarrow as pa

    size = len(texts)

    def codes(rows: slice) -> np.ndarray[Any, Any]:
        with np.errstate(invalid="ignore"):  # NaN as an integer is anything, and is replaced
            found = values[rows].astype(np.int64, copy=False) - low
        if missing is not None:
            found[missing(rows)] = size
        return found

    return _Lookup(texts if missing is None else pa.concat_arrays([texts, _texts([null])]), codes)


def _float_texts(values: np.ndarray[Any, Any], null: str) -> pa.LargeStringArray:
    """The shortest texts that read back as the same floats, in NumPy's spelling, as ``DataFrame.to_csv`` has them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = np.isnan(values)
    size = np.abs(values)
    smallest, largest = _plain_range(values)
    odd = ~((size >= smallest) & (size < largest) | (size == 0) | missing)
    texts = _cast(pa.array(values, from_pandas=True), null)
    whole = np.rint(values) == values
    if whole.any():
        texts = _joined(texts, _texts(["", ".0"]).take(pa.array((whole & ~odd).astype(np.int8))))
    if odd.any():
        texts = pc.replace_with_mask(texts, pa.array(odd), _texts(values[odd].astype(str).tolist()))
    return texts


def _string_texts(column: pd.Series[Any], null: str) -> pa.LargeStringArray:
    """Strings, quoted where csv quotes them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        texts = pa.array(column, type=pa.large_string(), from_pandas=True)
    except UnicodeEncodeError as error:
        raise _unencodable(column.name, error) from error
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if texts.null_count:
        texts = texts.fill_null("")
    if _holds_special(texts):
        special = pc.match_substring_regex(texts, '[,"\r\n]')
        quoted = _joined('"', pc.replace_substring(texts.filter(special), '"', '""'), '"')
        texts = pc.replace_with_mask(texts, special, quoted)
    return pc.if_else(pc.equal(texts, ""), null, texts) if null else texts


def _holds_special(texts: pa.LargeStringArray) -> bool:
    """Whether any text may hold a character that csv quotes: one search through all, far cheaper than one in each."""
    import numpy as np

    _, offsets, data = texts.buffers()
    if data is None:
        return False
    start, end = np.frombuffer(offsets, np.int64)[[texts.offset, texts.offset + len(texts)]]
    together = memoryview(data)[start:end].tobytes()
    return any(character in together for character in (b",", b'"', b"\n", b"\r"))


def _pandas_text(column: pd.Series[Any], null: str, chunk: int) -> _Text:
    """A column of dates, decimals, mixed or other values, in the texts that pandas makes of them."""

    def texts(rows: slice) -> pa.LargeStringArray:
        some = column.iloc[rows].to_frame()
        values: list[str] = []
        length = 0
        # csv quotes every text that holds a character of the end of the line, so the ends are where it says they are,
        # unless a text holds the whole of it: then a longer one is tried.
        while len(values) != len(some):
            length += 1
            end = "\r\n" + "\x1e" * length
            # Chunks begin where to_csv begins them: whether a date is written with its time depends on the others.
            values = some.to_csv(index=False, header=False, lineterminator=end, chunksize=chunk).split(end)[
                :-1
            ]
        try:
            return _texts([null if value == '""' else value for value in values])
        except UnicodeEncodeError as error:
            raise _unencodable(column.name, error) from error

    return _Text(texts)


def _unencodable(name: object, error: UnicodeEncodeError) -> UnencodableTextError:
    return UnencodableTextError(
        f"Column {name!r} of the result holds text that UTF-8 cannot encode ({error.reason}). "
        f"Repair it in predict, as in value.encode('utf-8', 'replace').decode()."
    )


def _texts(values: list[str]) -> pa.LargeStringArray:
    import pyarrow as pa

    return pa.array(values, pa.large_string())


def _cast(values: Any, null: str = "") -> pa.LargeStringArray:
    import pyarrow as pa

    texts = pa.array(values).cast(pa.large_string())
    return texts.fill_null(null) if texts.null_count else texts


def _joined(*parts: Any) -> pa.LargeStringArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    empty = pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(
        *(pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in parts), empty
    )
