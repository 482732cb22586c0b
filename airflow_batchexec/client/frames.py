"""Splits a frame into files, and joins their results into one frame.

The files contain only the columns, so ``predict`` sees a default index. The frame's own index is restored on the result
if every row has a result.
"""

# ruff: noqa: PLC0415  importing the client must not load pandas and pyarrow

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.standalone.file_types import SUFFIXES, FileType
from airflow_batchexec.engine.standalone.reading import UnreadableFileError, read_frame
from airflow_batchexec.engine.standalone.writing import UnwritableResultError, write_frame
from airflow_batchexec.exceptions import ConfigurationError, ResultError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

__all__ = ["check_batch_size", "join_results", "split_frame"]


def check_batch_size(value: Any) -> int:
    """Return the batch size as an int.

    Raises:
        ConfigurationError: The batch size is not a positive integer.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigurationError(
            f"batch_size: {value!r} is not a positive number of rows.", field="batch_size"
        )
    return number


def split_frame(df: pd.DataFrame, batch_size: int, folder: Path, file_type: FileType) -> list[Path]:
    """Write a frame into files, in row order. A frame without rows becomes one file without rows.

    Args:
        df: The frame; it is not changed.
        batch_size: The number of rows per file; the last file may have fewer.
        folder: The existing folder to write to.
        file_type: The type of the files.

    Raises:
        ConfigurationError: ``df`` is not a frame, has no columns, has column names that are not unique strings, or has
            values that the file type cannot store.
    """
    _check_columns(df)
    starts = range(0, max(len(df), 1), batch_size)
    digits = max(len(str(len(starts) - 1)), 5)
    paths = []
    for number, start in enumerate(starts):
        path = folder / f"part-{number:0{digits}}{SUFFIXES[file_type][0]}"
        part = df.iloc[start : start + batch_size].reset_index(drop=True)
        try:
            write_frame(part, path, file_type)
        except UnwritableResultError as error:
            raise ConfigurationError(
                f"df: {_unwritable_column(part, path, file_type)} cannot be written as {file_type.value}. "
                f"Convert it to a single type that the file type supports, for example with astype(str).",
                field="df",
            ) from error
        paths.append(path)
    return paths


def join_results(
    df: pd.DataFrame, batch_size: int, results: Sequence[Path], file_type: FileType
) -> pd.DataFrame:
    """Join the results of a frame's files into one frame, in the order of the frame.

    The result has the frame's index if every file produced as many rows as it had, else a default index.

    Args:
        df: The frame that was split.
        batch_size: The number of rows per file.
        results: The result of each file.
        file_type: The type of the results.

    Raises:
        ResultError: A result cannot be read, or its columns differ from those of the first.
    """
    import pandas as pd

    frames = [_read(path, file_type) for path in results]
    columns = list(frames[0].columns)
    for path, frame in zip(results, frames, strict=True):
        if set(frame.columns) != set(columns):
            raise ResultError(
                f"{path.name}: predict returned the columns {_joined(frame.columns)}, but for {results[0].name} "
                f"{_joined(columns)}. It must return the same columns for every batch.",
                file=path.name,
            )
    sizes = [min(batch_size, len(df) - start) for start in range(0, max(len(df), 1), batch_size)]
    # An empty column may have lost its type in the file.
    with_rows = [frame for frame in frames if len(frame)] or frames[:1]
    joined = pd.concat(_with_common_categories(with_rows), ignore_index=True)[columns]
    if [len(frame) for frame in frames] == sizes:
        joined.index = df.index
    return joined


def _check_columns(df: Any) -> None:
    import pandas as pd

    if not isinstance(df, pd.DataFrame):
        raise ConfigurationError(f"df: must be a DataFrame, not {type(df).__name__}.", field="df")
    if not len(df.columns):
        raise ConfigurationError("df: the frame has no columns.", field="df")
    not_strings = [name for name in df.columns if not isinstance(name, str)]
    if not_strings:
        raise ConfigurationError(
            f"df: the column name {not_strings[0]!r} is not a string. Use df.rename(columns=str).",
            field="df",
        )
    duplicates = list(df.columns[df.columns.duplicated()].unique())
    if duplicates:
        raise ConfigurationError(f"df: duplicate column names: {_joined(duplicates)}.", field="df")


def _unwritable_column(part: pd.DataFrame, path: Path, file_type: FileType) -> str:
    for name in part.columns:
        try:
            write_frame(part[[name]], path, file_type)
        except UnwritableResultError:
            return f"column {name!r}"
    return "the frame"


def _read(path: Path, file_type: FileType) -> pd.DataFrame:
    try:
        return read_frame(path, file_type, name=path.name)
    except UnreadableFileError as error:
        raise ResultError(f"{path.name}: the result cannot be read: {error}", file=path.name) from error


def _with_common_categories(frames: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Unify the categories of columns that are categorical in every frame: else joining would lose the type.

    A file only keeps the categories that its rows use.
    """
    import pandas as pd

    for name in frames[0].columns:
        columns = [frame[name] for frame in frames]
        if not all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
            continue
        if len({column.dtype for column in columns}) == 1 or any(column.cat.ordered for column in columns):
            continue
        # A file without values does not preserve the type of its categories.
        used = [column.cat.categories for column in columns if len(column.cat.categories)]
        if len({categories.dtype for categories in used}) == 1:
            common = used[0].append(used[1:]).unique()
            frames = [frame.assign(**{name: frame[name].cat.set_categories(common)}) for frame in frames]
    return frames


def _joined(names: Any) -> str:
    return ", ".join(map(repr, names))
