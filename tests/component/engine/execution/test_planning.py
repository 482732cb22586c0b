"""Planning: the selection of input files, the names of results, refusals, and the documents."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.execution.plan import FileTask, Plan, SkippedFile, read_tasks
from airflow_batchexec.engine.execution.planning import PLAN_NAME, SKIPPED_NAME, make_plan
from airflow_batchexec.engine.execution.selection import Selection
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.disk import scratch_folder
from airflow_batchexec.exceptions import LocationError, NoInputFilesError, ResultCollisionError

SOURCE = Location.parse("s3://flights/in")
DESTINATION = Location.parse("s3://delays/out")
EVERYWHERE = AllowedLocations(
    (Location.parse("file:///"), Location.parse("s3://flights"), Location.parse("s3://b"))
)


@dataclass
class Planned:
    """A plan, and what is in its documents."""

    plan: Plan
    document: bytes
    skipped: list[SkippedFile]

    @property
    def tasks(self):
        return read_tasks(self.document)


def listing(source, files):
    """Objects below a folder as a storage would list them, including abnormal paths."""
    sizes = files if isinstance(files, dict) else dict.fromkeys(files, 10)
    return [
        ObjectInfo(Location(source.scheme, source.bucket, f"{source.key}/{file}"), size, f"etag-{file}")
        for file, size in sizes.items()
    ]


def plan_listing(
    found,
    *,
    source=SOURCE,
    destination=DESTINATION,
    input_type=FileType.CSV,
    output_type=FileType.CSV,
    pods=1,
    max_shards=1_000,
):
    with scratch_folder() as folder:
        plan = make_plan(
            listing=iter(found),
            source=source,
            destination=destination,
            input_type=input_type,
            output_type=output_type,
            allowed=EVERYWHERE,
            pods=pods,
            max_shards=max_shards,
            round_id="0123456789ab",
            folder=folder,
        )
        assert sorted(path.name for path in folder.iterdir()) == [PLAN_NAME, SKIPPED_NAME]
        skipped = [
            SkippedFile(**json.loads(line)) for line in (folder / SKIPPED_NAME).read_bytes().splitlines()
        ]
        return Planned(plan, (folder / PLAN_NAME).read_bytes(), skipped)


def plan_of(files, *, source=SOURCE, **options):
    return plan_listing(listing(source, files), source=source, **options)


def results(planned):
    return {task.file: task.result for task in planned.tasks}


# ---- tasks


def test_files_are_sorted_by_size_descending_then_by_name():
    planned = plan_of({"b.csv": 5, "a.csv": 5, "big.csv": 9, "tiny.csv": 0})
    assert [task.file for task in planned.tasks] == ["big.csv", "a.csv", "b.csv", "tiny.csv"]


def test_a_task_contains_the_listed_size_and_etag():
    (task,) = plan_of({"day.csv": 7}).tasks
    assert task == FileTask("day.csv", 7, "etag-day.csv", "day.csv")


def test_results_keep_the_subfolders():
    planned = plan_of(["2013/01/a.csv", "2013/02/a.csv"], output_type=FileType.PARQUET)
    assert results(planned) == {
        "2013/01/a.csv": "2013/01/a.parquet",
        "2013/02/a.csv": "2013/02/a.parquet",
    }


def test_compressed_csv_is_csv():
    planned = plan_of(["a.csv", "b.CSV.gz", "c.csv.zst"], output_type=FileType.FEATHER)
    assert results(planned) == {"a.csv": "a.feather", "b.CSV.gz": "b.feather", "c.csv.zst": "c.feather"}


def test_a_single_file_source_is_relative_to_its_folder():
    source = Location.parse("s3://flights/in/day.csv")
    planned = plan_listing([ObjectInfo(source, 3, "e")], source=source, output_type=FileType.PARQUET)
    assert planned.plan.root == SOURCE
    assert results(planned) == {"day.csv": "day.parquet"}


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
    planned = plan_of(["day.csv", file])
    assert [(skipped.file, skipped.reason) for skipped in planned.skipped] == [(file, reason)]
    assert [task.file for task in planned.tasks] == ["day.csv"]


def test_the_marker_of_the_source_folder_itself_is_skipped_as_a_dot():
    planned = plan_of(["", "day.csv"])
    assert [skipped.file for skipped in planned.skipped] == ["."]


def test_results_of_an_earlier_execution_below_the_source_are_skipped():
    planned = plan_of(["day.csv", "out/day.csv"], destination=SOURCE.join("out"))
    assert [(skipped.file, skipped.reason) for skipped in planned.skipped] == [
        ("out/day.csv", "is in the destination folder")
    ]


def test_a_skipped_name_that_is_not_unicode_is_escaped():
    planned = plan_of(["day.csv", "caf\udce9.txt", ".d\udce9/x.csv"])
    assert [skipped.file for skipped in planned.skipped] == ["caf\\xe9.txt", ".d\\xe9/x.csv"]
    for skipped in planned.skipped:
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
        plan_listing([ObjectInfo(source, 3, "e")], source=source, destination=Location.parse("file:///in"))


def test_a_result_of_another_type_may_be_next_to_its_input():
    planned = plan_of(["day.csv"], destination=SOURCE, output_type=FileType.PARQUET)
    assert results(planned) == {"day.csv": "day.parquet"}


def test_on_disk_a_result_cannot_be_the_folder_of_another():
    files = ["a.csv", "a.parquet/b.csv"]
    on_disk = Location.parse("file:///out")
    with pytest.raises(ResultCollisionError, match=r"a\.csv would be named a\.parquet, which is the folder"):
        plan_of(files, destination=on_disk, output_type=FileType.PARQUET)
    assert len(plan_of(files, output_type=FileType.PARQUET).tasks) == 2


def test_an_error_of_the_listing_is_raised_as_it_is():
    def broken():
        yield from listing(SOURCE, ["a.csv"])
        raise LocationError("Lost.")

    with pytest.raises(LocationError, match=r"^Lost"):
        plan_listing(broken())


# ---- the plan


def test_the_first_skipped_files_are_named_and_all_are_in_the_document():
    planned = plan_of(["day.csv", *(f"{number:03d}.txt" for number in range(150))])
    assert [file.file for file in planned.plan.named_skipped] == [
        f"{number:03d}.txt" for number in range(100)
    ]
    assert (planned.plan.skipped_files, planned.plan.unnamed_skipped) == (150, 50)
    assert planned.skipped[:100] == list(planned.plan.named_skipped)
    assert len(planned.skipped) == 150


def test_the_files_of_a_small_execution_are_listed_with_their_shards():
    plan = plan_of({"a.csv": 1, "b.csv": 900_000, "c.csv": 2}, pods=2).plan
    assert plan.listed_files == (("b.csv", 0), ("c.csv", 1), ("a.csv", 1))


def test_the_files_of_a_large_execution_are_only_in_the_document():
    planned = plan_of([f"{number:05d}.csv" for number in range(10_001)], max_shards=7)
    assert planned.plan.listed_files == ()
    assert (planned.plan.total_files, planned.plan.total_bytes) == (10_001, 100_010)
    assert sum(shard.files for shard in planned.plan.shards) == len(planned.tasks) == 10_001


# ---- compared with lists in memory

# A folder is listed between "a-" and "a0". In UTF-16, the last name would come before the one before it.
names = st.sampled_from(
    ["a", "a-", "a0", "b", "in", "out", "a.csv", "a.parquet", ".a", "é", "\uffee", "\U0001f4c8"]
)
suffixes = st.sampled_from([".csv", ".csv", ".csv.gz", ".CSV", ".parquet", ""])
paths = st.builds(
    lambda folders, name, suffix: "/".join([*folders, name + suffix]),
    st.lists(names, max_size=2),
    names,
    suffixes,
)
# In any order: a storage lists files by their keys, but the plan does not depend on it.
sized_files = st.dictionaries(paths, st.sampled_from([0, 1, 70_000, 2**40]), min_size=1, max_size=15)
# Disjoint, the same, and one in the other.
destinations = st.sampled_from(["s3://delays/out", "s3://b/in/a", "s3://b/in/a/out", "s3://b/in", "s3://b"])
disks = st.sampled_from(["file:///delays", "file:///in/a", "file:///in/a/out", "file:///in", "file:///"])


def naive_plan(found, selection, pods, max_shards):
    """The definition of a plan: the file tasks of each shard or the error, and the skipped files."""
    selected = [selection.select(info) for info in found]
    tasks = [file for file in selected if isinstance(file, FileTask)]
    skipped = [file for file in selected if isinstance(file, SkippedFile)]
    if not tasks:
        return NoInputFilesError(""), skipped
    if conflict := naive_conflict(tasks, selection):
        return ResultCollisionError("", files=conflict), skipped
    tasks.sort(key=lambda task: (-task.size_bytes, task.file))
    shards = [[] for _ in range(min(len(tasks), max_shards, pods or len(tasks)))]
    for task in tasks:
        min(shards, key=lambda shard: sum(other.size_bytes + 65_536 for other in shard)).append(task)
    return shards, skipped


def naive_conflict(tasks, selection):
    by_result = {}
    for task in tasks:
        if task.result in by_result:
            return [by_result[task.result], task.file]
        by_result[task.result] = task.file
    if selection.destination.uri.startswith("file:"):
        for task in tasks:
            for folder in map(str, PurePosixPath(task.result).parents):
                if folder in by_result:
                    return [by_result[folder], task.file]
    inputs = {selection.root.join(task.file) for task in tasks}
    return next(([task.file] for task in tasks if selection.destination.join(task.result) in inputs), None)


@given(
    sized_files,
    st.tuples(st.just("s3://b/in/a"), destinations)
    | st.tuples(st.just("file:///in/a"), disks | destinations),
    st.sampled_from([FileType.CSV, FileType.CSV, FileType.PARQUET]),
    st.sampled_from(FileType),
    st.integers(0, 5),
    st.integers(1, 9),
)
def test_a_plan_is_that_of_lists_in_memory(files, folders, input_type, output_type, pods, max_shards):
    source, destination = map(Location.parse, folders)
    types = {"input_type": input_type, "output_type": output_type}
    selection = Selection(root=source, source=source, destination=destination, **types)
    found = listing(source, files)
    expected, skipped = naive_plan(found, selection, pods, max_shards)
    options = {"source": source, "destination": destination, "pods": pods, "max_shards": max_shards, **types}
    if isinstance(expected, NoInputFilesError | ResultCollisionError):
        with pytest.raises(type(expected)) as caught:
            plan_listing(found, **options)
        assert caught.value.details.get("files") == expected.details.get("files")
        return
    planned = plan_listing(found, **options)
    shards = [planned.document[shard.offset :][: shard.length] for shard in planned.plan.shards]
    assert [list(read_tasks(shard)) for shard in shards] == expected
    assert b"".join(shards) == planned.document
    assert planned.skipped == list(planned.plan.named_skipped) == skipped
    by_size = sorted(planned.tasks, key=lambda task: (-task.size_bytes, task.file))
    shard_of = {task.file: index for index, shard in enumerate(expected) for task in shard}
    assert planned.plan.listed_files == tuple((task.file, shard_of[task.file]) for task in by_size)
    assert planned.plan.total_bytes == sum(task.size_bytes for task in planned.tasks)
    listed = Counter([task.file for task in planned.tasks] + [file.file for file in planned.skipped])
    assert listed == Counter(files.keys())
