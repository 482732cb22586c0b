"""CSV, Parquet and Feather: which names they go by, how a file becomes a frame, and a result a file.

This file runs in two places. The parent (an Airflow task, the command line) needs only names and suffixes, so pandas
and pyarrow are imported where they are used and never with the module. The pod's worker loads the file by its path
into the model's own interpreter, which has the standard library, pandas (2.2 or later) and pyarrow but not this
package; so nothing of the package is imported, and the errors are defined here.
"""

# ruff: noqa: PLC0415  pandas, NumPy and pyarrow are imported where they are used: the parent must not load them

from __future__ import annotations

import codecs
import gzip
import math
import warnings
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "SUFFIXES",
    "FileType",
    "NotAResultError",
    "UnreadableFileError",
    "UnwritableResultError",
    "as_result_frame",
    "match_suffix",
    "read_frame",
    "result_name",
    "write_frame",
]

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class UnreadableFileError(Exception):
    """An input file is not what its type says; the message is one sentence that names the file."""


class NotAResultError(Exception):
    """``predict`` returned something that cannot become rows of a result; the message says what."""


class UnwritableResultError(Exception):
    """A result holds a value that its file type cannot hold; the message names the column and a way out."""


class FileType(str, Enum):
    """The kinds of files that an execution reads and writes."""

    CSV = "CSV"
    PARQUET = "PARQUET"
    FEATHER = "FEATHER"

    @classmethod
    def parse(cls, text: str) -> FileType:
        """The type of this name, in any case.

        Raises:
            ValueError: There is no such type; the message names those there are.
        """
        try:
            return cls(text.strip().upper())
        except ValueError:
            allowed = ", ".join(file_type.value for file_type in cls)
            raise ValueError(f"{text!r} is no file type; the file types are {allowed}.") from None


#: The suffixes of each type. Results get the first; an input may have any, in any case.
SUFFIXES: dict[FileType, tuple[str, ...]] = {
    FileType.CSV: (".csv", ".csv.gz", ".csv.zst"),
    FileType.PARQUET: (".parquet", ".pq"),
    FileType.FEATHER: (".feather", ".ftr"),
}


def match_suffix(name: str, file_type: FileType) -> str | None:
    """The suffix that makes ``name`` a file of this type, spelled as in the name; ``None`` where it is none.

    A name that is nothing but a suffix, such as ``.csv``, is a hidden file and matches nothing.
    """
    base = name.rpartition("/")[2]
    for suffix in SUFFIXES[file_type]:
        if len(base) > len(suffix) and base.lower().endswith(suffix):
            return base[-len(suffix) :]
    return None


def result_name(input_relative_path: str, input_type: FileType, output_type: FileType) -> str:
    """The relative path of an input's result: the same, with the output type's first suffix.

    Raises:
        ValueError: The input's name has no suffix of its type.
    """
    suffix = match_suffix(input_relative_path, input_type)
    if suffix is None:
        raise ValueError(f"{input_relative_path!r} has no suffix of a {input_type.value} file.")
    return input_relative_path[: -len(suffix)] + SUFFIXES[output_type][0]


# ---- reading


