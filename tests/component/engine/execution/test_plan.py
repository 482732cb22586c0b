"""Planning: the selection of input files, the names of results, and the shards."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution.plan import (
    FileTask,
    Shard,
    make_plan,
    make_shards,
    read_tasks,
    write_shards,
)
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.exceptions import LocationError, NoInputFilesError, ResultCollisionError

SOURCE = Location.parse("s3://flights/in")
DESTINATION = Location.parse("s3://delays/out")


def listing(source, files):
    """Objects below a folder as a storage would list them, including abnormal paths."""
    sizes = files if isinstance(files, dict) else dict.fromkeys(files, 10)
    return [
        ObjectInfo(Location(source.scheme, source.bucket, f"{source.key}/{file}"), size, f"etag-{file}")
        for file, size in sizes.items()
    ]


def plan_of(
    files, *, source=SOURCE, destination=DESTINATION, input_type=FileType.CSV, output_type=FileType.CSV
):
    return make_plan(
        listing=listing(source, files),
        source=source,
        destination=destination,
        input_type=input_type,
        output_type=output_type,
    )


def results(plan):
    return {task.file: task.result for task in plan.tasks}


# ---- tasks


def test_files_are_sorted_by_size_descending_then_by_name():
    plan = plan_of({"b.csv": 5, "a.csv": 5, "big.csv": 9, "tiny.csv": 0})
    assert [task.file for task in plan.tasks] == ["big.csv", "a.csv", "b.csv", "tiny.csv"]


def test_a_task_contains_the_listed_size_and_etag():
    (task,) = plan_of({"day.csv": 7}).tasks
    assert task == FileTask("day.csv", 7, "etag-day.csv", "day.csv")


def test_results_keep_the_subfolders():
    plan = plan_of(["2013/01/a.csv", "2013/02/a.csv"], output_type=FileType.PARQUET)
    assert results(plan) == {
        "2013/01/a.csv": "2013/01/a.parquet",
        "2013/02/a.csv": "2013/02/a.parquet",
    }


def test_compressed_csv_is_csv():
    plan = plan_of(["a.csv", "b.CSV.gz", "c.csv.zst"], output_type=FileType.FEATHER)
    assert results(plan) == {"a.csv": "a.feather", "b.CSV.gz": "b.feather", "c.csv.zst": "c.feather"}


def test_a_single_file_source_is_relative_to_its_folder():
    source = Location.parse("s3://flights/in/day.csv")
    plan = make_plan(
        listing=[ObjectInfo(source, 3, "e")],
        source=source,
        destination=DESTINATION,
        input_type=FileType.CSV,
        output_type=FileType.PARQUET,
    )
    assert plan.root == SOURCE
    assert results(plan) == {"day.csv": "day.parquet"}


# ---- skipped files


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("notes.txt", "is not a CSV file (.csv, .csv.gz, .csv.zst)"),
        ("day.parquet", "is not a CSV file (.csv, .csv.gz, .csv.zst)"),
        ("csv", "is not a CSV file (.csv, .csv.gz, .csv.zst)"),
        (".hidden.csv", "is hidden"),
        (".csv", "is hidden"),
        ("_SUCCESS", "has a name that starts with '_'"),
        ("_day.csv", "has a name that starts with '_'"),
        (".tmp/day.csv", "is in the folder .tmp, whose name starts with '.'"),
        ("a/_batchexec/b/day.csv", "is in the folder _batchexec, whose name starts with '_'"),
        ("sub/", "is a folder marker"),
        ("sub.csv/", "is a folder marker"),
    ],
)
def test_other_files_are_skipped_with_a_reason(file, reason):
    plan = plan_of(["day.csv", file])
    assert [(skipped.file, skipped.reason) for skipped in plan.skipped] == [(file, reason)]
    assert [task.file for task in plan.tasks] == ["day.csv"]


def test_the_marker_of_the_source_folder_itself_is_skipped_as_a_dot():
    plan = plan_of(["", "day.csv"])
    assert [skipped.file for skipped in plan.skipped] == ["."]


def test_results_of_an_earlier_execution_below_the_source_are_skipped():
    plan = plan_of(["day.csv", "out/day.csv"], destination=SOURCE.join("out"))
    assert [(skipped.file, skipped.reason) for skipped in plan.skipped] == [
        ("out/day.csv", "is in the destination folder")
    ]


def test_a_skipped_name_that_is_not_unicode_is_escaped():
    plan = plan_of(["day.csv", "caf\udce9.txt", ".d\udce9/x.csv"])
    assert [skipped.file for skipped in plan.skipped] == ["caf\\xe9.txt", ".d\\xe9/x.csv"]
    for skipped in plan.skipped:
        json.dumps([skipped.file, skipped.reason], ensure_ascii=False).encode()


# ---- refusals


@pytest.mark.parametrize(
    "file", ["a//b.csv", "../b.csv", "a/./b.csv", "a/../b.csv", "a\nb.csv", "caf\udce9.csv"]
)
def test_an_input_whose_path_is_not_valid_for_a_result_is_refused(file):
    with pytest.raises(LocationError, match=r"source_folder: .* of s3://flights/in: rename it") as caught:
        plan_of(["day.csv", file])
    caught.value.message.encode()
    assert caught.value.details["field"] == "source_folder"


@pytest.mark.parametrize("files", [[], ["notes.txt"], ["notes.txt", "_SUCCESS"]])
def test_a_folder_without_inputs_is_refused(files):
    with pytest.raises(NoInputFilesError, match="source_folder: s3://flights/in ") as caught:
        plan_of(files)
    assert caught.value.details["field"] == "source_folder"
    assert not files or "notes.txt is not a CSV file" in caught.value.message


@pytest.mark.parametrize("twin", ["day.csv.gz", "day.csv.zst", "day.CSV"])
def test_two_inputs_that_map_to_one_result_are_refused(twin):
    with pytest.raises(
        ResultCollisionError, match=r"would both produce day\.csv in s3://delays/out"
    ) as caught:
        plan_of(["day.csv", twin])
    assert sorted(caught.value.details["files"]) == sorted(["day.csv", twin])


@pytest.mark.parametrize(
    ("source", "destination", "files"),
    [
        ("s3://b/in", "s3://b/in", ["day.csv"]),
        ("s3://b/in", "s3://b/in", ["sub/day.csv"]),
        # The result of the first file is the second file.
        ("s3://b/in", "s3://b", ["in/day.csv", "day.csv"]),
        ("s3://b/a/a", "s3://b/a", ["a/x.csv", "x.csv"]),
    ],
)
def test_a_result_that_would_overwrite_an_input_is_refused(source, destination, files):
    with pytest.raises(ResultCollisionError, match="would overwrite the input") as caught:
        plan_of(files, source=Location.parse(source), destination=Location.parse(destination))
    assert caught.value.details["field"] == "destination_folder"


def test_a_single_file_is_not_overwritten_by_its_result():
    source = Location.parse("file:///in/day.csv")
    with pytest.raises(ResultCollisionError, match=r"would overwrite the input file:///in/day\.csv"):
        make_plan(
            listing=[ObjectInfo(source, 3, "e")],
            source=source,
            destination=Location.parse("file:///in"),
            input_type=FileType.CSV,
            output_type=FileType.CSV,
        )


def test_a_result_of_another_type_may_be_next_to_its_input():
    plan = plan_of(["day.csv"], destination=SOURCE, output_type=FileType.PARQUET)
    assert results(plan) == {"day.csv": "day.parquet"}


def test_on_disk_a_result_cannot_be_the_folder_of_another():
    files = ["a.csv", "a.parquet/b.csv"]
    on_disk = Location.parse("file:///out")
    with pytest.raises(ResultCollisionError, match=r"a\.csv would be named a\.parquet, which is the folder"):
        plan_of(files, destination=on_disk, output_type=FileType.PARQUET)
    assert len(plan_of(files, output_type=FileType.PARQUET).tasks) == 2


names = st.text("ab._", min_size=1, max_size=4).filter(lambda name: name not in {".", ".."})
suffixes = st.sampled_from([".csv", ".csv.gz", ".CSV", ".parquet", ".txt", ""])
paths = st.builds(
    lambda folders, name, suffix: "/".join([*folders, name + suffix]),
    st.lists(names, max_size=2),
    names,
    suffixes,
).filter(lambda path: not any(part in {".", ".."} for part in path.split("/")))


@given(st.sets(paths, max_size=12), st.sampled_from(FileType), st.sampled_from(FileType))
def test_every_file_is_planned_or_skipped_exactly_once_and_results_are_unique(files, input_type, output_type):
    try:
        plan = plan_of(sorted(files), input_type=input_type, output_type=output_type)
    except (NoInputFilesError, ResultCollisionError):
        return
    listed = Counter([task.file for task in plan.tasks] + [skipped.file for skipped in plan.skipped])
    assert listed == Counter(files)
    assert len({task.result for task in plan.tasks}) == len(plan.tasks)
    assert all(skipped.reason for skipped in plan.skipped)


# ---- shards

OVERHEAD = 64 * 1024
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
task_lists = st.lists(
    st.builds(FileTask, file=texts, size_bytes=st.integers(0, 10_000_000), etag=texts, result=texts),
    min_size=1,
    max_size=40,
).map(lambda tasks: sorted(tasks, key=lambda task: -task.size_bytes))


@given(task_lists, st.none() | st.integers(0, 50), st.integers(1, 50))
def test_shards_are_balanced_and_contain_every_task_once(tasks, pods, max_shards):
    shards = make_shards(tasks=tasks, pods=pods, max_shards=max_shards)
    assert len(shards) == min(len(tasks), max_shards, pods or len(tasks))
    assert all(shards)
    assigned = Counter(task for shard in shards for task in shard)
    assert assigned == Counter(tasks)
    # Each file goes to the lightest shard, so a shard exceeds the lightest one by at most its last file.
    weights = [sum(task.size_bytes + OVERHEAD for task in shard) for shard in shards]
    for shard, weight in zip(shards, weights, strict=True):
        assert weight - (shard[-1].size_bytes + OVERHEAD) <= min(weights)


@given(task_lists, st.integers(1, 50))
def test_the_files_of_a_shard_are_sorted_by_size_descending(tasks, pods):
    for shard in make_shards(tasks=tasks, pods=pods, max_shards=50):
        sizes = [task.size_bytes for task in shard]
        assert sizes == sorted(sizes, reverse=True)


def test_many_tiny_files_are_spread_evenly():
    tasks = [FileTask("big.csv", 1000, "", ""), *(FileTask(f"{n}.csv", 0, "", "") for n in range(99))]
    assert sorted(len(shard) for shard in make_shards(tasks=tasks, pods=4, max_shards=100)) == [25] * 4


@given(task_lists, st.integers(1, 10))
def test_each_shard_locates_its_tasks_in_the_plan_document(tasks, pods):
    shard_tasks = make_shards(tasks=tasks, pods=pods, max_shards=1000)
    file = io.BytesIO()
    shards = write_shards(file, shard_tasks, round_id="0123456789ab")
    document = file.getvalue()
    for expected, shard in zip(shard_tasks, shards, strict=True):
        again = Shard.from_descriptor(json.loads(json.dumps(shard.to_descriptor())))
        assert again == shard
        assert again.files == len(expected)
        assert read_tasks(document[again.offset : again.offset + again.length]) == tuple(expected)
    assert read_tasks(document) == tuple(task for expected in shard_tasks for task in expected)


def test_a_descriptor_of_an_earlier_release_has_no_round():
    assert Shard.from_descriptor([10, 20, 3]) == Shard(10, 20, 3, round_id="")


@given(task_lists)
def test_a_task_survives_a_round_trip_through_its_line(tasks):
    for task in tasks:
        line = task.to_json()
        assert "\n" not in line
        assert FileTask.from_json(line) == FileTask.from_json(line.encode()) == task
