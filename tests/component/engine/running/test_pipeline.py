"""The file pipeline: order, records, failures, limits and overlap."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from predictors import PredictorStarter, nothing_left_behind

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution.ledger import FileStatus
from airflow_batchexec.engine.execution.selection import Selection
from airflow_batchexec.engine.running.deadline import JobDeadline
from airflow_batchexec.engine.running.pipeline import FileRoute, Limits, run_files
from airflow_batchexec.engine.running.transfers import TRANSFER_BYTES
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import (
    ExecutionCancelledError,
    FileTimeoutError,
    JobTimeoutError,
    ObjectChangedError,
    PodDiedError,
    PredictError,
    StorageError,
)

STARTED, FINISHED, FAILED = FileStatus.STARTED, FileStatus.FINISHED, FileStatus.FAILED
ECHO = "def predict(df):\n    return df\n"
# Each file says in its rows what the model should do with it.
OBEDIENT = """
import os, time
def predict(df):
    order = df["order"][0]
    if order == "fail":
        raise ValueError("as ordered")
    if order == "hang":
        time.sleep(600)
    if order == "die":
        os._exit(1)
    return df
"""


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    with nothing_left_behind():
        yield


class Route:
    """Sends files from one temporary folder to another through one pod.

    Attributes:
        records: The recorded (file, status) pairs.
    """

    def __init__(self, folder):
        self.source, self.results, self.scratch = (folder / name for name in ("source", "results", "scratch"))
        self.starter = PredictorStarter(folder)
        self.storage = LocalStorage()
        self.entries = []
        self.names = []
        self.parameters = {}
        self.prefetch_bytes = TRANSFER_BYTES

    @property
    def records(self):
        return [(entry.file, entry.status) for entry in self.entries]

    def last(self, file):
        return [entry for entry in self.entries if entry.file == file][-1]

    def write(self, **orders):
        """Write input files of ten rows by name; ``__`` in a name is a path separator."""
        for name, order in orders.items():
            path = self.source / f"{name.replace('__', '/')}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("order\n" + f"{order}\n" * 10)
            self.names.append(str(path.relative_to(self.source)))

    def plan(self):
        """The file tasks, in the order in which their files were written."""
        source, destination = Location.of_path(self.source), Location.of_path(self.results)
        selection = Selection(
            root=source,
            source=source,
            destination=destination,
            input_type=FileType.CSV,
            output_type=FileType.PARQUET,
        )
        tasks = map(selection.select, self.storage.list(source))
        return sorted(tasks, key=lambda task: self.names.index(task.file))

    def run(self, *, model=OBEDIENT, tasks=None, record=None, job_timeout=0, elapsed=0, **limits):
        """Send the files through a pod that starts after ``elapsed`` seconds of the job timeout."""
        route = FileRoute(
            source=self.storage,
            root=Location.of_path(self.source),
            input_type=FileType.CSV,
            destination=self.storage,
            results=Location.of_path(self.results),
            output_type=FileType.PARQUET,
            scratch=self.scratch / "in",
            staging=self.scratch / "out",
            prefetch_bytes=0 if self.storage.staging(Location.of_path(self.source)) else self.prefetch_bytes,
        )

        def keep_and_record(entry):
            self.entries.append(entry)
            if record is not None:
                record(entry)

        with self.starter.started(model, parameters=self.parameters) as self.pod:
            error = run_files(
                tasks=iter(self.plan() if tasks is None else tasks),
                pod=self.pod,
                attempt=2,
                generation=1,
                route=route,
                limits=Limits(job=JobDeadline.of(job_timeout, elapsed=elapsed), **limits),
                record=keep_and_record,
            )
        assert not (self.scratch / "in").exists()
        assert not (self.scratch / "out").exists()
        self.check_records()
        return error

    def check_records(self):
        """Check that every started file has one start, then one end, and that none is started after a failure."""
        failures = [
            number for number, (_, status) in enumerate(self.records) if status not in {STARTED, FINISHED}
        ]
        assert STARTED not in [
            status for _, status in self.records[min(failures, default=len(self.records)) :]
        ]
        for file in {entry.file for entry in self.entries}:
            statuses = [entry.status for entry in self.entries if entry.file == file]
            assert statuses[0] is STARTED
            assert len(statuses) == 2
            assert statuses[1] is not STARTED

    def published(self):
        return sorted(
            str(path.relative_to(self.results)) for path in self.results.rglob("*") if path.is_file()
        )


@pytest.fixture
def route(tmp_path):
    return Route(tmp_path)


class Bucket(LocalStorage):
    """A storage that copies on fetch and publish, like a bucket.

    Attributes:
        events: The operations so far, as (operation, name).
    """

    def __init__(self):
        self.events = []

    def staging(self, folder):
        return None

    def fetch(self, info, scratch_file):
        self.events.append(("fetch", info.location.name))
        shutil.copyfile(super().fetch(info, scratch_file), scratch_file)
        return scratch_file

    def publish(self, path, location):
        self.events.append(("publish", location.name))
        return super().publish(path, location)


@pytest.fixture
def bucket(route):
    route.storage = Bucket()
    return route


@pytest.fixture(params=[LocalStorage, Bucket])
def any_route(route, request):
    route.storage = request.param()
    return route


def test_files_are_predicted_in_order(any_route):
    any_route.write(a="x", b="x", deep__er__c="x", d="x")
    assert any_route.run() is None
    starts = [file for file, status in any_route.records if status is STARTED]
    ends = [file for file, status in any_route.records if status is FINISHED]
    assert starts == ["a.csv", "b.csv", "deep/er/c.csv", "d.csv"]
    assert sorted(ends) == sorted(starts)
    assert any_route.published() == ["a.parquet", "b.parquet", "d.parquet", "deep/er/c.parquet"]


def test_the_record_of_a_finished_file_describes_its_input_and_output(any_route):
    any_route.write(a="x")
    (task,) = any_route.plan()
    any_route.run()
    entry = any_route.last("a.csv")
    source, result = any_route.source / "a.csv", any_route.results / "a.parquet"
    assert (entry.pod, entry.attempt, entry.generation, entry.etag) == ("pod-0", 2, 1, task.etag)
    assert (entry.input.uri, entry.input.size_bytes, entry.input.etag, entry.input.rows) == (
        *(f"file://{source}", source.stat().st_size),
        *(task.etag, 10),
    )
    stored = any_route.storage.stat(Location.of_path(result))
    assert (entry.output.uri, entry.output.size_bytes, entry.output.etag, entry.output.rows) == (
        *(f"file://{result}", result.stat().st_size),
        *(stored.etag, 10),
    )
    assert set(entry.seconds) == {"fetch", "read", "predict", "write", "publish"}
    assert entry.peak_memory_bytes > 0


def test_no_file_is_started_after_the_first_failure(any_route):
    any_route.write(a="x", b="fail", c="x", d="x")
    error = any_route.run()
    assert isinstance(error, PredictError)
    assert error.details["file"] == "b.csv"
    assert {file for file, _ in any_route.records} == {"a.csv", "b.csv"}
    assert any_route.published() == ["a.parquet"]
    entry = any_route.last("b.csv")
    assert (entry.status, entry.error) == (FAILED, "PredictError")
    assert entry.reason == "b.csv: ValueError: as ordered."
    assert 'raise ValueError("as ordered")' in entry.traceback


def test_a_pod_that_dies_fails_its_current_file(any_route):
    any_route.write(a="x", b="die", c="x")
    error = any_route.run()
    assert isinstance(error, PodDiedError)
    assert error.details["file"] == "b.csv"
    assert any_route.last("b.csv").status is FAILED
    assert any_route.published() == ["a.parquet"]


def test_no_file_is_started_after_should_stop(any_route):
    any_route.write(a="x", b="x", c="x")
    stop = threading.Event()

    def record(entry):
        if (entry.file, entry.status) == ("b.csv", STARTED):
            stop.set()

    assert any_route.run(record=record, should_stop=stop.is_set) is None
    assert {file for file, _ in any_route.records} == {"a.csv", "b.csv"}
    assert any_route.published() == ["a.parquet", "b.parquet"]


def test_a_file_that_exceeds_its_timeout_is_recorded_as_such(any_route):
    any_route.write(a="x", b="hang", c="x")
    error = any_route.run(file_timeout=3)
    assert isinstance(error, FileTimeoutError)
    assert error.message == "b.csv: exceeded the file_timeout of 3 s; its pod was terminated."
    assert any_route.last("b.csv").status is FileStatus.TIMEOUT
    assert any_route.published() == ["a.parquet"]


def test_the_job_timeout_ends_the_current_file(any_route):
    any_route.write(a="hang", b="x")
    error = any_route.run(job_timeout=7, elapsed=5, file_timeout=60)
    assert isinstance(error, JobTimeoutError)
    assert "job_timeout of 7 s" in error.message
    assert any_route.records == [("a.csv", STARTED), ("a.csv", FileStatus.TIMEOUT)]


def test_a_cancelled_file_is_recorded_as_cancelled(any_route):
    any_route.write(a="hang", b="x")
    threads = []

    def record(entry):
        if entry.status is STARTED:
            reason = ExecutionCancelledError("Cancelled with Ctrl-C.")
            threads.append(threading.Thread(target=any_route.pod.end, args=[reason]))
            threads[0].start()

    error = any_route.run(record=record)
    threads[0].join()
    assert isinstance(error, ExecutionCancelledError)
    assert any_route.records == [("a.csv", STARTED), ("a.csv", FileStatus.CANCELLED)]


def test_an_input_that_changed_since_it_was_listed_fails(any_route):
    any_route.write(a="x", b="x")
    tasks = any_route.plan()
    (any_route.source / "b.csv").write_text("order\nnew\n")
    error = any_route.run(tasks=tasks)
    assert isinstance(error, ObjectChangedError)
    assert error.details["file"] == "b.csv"
    assert any_route.published() == ["a.parquet"]


def test_an_input_that_was_deleted_fails(any_route):
    any_route.write(a="x", b="x")
    tasks = any_route.plan()
    (any_route.source / "a.csv").unlink()
    error = any_route.run(tasks=tasks)
    assert isinstance(error, StorageError)
    assert any_route.records == [("a.csv", STARTED), ("a.csv", FAILED)]


def test_a_result_that_cannot_be_published_stops_the_pipeline(any_route):
    any_route.write(deep__a="x", b="x", c="x", d="x")
    any_route.results.mkdir()
    (any_route.results / "deep").write_text("a file where the folder should be")
    error = any_route.run()
    assert isinstance(error, StorageError)
    assert error.details["file"] == "deep/a.csv"
    assert ("deep/a.csv", FAILED) in any_route.records
    assert (any_route.results / "deep").read_text() == "a file where the folder should be"


def test_inputs_on_disk_are_read_in_place_and_stay(route):
    route.write(a="x", b="fail")
    before = {path.name: path.read_bytes() for path in route.source.iterdir()}
    route.run()
    assert {path.name: path.read_bytes() for path in route.source.iterdir()} == before


def test_fetching_and_publishing_overlap_with_predicting(bucket, tmp_path):
    """``predict`` waits for the next file to be fetched and the previous one published: without overlap, it fails."""
    source = """
    import os, pathlib, time
    marks = pathlib.Path(os.environ["MARKS"])
    def predict(df):
        for mark in df["order"][0].split():
            deadline = time.monotonic() + 120
            while not (marks / mark).exists():
                assert time.monotonic() < deadline, mark
                time.sleep(0.005)
        return df
    """
    bucket.write(a="fetch-b.csv", b="fetch-c.csv publish-a.parquet", c="publish-b.parquet")
    marks = tmp_path / "marks"
    marks.mkdir()

    class Marking(Bucket):
        def fetch(self, info, scratch_file):
            path = super().fetch(info, scratch_file)
            (marks / f"fetch-{info.location.name}").touch()
            return path

        def publish(self, path, location):
            info = super().publish(path, location)
            (marks / f"publish-{location.name}").touch()
            return info

    bucket.storage = Marking()
    bucket.parameters = {"MARKS": str(marks)}
    assert bucket.run(model=source) is None
    assert bucket.published() == ["a.parquet", "b.parquet", "c.parquet"]


def test_a_prefetched_file_that_was_not_started_is_not_recorded(bucket):
    bucket.write(a="fail", b="x", c="x")
    assert isinstance(bucket.run(), PredictError)
    assert bucket.records == [("a.csv", STARTED), ("a.csv", FAILED)]


def test_at_most_eight_files_are_fetched_ahead(bucket):
    bucket.write(**dict.fromkeys("abcdefghijklmnop", "x"))
    ahead = []

    def record(_):
        fetched = sum(operation == "fetch" for operation, _ in bucket.storage.events)
        ahead.append(fetched - sum(status is STARTED for _, status in bucket.records))

    assert bucket.run(record=record) is None
    assert max(ahead) <= 8


def test_the_bytes_fetched_ahead_are_limited(bucket):
    """The scratch folder contains the file being predicted, one fetched ahead, and one about to be discarded."""
    bucket.write(**dict.fromkeys("abcdefgh", "x"))
    bucket.prefetch_bytes = 1
    counts = []

    def record(entry):
        if entry.status is STARTED:
            counts.append(len(list((bucket.scratch / "in").iterdir())))

    assert bucket.run(record=record) is None
    assert max(counts) <= 3


@pytest.mark.parametrize("kind", [StorageError, OSError])
def test_a_failed_fetch_fails_its_own_file_and_not_the_previous_one(bucket, kind):
    bucket.write(a="x", b="x", c="x")

    class Denied(Bucket):
        def fetch(self, info, scratch_file):
            if info.location.name == "b.csv":
                raise kind("Connection lost.")
            return super().fetch(info, scratch_file)

    bucket.storage = Denied()
    error = bucket.run()
    assert isinstance(error, StorageError)
    assert error.details["file"] == "b.csv"
    assert bucket.published() == ["a.parquet"]
    assert "Connection lost." in bucket.last("b.csv").reason


@pytest.mark.parametrize("operation", ["fetch", "publish"])
def test_eight_small_files_are_fetched_and_published_at_once(bucket, operation):
    """Each transfer waits for seven others."""
    bucket.write(**dict.fromkeys("abcdefgh", "x"))
    together = threading.Barrier(8)

    class Distant(Bucket):
        def fetch(self, info, scratch_file):
            if operation == "fetch":
                together.wait(timeout=600)
            return super().fetch(info, scratch_file)

        def publish(self, path, location):
            if operation == "publish":
                together.wait(timeout=600)
            return super().publish(path, location)

    bucket.storage = Distant()
    assert bucket.run() is None
    assert len(bucket.published()) == 8


def test_a_failed_publication_lets_the_others_finish(any_route):
    any_route.write(**dict.fromkeys("abcdef", "x"))
    together, failed = threading.Barrier(3), threading.Event()

    class Full(type(any_route.storage)):
        def publish(self, path, location):
            if location.name in {"a.parquet", "b.parquet", "c.parquet"}:
                together.wait(timeout=600)
                if location.name == "b.parquet":
                    raise StorageError("The disk is full.")
                assert failed.wait(timeout=600)
            return super().publish(path, location)

    def record(entry):
        if entry.status is FAILED:
            failed.set()

    any_route.storage = Full()
    error = any_route.run(record=record)
    assert (error.message, error.details["file"]) == ("The disk is full.", "b.csv")
    ends = {file: status for file, status in any_route.records if status is not STARTED}
    assert ends == {file: FAILED if file == "b.csv" else FINISHED for file in ends}
    assert {"a.csv", "b.csv", "c.csv"} <= set(ends)
    assert "b.parquet" not in any_route.published()


def test_a_bug_in_a_storage_ends_the_pipeline_after_the_other_publications(any_route):
    any_route.write(a="x", b="x")
    together = threading.Barrier(2)

    class Broken(type(any_route.storage)):
        def publish(self, path, location):
            together.wait(timeout=600)
            if location.name == "a.parquet":
                raise RuntimeError("a bug")
            return super().publish(path, location)

    any_route.storage = Broken()
    with pytest.raises(RuntimeError, match="a bug"):
        any_route.run()
    assert ("b.csv", FINISHED) in any_route.records
    assert any_route.published() == ["b.parquet"]


def test_what_is_printed_belongs_to_the_file_that_it_was_printed_for(any_route):
    names = [f"file{number}" for number in range(30)]
    any_route.write(**{name: f"{name}.csv" for name in names})
    model = """
    import sys
    def predict(df):
        print(df["order"][0])
        sys.stderr.write(df["order"][0])
        return df
    """
    assert any_route.run(model=model) is None
    lines = [line for _, line in any_route.starter.printed]
    assert lines == any_route.starter.printed_for
    assert sorted(lines) == sorted(2 * [f"{name}.csv" for name in names])


def test_a_file_is_recorded_as_finished_after_its_result_is_on_disk(route, monkeypatch):
    """After a power cut, no record may say that a file has a result that is lost."""
    names = "abcdefghij"
    route.write(**dict.fromkeys(names, "x"))
    tasks = route.plan()
    events = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("sync", path))
        fsync(descriptor)
        events.append(("synced", path))

    def recorded_replace(source, target):
        events.append(("rename", Path(source)))
        replace(source, target)
        events.append(("renamed", Path(target)))

    def record(entry):
        events.append((entry.status, entry.file))

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    assert route.run(tasks=tasks, record=record) is None
    for number, name in enumerate(names, start=1):
        staged, result = route.scratch / "out" / f"{number}.parquet", route.results / f"{name}.parquet"
        assert events.index(("synced", staged)) < events.index(("rename", staged))
        renamed, finished = events.index(("renamed", result)), events.index((FINISHED, f"{name}.csv"))
        started = events.index(("sync", route.results), renamed)
        assert ("synced", route.results) in events[started:finished]
