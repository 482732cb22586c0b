"""Reading and writing files, and converting results."""

from __future__ import annotations

import errno
import gzip
import io
import math
import subprocess
import sys
import warnings
from datetime import UTC, date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from pyarrow import feather

from airflow_batchexec.engine.standalone.file_types import SUFFIXES, FileType, match_suffix, result_name
from airflow_batchexec.engine.standalone.reading import UnreadableFileError, read_frame
from airflow_batchexec.engine.standalone.results import InvalidResultError, as_result_frame
from airflow_batchexec.engine.standalone.writing import UnwritableResultError, write_frame

if TYPE_CHECKING:
    from pathlib import Path

FLIGHTS = pd.DataFrame(
    {
        "carrier": ["UA", "AA", None, "B6"],
        "delay": [11.0, -4.0, float("nan"), 0.25],
        "distance": [1400, 1416, 1089, 1576],
        "late": [True, False, False, True],
    }
)


# ---- names


@pytest.mark.parametrize("text", ["csv", "CSV", "Csv", " csv "])
def test_a_file_type_is_parsed_in_upper_or_lower_case(text):
    assert FileType.parse(text) is FileType.CSV


def test_an_unsupported_file_type_is_refused_with_the_supported_ones():
    with pytest.raises(
        ValueError, match="'xlsx' is not a supported file type; the supported types are CSV, PARQUET, FEATHER"
    ):
        FileType.parse("xlsx")


@pytest.mark.parametrize(
    ("name", "file_type", "suffix"),
    [
        ("a.csv", FileType.CSV, ".csv"),
        ("a/b.CSV.Gz", FileType.CSV, ".CSV.Gz"),
        ("a.csv.zst", FileType.CSV, ".csv.zst"),
        ("a.pq", FileType.PARQUET, ".pq"),
        ("a.b.Parquet", FileType.PARQUET, ".Parquet"),
        ("a.ftr", FileType.FEATHER, ".ftr"),
        ("a.csv", FileType.PARQUET, None),
        ("a.gz", FileType.CSV, None),
        (".csv", FileType.CSV, None),
        ("folder/.csv.gz", FileType.CSV, None),
        ("csv", FileType.CSV, None),
    ],
)
def test_a_name_matches_a_type_by_its_suffix(name, file_type, suffix):
    assert match_suffix(name, file_type) == suffix


@pytest.mark.parametrize(
    ("name", "input_type", "output_type", "result"),
    [
        ("a/b.csv.gz", FileType.CSV, FileType.PARQUET, "a/b.parquet"),
        ("b.CSV", FileType.CSV, FileType.CSV, "b.csv"),
        ("x.y/b.1.pq", FileType.PARQUET, FileType.FEATHER, "x.y/b.1.feather"),
    ],
)
def test_a_result_is_named_after_its_input(name, input_type, output_type, result):
    assert result_name(name, input_type, output_type) == result


def test_a_result_name_requires_an_input_with_the_suffix_of_its_type():
    with pytest.raises(ValueError, match="does not have the suffix of a CSV file"):
        result_name("a.parquet", FileType.CSV, FileType.CSV)


# ---- reading and writing files


@pytest.mark.parametrize("input_type", FileType)
@pytest.mark.parametrize("output_type", FileType)
def test_a_frame_survives_every_pair_of_file_types(input_type, output_type, tmp_path):
    first, second = tmp_path / "input", tmp_path / "output"
    write_frame(FLIGHTS, first, input_type)
    read = read_frame(first, input_type, name="input" + SUFFIXES[input_type][0])
    write_frame(read, second, output_type)
    again = read_frame(second, output_type, name="output" + SUFFIXES[output_type][0])
    # The value for a missing string depends on the version of pandas.
    as_text = {"carrier": "string"}
    assert_frame_equal(again.astype(as_text), FLIGHTS.astype(as_text))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".CSV.ZST"])
