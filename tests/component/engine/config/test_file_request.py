from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.file_request import check_file_request, file_config, result_of
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.standalone.file_types import SUFFIXES, FileType, infer_file_type
from airflow_batchexec.exceptions import ConfigurationError

REQUEST = {"file": "s3://shop/in/day.csv", "destination_folder": "s3://shop/out", "model_id": "m"}
STEMS = st.text(st.characters(codec="utf-8", exclude_characters="/", exclude_categories=("C",)), min_size=1)
EVERY_SUFFIX = [(suffix, file_type) for file_type, suffixes in SUFFIXES.items() for suffix in suffixes]


@given(STEMS, st.sampled_from(EVERY_SUFFIX))
def test_file_type_is_inferred_from_the_suffix_in_any_case(stem: str, suffix: tuple[str, FileType]):
    text, file_type = suffix
    assert infer_file_type(f"in/{stem}{text}") is infer_file_type(f"in/{stem}{text.upper()}") is file_type


@pytest.mark.parametrize("name", ["day", "day.txt", "day.gz", "csv", ".csv", "day.csv/part-0", ""])
def test_file_type_is_not_inferred_from_other_names(name: str):
    assert infer_file_type(name) is None


@pytest.mark.parametrize(
    ("name", "output_type", "result"),
    [
        ("day.csv", FileType.PARQUET, "day.parquet"),
        ("day.CSV.gz", FileType.CSV, "day.csv"),
        ("day.pq", FileType.FEATHER, "day.feather"),
        ("a.day.parquet", FileType.CSV, "a.day.csv"),
        ("day.txt", FileType.CSV, "day.txt.csv"),
        ("part-0", FileType.PARQUET, "part-0.parquet"),
        (".csv", FileType.CSV, ".csv.csv"),
    ],
)
def test_result_is_named_after_its_file(name: str, output_type: FileType, result: str):
    assert result_of(Location.parse(f"s3://shop/in/{name}"), output_type) == result


@given(STEMS, STEMS, st.sampled_from(FileType))
def test_files_of_unknown_type_never_share_a_result(one: str, other: str, output_type: FileType):
    names = {f"{name}.data" for name in (one, other)}
    places = [Location.parse("s3://shop/in").join(name) for name in names]
    assert len({result_of(place, output_type) for place in places}) == len(names)


def test_file_is_the_source_of_its_configuration():
    config = file_config({**REQUEST, "file": " s3a://shop/in/day.feather ", "cpus": "2"})

    assert config.source == Location.parse("s3://shop/in/day.feather")
    assert config.execution.input_file_type is FileType.FEATHER
    assert config.execution.output_file_type is FileType.CSV
    assert config.resources.cpus == 2


def test_explicit_type_overrides_the_inferred_one():
    config = file_config({**REQUEST, "input_file_type": "parquet"})
    assert config.execution.input_file_type is FileType.PARQUET


@pytest.mark.parametrize("file", [None, 7, ["s3://shop/a.csv"], b"s3://shop/a.csv"])
def test_file_must_be_a_string(file: object):
    with pytest.raises(ConfigurationError, match=r"^file: ") as refused:
        check_file_request({**REQUEST, "file": file})
    assert refused.value.details["field"] == "file"


def test_parameters_known_later_are_not_missing():
    assert check_file_request({}, known_later={"file", "destination_folder"}) is None
    with pytest.raises(ConfigurationError, match=r"^file: it is required"):
        check_file_request({}, known_later={"destination_folder"})