def read_frame(path: Path, file_type: FileType, *, name: str, threads: int = 1) -> pd.DataFrame:
    """The frame that pandas' reader of this type, without options, gives for the file.

    Only the file's content and ``name`` decide, never the path: a scratch file may be called anything, and a folder
    called ``day=3`` adds no column to a Parquet file in it.

    Args:
        path: The file on this machine's disk.
        file_type: What it should be.
        name: The name to show; for CSV, its suffix tells the compression.
        threads: How many threads may parse a CSV file, where this pandas can use several.

    Raises:
        UnreadableFileError: The file is empty, truncated, malformed, or of another type.
        OSError: The disk failed, or the file is not there.
    """
    import pyarrow as pa

    if path.stat().st_size == 0:
        raise UnreadableFileError(f"{name} is empty (0 bytes).")
    read = {FileType.CSV: _read_csv, FileType.PARQUET: _read_parquet, FileType.FEATHER: _read_feather}[
        file_type
    ]
    try:
        return read(path, name, threads)
    except UnicodeDecodeError:
        raise UnreadableFileError(_describe_bad_encoding(path, name)) from None
    except (ValueError, OverflowError, EOFError, zlib.error, pa.ArrowException) as error:
        raise UnreadableFileError(
            f"{name} cannot be read as {file_type.value}: {_one_line(error)}"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Decompressors and Arrow report damaged content as an OSError without a number.
        raise UnreadableFileError(
            f"{name} cannot be read as {file_type.value}: {_one_line(error)}"
        ) from error


def _read_csv(path: Path, name: str, threads: int) -> pd.DataFrame:
    import pandas as pd

    # The parallel reader came with pandas 3.1; it gives what the serial one does.
    option = ("mode.max_threads", threads) if hasattr(pd.options.mode, "max_threads") else ()
    compression = _csv_compression(name)
    with warnings.catch_warnings(), pd.option_context(*option):
        # A column of mixed types is a frame like any other; the model decides what it makes of it.
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)
        try:
            if compression == "zstd":
                with _open_csv(path, name) as stream:
                    return pd.read_csv(stream)
            return pd.read_csv(path, compression=compression)
        except pd.errors.EmptyDataError:
            raise UnreadableFileError(f"{name} has no header: it holds nothing but blank lines.") from None
        except pd.errors.ParserError as error:
            reason = _one_line(error).removeprefix("Error tokenizing data. C error: ")
            raise UnreadableFileError(f"{name} is not well-formed CSV: {reason}") from error
        except EOFError:
            raise UnreadableFileError(f"{name} is truncated: its gzip stream has no end.") from None


def _csv_compression(name: str) -> Literal["gzip", "zstd"] | None:
    lowered = name.lower()
    return "gzip" if lowered.endswith(".gz") else "zstd" if lowered.endswith(".zst") else None


def _open_csv(path: Path, name: str) -> BinaryIO:
    """The decompressed bytes of a CSV file."""
    compression = _csv_compression(name)
    if compression == "zstd":
        import pyarrow as pa

        # pandas would need the zstandard package; pyarrow brings its own.
        return cast("BinaryIO", pa.input_stream(str(path), compression="zstd"))
    return cast("BinaryIO", gzip.open(path)) if compression == "gzip" else path.open("rb")


def _describe_bad_encoding(path: Path, name: str) -> str:
    """Say where the text stops being UTF-8: pandas knows only the place within its buffer."""
    with path.open("rb") as file:
        if _csv_compression(name) is None and file.read(2) == b"\x1f\x8b":
            return f"{name} is compressed with gzip; its name has to end in .csv.gz."
    offset, line = 0, 1
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _open_csv(path, name) as stream:
        while True:
            block = stream.read(1 << 20)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += block[: max(error.start - pending, 0)].count(b"\n")
                return (
                    f"{name} is not encoded in UTF-8: byte 0x{error.object[error.start]:02x} at offset "
                    f"{offset - pending + error.start}, line {line}."
                )
            if not block:
                return f"{name} is not encoded in UTF-8."
            offset += len(block)
            line += block.count(b"\n")


def _read_parquet(path: Path, name: str, threads: int) -> pd.DataFrame:
    import pandas as pd

    del threads  # Arrow's own pool reads, capped by the pod's environment
    _check_signature(path, name, FileType.PARQUET, starts=(b"PAR1", b"PARE"), ends=(b"PAR1", b"PARE"))
    # An open file has no folder from which partition columns could be inferred.
    with path.open("rb") as file:
        return pd.read_parquet(file, engine="pyarrow")


def _read_feather(path: Path, name: str, threads: int) -> pd.DataFrame:
    import pandas as pd

    del threads  # as for Parquet
    _check_signature(path, name, FileType.FEATHER, starts=(b"ARROW1", b"FEA1"), ends=(b"ARROW1", b"FEA1"))
    return pd.read_feather(path)