def test_csv_is_read_like_pandas_reads_it_with_every_compression(suffix, tmp_path):
    text = 'id,name,when,x\n007,"a,b",2013-01-01,1e-3\n8,NA,,\n'
    plain, file = tmp_path / "plain", tmp_path / "scratch"
    plain.write_text(text)
    if suffix == ".csv":
        file.write_text(text)
    elif suffix == ".csv.gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        with pa.output_stream(str(file), compression="zstd") as stream:
            stream.write(text.encode())
    assert_frame_equal(read_frame(file, FileType.CSV, name="in" + suffix), pd.read_csv(plain))


def test_the_number_of_threads_does_not_change_the_frame(tmp_path):
    file = tmp_path / "in.csv"
    pd.DataFrame({"a": np.arange(200_000), "b": np.arange(200_000) / 7}).to_csv(file, index=False)
    one, two = (read_frame(file, FileType.CSV, name="in.csv", threads=threads) for threads in (1, 2))
    assert_frame_equal(one, two)


def test_a_csv_file_with_only_a_header_becomes_an_empty_frame_with_columns(tmp_path):
    file = tmp_path / "in.csv"
    file.write_text("a,b\n")
    frame = read_frame(file, FileType.CSV, name="in.csv")
    assert list(frame.columns) == ["a", "b"]
    assert len(frame) == 0


