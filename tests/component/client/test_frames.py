"""Frames survive a round trip through files, whatever their values, index and batch size."""

from __future__ import annotations

import string
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_batchexec.client.frames import check_batch_size, join_results, split_frame
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.engine.standalone.reading import read_frame
from airflow_batchexec.engine.standalone.results import as_result_frame
from airflow_batchexec.engine.standalone.writing import write_frame
from airflow_batchexec.exceptions import ConfigurationError, ResultError

# A file without values does not preserve the type of its categories.
COLORS = {"category": pd.CategoricalDtype(["red", "green"])}
TYPED = [FileType.PARQUET, FileType.FEATHER]

columns = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(),
    "bool": st.booleans(),
    "str": st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    "Int64": st.none() | st.integers(-(2**63), 2**63 - 1),
    "category": st.sampled_from(["red", "green", None]),
    "datetime64[ns]": st.integers(-(2**62), 2**62).map(pd.Timestamp),
    "datetime64[ns, Europe/Berlin]": st.integers(0, 2**61).map(lambda n: pd.Timestamp(n, tz="Europe/Berlin")),
    "timedelta64[ns]": st.integers(-(2**62), 2**62).map(pd.Timedelta),
}
index_values = [
    st.integers(-10, 10),
    st.text(string.ascii_letters),
    st.floats(allow_nan=False),
    st.integers(0, 2**60).map(pd.Timestamp),
    st.tuples(st.integers(0, 3), st.text(string.ascii_letters, min_size=1)),
]


@st.composite
def frames(draw):
    rows = draw(st.integers(0, 12))
    names = draw(st.lists(st.text(string.ascii_letters, min_size=1), min_size=1, max_size=4, unique=True))
    types = [draw(st.sampled_from(sorted(columns))) for _ in names]
    data = {
        name: pd.Series(
            draw(st.lists(columns[kind], min_size=rows, max_size=rows)), dtype=COLORS.get(kind, kind)
        )
        for name, kind in zip(names, types, strict=True)
    }
    frame = pd.DataFrame(data)
    index = draw(st.none() | st.sampled_from(index_values))
    if index is not None and rows:
        values = draw(st.lists(index, min_size=rows, max_size=rows))
        frame.index = pd.MultiIndex.from_tuples(values) if isinstance(values[0], tuple) else pd.Index(values)
        frame.index.names = [draw(st.none() | st.just("key")), *frame.index.names[1:]]
    return frame


def through_files(df, batch_size, file_type, predict=lambda part: part):
    """Process the frame's files as a pod would; return the joined results, and the input of each ``predict`` call."""
    got = []
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for path in split_frame(df, batch_size, Path(folder), file_type):
            got.append(read_frame(path, file_type, name=path.name))
            results.append(path.with_name(f"result-{path.name}"))
            write_frame(as_result_frame(predict(got[-1])), results[-1], file_type)
        return join_results(df, batch_size, results, file_type), got


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames(), st.integers(1, 15), st.sampled_from(TYPED))
def test_order_index_and_types_survive_a_round_trip(df, batch_size, file_type):
    before = df.copy(deep=True)
    joined, got = through_files(df, batch_size, file_type)
    pd.testing.assert_frame_equal(df, before)
    pd.testing.assert_index_equal(joined.index, df.index, exact="equiv")
    # Without rows, a Parquet file does not even record that a column is categorical.
    pd.testing.assert_frame_equal(
        joined, df, check_index_type=False, check_categorical=False, check_dtype=len(df) > 0
    )
    assert [len(part) for part in got] == [
        len(df.iloc[start : start + batch_size]) for start in range(0, max(len(df), 1), batch_size)
    ]
    for part in got:
        assert list(part.index) == list(range(len(part)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames(), st.integers(1, 15), st.data())
def test_the_index_is_reset_if_predict_drops_rows(df, batch_size, data):
    keep = data.draw(st.lists(st.booleans(), min_size=len(df), max_size=len(df)))
    numbered = df.reset_index(drop=True).assign(number_of_row=range(len(df)))
    numbered.index = df.index
    kept = set(np.flatnonzero(keep))
    joined, _ = through_files(
        numbered, batch_size, FileType.PARQUET, lambda part: part[part["number_of_row"].isin(kept)]
    )
    assert list(joined["number_of_row"]) == sorted(kept)
    if kept:
        assert joined.dtypes.astype(str).to_dict() == numbered.dtypes.astype(str).to_dict()
    if len(kept) < len(df):
        assert list(joined.index) == list(range(len(kept)))


@pytest.mark.parametrize("file_type", TYPED)
def test_many_batches_stay_in_order(file_type):
    df = pd.DataFrame({"x": range(123)})
    joined, got = through_files(df, 1, file_type)
    assert len(got) == 123
    pd.testing.assert_frame_equal(joined, df)


def test_csv_preserves_plain_numbers_and_strings():
    df = pd.DataFrame({"n": [1, 2, 3], "x": [0.5, np.nan, 2.0], "s": ["a", "b,c", "d"]}, index=list("xyz"))
    joined, _ = through_files(df, 2, FileType.CSV)
    pd.testing.assert_frame_equal(joined, df)


def test_a_column_stays_categorical_if_batches_have_different_categories():
    df = pd.DataFrame({"c": ["a", "b", "c", "a"]})
    joined, _ = through_files(df, 2, FileType.PARQUET, lambda part: part.astype("category"))
    assert joined["c"].dtype == "category"
    assert list(joined["c"]) == ["a", "b", "c", "a"]


def test_batches_may_return_columns_in_different_orders():
    df = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    joined, _ = through_files(
        df, 1, FileType.PARQUET, lambda part: part[["b", "a"]] if part["a"][0] == 2 else part
    )
    pd.testing.assert_frame_equal(joined, df)


def test_different_columns_in_two_batches_are_an_error_that_names_both():
    df = pd.DataFrame({"a": [1, 2]})
    with pytest.raises(
        ResultError,
        match=r"part-00001.parquet: predict returned the columns 'a', 'b', but for .*part-00000.parquet 'a'\.",
    ):
        through_files(df, 1, FileType.PARQUET, lambda part: part.assign(b=1) if part["a"][0] == 2 else part)


@pytest.mark.parametrize("size", [0, -1, 1.5, "3", None, True, float("nan")])
def test_an_invalid_batch_size_is_refused(size):
    with pytest.raises(ConfigurationError, match=r"^batch_size: ") as caught:
        check_batch_size(size)
    assert caught.value.details == {"field": "batch_size"}


def test_a_batch_size_may_be_any_integer_type():
    assert check_batch_size(np.int32(7)) == 7


@pytest.mark.parametrize(
    ("df", "message"),
    [
        ([1, 2], "must be a DataFrame, not list"),
        (pd.Series([1]), "must be a DataFrame, not Series"),
        (pd.DataFrame(index=[1, 2]), "the frame has no columns"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "duplicate column names: 'a'"),
        (pd.DataFrame([[1, 2]]), r"the column name 0 is not a string.*rename\(columns=str\)"),
        (pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])), "is not a string"),
        (pd.DataFrame({"ok": [1, 2], "bad": [1, "one"]}), "column 'bad' cannot be written as PARQUET"),
        (pd.DataFrame({"bad": [1 + 2j]}), "column 'bad' cannot be written"),
    ],
)
def test_an_unsupported_frame_is_refused_with_the_reason(df, message, tmp_path):
    with pytest.raises(ConfigurationError, match=f"^df: .*{message}") as caught:
        split_frame(df, 10, tmp_path, FileType.PARQUET)
    assert caught.value.details == {"field": "df"}
