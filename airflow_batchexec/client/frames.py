"""A frame as files of some rows each, and the frame that their results make.

The files hold the columns alone: what ``predict`` gets is the frame's rows under a plain numbering, and the frame's own
index is put back onto the results where each row has one.
"""

# ruff: noqa: PLC0415  pandas and pyarrow are imported where a frame is used: the client must not load them

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

__all__ = ["join_results", "split_frame", "whole_batch_size"]


def whole_batch_size(value: Any) -> int:
    """A number of rows.

    Raises:
        ConfigurationError: It is no whole number above 0.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigurationError(
            f"batch_size: {value!r} is no number of rows; write a whole number above 0.", field="batch_size"
        )
    return number


def split_frame(df: pd.DataFrame, batch_size: int, folder: Path, file_type: FileType) -> list[Path]:
    """Write a frame into files, in its order; one without rows is one file without rows.

    Args:
        df: The frame; it is not changed.
        batch_size: How many rows each file has; the last may have fewer.
        folder: Where to; it exists.
        file_type: What to write.

    Raises:
        ConfigurationError: It is no frame, it has no columns, names that are no texts or not unique, or values that
            such a file cannot hold.
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
                f"df: {_unwritable_column(part, path, file_type)} cannot be written as {file_type.value}. Give its "
                f"values one type that such a file has, for example by astype(str).",
                field="df",
            ) from error
        paths.append(path)
    return paths


def join_results(
    df: pd.DataFrame, batch_size: int, results: Sequence[Path], file_type: FileType
) -> pd.DataFrame:
    """The results of a frame's files as one frame, in the frame's order.

    Its index is the frame's where each file has given as many rows as it had, else a new numbering.

    Args:
        df: The frame that was split.
        batch_size: How many rows each file had.
        results: The result of each file.
        file_type: What they are.

    Raises:
        ResultError: A result cannot be read, or has other columns than the first.
    """
    import pandas as pd

    frames = [_read(path, file_type) for path in results]
    columns = list(frames[0].columns)
    for path, frame in zip(results, frames, strict=True):
        if set(frame.columns) != set(columns):
            raise ResultError(
                f"{path.name}: predict gave the columns {_listed(frame.columns)}, and for {results[0].name} "
                f"{_listed(columns)}. One frame needs the same columns for every batch.",
                file=path.name,
            )
    sizes = [min(batch_size, len(df) - start) for start in range(0, max(len(df), 1), batch_size)]
    # A column without values may have lost its type in the file.
    with_rows = [frame for frame in frames if len(frame)] or frames[:1]
    joined = pd.concat(_with_common_categories(with_rows), ignore_index=True)[columns]
    if [len(frame) for frame in frames] == sizes:
        joined.index = df.index
    return joined


def _check_columns(df: Any) -> None:
    import pandas as pd

    if not isinstance(df, pd.DataFrame):
        raise ConfigurationError(f"df: a DataFrame is needed, not a {type(df).__name__}.", field="df")
    if not len(df.columns):
        raise ConfigurationError("df: it has no columns.", field="df")
    others = [name for name in df.columns if not isinstance(name, str)]
    if others:
        raise ConfigurationError(
            f"df: the column name {others[0]!r} is no text. Files have texts as names: df.rename(columns=str).",
            field="df",
        )
    twice = list(df.columns[df.columns.duplicated()].unique())
    if twice:
        raise ConfigurationError(f"df: there are several columns called {_listed(twice)}.", field="df")


def _unwritable_column(part: pd.DataFrame, path: Path, file_type: FileType) -> str:
    for name in part.columns:
        try:
            write_frame(part[[name]], path, file_type)
        except UnwritableResultError:
            return f"column {name!r}"
    return "it"


def _read(path: Path, file_type: FileType) -> pd.DataFrame:
    try:
        return read_frame(path, file_type, name=path.name)
    except UnreadableFileError as error:
        raise ResultError(f"{path.name}: the result cannot be read: {error}", file=path.name) from error


def _with_common_categories(frames: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """The frames with the same categories wherever a column has some everywhere: else joining would lose the type.

    A file keeps of its categories what its rows use.
    """
    import pandas as pd

    for name in frames[0].columns:
        columns = [frame[name] for frame in frames]
        if not all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
            continue
        if len({column.dtype for column in columns}) == 1 or any(column.cat.ordered for column in columns):
            continue
        # Those of a file without values are of no type in particular.
        used = [column.cat.categories for column in columns if len(column.cat.categories)]
        if len({categories.dtype for categories in used}) == 1:
            common = used[0].append(used[1:]).unique()
            frames = [frame.assign(**{name: frame[name].cat.set_categories(common)}) for frame in frames]
    return frames


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))
