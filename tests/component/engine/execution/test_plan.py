"""The plan: its file tasks as lines, and their distribution among shards."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.execution.plan import (
    FileTask,
    Shard,
    SkippedFile,
    assign_shards,
    count_shards,
    read_tasks,
    write_shards,
)

OVERHEAD = 64 * 1024
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
tasks = st.builds(FileTask, file=texts, size_bytes=st.integers(0, 10_000_000), etag=texts, result=texts)
size_lists = st.lists(st.integers(0, 10_000_000), min_size=1, max_size=40).map(
    lambda sizes: sorted(sizes, reverse=True)
)


# ---- lines


@given(tasks)
def test_a_task_survives_a_round_trip_through_its_line(task):
    line = task.to_json()
    assert "\n" not in line
    assert FileTask.from_json(line) == FileTask.from_json(line.encode()) == task


@given(tasks)
def test_the_line_of_a_task_is_that_of_a_json_encoder(task):
    values = {name: getattr(task, name) for name in ("file", "size_bytes", "etag", "result")}
    assert task.to_json() == json.dumps(values, ensure_ascii=False)


@given(texts, texts)
def test_the_line_of_a_skipped_file_is_that_of_a_json_encoder(file, reason):
    values = {"file": file, "reason": reason}
    assert SkippedFile(file, reason).to_json() == json.dumps(values, ensure_ascii=False)


# ---- shards


@pytest.mark.parametrize(
    ("files", "pods", "max_shards", "count"),
    [(5, None, 9, 5), (5, 0, 9, 5), (5, 2, 9, 2), (5, 7, 9, 5), (5, None, 3, 3), (5, 4, 3, 3)],
)
def test_there_is_one_shard_per_file_or_per_pod(files, pods, max_shards, count):
    assert count_shards(files=files, pods=pods, max_shards=max_shards) == count


@given(size_lists, st.integers(1, 50))
def test_each_file_goes_to_the_lightest_shard(sizes, count):
    weights = [0] * count
    for size, index in zip(sizes, assign_shards(sizes, count=count), strict=True):
        assert index == weights.index(min(weights))
        weights[index] += size + OVERHEAD


@given(size_lists, st.integers(1, 40))
def test_no_shard_is_empty_if_there_are_as_many_files(sizes, count):
    count = min(count, len(sizes))
    assert set(assign_shards(sizes, count=count)) == set(range(count))


def test_many_tiny_files_are_spread_evenly():
    indexes = list(assign_shards([1000, *[0] * 99], count=4))
    assert [indexes.count(index) for index in range(4)] == [25] * 4


@given(st.lists(st.lists(tasks, min_size=1, max_size=5), min_size=1, max_size=8))
def test_each_shard_locates_its_tasks_in_the_plan_document(shard_tasks):
    file = io.BytesIO()
    shards = write_shards(file, map(iter, shard_tasks), round_id="0123456789ab")
    document = file.getvalue()
    for expected, shard in zip(shard_tasks, shards, strict=True):
        again = Shard.from_descriptor(json.loads(json.dumps(shard.to_descriptor())))
        assert again == shard
        assert again.files == len(expected)
        assert read_tasks(document[again.offset : again.offset + again.length]) == tuple(expected)
    assert read_tasks(document) == tuple(task for expected in shard_tasks for task in expected)


def test_a_descriptor_of_an_earlier_release_has_no_round():
    assert Shard.from_descriptor([10, 20, 3]) == Shard(10, 20, 3, round_id="")
