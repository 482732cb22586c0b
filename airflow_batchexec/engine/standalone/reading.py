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
import importlib.util
import sys
import warnings
import zlib
from contextlib import nullcontext
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

if TYPE_CHECKING:
    from types import ModuleType

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
    "told_type",
    "write_frame",
]


class UnreadableFileError(Exception):
    """An input file is not what its type says; the message is one sentence that names the file."""


class NotAResultError(Exception):
    """``predict`` returned something that cannot become rows of a result; the message says what."""


class UnwritableResultError(Exception):
    """A result holds a value that its file type cannot hold; the message names the column and a way out."""


class FileType(StrEnum):
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


def told_type(name: str) -> FileType | None:
    """The type that a name's suffix tells; ``None`` where it tells none."""
    return next((file_type for file_type in FileType if match_suffix(name, file_type)), None)


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
    parallel = hasattr(pd.options.mode, "max_threads")
    option = pd.option_context("mode.max_threads", threads) if parallel else nullcontext()
    compression = _csv_compression(name)
    with warnings.catch_warnings(), option:
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
        writer = _csv_writer()
        try:
            writer.write_csv(frame, path, threads=threads)
        except writer.UnencodableTextError as error:
            raise UnwritableResultError(str(error)) from error
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


@cache
def _csv_writer() -> ModuleType:
    """The file beside this one, by its path: this one may have been loaded without its package."""
    spec = importlib.util.spec_from_file_location(
        "batchexec_csv_writer", Path(__file__).with_name("csv_writer.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


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
