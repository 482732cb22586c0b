"""Planning: which files are taken, under which names, in which shares."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution.plan import (
    FileTask,
    Share,
    make_plan,
    make_shares,
    read_tasks,
    shares_document,
)
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.exceptions import LocationError, NoInputFilesError, ResultCollisionError

SOURCE = Location.parse("s3://flights/in")
DESTINATION = Location.parse("s3://delays/out")


def listing(source, files):
    """Objects below a folder as a storage would list them, normal paths or not."""
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


def test_the_largest_file_comes_first_and_equal_ones_by_name():
    plan = plan_of({"b.csv": 5, "a.csv": 5, "big.csv": 9, "tiny.csv": 0})
    assert [task.file for task in plan.tasks] == ["big.csv", "a.csv", "b.csv", "tiny.csv"]


def test_a_task_holds_what_was_listed():
    (task,) = plan_of({"day.csv": 7}).tasks
    assert task == FileTask("day.csv", 7, "etag-day.csv", "day.csv")


def test_subfolders_are_kept():
    plan = plan_of(["2013/01/a.csv", "2013/02/a.csv"], output_type=FileType.PARQUET)
    assert results(plan) == {
        "2013/01/a.csv": "2013/01/a.parquet",
        "2013/02/a.csv": "2013/02/a.parquet",
    }


def test_compressed_csv_is_csv():
    plan = plan_of(["a.csv", "b.CSV.gz", "c.csv.zst"], output_type=FileType.FEATHER)
    assert results(plan) == {"a.csv": "a.feather", "b.CSV.gz": "b.feather", "c.csv.zst": "c.feather"}


def test_a_source_that_is_one_file_is_planned_below_its_folder():
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


# ---- what is skipped


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("notes.txt", "is no CSV file (.csv, .csv.gz, .csv.zst)"),
        ("day.parquet", "is no CSV file (.csv, .csv.gz, .csv.zst)"),
        ("csv", "is no CSV file (.csv, .csv.gz, .csv.zst)"),
        (".hidden.csv", "is hidden"),
        (".csv", "is hidden"),
        ("_SUCCESS", "has a name that starts with '_'"),
        ("_day.csv", "has a name that starts with '_'"),
        (".tmp/day.csv", "lies in the folder .tmp, whose name starts with '.'"),
        ("a/_batchexec/b/day.csv", "lies in the folder _batchexec, whose name starts with '_'"),
        ("sub/", "is the mark of a folder"),
        ("sub.csv/", "is the mark of a folder"),
    ],
)
def test_a_file_that_is_no_input_is_skipped_with_the_reason(file, reason):
    plan = plan_of(["day.csv", file])
    assert [(skipped.file, skipped.reason) for skipped in plan.skipped] == [(file, reason)]
    assert [task.file for task in plan.tasks] == ["day.csv"]


def test_the_mark_of_the_source_folder_itself_is_named():
    plan = plan_of(["", "day.csv"])
    assert [skipped.file for skipped in plan.skipped] == ["."]


def test_results_of_an_earlier_execution_below_the_source_are_skipped():
    plan = plan_of(["day.csv", "out/day.csv"], destination=SOURCE.join("out"))
    assert [(skipped.file, skipped.reason) for skipped in plan.skipped] == [
        ("out/day.csv", "lies in the destination folder")
    ]


def test_a_skipped_name_that_is_not_unicode_can_be_written_down():
    plan = plan_of(["day.csv", "caf\udce9.txt", ".d\udce9/x.csv"])
    assert [skipped.file for skipped in plan.skipped] == ["caf\\xe9.txt", ".d\\xe9/x.csv"]
    for skipped in plan.skipped:
        json.dumps([skipped.file, skipped.reason], ensure_ascii=False).encode()


# ---- what is refused


@pytest.mark.parametrize(
    "file", ["a//b.csv", "../b.csv", "a/./b.csv", "a/../b.csv", "a\nb.csv", "caf\udce9.csv"]
)
def test_an_input_whose_path_no_result_can_have_is_refused_by_name(file):
    with pytest.raises(LocationError, match=r"source_folder: .* of s3://flights/in: rename it") as caught:
        plan_of(["day.csv", file])
    caught.value.message.encode()
    assert caught.value.details["field"] == "source_folder"


@pytest.mark.parametrize("files", [[], ["notes.txt"], ["notes.txt", "_SUCCESS"]])
def test_a_folder_without_inputs_is_refused(files):
    with pytest.raises(NoInputFilesError, match="source_folder: s3://flights/in ") as caught:
        plan_of(files)
    assert caught.value.details["field"] == "source_folder"
    assert not files or "notes.txt is no CSV file" in caught.value.message


@pytest.mark.parametrize("twin", ["day.csv.gz", "day.csv.zst", "day.CSV"])
def test_two_inputs_that_would_give_one_result_are_refused(twin):
    with pytest.raises(ResultCollisionError, match=r"would both give day\.csv in s3://delays/out") as caught:
        plan_of(["day.csv", twin])
    assert sorted(caught.value.details["files"]) == sorted(["day.csv", twin])


@pytest.mark.parametrize(
    ("source", "destination", "files"),
    [
        ("s3://b/in", "s3://b/in", ["day.csv"]),
        ("s3://b/in", "s3://b/in", ["sub/day.csv"]),
        # The result of the first is the second.
        ("s3://b/in", "s3://b", ["in/day.csv", "day.csv"]),
        ("s3://b/a/a", "s3://b/a", ["a/x.csv", "x.csv"]),
    ],
)
def test_a_result_that_would_overwrite_an_input_is_refused(source, destination, files):
    with pytest.raises(ResultCollisionError, match="would overwrite the input") as caught:
        plan_of(files, source=Location.parse(source), destination=Location.parse(destination))
    assert caught.value.details["field"] == "destination_folder"


def test_one_file_is_not_overwritten_by_its_own_result():
    source = Location.parse("file:///in/day.csv")
    with pytest.raises(ResultCollisionError, match=r"would overwrite the input file:///in/day\.csv"):
        make_plan(
            listing=[ObjectInfo(source, 3, "e")],
            source=source,
            destination=Location.parse("file:///in"),
            input_type=FileType.CSV,
            output_type=FileType.CSV,
        )


def test_another_type_may_go_beside_its_input():
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
def test_every_listed_file_is_in_exactly_one_place_and_no_two_share_a_result(files, input_type, output_type):
    try:
        plan = plan_of(sorted(files), input_type=input_type, output_type=output_type)
    except (NoInputFilesError, ResultCollisionError):
        return
    listed = Counter([task.file for task in plan.tasks] + [skipped.file for skipped in plan.skipped])
    assert listed == Counter(files)
    assert len({task.result for task in plan.tasks}) == len(plan.tasks)
    assert all(skipped.reason for skipped in plan.skipped)


# ---- shares

OVERHEAD = 64 * 1024
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
task_lists = st.lists(
    st.builds(FileTask, file=texts, size_bytes=st.integers(0, 10_000_000), etag=texts, result=texts),
    min_size=1,
    max_size=40,
).map(lambda tasks: sorted(tasks, key=lambda task: -task.size_bytes))


@given(task_lists, st.none() | st.integers(0, 50), st.integers(1, 50))
def test_shares_divide_the_tasks_evenly(tasks, pods, most_shares):
    shares = make_shares(tasks=tasks, pods=pods, most_shares=most_shares)
    assert len(shares) == min(len(tasks), most_shares, pods or len(tasks))
    assert all(shares)
    dealt = Counter(task for share in shares for task in share)
    assert dealt == Counter(tasks)
    # Going to the lightest share, no file can make a share heavier than the lightest of all by more than itself.
    weights = [sum(task.size_bytes + OVERHEAD for task in share) for share in shares]
    for share, weight in zip(shares, weights, strict=True):
        assert weight - (share[-1].size_bytes + OVERHEAD) <= min(weights)


@given(task_lists, st.integers(1, 50))
def test_within_a_share_the_largest_file_comes_first(tasks, pods):
    for share in make_shares(tasks=tasks, pods=pods, most_shares=50):
        sizes = [task.size_bytes for task in share]
        assert sizes == sorted(sizes, reverse=True)


def test_many_tiny_files_are_spread_too():
    tasks = [FileTask("big.csv", 1000, "", ""), *(FileTask(f"{n}.csv", 0, "", "") for n in range(99))]
    assert sorted(len(share) for share in make_shares(tasks=tasks, pods=4, most_shares=100)) == [25] * 4


@given(task_lists, st.integers(1, 10))
def test_the_bytes_of_a_share_give_its_tasks(tasks, pods):
    shares = make_shares(tasks=tasks, pods=pods, most_shares=1000)
    document, places = shares_document(shares)
    for share, place in zip(shares, places, strict=True):
        again = Share.from_descriptor(json.loads(json.dumps(place.to_descriptor())))
        assert again == place
        assert again.files == len(share)
        assert read_tasks(document[again.offset : again.offset + again.length]) == tuple(share)
    assert read_tasks(document) == tuple(task for share in shares for task in share)


@given(task_lists)
def test_a_task_and_its_line_are_inverses(tasks):
    for task in tasks:
        line = task.to_json()
        assert "\n" not in line
        assert FileTask.from_json(line) == FileTask.from_json(line.encode()) == task
