"""The audit: every file is accounted for, and an execution is FINISHED only if every result exists."""

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


def audit_of(*records, unstarted=(), missing=(), **end):
    files = [entry.file for entry in records] + list(unstarted)
    return audit(
        tasks=[task(file) for file in files],
        records={entry.file: entry for entry in records},
        results={entry.file: None if entry.file in missing else found(entry.file) for entry in records},
        **end,
    )


# ---- the status


def test_an_execution_is_finished_if_every_result_exists():
    done = audit_of(record("a.csv"), record("b.csv", rows=0))
    assert (done.status, done.reason) == (ExecutionStatus.FINISHED, "")
    assert (done.finished_files, done.failed_files, done.not_started_files) == (2, 0, 0)
    assert (done.rows_in, done.rows_out) == (5, 3)


@pytest.mark.parametrize(
    ("results", "error", "state"),
    [
        ({"a.csv": None}, "ObjectNotFoundError", "is now missing"),
        ({}, "ObjectNotFoundError", "is now missing"),
        ({"a.csv": found("a.csv", 7)}, "ObjectChangedError", "now has 7 bytes"),
    ],
)
def test_a_missing_or_changed_result_fails_the_execution(results, error, state):
    audited = audit(tasks=[task("a.csv")], records={"a.csv": record("a.csv")}, results=results)
    assert audited.status is ExecutionStatus.FAILED
    assert audited.records[0].error == error
    assert audited.reason == (
        "1 of 1 file failed: a.csv: Its result s3://delays/out/a.csv was published with 20 bytes and "
        f"{state}: something else is writing to the destination."
    )


def test_a_record_with_another_etag_is_ignored():
    stale = audit_of(record("a.csv", etag="e0"))
    assert stale.status is ExecutionStatus.FAILED
    assert stale.records[0].status is FileStatus.NOT_STARTED


def test_a_start_without_an_end_is_a_failure():
    lost = audit_of(record("a.csv", FileStatus.STARTED))
    assert lost.records[0].status is FileStatus.FAILED
    assert lost.records[0].error == "PodDiedError"
    assert "killed or lost" in lost.reason


def test_an_execution_terminated_after_its_last_file_is_finished():
    done = audit_of(record("a.csv"), end_status=ExecutionStatus.TIMEOUT, end_reason="Too late.")
    assert (done.status, done.reason) == (ExecutionStatus.FINISHED, "")


# ---- the reason


def test_the_reason_names_failed_cancelled_and_not_started_files():
    failed = audit_of(
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


def test_the_reason_names_at_most_three_files():
    failed = audit_of(
        *(record(f"{n}.csv", FileStatus.FAILED, reason="It is broken.") for n in range(5)),
        unstarted=[f"{n}.csv" for n in range(5, 12)],
    )
    assert failed.reason == (
        "5 of 12 files failed: 0.csv: It is broken; 1.csv: It is broken; 2.csv: It is broken; and 2 more. "
        "7 files were not started: 5.csv, 6.csv, 7.csv and 4 more."
    )


def test_a_file_timeout_fails_the_execution():
    late = audit_of(record("a.csv", FileStatus.TIMEOUT, reason="a.csv: exceeded the file_timeout of 5 s."))
    assert late.status is ExecutionStatus.FAILED
    assert late.reason == "1 of 1 file failed: a.csv: exceeded the file_timeout of 5 s."


def test_a_failure_without_a_reason_is_described_by_its_status():
    assert audit_of(record("a.csv", FileStatus.TIMEOUT)).reason == "1 of 1 file failed: a.csv: timeout."


@pytest.mark.parametrize(
    "status", [ExecutionStatus.CANCELLED, ExecutionStatus.TIMEOUT, ExecutionStatus.FAILED]
)
def test_the_reason_of_an_external_end_comes_first(status):
    ended = audit_of(
        record("a.csv"),
        record("b.csv", FileStatus.CANCELLED, reason="It was interrupted."),
        record("c.csv", FileStatus.FAILED, reason="It is broken."),
        unstarted=["d.csv"],
        end_status=status,
        end_reason="The execution exceeded its job_timeout of 5 s.",
    )
    assert ended.status is status
    assert ended.reason == (
        "The execution exceeded its job_timeout of 5 s. 1 of 4 files failed: c.csv: It is broken. "
        "1 file was cancelled: b.csv. 1 file was not started: d.csv."
    )


# ---- the invariant

FILES = [f"{n}.csv" for n in range(6)]
entries = st.builds(
    record, st.sampled_from(FILES), st.sampled_from(FileStatus), etag=st.sampled_from(["e1", "e1", "e0"])
)
ends = st.none() | st.sampled_from(
    [ExecutionStatus.CANCELLED, ExecutionStatus.TIMEOUT, ExecutionStatus.FAILED]
)


@given(
    st.lists(st.sampled_from(FILES), min_size=1, unique=True),
    st.lists(entries),
    st.dictionaries(st.sampled_from(FILES), st.none() | st.sampled_from([19, 20])),
    ends,
)
def test_listed_equals_finished_plus_failed_plus_not_started(files, records, present, end_status):
    audited = audit(
        tasks=[task(file) for file in files],
        records={entry.file: entry for entry in records},
        results={file: None if size is None else found(file, size) for file, size in present.items()},
        end_status=end_status,
        end_reason="It was ended.",
    )
    assert [entry.file for entry in audited.records] == files
    assert len(files) == audited.finished_files + audited.failed_files + audited.not_started_files
    assert FileStatus.STARTED not in {entry.status for entry in audited.records}
    complete = audited.finished_files == len(files)
    assert (audited.status is ExecutionStatus.FINISHED) is complete
    assert (audited.reason == "") is complete
    if complete:
        assert all(present.get(file) == 20 for file in files)
    elif end_status is not None:
        assert audited.status is end_status
