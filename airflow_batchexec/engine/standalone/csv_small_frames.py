"""Render the rows of a small frame as CSV, for which the number of calls matters more than that of values."""

# ruff: noqa: PLC0415  pandas, NumPy and pyarrow are imported in functions, as in reading.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .csv_columns import Lookup, content, encode_column

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import pandas as pd
    import pyarrow as pa

__all__ = ["render_small_frame"]


def render_small_frame(frame: pd.DataFrame, *, null: str) -> memoryview:
    """Render all rows of a frame, which has at least one row and one column, to the bytes of the file.

    Args:
        frame: The frame; ``to_csv`` would format it in one chunk.
        null: What a missing value is written as.

    Raises:
        UnencodableTextError: A string cannot be encoded in UTF-8.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    comma, line_end, nothing = (pa.scalar(text, pa.large_string()) for text in (",", "\n", ""))
    rows = pc.binary_join_element_wise(*_encode_columns(frame, null), comma)
    return content(pc.binary_join_element_wise(rows, nothing, line_end))


def _encode_columns(frame: pd.DataFrame, null: str) -> Iterable[pa.LargeStringArray]:
    """Encode all columns; those of numbers of one type together."""
    import numpy as np
    import pandas as pd

    encoded: dict[int, pa.LargeStringArray] = {}
    numbers: dict[np.dtype[Any], dict[int, np.ndarray[Any, Any]]] = {}
    for position, (_, column) in enumerate(frame.items()):
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
            numbers.setdefault(column.dtype, {})[position] = column.to_numpy()
        else:
            encoded[position] = _encode_column(column, null)
    for group in numbers.values():
        strings = _encode_column(pd.Series(np.concatenate(list(group.values()))), null)
        for number, position in enumerate(group):
            encoded[position] = strings.slice(number * len(frame), len(frame))
    return (encoded[position] for position in range(frame.shape[1]))


def _encode_column(column: pd.Series[Any], null: str) -> pa.LargeStringArray:
    import pyarrow as pa

    # A table of strings would cost more than it saves.
    part = encode_column(column, null=null, limit=0, chunk=len(column))
    rows = slice(0, len(column))
    return part.strings.take(pa.array(part.codes(rows))) if isinstance(part, Lookup) else part.strings(rows)
