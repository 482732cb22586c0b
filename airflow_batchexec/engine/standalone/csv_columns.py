"""Encode the columns of a frame as the strings that ``DataFrame.to_csv`` writes.

A column with few distinct values becomes a table of strings and a code for each row, any other a string for each row.
"""

# ruff: noqa: PLC0415  pandas, NumPy and pyarrow are imported in functions, as in reading.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    import pyarrow as pa

__all__ = ["Lookup", "Strings", "UnencodableTextError", "concat", "content", "encode_column", "string_array"]

_MASKED_DTYPES = {
    **{f"{sign}Int{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "boolean": "bool",
    "Float64": "float64",
}


class UnencodableTextError(Exception):
    """A column contains text that UTF-8 cannot encode; the message names the column and a fix."""


class Lookup(NamedTuple):
    """Part of a row: a string from a small table.

    Attributes:
        strings: The table, without nulls.
        codes: Returns the positions in the table for a slice of the rows: an array, or one number for all of them.
    """

    strings: pa.LargeStringArray
    codes: Callable[[slice], Any]


class Strings(NamedTuple):
    """Part of a row: a separate string for each row.

    Attributes:
        strings: Returns the strings for a slice of the rows, without nulls.
    """

    strings: Callable[[slice], pa.LargeStringArray]


def encode_column(column: pd.Series[Any], *, null: str, limit: int, chunk: int) -> Lookup | Strings:
    """Encode a column.

    Args:
        column: The column.
        null: What a missing value is written as.
        limit: The maximum number of strings in a table.
        chunk: The number of rows that ``to_csv`` formats at a time.

    Raises:
        UnencodableTextError: A string cannot be encoded in UTF-8; it may also be raised when the strings are used.
    """
    return _encode(column, null, limit) or _format_with_pandas(column, null, chunk)


def _encode(column: pd.Series[Any], null: str, limit: int) -> Lookup | Strings | None:
    """Encode a column of numbers or strings; ``None`` if only pandas can format it."""
    import numpy as np
    import pandas as pd

    kind = str(column.dtype)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _encode_categories(column, null, limit)
    if isinstance(column.dtype, pd.StringDtype) or kind == "object":
        if kind == "object" and pd.api.types.infer_dtype(column, skipna=True) not in {"string", "empty"}:
            return None
        return Strings(lambda rows: _quote_strings(column.iloc[rows], null))
    if kind in _MASKED_DTYPES or isinstance(column.dtype, np.dtype):
        return _encode_numbers(column, null, limit)
    return None


def _encode_numbers(column: pd.Series[Any], null: str, limit: int) -> Lookup | Strings | None:
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
        return _lookup(values, missing, 0, string_array(["False", "True"]), null)
    if values.dtype.kind in "iu" and values.dtype.isnative:
        return _encode_integers(values, missing, null, limit)
    if values.dtype.kind == "f" and values.dtype.itemsize in {4, 8} and values.dtype.isnative:
        return _encode_floats(values, null, limit)
    return None


def _encode_categories(column: pd.Series[Any], null: str, limit: int) -> Lookup | None:
    import numpy as np
    import pandas as pd

    categories = pd.Series(column.cat.categories)
    codes = np.asarray(column.cat.codes)
    if len(categories) > limit or pd.api.types.infer_dtype(categories) != "string":
        return None
    return _lookup(codes, lambda rows: codes[rows] < 0, 0, _quote_strings(categories, null), null)


def _encode_integers(
    values: np.ndarray[Any, Any], missing: Callable[[slice], Any] | None, null: str, limit: int
) -> Lookup | Strings:
    import numpy as np
    import pyarrow as pa

    low, high = int(values.min()), int(values.max())
    if high - low < limit and high <= np.iinfo(np.int64).max:
        return _lookup(values, missing, low, _to_strings(low + np.arange(high - low + 1)), null)
    return Strings(
        lambda rows: _to_strings(
            pa.array(values[rows], mask=None if missing is None else missing(rows)), null
        )
    )


def _encode_floats(values: np.ndarray[Any, Any], null: str, limit: int) -> Lookup | Strings:
    """Encode floats; whole numbers of a small range (integer columns with nulls, as pandas reads them) as a table."""
    import numpy as np

    low, high = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))
    # False if all values are NaN; with an infinite one, the range is not small.
    if high - low < limit and max(-low, high) < _plain_range(values)[1] and _are_whole(values):
        strings = concat(_to_strings(int(low) + np.arange(int(high - low) + 1)), ".0")
        return _lookup(values, lambda rows: np.isnan(values[rows]), int(low), strings, null)
    return Strings(lambda rows: _format_floats(values[rows], null))


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
) -> Lookup:
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

    return Lookup(strings if missing is None else pa.concat_arrays([strings, string_array([null])]), codes)


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
        strings = concat(strings, string_array(["", ".0"]).take(pa.array((whole & ~differs).astype(np.int8))))
    if differs.any():
        strings = pc.replace_with_mask(
            strings, pa.array(differs), string_array(values[differs].astype(str).tolist())
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
    text = content(strings).tobytes()
    # One search through all of the text is far cheaper than one per string.
    if any(character in text for character in (b",", b'"', b"\n", b"\r")):
        special = pc.match_substring_regex(strings, '[,"\r\n]')
        quoted = concat('"', pc.replace_substring(strings.filter(special), '"', '""'), '"')
        strings = pc.replace_with_mask(strings, special, quoted)
    return pc.if_else(pc.equal(strings, ""), null, strings) if null else strings


def _format_with_pandas(column: pd.Series[Any], null: str, chunk: int) -> Strings:
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
            text = part.to_csv(index=False, header=False, lineterminator=end, chunksize=chunk)
            values = text.split(end)[:-1]
        try:
            return string_array([null if value == '""' else value for value in values])
        except UnicodeEncodeError as error:
            raise _unencodable(column.name, error) from error

    return Strings(strings)


def _unencodable(name: object, error: UnicodeEncodeError) -> UnencodableTextError:
    return UnencodableTextError(
        f"Column {name!r} of the result contains text that UTF-8 cannot encode ({error.reason}). "
        f"Fix it in predict, as in value.encode('utf-8', 'replace').decode()."
    )


def string_array(values: list[str]) -> pa.LargeStringArray:
    """Convert strings to Arrow's."""
    import pyarrow as pa

    return pa.array(values, pa.large_string())


def content(strings: pa.LargeStringArray) -> memoryview:
    """Return the bytes of all strings, one after the other."""
    import numpy as np

    _, offsets, data = strings.buffers()
    if data is None:
        return memoryview(b"")
    start, end = np.frombuffer(offsets, np.int64)[[strings.offset, strings.offset + len(strings)]]
    return memoryview(data)[start:end]


def _to_strings(values: Any, null: str = "") -> pa.LargeStringArray:
    import pyarrow as pa

    strings = pa.array(values).cast(pa.large_string())
    return strings.fill_null(null) if strings.null_count else strings


def concat(*parts: Any) -> pa.LargeStringArray:
    """Concatenate arrays and single strings, row by row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    empty = pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(
        *(pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in parts), empty
    )