def test_a_csv_column_of_mixed_types_is_read_without_a_warning(tmp_path):
    file = tmp_path / "in.csv"
    file.write_text("a\n" + "1\n" * 600_000 + "x\n" * 600_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = read_frame(file, FileType.CSV, name="in.csv")
    assert set(map(str, frame["a"].unique())) == {"1", "x"}


def test_a_folder_named_like_a_partition_does_not_add_a_column(tmp_path):
    folder = tmp_path / "day=3"
    folder.mkdir()
    FLIGHTS.to_parquet(folder / "in.parquet")
    assert_frame_equal(read_frame(folder / "in.parquet", FileType.PARQUET, name="in.parquet"), FLIGHTS)


def _parquet_bytes() -> bytes:
    buffer = io.BytesIO()
    FLIGHTS.to_parquet(buffer)
    return buffer.getvalue()


def _feather_bytes() -> bytes:
    buffer = io.BytesIO()
    FLIGHTS.to_feather(buffer)
    return buffer.getvalue()


def _zstd_bytes(text: bytes) -> bytes:
    return pa.compress(text, codec="zstd", asbytes=True)


LONG_CSV = b"a,b\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(50_000))
BAD_FILES = {
    "zero bytes of CSV": ("in.csv", b"", r"^in\.csv is empty \(0 bytes\)\.$"),
    "zero bytes of Parquet": ("in.parquet", b"", r"^in\.parquet is empty \(0 bytes\)\.$"),
    "zero bytes of Feather": ("in.feather", b"", r"^in\.feather is empty \(0 bytes\)\.$"),
    "blank lines": ("in.csv", b"\n\n", r"^in\.csv has no header: it contains only blank lines\.$"),
    "ragged rows": ("in.csv", b"a,b\n1,2\n3,4,5\n", r"^in\.csv is not well-formed CSV: .*line 3.*$"),
    "open quote": ("in.csv", b'a,b\n1,"2\n', r"^in\.csv is not well-formed CSV: EOF inside string.*$"),
    "bad encoding": ("in.csv", b"a,b\n1,2\nx,caf\xe9\n", r"UTF-8: byte 0xe9 at offset 13, line 3\.$"),
    "bad encoding far inside": (
        "in.csv",
        b"a\n" + "é\n".encode() * 1_000_001 + b"\xff\n",
        r"byte 0xff at offset 3000005, line 1000003\.$",
    ),
    "UTF-8 cut short": ("in.csv", b"a\nx\xc3", r"byte 0xc3 at offset 3, line 2\.$"),
    "bad encoding, compressed": (
        "in.csv.gz",
        gzip.compress(b"a\n\xff\n"),
        r"^in\.csv\.gz is not encoded in UTF-8: byte 0xff at offset 2, line 2\.$",
    ),
    "gzip named CSV": (
        "in.csv",
        gzip.compress(LONG_CSV),
        r"compressed with gzip; rename it to end in \.csv\.gz",
    ),
    "truncated gzip": ("in.csv.gz", gzip.compress(LONG_CSV)[:-2000], r"^in\.csv\.gz is truncated: .*gzip.*$"),
    "damaged gzip": (
        "in.csv.gz",
        (packed := gzip.compress(LONG_CSV))[:5000] + b"\x00" * 64 + packed[5064:],
        r"^in\.csv\.gz cannot be read as CSV: .*$",
    ),
    "CSV named gzip": ("in.csv.gz", LONG_CSV, r"^in\.csv\.gz cannot be read as CSV: Not a gzipped file.*$"),
    "truncated zstd": ("in.csv.zst", _zstd_bytes(LONG_CSV)[:-2000], r"^in\.csv\.zst .*$"),
    "CSV named zstd": ("in.csv.zst", LONG_CSV, r"^in\.csv\.zst cannot be read as CSV: .*$"),
    "truncated Parquet": ("in.parquet", _parquet_bytes()[:-100], r"^in\.parquet is truncated: .*$"),
    "CSV named Parquet": (
        "in.parquet",
        LONG_CSV,
        r"^in\.parquet is not a PARQUET file: it starts with b'a,b\\n",
    ),
    "damaged Parquet": (
        "in.parquet",
        _parquet_bytes()[:-200] + b"\x00" * 192 + _parquet_bytes()[-8:],
        r"^in\.parquet cannot be read as PARQUET: .*$",
    ),
    "CSV named Feather": (
        "in.feather",
        LONG_CSV,
        r"^in\.feather is not a FEATHER file: it starts with b'a,b\\n",
    ),
    "truncated Feather": ("in.ftr", _feather_bytes()[:-100], r"^in\.ftr is truncated: .*$"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_bad_file_is_refused_with_one_sentence_that_names_it(kind, threads, tmp_path):
    name, content, message = BAD_FILES[kind]
    file = tmp_path / "scratch"
    file.write_bytes(content)
    file_type = next(file_type for file_type in FileType if match_suffix(name, file_type))
    with pytest.raises(UnreadableFileError, match=message) as caught:
        read_frame(file, file_type, name=name, threads=threads)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_file_is_not_reported_as_a_bad_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_frame(tmp_path / "none", FileType.CSV, name="none.csv")


@pytest.mark.parametrize("file_type", FileType)
def test_a_full_disk_raises_oserror_and_leaves_the_partial_file(file_type, tmp_path):
    # A file size limit simulates a full disk: in both cases, the system refuses further writes.
    script = """
import resource, sys
from pathlib import Path
import numpy as np, pandas as pd
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.engine.standalone.writing import write_frame
frame = pd.DataFrame({"a": np.random.default_rng(0).random(200_000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_frame(frame, Path(sys.argv[1]), FileType(sys.argv[2]), threads=2)
except OSError as error:
    print(error.errno)
"""
    file = tmp_path / "out"
    command = [sys.executable, "-c", script, str(file), file_type.value]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(printed) == errno.EFBIG
    assert file.exists()


# ---- results of predict


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(pd.Series([1, 2]), {"prediction": [1, 2]}, id="series"),
        pytest.param(pd.Series([1, 2], name="y"), {"y": [1, 2]}, id="named series"),
        pytest.param(pd.Series([1, 2], name=7), {"7": [1, 2]}, id="series named by a number"),
        pytest.param(np.array([1.5, 2]), {"prediction": [1.5, 2.0]}, id="1-d array"),
        pytest.param(
            np.ones((2, 2)), {"prediction_0": [1.0, 1.0], "prediction_1": [1.0, 1.0]}, id="2-d array"
        ),
        pytest.param([1, 2], {"prediction": [1, 2]}, id="values"),
        pytest.param(["a", None], {"prediction": ["a", None]}, id="strings"),
        pytest.param([np.float64(1), np.float64(2)], {"prediction": [1.0, 2.0]}, id="NumPy scalars"),
        pytest.param([[1, "a"], (2, "b")], {"prediction_0": [1, 2], "prediction_1": ["a", "b"]}, id="rows"),
        pytest.param(
            [np.array([1, 2])] * 2, {"prediction_0": [1, 1], "prediction_1": [2, 2]}, id="array rows"
        ),
        pytest.param([{"a": 1, "b": 2}, {"b": 4, "a": 3}], {"a": [1, 3], "b": [2, 4]}, id="dicts"),
        pytest.param(pd.DataFrame({1: [1], "b": [2]}), {"1": [1], "b": [2]}, id="numbered column"),
    ],
)
def test_the_return_value_of_predict_is_converted_to_columns(value, expected):
    result = as_result_frame(value)
    assert_frame_equal(result, pd.DataFrame(expected), check_column_type=False)


def test_an_empty_list_becomes_a_column_without_rows():
    result = as_result_frame([])
    assert result.shape == (0, 1)
    assert list(result.columns) == ["prediction"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "predict returned NoneType"),
        ({"a": [1]}, "predict returned dict"),
        ((1, 2), "predict returned tuple"),
        (np.float64(1), r"predict returned numpy\.float64"),
        (np.array(1), r"NumPy array of shape \(\)"),
        (np.ones((1, 1, 1)), r"NumPy array of shape \(1, 1, 1\)"),
        (np.zeros(2, dtype=[("a", "i4")]), "structured NumPy array"),
        ([1, [2]], "mixed items: item 0 is a value, item 1 is a row of 1"),
        ([[1, 2], [3]], "mixed items: item 0 is a row of 2, item 1 is a row of 1"),
        ([{"a": 1}, {"b": 1}], r"item 0 is a dict of \['a'\], item 1 is a dict of \['b'\]"),
        ([1, {2}], "item 1 is of type set"),
        ([np.ones((2, 2))], "item 0 is of type ndarray"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "several columns named 'a'"),
        (pd.DataFrame([[1, 2]], columns=["1", 1]), "several columns named '1'"),
    ],
)
def test_an_unsupported_return_value_is_refused_with_its_type(value, message):
    with pytest.raises(InvalidResultError, match=message):
        as_result_frame(value)


