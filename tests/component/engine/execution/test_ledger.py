"""The ledger: no record is lost, and each file has one latest record."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution import ledger
from airflow_batchexec.engine.execution.ledger import (
    FileRecord,
    FileStatus,
    LedgerWriter,
    StoredFile,
    latest,
    now,
    read_ledger,
)
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import AccessDeniedError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
sizes = st.integers(0, 2**60)
stored_files = st.builds(StoredFile, uri=texts, size_bytes=sizes, etag=texts, rows=sizes)
# Durations as ``to_dict`` returns them: whole microseconds.
microseconds = st.integers(0, 10**9).map(lambda number: round(number / 1_000_000, 6))
records = st.builds(
    FileRecord,
    file=texts,
    etag=texts,
    status=st.sampled_from(FileStatus),
    pod=texts,
    attempt=st.integers(0, 5),
    at=st.floats(0, 1e10),
    generation=st.integers(0, 5),
    input=st.none() | stored_files,
    output=st.none() | stored_files,
    seconds=st.dictionaries(st.sampled_from(["fetch", "read", "predict"]), microseconds),
    peak_memory_bytes=sizes,
    reason=texts,
    error=texts,
    traceback=texts,
)


def record(file="day.csv", status=FileStatus.FINISHED, *, attempt=1, at=1.0, generation=0, pod="pod-1"):
    return FileRecord(
        file=file, etag="e", status=status, pod=pod, attempt=attempt, at=at, generation=generation
    )


@pytest.fixture
def folder(tmp_path):
    return Location.of_path(tmp_path / "ledger" / "0")


# ---- records


@given(records)
def test_a_record_survives_a_round_trip_through_json(entry):
    values = json.loads(json.dumps(entry.to_dict()))
    assert FileRecord.from_dict(values) == entry


def test_unset_fields_are_left_out():
    entry = FileRecord(file="day.csv", etag="", status=FileStatus.NOT_STARTED)
    assert entry.to_dict() == {"file": "day.csv", "etag": "", "status": "NOT_STARTED"}
    assert FileRecord.from_dict(entry.to_dict()) == entry


def test_an_empty_stored_file_is_kept():
    entry = replace(record(), output=StoredFile("s3://b/x", 0, "", 0))
    assert entry.to_dict()["output"] == {"uri": "s3://b/x", "size_bytes": 0, "etag": "", "rows": 0}


def test_durations_are_rounded_to_microseconds():
    assert replace(record(), seconds={"read": 0.12345678}).to_dict()["seconds"] == {"read": 0.123457}


def test_a_stored_file_describes_an_object():
    info = ObjectInfo(Location.parse("s3://b/x.csv"), 7, "tag")
    assert StoredFile.of(info, rows=3) == StoredFile("s3://b/x.csv", 7, "tag", 3)


# ---- the writer


def test_all_added_records_are_stored_after_close(folder):
    writer = LedgerWriter(storage=LocalStorage(), folder=folder, writer="pod-1")
    entries = [record(f"{number}.csv", at=float(number)) for number in range(500)]
    for entry in entries:
        writer.add(entry)
    writer.close()
    assert read_ledger(LocalStorage(), folder) == entries


class Watched(LocalStorage):
    """Signals when a segment has been written."""

    def __init__(self):
        self.written = threading.Semaphore(0)

    def write(self, location, data):
        info = super().write(location, data)
        self.written.release()
        return info


def test_a_start_is_readable_before_the_writer_is_closed(folder):
    storage = Watched()
    writer = LedgerWriter(storage=storage, folder=folder, writer="pod-1")
    started = record(status=FileStatus.STARTED)
    writer.add(started)
    assert storage.written.acquire(timeout=600)
    assert read_ledger(storage, folder) == [started]
    ended = record(at=2.0)
    writer.add(ended)
    writer.close()
    assert read_ledger(storage, folder) == [started, ended]


def test_the_records_of_a_quick_file_are_one_segment(folder, monkeypatch):
    monkeypatch.setattr(ledger, "_FIRST_SEGMENT_SECONDS", 600)
    writer = LedgerWriter(storage=LocalStorage(), folder=folder, writer="pod-1")
    entries = [record(status=FileStatus.STARTED), record(at=2.0)]
    for entry in entries:
        writer.add(entry)
    writer.close()
    assert len(list(LocalStorage().list(folder))) == 1
    assert read_ledger(LocalStorage(), folder) == entries


def test_many_quick_records_are_batched_in_few_segments(folder):
    storage, before = LocalStorage(), time.monotonic()
    writer = LedgerWriter(storage=storage, folder=folder, writer="pod-1")
    for number in range(1000):
        writer.add(record(f"{number}.csv"))
    writer.close()
    names = [info.location.name for info in storage.list(folder)]
    # One shortly after the first record, then one per second, and one for the remaining records.
    assert len(names) <= 2 + int(time.monotonic() - before)
    assert names == [f"pod-1-{number:06d}.jsonl" for number in range(len(names))]


def test_a_writer_without_records_writes_nothing(folder):
    writer = LedgerWriter(storage=LocalStorage(), folder=folder, writer="pod-1")
    writer.close()
    writer.close()
    assert not folder.path.exists()
    assert read_ledger(LocalStorage(), folder) == []


def test_concurrent_threads_and_writers_lose_no_records(folder):
    storage = LocalStorage()
    writers = [LedgerWriter(storage=storage, folder=folder, writer=f"pod-{n}") for n in range(3)]

    def work(number):
        for count in range(100):
            writers[number % 3].add(record(f"{number}-{count}.csv", at=now()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.close()
    files = [entry.file for entry in read_ledger(storage, folder)]
    assert sorted(files) == sorted(f"{number}-{count}.csv" for number in range(9) for count in range(100))


def test_adding_a_record_after_close_raises(folder):
    writer = LedgerWriter(storage=LocalStorage(), folder=folder, writer="pod-1")
    writer.close()
    with pytest.raises(RuntimeError, match=r"day\.csv: the ledger is closed"):
        writer.add(record())


class Refusing(LocalStorage):
    """A destination that has become unwritable."""

    def __init__(self):
        self.write_attempted = threading.Event()

    def write(self, location, data):
        self.write_attempted.set()
        raise AccessDeniedError(f"Cannot write {location.uri}.", uri=location.uri)


def test_write_errors_are_raised_by_close_and_add(folder):
    storage = Refusing()
    writer = LedgerWriter(storage=storage, folder=folder, writer="pod-1")
    writer.add(record())
    assert storage.write_attempted.wait(120)
    with pytest.raises(AccessDeniedError):
        writer.close()
    with pytest.raises(AccessDeniedError):
        writer.add(record())


def test_other_files_in_the_folder_are_ignored(folder):
    storage = LocalStorage()
    storage.write(folder.join("notes.txt"), b"not a record")
    storage.write(folder.join("pod-1-000000.jsonl"), json.dumps(record().to_dict()).encode())
    assert read_ledger(storage, folder) == [record()]


# ---- the latest record


@pytest.mark.parametrize(
    ("first", "second", "last"),
    [
        (record(status=FileStatus.STARTED), record(at=2.0), FileStatus.FINISHED),
        # Both records have the same timestamp.
        (record(status=FileStatus.STARTED), record(), FileStatus.FINISHED),
        (record(status=FileStatus.FAILED), record(status=FileStatus.STARTED, attempt=2), FileStatus.STARTED),
        (record(status=FileStatus.FAILED), record(attempt=2, at=2.0), FileStatus.FINISHED),
        # The second worker's clock is behind.
        (record(status=FileStatus.FAILED, at=9.0), record(attempt=2, at=2.0), FileStatus.FINISHED),
        # The run was cleared, which restarts the numbering of attempts.
        (record(attempt=2), record(status=FileStatus.STARTED, generation=1), FileStatus.STARTED),
        (record(attempt=2), record(status=FileStatus.FAILED, generation=1), FileStatus.FAILED),
        (record(status=FileStatus.CANCELLED), record(status=FileStatus.FAILED, at=2.0), FileStatus.FAILED),
    ],
)
def test_the_last_attempt_wins_in_any_order(first, second, last):
    assert latest([first, second])["day.csv"].status is last
    if (first.attempt, first.status) != (second.attempt, second.status):
        assert latest([second, first])["day.csv"].status is last


@given(st.lists(records, max_size=12))
def test_every_file_has_one_latest_record_of_its_highest_attempt(entries):
    last = latest(entries)
    assert set(last) == {entry.file for entry in entries}
    for file, entry in last.items():
        attempts = [(other.generation, other.attempt) for other in entries if other.file == file]
        assert (entry.generation, entry.attempt) == max(attempts)
        assert entry in entries
