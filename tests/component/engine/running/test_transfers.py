"""Transfers beside the pod: their limits."""

from __future__ import annotations

import threading

import pytest

from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.running.file_job import FileJob
from airflow_batchexec.engine.running.transfers import TRANSFER_BYTES, Fetches, Publications


@pytest.fixture
def job(tmp_path):
    """Makes a file whose input and result have the given size."""

    def make(number, size):
        task = FileTask(f"{number}.csv", size, "etag", f"{number}.parquet")
        path = tmp_path / str(number)
        with path.open("wb") as file:
            file.truncate(size)
        return FileJob(task=task, number=number, pod="pod-0", attempt=1, generation=0, output_path=path)

    return make


@pytest.mark.parametrize(("size", "count"), [(1, 8), (TRANSFER_BYTES // 3, 4), (TRANSFER_BYTES, 1)])
def test_publications_are_limited_in_number_and_bytes(job, size, count):
    may_end = threading.Event()
    ended = []

    def publish(published):
        assert may_end.wait(timeout=600)
        ended.append(published.number)

    publications = Publications(publish)
    for number in range(count):
        assert publications.have_room
        publications.add(job(number, size))
    assert not publications.have_room
    may_end.set()
    publications.add(job(count, size))
    publications.close()
    publications.check()
    assert sorted(ended) == list(range(count + 1))
    assert publications.have_room


@pytest.mark.parametrize(("size", "count"), [(1, 8), (TRANSFER_BYTES // 3, 4), (TRANSFER_BYTES, 1)])
def test_fetches_ahead_are_limited_in_number_and_bytes(job, tmp_path, size, count):
    consumed = []

    def jobs():
        for number in range(20):
            consumed.append(number)
            yield job(number, size)

    fetches = Fetches(jobs(), lambda _: tmp_path)
    taken = fetches.take()
    assert taken.number == 0
    assert taken.fetched.result() == tmp_path
    assert len(consumed) == 1 + count
    fetches.close()


def test_files_that_are_not_fetched_ahead_are_consumed_when_they_are_taken(job, tmp_path):
    threads = []

    def fetch(_):
        threads.append(threading.current_thread())
        return tmp_path

    waiting = iter([job(0, 1), job(1, 1)])
    fetches = Fetches(waiting, fetch, max_bytes=0)
    assert fetches.take().is_fetched
    assert threads == [threading.current_thread()]
    assert next(waiting).number == 1
    assert fetches.take() is None
    fetches.close()


def test_one_file_at_most_is_fetched_while_the_pod_is_busy(job, tmp_path):
    waiting = iter([job(number, 1) for number in range(4)])
    allowed = [True, True, False]
    fetches = Fetches(waiting, lambda _: tmp_path, max_bytes=0, may_look_ahead=lambda: allowed.pop(0))
    assert fetches.take().number == 0
    fetches.look_ahead()
    fetches.look_ahead()
    assert len(allowed) == 2
    assert fetches.take().is_fetched
    fetches.look_ahead()
    assert fetches.take().number == 2
    fetches.look_ahead()
    assert next(waiting).number == 3
    fetches.close()
