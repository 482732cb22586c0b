"""The audit: every file accounted for, and FINISHED only where every result is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution.audit import audit
from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, StoredFile
from airflow_batchexec.engine.execution.manifest import ExecutionStatus
from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.storage.base import ObjectInfo

OUT = Location.parse("s3://delays/out")


def task(file):
    return FileTask(file, 10, "e1", file)


def record(file, status=FileStatus.FINISHED, *, reason="", etag="e1", rows=3):
    output = StoredFile(OUT.join(file).uri, 20, "o", rows) if status is FileStatus.FINISHED else None
    source = StoredFile(f"s3://flights/in/{file}", 10, etag, rows + 1)
    return FileRecord(
        file=file,
        etag=etag,
        status=status,
        pod="pod-1",
        attempt=1,
        at=1.0,
        input=source,
        output=output,
        reason=reason,
    )


def found(file, size=20):
    return ObjectInfo(OUT.join(file), size, "o")


def account(*records, unstarted=(), missing=(), **ended):
    files = [entry.file for entry in records] + list(unstarted)
    return audit(
        tasks=[task(file) for file in files],
        records={entry.file: entry for entry in records},
        results={entry.file: None if entry.file in missing else found(entry.file) for entry in records},
        **ended,
    )


# ---- the status


def test_an_execution_has_finished_where_every_result_is_there():
    done = account(record("a.csv"), record("b.csv", rows=0))
    assert (done.status, done.reason) == (ExecutionStatus.FINISHED, "")
    assert (done.finished_files, done.failed_files, done.not_started_files) == (2, 0, 0)
    assert (done.rows_in, done.rows_out) == (5, 3)


@pytest.mark.parametrize(
    ("results", "error", "state"),
    [
        ({"a.csv": None}, "ObjectNotFoundError", "is not there"),
        ({}, "ObjectNotFoundError", "is not there"),
        ({"a.csv": found("a.csv", 7)}, "ObjectChangedError", "has 7 bytes"),
    ],
)
def test_a_result_that_was_lost_or_changed_fails_the_execution(results, error, state):
    account = audit(tasks=[task("a.csv")], records={"a.csv": record("a.csv")}, results=results)
    assert account.status is ExecutionStatus.FAILED
    assert account.records[0].error == error
    assert account.reason == (
        "1 of 1 file failed: a.csv: Its result s3://delays/out/a.csv was published with 20 bytes and now "
        f"{state}: something else writes to the destination."
    )


def test_a_record_of_another_content_does_not_count():
    stale = account(record("a.csv", etag="e0"))
    assert stale.status is ExecutionStatus.FAILED
    assert stale.records[0].status is FileStatus.NOT_STARTED


def test_a_start_without_an_end_is_a_failure():
    lost = account(record("a.csv", FileStatus.STARTED))
    assert lost.records[0].status is FileStatus.FAILED
    assert lost.records[0].error == "PodDiedError"
    assert "killed or lost" in lost.reason


def test_an_execution_that_was_ended_after_its_last_file_has_finished():
    done = account(record("a.csv"), ended_as=ExecutionStatus.TIMEOUT, ended_because="Too late.")
    assert (done.status, done.reason) == (ExecutionStatus.FINISHED, "")


# ---- the reason, as it is read


def test_a_failure_is_told_with_the_files_that_were_left():
    failed = account(
        record("a.csv"),
        record("b.csv", FileStatus.FAILED, reason="b.csv: predict raised ValueError: no column 'x'."),
        record("c.csv", FileStatus.CANCELLED, reason="Another file failed."),
        unstarted=["d.csv", "e.csv"],
    )
    assert failed.status is ExecutionStatus.FAILED
    assert failed.reason == (
        "1 of 5 files failed: b.csv: predict raised ValueError: no column 'x'. "
        "1 file was cancelled: c.csv. 2 files were not started: d.csv, e.csv."
    )
    assert (failed.finished_files, failed.failed_files, failed.not_started_files) == (1, 2, 2)


def test_of_many_files_three_are_named():
    failed = account(
        *(record(f"{n}.csv", FileStatus.FAILED, reason="It is broken.") for n in range(5)),
        unstarted=[f"{n}.csv" for n in range(5, 12)],
    )
    assert failed.reason == (
        "5 of 12 files failed: 0.csv: It is broken; 1.csv: It is broken; 2.csv: It is broken; and 2 more. "
        "7 files were not started: 5.csv, 6.csv, 7.csv and 4 more."
    )


def test_a_file_that_took_too_long_fails_the_execution():
    late = account(
        record("a.csv", FileStatus.TIMEOUT, reason="a.csv: it took longer than file_timeout (5 s).")
    )
    assert late.status is ExecutionStatus.FAILED
    assert late.reason == "1 of 1 file failed: a.csv: it took longer than file_timeout (5 s)."


def test_a_failure_without_a_reason_still_reads():
    assert account(record("a.csv", FileStatus.TIMEOUT)).reason == "1 of 1 file failed: a.csv: timeout."


@pytest.mark.parametrize(
    "status", [ExecutionStatus.CANCELLED, ExecutionStatus.TIMEOUT, ExecutionStatus.FAILED]
)
def test_an_execution_that_was_ended_from_outside_says_why_first(status):
    ended = account(
        record("a.csv"),
        record("b.csv", FileStatus.CANCELLED, reason="It was interrupted."),
        record("c.csv", FileStatus.FAILED, reason="It is broken."),
        unstarted=["d.csv"],
        ended_as=status,
        ended_because="The job_timeout of 5 s is over.",
    )
    assert ended.status is status
    assert ended.reason == (
        "The job_timeout of 5 s is over. 1 of 4 files failed: c.csv: It is broken. "
        "1 file was cancelled: b.csv. 1 file was not started: d.csv."
    )


# ---- the invariant

FILES = [f"{n}.csv" for n in range(6)]
words = st.builds(
    record, st.sampled_from(FILES), st.sampled_from(FileStatus), etag=st.sampled_from(["e1", "e1", "e0"])
)
ends = st.none() | st.sampled_from(
    [ExecutionStatus.CANCELLED, ExecutionStatus.TIMEOUT, ExecutionStatus.FAILED]
)


@given(
    st.lists(st.sampled_from(FILES), min_size=1, unique=True),
    st.lists(words),
    st.dictionaries(st.sampled_from(FILES), st.none() | st.sampled_from([19, 20])),
    ends,
)
def test_listed_is_finished_and_failed_and_not_started(files, records, present, ended_as):
    account = audit(
        tasks=[task(file) for file in files],
        records={entry.file: entry for entry in records},
        results={file: None if size is None else found(file, size) for file, size in present.items()},
        ended_as=ended_as,
        ended_because="It was ended.",
    )
    assert [entry.file for entry in account.records] == files
    assert len(files) == account.finished_files + account.failed_files + account.not_started_files
    assert FileStatus.STARTED not in {entry.status for entry in account.records}
    complete = account.finished_files == len(files)
    assert (account.status is ExecutionStatus.FINISHED) is complete
    assert (account.reason == "") is complete
    if complete:
        assert all(present.get(file) == 20 for file in files)
    elif ended_as is not None:
        assert account.status is ended_as