def _check_signature(
    path: Path, name: str, file_type: FileType, *, starts: tuple[bytes, ...], ends: tuple[bytes, ...]
) -> None:
    """Tell a truncated file from one of another type: the readers' own errors do not."""
    length = max(map(len, starts + ends))
    with path.open("rb") as file:
        head = file.read(length)
        file.seek(max(path.stat().st_size - length, 0))
        tail = file.read()
    if not head.startswith(starts):
        raise UnreadableFileError(f"{name} is no {file_type.value} file: it starts with {head!r}.")
    if not tail.endswith(ends):
        raise UnreadableFileError(f"{name} is truncated: the end of the {file_type.value} file is missing.")


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".") if lines else type(error).__name__
    return text + "."


# ---- results


def as_result_frame(value: object) -> pd.DataFrame:
    """What ``predict`` returned, as the frame to be written. ``value`` is not changed.

    ====================================  ==========================================================
    ``predict`` returned                  columns
    ====================================  ==========================================================
    DataFrame                             its own
    Series                                one, of the series' name or ``prediction``
    one-dimensional array, list of values ``prediction``
    two-dimensional array, list of rows   ``prediction_0``, ``prediction_1``, …
    list of dicts with the same keys      the keys
    ====================================  ==========================================================

    The index becomes leading columns where it says something: where it has a name that is no column's, has several
    levels, or is not of integers. A plain numbering, or what filtering left of one, is dropped. Names become text.

    Raises:
        NotAResultError: It is something else, its rows differ in length, or two columns have one name.
    """
    import numpy as np
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        frame = value.copy(deep=False)
    elif isinstance(value, pd.Series):
        frame = value.to_frame("prediction" if value.name is None else value.name)
    elif isinstance(value, np.ndarray):
        frame = _array_frame(value)
    elif isinstance(value, list):
        frame = _list_frame(value)
    else:
        kind = type(value)
        kind_name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise NotAResultError(
            f"predict returned {kind_name}; a DataFrame, a Series, a NumPy array or a list is needed."
        )
    frame.columns = pd.Index([str(column) for column in frame.columns], dtype=object)
    frame = _with_meaningful_index(frame)
    duplicates = sorted(set(frame.columns[frame.columns.duplicated()]))
    if duplicates:
        raise NotAResultError(f"predict returned several columns called {', '.join(map(repr, duplicates))}.")
    return frame


def _array_frame(array: np.ndarray[Any, Any]) -> pd.DataFrame:
    import pandas as pd

    if array.dtype.kind == "V":
        raise NotAResultError("predict returned a structured NumPy array; make it a DataFrame.")
    if array.ndim == 1:
        return pd.DataFrame(array, columns=["prediction"])
    if array.ndim == 2:  # noqa: PLR2004  rows and columns
        return pd.DataFrame(array, columns=_numbered(array.shape[1]))
    raise NotAResultError(
        f"predict returned a NumPy array of shape {array.shape}; one or two dimensions are needed."
    )


def _list_frame(rows: list[Any]) -> pd.DataFrame:
    import pandas as pd

    kinds = [_kind_of_row(row) for row in rows]
    for number, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        if kind is None:
            raise NotAResultError(
                f"predict returned a list whose item {number} is of type {type(row).__name__}; "
                f"values, lists or dicts are needed."
            )
        if kind != kinds[0]:
            raise NotAResultError(
                f"predict returned a list of unequal items: item 0 is {kinds[0]}, item {number} is {kind}."
            )
    if not rows or kinds[0] == "a value":
        return pd.DataFrame({"prediction": rows})
    if isinstance(rows[0], dict):
        return pd.DataFrame(rows)
    return pd.DataFrame([list(row) for row in rows], columns=_numbered(len(rows[0])))


def _kind_of_row(row: object) -> str | None:
    """What an item of a list is; the items of one result are all of one kind."""
    import numpy as np
    import pandas as pd

    if isinstance(row, dict):
        return f"a dict of {sorted(map(str, row))}"
    if isinstance(row, list | tuple) or (isinstance(row, np.ndarray) and row.ndim == 1):
        return f"a row of {len(row)}"
    return "a value" if pd.api.types.is_scalar(row) else None


