"""How what ``predict`` returned becomes the frame to be written."""

# ruff: noqa: PLC0415  NumPy and pandas are imported where they are used, as in reading.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["NotAResultError", "as_result_frame"]


class NotAResultError(Exception):
    """``predict`` returned something that cannot become rows of a result; the message says what."""


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