FRAME = pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]})


@pytest.mark.parametrize(
    ("frame", "columns"),
    [
        pytest.param(FRAME, ["a", "b"], id="default index"),
        pytest.param(FRAME[FRAME["a"] != 2], ["a", "b"], id="left by filtering"),
        pytest.param(FRAME.rename_axis("key"), ["key", "a", "b"], id="named"),
        pytest.param(FRAME.rename_axis("a"), ["a", "b"], id="named like a column"),
        pytest.param(FRAME.set_axis(["x", "y", "z"]), ["index", "a", "b"], id="strings"),
        pytest.param(FRAME.set_axis([0.5, 1.5, 2.5]), ["index", "a", "b"], id="floats"),
        pytest.param(FRAME.iloc[:0].set_axis(pd.Index([], dtype=object)), ["a", "b"], id="no rows"),
        pytest.param(
            FRAME.set_axis(pd.MultiIndex.from_arrays([[1, 2, 3], [1, 1, 2]])),
            ["level_0", "level_1", "a", "b"],
            id="levels",
        ),
        pytest.param(
            FRAME.set_axis(pd.MultiIndex.from_arrays([[1, 2, 3], [1, 1, 2]], names=["key", "b"])),
            ["key", "a", "b"],
            id="named levels, one like a column",
        ),
        pytest.param(
            FRAME.rename(columns={"a": "index"}).set_axis(["x", "y", "z"]),
            ["level_0", "index", "b"],
            id="strings beside a column named index",
        ),
    ],
)
def test_an_index_is_kept_if_it_is_meaningful(frame, columns):
    before = frame.copy(deep=True)
    result = as_result_frame(frame)
    assert list(result.columns) == columns
    assert isinstance(result.index, pd.RangeIndex)
    assert result["b"].tolist() == frame["b"].tolist()
    assert_frame_equal(frame, before)


def test_the_index_of_a_series_is_kept_like_that_of_a_frame():
    result = as_result_frame(pd.Series([1, 2], index=pd.Index(["x", "y"], name="id"), name="score"))
    assert_frame_equal(result, pd.DataFrame({"id": ["x", "y"], "score": [1, 2]}), check_column_type=False)


# ---- Parquet and Feather


