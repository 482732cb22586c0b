"""Write a result as a CSV, Parquet or Feather file."""

# ruff: noqa: PLC0415  pyarrow is imported in functions, as in reading.py

from __future__ import annotations

from typing import TYPE_CHECKING

from .csv_columns import UnencodableTextError
from .csv_writer import write_csv
from .file_types import FileType, one_line

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

__all__ = ["UnwritableResultError", "write_frame"]

_FEATHER_BATCH_ROWS = 1 << 16  # like pyarrow.feather


class UnwritableResultError(Exception):
    """A result contains a value that its file type cannot store; the message names the column and a fix."""


def write_frame(frame: pd.DataFrame, path: Path, file_type: FileType, *, threads: int = 1) -> None:
    """Write a result without its index.

    CSV output is identical to that of ``DataFrame.to_csv(index=False)``, several times faster, except that a carriage
    return is always quoted, while in older Pythons it would end the row. Parquet and Feather use pyarrow's default
    compressions (snappy, lz4) and the metadata from which pandas restores the dtypes.

    Args:
        frame: The return value of ``as_result_frame``.
        path: The file to write; an existing one is replaced. After an error its content is undefined.
        file_type: The type to write.
        threads: The maximum number of threads that render CSV rows.

    Raises:
        UnwritableResultError: The file type cannot store a value.
        OSError: The disk is full, or failed otherwise.
    """
    if file_type is FileType.CSV:
        try:
            write_csv(frame, path, threads=threads)
        except UnencodableTextError as error:
            raise UnwritableResultError(str(error)) from error
        return
    import pyarrow as pa
    from pyarrow import parquet

    table = _as_table(frame, file_type)
    try:
        # Given a path, both writers would delete the file there when they fail.
        with pa.OSFile(str(path), "wb") as sink:
            if file_type is FileType.PARQUET:
                parquet.write_table(table, sink)
            else:
                _write_feather(table, sink)
    except pa.ArrowException as error:
        raise UnwritableResultError(
            f"The result cannot be written as {file_type.value}: {one_line(error)}"
        ) from error


def _write_feather(table: pa.Table, sink: pa.NativeFile) -> None:
    """Write a table as ``pyarrow.feather`` does, but in batches of equal length, whatever the table's chunks are.

    A frame read from many batches has as many chunks of strings. Written as they are, small batches cost several times
    more, also when read. Combining the chunks of one batch at a time needs little memory.
    """
    import pyarrow as pa

    table = table.unify_dictionaries()  # a file has one dictionary per column
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        for start in range(0, len(table), _FEATHER_BATCH_ROWS):
            writer.write_table(table.slice(start, _FEATHER_BATCH_ROWS).combine_chunks())


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
                    f"Convert its values to one type in predict, as in result[{name!r}].astype(str)."
                ) from column_error
        raise UnwritableResultError(
            f"The result cannot be written as {file_type.value}: {one_line(error)}"
        ) from error
