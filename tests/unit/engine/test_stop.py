"""The mark that an execution has failed: the first failure leaves it, and every pod finds it."""

from __future__ import annotations

import pytest

from airflow_batchexec.engine.locations import Location
from airflow_batchexec.engine.stop import StopMark
from airflow_batchexec.engine.storage import LocalStorage
from airflow_batchexec.exceptions import JobTimeoutError, PredictError


class Counting(LocalStorage):
    """Counts how often somebody looks."""

    def __init__(self):
        self.looks = 0

    def read(self, location, *, start=0, length=None):
        self.looks += 1
        return super().read(location, start=start, length=length)


@pytest.fixture
def storage():
    return Counting()


@pytest.fixture
def mark_of(storage, tmp_path):
    return lambda: StopMark(storage=storage, location=Location.of_path(tmp_path / "x" / "stop-0"))


def test_without_a_failure_there_is_no_mark(mark_of):
    assert mark_of().is_set() is False
    assert mark_of().read() is None


def test_the_first_failure_leaves_the_mark_and_the_second_does_not_replace_it(mark_of):
    assert mark_of().set(PredictError("day.csv: naïve.", file="day.csv")) is True
    assert mark_of().set(JobTimeoutError("It took too long.")) is False
    assert mark_of().read() == {"error": "PredictError", "reason": "day.csv: naïve.", "file": "day.csv"}
    assert mark_of().is_set() is True


def test_a_failure_of_the_execution_names_no_file(mark_of):
    mark_of().set(JobTimeoutError("It took too long."))
    assert mark_of().read()["file"] == ""


def test_the_storage_is_not_asked_before_every_file(mark_of, storage):
    mark = mark_of()
    for _ in range(1000):
        mark.is_set()
    assert storage.looks < 100


def test_a_mark_that_was_found_is_not_looked_for_again(mark_of, storage):
    mark_of().set(JobTimeoutError("It took too long."))
    mark = mark_of()
    assert all(mark.is_set() for _ in range(1000))
    assert storage.looks == 1