@pytest.mark.parametrize("file_type", [FileType.PARQUET, FileType.FEATHER])
def test_dtypes_survive_parquet_and_feather(file_type, tmp_path):
    frame = pd.DataFrame(
        {
            "when": pd.to_datetime(["2013-01-01T05:15:00Z", None]),
            "count": pd.array([1, None], dtype="Int64"),
            "kind": pd.Categorical(["a", "b"]),
            "small": np.array([1, 2], dtype="float32"),
        }
    )
    file = tmp_path / "out"
    write_frame(frame, file, file_type)
    again = read_frame(file, file_type, name="out" + SUFFIXES[file_type][0])
    assert_frame_equal(again, frame)


@pytest.mark.parametrize("file_type", [FileType.PARQUET, FileType.FEATHER])
@pytest.mark.parametrize(
    "values", [[1, "a"], [object(), object()], [1 + 2j, 3j]], ids=["mixed", "objects", "complex"]
)
def test_a_column_that_arrow_cannot_store_is_reported_with_a_fix(values, file_type, tmp_path):
    frame = pd.DataFrame({"fine": [1, 2], "strange": pd.Series(values)})
    with pytest.raises(
        UnwritableResultError, match=rf"Column 'strange' .* as {file_type.value}: .*astype\(str\)"
    ):
        write_frame(frame, tmp_path / "out", file_type)


