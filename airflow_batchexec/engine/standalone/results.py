"""Convert the return value of ``predict`` to the DataFrame to write."""

# ruff: noqa: PLC0415  NumPy and pandas are imported in functions, as in reading.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["InvalidResultError", "as_result_frame"]


class InvalidResultError(Exception):
    """``predict`` returned something that cannot be converted to rows; the message says what."""


def as_result_frame(value: object) -> pd.DataFrame:
    """Convert the return value of ``predict`` to the frame to write. ``value`` is not modified.

    ====================================  ==========================================================
    ``predict`` returned                  columns
    ====================================  ==========================================================
    DataFrame                             its own
    Series                                one, named after the series or ``prediction``
    one-dimensional array, list of values ``prediction``
    two-dimensional array, list of rows   ``prediction_0``, ``prediction_1``, …
    list of dicts with the same keys      the keys
    ====================================  ==========================================================

    The index becomes leading columns if it is meaningful: if it has a name that no column has, has several levels, or
    does not consist of integers. A default index, or what filtering left of one, is dropped. Column names are converted
    to strings.

    Raises:
        InvalidResultError: ``value`` has another type, its rows differ in length, or two columns have the same name.
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
        cls = type(value)
        type_name = cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"
        raise InvalidResultError(
            f"predict returned {type_name}; expected a DataFrame, a Series, a NumPy array or a list."
        )
    frame.columns = pd.Index([str(column) for column in frame.columns], dtype=object)
    _keep_meaningful_index(frame)
    if not frame.columns.is_unique:
        duplicates = sorted(set(frame.columns[frame.columns.duplicated()]))
        raise InvalidResultError(
            f"predict returned several columns named {', '.join(map(repr, duplicates))}."
        )
    return frame


def _array_frame(array: np.ndarray[Any, Any]) -> pd.DataFrame:
    import pandas as pd

    if array.dtype.kind == "V":
        raise InvalidResultError("predict returned a structured NumPy array; convert it to a DataFrame.")
    if array.ndim == 1:
        return pd.DataFrame(array, columns=["prediction"])
    if array.ndim == 2:  # noqa: PLR2004  rows and columns
        return pd.DataFrame(array, columns=_numbered_columns(array.shape[1]))
    raise InvalidResultError(
        f"predict returned a NumPy array of shape {array.shape}; expected one or two dimensions."
    )


def _list_frame(rows: list[Any]) -> pd.DataFrame:
    import pandas as pd

    kinds = [_row_kind(row) for row in rows]
    for number, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        if kind is None:
            raise InvalidResultError(
                f"predict returned a list whose item {number} is of type {type(row).__name__}; "
                f"expected values, lists or dicts."
            )
        if kind != kinds[0]:
            raise InvalidResultError(
                f"predict returned a list of mixed items: item 0 is {kinds[0]}, item {number} is {kind}."
            )
    if not rows or kinds[0] == "a value":
        return pd.DataFrame({"prediction": rows})
    if isinstance(rows[0], dict):
        return pd.DataFrame(rows)
    return pd.DataFrame([list(row) for row in rows], columns=_numbered_columns(len(rows[0])))


def _row_kind(row: object) -> str | None:
    """Describe an item of a list, ``None`` if it is not supported; all items of a list must be of the same kind."""
    import numpy as np
    import pandas as pd

    if isinstance(row, dict):
        return f"a dict of {sorted(map(str, row))}"
    if isinstance(row, list | tuple) or (isinstance(row, np.ndarray) and row.ndim == 1):
        return f"a row of {len(row)}"
    return "a value" if pd.api.types.is_scalar(row) else None


def _numbered_columns(count: int) -> list[str]:
    return [f"prediction_{number}" for number in range(count)]


def _keep_meaningful_index(frame: pd.DataFrame) -> None:
    """Replace the index by a default one, and insert its meaningful levels as columns."""
    import pandas as pd

    index = frame.index
    levels = [index.get_level_values(number) for number in range(index.nlevels)]
    is_multi = index.nlevels > 1
    kept: dict[str, Any] = {}
    for number, level in enumerate(levels):
        if level.name is None:
            # An empty index has no meaningful values, whatever its type.
            if not is_multi and (pd.api.types.is_integer_dtype(level.dtype) or not len(level)):
                continue
            name = f"level_{number}" if is_multi or "index" in frame.columns else "index"
        else:
            name = str(level.name)
        if level.name is None or (name not in frame.columns and name not in kept):
            kept[name] = level
    frame.index = pd.RangeIndex(len(frame))
    for position, (name, level) in enumerate(kept.items()):
        frame.insert(position, name, level.array, allow_duplicates=True)