def _numbered(count: int) -> list[str]:
    return [f"prediction_{number}" for number in range(count)]


def _with_meaningful_index(frame: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    index = frame.index
    levels = [index.get_level_values(number) for number in range(index.nlevels)]
    several = index.nlevels > 1
    kept: dict[str, Any] = {}
    for number, level in enumerate(levels):
        if level.name is None:
            # An index of no rows has no values that could mean something, whatever its type.
            if not several and (pd.api.types.is_integer_dtype(level.dtype) or not len(level)):
                continue
            name = f"level_{number}" if several or "index" in frame.columns else "index"
        else:
            name = str(level.name)
        if level.name is None or (name not in frame.columns and name not in kept):
            kept[name] = level
    result = frame.reset_index(drop=True)
    for position, (name, level) in enumerate(kept.items()):
        result.insert(position, name, level.array, allow_duplicates=True)
    return result


# ---- writing


def write_frame(frame: pd.DataFrame, path: Path, file_type: FileType, *, threads: int = 1) -> None:
    """Write a result without its index.

    CSV has the very text that ``DataFrame.to_csv(index=False)`` gives, several times faster; but a carriage return is
    always quoted, where older Pythons would let it end the row. Parquet and Feather have pyarrow's default
    compressions (snappy, lz4) and the metadata by which pandas restores the dtypes.

    Args:
        frame: What ``as_result_frame`` returned.
        path: Where to; an existing file is replaced. On an error what is there is worthless.
        file_type: What to write.
        threads: How many threads may turn rows into text.

    Raises:
        UnwritableResultError: The file type cannot hold a value.
        OSError: The disk is full, or fails otherwise.
    """
    if file_type is FileType.CSV:
        _write_csv(frame, path, threads)
        return
    import pyarrow as pa
    from pyarrow import feather, parquet

    table = _as_table(frame, file_type)
    try:
        # Given a path, both writers would delete whatever lies there when they fail.
        with pa.OSFile(str(path), "wb") as sink:
            if file_type is FileType.PARQUET:
                parquet.write_table(table, sink)
            else:
                feather.write_feather(table, sink)
    except pa.ArrowException as error:
        raise UnwritableResultError(
            f"The result cannot be written as {file_type.value}: {_one_line(error)}"
        ) from error


def _as_table(frame: pd.DataFrame, file_type: FileType) -> pa.Table:
    import pyarrow as pa

    failures = (pa.ArrowException, TypeError, ValueError, OverflowError)
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except failures as error:
        for name in frame.columns:
            try:
                pa.Table.from_pandas(frame[[name]], preserve_index=False)
            except failures as column_error:
                reason = column_error.args[0] if column_error.args else column_error
                raise UnwritableResultError(
                    f"Column {name!r} of the result cannot be written as {file_type.value}: {reason}. "
                    f"Give all its values one type in predict, as in result[{name!r}].astype(str)."
                ) from column_error
        raise UnwritableResultError(
            f"The result cannot be written as {file_type.value}: {_one_line(error)}"
        ) from error


# ---- writing CSV
#
# DataFrame.to_csv makes a Python object of every value. Here each column is a sequence of texts that Arrow gathers,
# and the texts of a slice of rows, gathered row by row, lie in memory as the file's very bytes. A column of few
# different values is a table of texts and a code for each row; commas and line ends are tables of one text, and
# neighbouring tables are merged while they stay small: fewer texts to gather for each row.

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


def _write_csv(frame: pd.DataFrame, path: Path, threads: int) -> None:
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

    parts: list[_Lookup | _Text] = []
    group: list[_Lookup] = []
    for position, part in enumerate(_in_order(encode, [column for _, column in frame.items()], threads)):
        for piece in (part, _Lookup(_texts(["," if position < columns - 1 else "\n"]), lambda _: 0)):
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
    return (1e-4, 1e10) if values.dtype.itemsize == 8 else (1e-3, 1e7)  # noqa: PLR2004  the bytes of a double


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


def _unencodable(name: object, error: UnicodeEncodeError) -> UnwritableResultError:
    return UnwritableResultError(
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