def test_feather_is_written_in_batches_of_equal_length_whatever_the_chunks_of_the_frame_are(tmp_path):
    rows, file = 100_000, tmp_path / "out"
    chunks = pa.chunked_array([[f"{number}", None] for number in range(rows // 2)], pa.large_string())
    frame = pd.DataFrame({"a": pd.Series(chunks, dtype="str"), "b": np.arange(rows)})
    write_frame(frame, file, FileType.FEATHER)
    with pa.ipc.open_file(str(file)) as reader:
        lengths = [len(reader.get_batch(number)) for number in range(reader.num_record_batches)]
    assert lengths == [65_536, rows - 65_536]
    assert_frame_equal(read_frame(file, FileType.FEATHER, name="out.feather"), frame)


def test_chunks_with_different_dictionaries_are_written_to_feather(tmp_path):
    values = [["a", "b"] * 40_000, ["c", None, "a"]]
    chunks = pa.chunked_array([pa.array(chunk).dictionary_encode() for chunk in values])
    frame = pd.DataFrame({"a": pd.Series(pd.arrays.ArrowExtensionArray(chunks))})
    write_frame(frame, tmp_path / "out", FileType.FEATHER)
    assert feather.read_table(tmp_path / "out")["a"].to_pylist() == [*values[0], *values[1]]


# ---- writing CSV

SPECIAL_STRINGS = [
    "",
    "NA",
    "null",
    "True",
    "007",
    "1.0",
    "a,b",
    'say "hi"',
    "two\nlines",
    " x ",
    "é",
    "😀",
    '""',
    "\x1e",
]
strings = st.one_of(
    st.sampled_from(SPECIAL_STRINGS),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x1e"), max_size=8),
).filter(lambda text: "\r" not in text and "\x1e" not in text)
datetimes = st.datetimes(
    min_value=pd.Timestamp("1700-01-01").to_pydatetime(), max_value=pd.Timestamp("2200-01-01").to_pydatetime()
)
days = datetimes.map(lambda when: when.replace(hour=0, minute=0, second=0, microsecond=0))
durations = st.timedeltas(min_value=timedelta(days=-99999), max_value=timedelta(days=99999))
whole_floats = st.integers(-3000, 3000).map(float) | st.just(float("nan"))
wild_floats = st.floats() | st.sampled_from(
    [-0.0, 517.0, 1e10, 1e15, 1e16, 1e22, 1e-4, 1e-5, 5e-324, 1.7e308, 0.1]
)
mixed = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    strings,
    st.decimals(places=2, allow_nan=False),
    st.just(date(2013, 1, 1)),
)
int64 = st.integers(-(2**63), 2**63 - 1)


def _series(values, dtype):
    return st.lists(values, min_size=6, max_size=6).map(lambda items: pd.Series(items, dtype=dtype))


COLUMNS = {
    "int64": _series(int64, "int64"),
    "small integers": _series(st.integers(-3, 3), "int64"),
    "int8": _series(st.integers(-128, 127), "int8"),
    "uint64": _series(st.integers(0, 2**64 - 1), "uint64"),
    "large uint64": _series(st.integers(2**64 - 3, 2**64 - 1), "uint64"),
    "big-endian": _series(st.integers(-9, 9), ">i4"),
    "floats": _series(wild_floats, "float64"),
    "whole floats": _series(whole_floats, "float64"),
    "close whole floats": _series(
        st.integers(-2, 2).map(float) | st.sampled_from([float("nan"), -0.0]), "float64"
    ),
    "float32": _series(st.floats(width=32), "float32"),
    "whole float32": _series(
        st.integers(-5, 5).map(float) | st.integers(10**7, 10**7 + 3).map(float), "float32"
    ),
    "float16": _series(st.floats(width=16), "float16"),
    "booleans": _series(st.booleans(), "bool"),
    "booleans with nulls": _series(st.booleans() | st.none(), "object"),
    "strings": _series(strings | st.none(), None),
    "object strings": _series(strings | st.none(), "object"),
    "Python strings": _series(strings | st.none(), pd.StringDtype("python")),
    "Int64": _series(int64 | st.none(), "Int64"),
    "UInt8": _series(st.integers(0, 255) | st.none(), "UInt8"),
    "boolean": _series(st.booleans() | st.none(), "boolean"),
    "Float64": _series(wild_floats.filter(lambda x: x == x) | st.none(), "Float64"),  # noqa: PLR0124  only NaN differs from itself
    "datetimes": _series(datetimes | st.none(), "datetime64[us]"),
    "days": _series(days | st.none(), "datetime64[ns]"),
    "zoned datetimes": _series(datetimes.map(lambda when: when.replace(tzinfo=UTC)), "datetime64[us, UTC]"),
    "durations": _series(durations | st.none(), "timedelta64[us]"),
    "string categories": _series(st.sampled_from(["a", "b,c", 'd"', None]), "category"),
    "number categories": _series(st.sampled_from([1, 2, None]), "category"),
    "decimals": _series(st.decimals(allow_nan=False, allow_infinity=False), "object"),
    "mixed": _series(mixed, "object"),
    "arrow integers": _series(int64 | st.none(), pd.ArrowDtype(pa.int64())),
}
frames = st.builds(
    lambda columns, rows: pd.DataFrame(dict(columns)).iloc[:rows],
    st.lists(
        st.tuples(strings, st.sampled_from(sorted(COLUMNS)).flatmap(COLUMNS.__getitem__)),
        min_size=1,
        max_size=6,
        unique_by=lambda column: column[0],
    ),
    st.integers(0, 6),
)


def _written(frame: pd.DataFrame, folder: Path, **options: int) -> str:
    file = folder / "out.csv"
    write_frame(frame, file, FileType.CSV, **options)
    return file.read_bytes().decode()


# A frame is written in one of three ways, depending on its size: in rows, and beyond one chunk of to_csv, in cells.
# Large frames are tested less often, because to_csv takes long.
SIZES = ["tiny", "small"]
_CHUNK_CELLS = 100_000


def _assert_written_like_to_csv(frame: pd.DataFrame, size: str, folder: Path) -> None:
    times = 1
    if size != "tiny" and not frame.empty:
        rows = 150 if size == "small" else _CHUNK_CELLS // frame.shape[1]
        # More than enough, so that every chunk contains all rows: to_csv formats a date depending on the others.
        times = math.isqrt(rows // len(frame) + 2) + 1
    repeated = frame
    for _ in range(2):
        repeated = pd.concat([repeated] * times, ignore_index=True)
    text = frame.to_csv(index=False, lineterminator="\n")
    rows_text = frame.to_csv(index=False, lineterminator="\n", header=False)
    assert _written(repeated, folder) == text.removesuffix(rows_text) + rows_text * times**2


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=frames)
def test_csv_is_identical_to_that_of_to_csv(tmp_path_factory, size, frame):
    _assert_written_like_to_csv(frame, size, tmp_path_factory.getbasetemp())


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=frames)
def test_the_csv_of_a_large_frame_is_identical_to_that_of_to_csv(tmp_path_factory, frame):
    _assert_written_like_to_csv(frame, "large", tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_of_every_magnitude_are_written_like_to_csv(tmp_path, dtype):
    sizes = [
        mantissa * 10.0**exponent for exponent in range(-12, 20) for mantissa in (1, 1.5, 9.99999, 1.000001)
    ]
    with np.errstate(over="ignore"):
        values = np.array([0.0, *sizes, *(-size for size in sizes)]).astype(dtype)
    frame = pd.DataFrame({"a": values, "b": 1})
    assert _written(frame, tmp_path) == frame.to_csv(index=False, lineterminator="\n")


@pytest.mark.parametrize("kind", COLUMNS)
@settings(max_examples=9, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), size=st.sampled_from(SIZES))
def test_a_single_column_is_written_like_to_csv(tmp_path_factory, kind, data, size):
    frame = pd.DataFrame({"a": data.draw(COLUMNS[kind])})
    _assert_written_like_to_csv(frame, size, tmp_path_factory.getbasetemp())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=st.lists(st.text('\r\n,"a\x1e', max_size=6), min_size=1), as_objects=st.booleans())
