"""The marks that end an execution, and the watch that finds them."""

from __future__ import annotations

import threading

import pytest

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution.stop import StopMark, StopWatch
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import (
    ExecutionCancelledError,
    JobTimeoutError,
    PredictError,
    StorageError,
)


class Moody(LocalStorage):
    """Fails as often as it is told to."""

    failures = 0

    def read(self, location, *, start=0, length=None):
        if self.failures:
            self.failures -= 1
            raise StorageError("Not now.")
        return super().read(location, start=start, length=length)


@pytest.fixture
def storage():
    return Moody()


@pytest.fixture
def marks(storage, tmp_path):
    def mark(name):
        return StopMark(storage=storage, location=Location.of_path(tmp_path / "x" / name))

    return mark


@pytest.fixture
def watch(marks):
    def make(on_cancel=lambda error: None):
        return StopWatch(stop=marks("stop-0"), cancel=marks("cancel"), on_cancel=on_cancel)

    return make


def test_without_a_failure_there_is_no_mark(marks):
    assert marks("stop-0").read() is None


def test_the_first_failure_leaves_the_mark_and_the_second_does_not_replace_it(marks):
    assert marks("stop-0").set(PredictError("day.csv: naïve.", file="day.csv")) is True
    assert marks("stop-0").set(JobTimeoutError("It took too long.")) is False
    assert marks("stop-0").read() == {"error": "PredictError", "reason": "day.csv: naïve.", "file": "day.csv"}


def test_a_failure_of_the_execution_names_no_file(marks):
    marks("stop-0").set(JobTimeoutError("It took too long."))
    assert marks("stop-0").read()["file"] == ""


def test_a_mark_may_be_taken_away_and_left_again(marks):
    marks("cancel").remove()
    marks("cancel").set(ExecutionCancelledError("First."))
    marks("cancel").remove()
    assert marks("cancel").read() is None
    assert marks("cancel").set(ExecutionCancelledError("Second.")) is True


def test_a_mark_that_was_there_before_is_seen_at_once(marks, watch):
    marks("stop-0").set(JobTimeoutError("It took too long."))
    with watch() as watching:
        assert watching.is_set()
        assert watching.cancelled is None


def test_a_stop_that_comes_later_is_seen_and_cancels_nothing(marks, watch):
    with watch() as watching:
        assert not watching.is_set()
        marks("stop-0").set(JobTimeoutError("It took too long."))
        assert watching._found.wait(120)
        assert watching.cancelled is None


def test_a_cancel_is_told_once_with_its_reason_also_after_a_stop_and_after_failed_looks(
    marks, watch, storage
):
    told, errors = threading.Event(), []

    def on_cancel(error):
        errors.append(error)
        told.set()

    marks("stop-0").set(JobTimeoutError("It took too long."))
    with watch(on_cancel) as watching:
        storage.failures = 1
        marks("cancel").set(ExecutionCancelledError("Somebody did not want it."))
        assert told.wait(120)
        assert watching.cancelled is errors[0]
    assert [error.message for error in errors] == ["Somebody did not want it."]


def test_a_watch_that_was_left_looks_no_more(watch):
    with watch() as watching:
        thread = watching._thread
    assert not thread.is_alive()
