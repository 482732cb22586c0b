"""Packed values: what is packed is read as it was, and nothing else is."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.journal.packing import (
    pack,
    pack_entries,
    pack_in_rows,
    unpack,
    unpack_entries,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values.filter(lambda value: isinstance(value, (list, dict))))
def test_packed_values_round_trip(value):
    text = pack(value)
    assert text.isascii()
    assert repr(unpack(text)) == repr(value)


@given(st.lists(st.text(), max_size=200), st.integers(50, 400))
def test_a_long_list_is_packed_in_ordered_rows_of_limited_size(items, limit):
    rows = pack_in_rows(items, max_bytes=limit)
    assert [item for row in rows for item in unpack(row)] == items
    assert all(len(row) <= limit or len(unpack(row)) == 1 for row in rows)


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        base64.b64encode(b"not zlib").decode(),
        pack(["cut"])[:8],
        base64.b64encode(zlib.compress(b" " * (65 * 1024**2))).decode(),
        base64.b64encode(zlib.compress(b"not json")).decode(),
    ],
    ids=["base64", "zlib", "cut", "too large", "json"],
)
def test_invalid_packed_values_are_refused(text):
    with pytest.raises(ValueError):
        unpack(text)


@given(st.lists(st.dictionaries(st.text(), st.text()), max_size=40))
def test_rows_of_entries_round_trip(entries):
    row = pack_entries(entries)
    assert unpack_entries(json.loads(json.dumps(row))) == entries


def test_a_short_row_of_entries_stays_readable_and_a_long_one_becomes_small():
    entries = [{"kind": "started", "file": f"{number}.csv"} for number in range(500)]
    assert pack_entries(entries[:5]) == entries[:5]
    assert len(pack_entries(entries)) < len(json.dumps(entries)) / 5


@pytest.mark.parametrize("row", [None, 3, {"kind": "started"}, "not base64!", pack({"kind": "started"})])
def test_what_is_not_a_row_of_entries_has_none(row):
    assert unpack_entries(row) == []
