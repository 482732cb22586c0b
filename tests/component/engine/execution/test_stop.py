"""The marks that end an execution, and the watch that polls for them."""

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


class Flaky(LocalStorage):
    """Fails its next ``failures`` reads."""

    failures = 0

    def read(self, location, *, start=0, length=None):
        if self.failures:
            self.failures -= 1
            raise StorageError("Not now.")
        return super().read(location, start=start, length=length)


@pytest.fixture
def storage():
    return Flaky()


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


def test_an_unset_mark_reads_as_none(marks):
    assert marks("stop-0").read() is None


def test_the_first_error_sets_the_mark_and_the_second_does_not_replace_it(marks):
    assert marks("stop-0").set(PredictError("day.csv: naïve.", file="day.csv")) is True
    assert marks("stop-0").set(JobTimeoutError("It took too long.")) is False
    assert marks("stop-0").read() == {"error": "PredictError", "reason": "day.csv: naïve.", "file": "day.csv"}


def test_an_error_without_a_file_has_an_empty_file(marks):
    marks("stop-0").set(JobTimeoutError("It took too long."))
    assert marks("stop-0").read()["file"] == ""


def test_a_mark_can_be_removed_and_set_again(marks):
    marks("cancel").remove()
    marks("cancel").set(ExecutionCancelledError("First."))
    marks("cancel").remove()
    assert marks("cancel").read() is None
    assert marks("cancel").set(ExecutionCancelledError("Second.")) is True


def test_an_existing_mark_is_found_on_entry(marks, watch):
    marks("stop-0").set(JobTimeoutError("It took too long."))
    with watch() as watching:
        assert watching.is_set()
        assert watching.cancelled is None


def test_a_later_stop_is_found_and_does_not_cancel(marks, watch):
    with watch() as watching:
        assert not watching.is_set()
        marks("stop-0").set(JobTimeoutError("It took too long."))
        assert watching._stop_requested.wait(120)
        assert watching.cancelled is None


def test_a_cancel_is_reported_once_even_after_a_stop_and_failed_polls(marks, watch, storage):
    reported, errors = threading.Event(), []

    def on_cancel(error):
        errors.append(error)
        reported.set()

    marks("stop-0").set(JobTimeoutError("It took too long."))
    with watch(on_cancel) as watching:
        storage.failures = 1
        marks("cancel").set(ExecutionCancelledError("Cancelled by a user."))
        assert reported.wait(120)
        assert watching.cancelled is errors[0]
    assert [error.message for error in errors] == ["Cancelled by a user."]


def test_the_polling_thread_ends_on_exit(watch):
    with watch() as watching:
        thread = watching._thread
    assert not thread.is_alive()