def test_a_lone_carriage_return_survives_unlike_in_to_csv(tmp_path_factory, values, as_objects):
    # With a number in the column, pandas formats it, otherwise Arrow does.
    column = [*values, 1] if as_objects else values
    text = _written(pd.DataFrame({"a\rb": column, "c": 1}), tmp_path_factory.getbasetemp())
    again = pd.read_csv(io.StringIO(text, newline=""), dtype=str, keep_default_na=False)
    assert again["a\rb"].tolist() == [str(value) for value in column]


def test_a_carriage_return_in_a_column_name_survives_even_without_rows(tmp_path):
    assert _written(pd.DataFrame({"a\rb": []}), tmp_path) == '"a\rb"\n'


def test_strings_that_contain_the_internal_line_terminator_are_written_completely(tmp_path):
    strange = ["x\r\n\x1ey", "\r\n\x1e\x1e", "\x1e"]
    frame = pd.DataFrame({"a": [*strange, 1], "b": 1})
    again = pd.read_csv(io.StringIO(_written(frame, tmp_path), newline=""))
    assert again["a"].tolist() == [*strange, "1"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_frame_of_many_slices_is_written_like_to_csv(threads, tmp_path):
    rows, rng = 120_003, np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "constant": 2013,
            "hour": rng.integers(0, 24, rows),
            "minute": rng.integers(0, 60, rows),
            "delay": np.where(rng.random(rows) < 0.1, np.nan, rng.integers(-60, 900, rows)),
            "score": rng.random(rows),
            "id": rng.integers(-(2**62), 2**62, rows),
            "carrier": rng.choice(["UA", "AA", "B6", "say, what"], rows),
            "late": rng.random(rows) < 0.5,
            # Its first chunks only have midnights, so to_csv writes them as dates.
            "when": pd.Timestamp("2013-01-01") + pd.to_timedelta(np.arange(rows) // 60_000, unit="s"),
        }
    )
    assert _written(frame, tmp_path, threads=threads) == frame.to_csv(index=False, lineterminator="\n")


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame(index=range(3)),
        pd.DataFrame(index=range(200)),
        pd.DataFrame({"a": []}),
    ],
    ids=["nothing", "no columns", "many rows without columns", "no rows"],
)
def test_a_frame_without_values_is_written_like_to_csv(frame, tmp_path):
    assert _written(frame, tmp_path) == frame.to_csv(index=False, lineterminator="\n")


@pytest.mark.parametrize("values", [["a", "\ud800"], [1, "\ud800"]], ids=["strings", "mixed"])
def test_text_that_utf8_cannot_encode_is_refused_with_its_column(values, tmp_path):
    with pytest.raises(
        UnwritableResultError, match="Column 'strange' of the result contains text that UTF-8 cannot"
    ):
        write_frame(
            pd.DataFrame({"strange": pd.Series(values, dtype=object), "b": 1}), tmp_path / "out", FileType.CSV
        )


def test_decimals_keep_their_digits(tmp_path):
    assert _written(pd.DataFrame({"a": [Decimal("1.10"), None]}), tmp_path) == 'a\n1.10\n""\n'
