"""The audit: every file is accounted for, and an execution is FINISHED only if every result exists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution.audit import Audit, audit_file
from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, StoredFile
from airflow_batchexec.engine.execution.manifest import ExecutionStatus
from airflow_batchexec.engine.execution.plan import FileTask

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


class Audited:
    """The audit of some files, and the outcome of their execution."""

    def __init__(self, files, records, results, **end):
        self.audit = Audit()
        self.records = [audit_file(task(file), records.get(file), results.get(file)) for file in files]
        for final in self.records:
            self.audit.add(final)
        self.status, self.reason = self.audit.outcome(**end)
        self.counts = (
            self.audit.finished_files,
            self.audit.failed_files,
            self.audit.not_started_files,
        )


def audit_of(*records, unstarted=(), **end):
    files = [entry.file for entry in records] + list(unstarted)
    results = {entry.file: 20 for entry in records}
    return Audited(files, {entry.file: entry for entry in records}, results, **end)


# ---- the status


def test_an_execution_is_finished_if_every_result_exists():
    done = audit_of(record("a.csv"), record("b.csv", rows=0))
    assert (done.status, done.reason) == (ExecutionStatus.FINISHED, "")
    assert done.counts == (2, 0, 0)
    assert (done.audit.rows_in, done.audit.rows_out) == (5, 3)
    assert (done.audit.bytes_in, done.audit.bytes_out) == (20, 40)


@pytest.mark.parametrize(
    ("results", "error", "state"),
    [
        ({}, "ObjectNotFoundError", "is now missing"),
        ({"a.csv": 7}, "ObjectChangedError", "now has 7 bytes"),
    ],
)
def test_a_missing_or_changed_result_fails_the_execution(results, error, state):
    audited = Audited(["a.csv"], {"a.csv": record("a.csv")}, results)
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
    assert failed.counts == (1, 2, 2)


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
    st.dictionaries(st.sampled_from(FILES), st.sampled_from([19, 20])),
    ends,
)
def test_listed_equals_finished_plus_failed_plus_not_started(files, records, present, end_status):
    audited = Audited(
        files,
        {entry.file: entry for entry in records},
        present,
        end_status=end_status,
        end_reason="It was ended.",
    )
    assert [entry.file for entry in audited.records] == files
    assert len(files) == audited.audit.total_files == sum(audited.counts)
    finals = {entry.file: entry.status for entry in audited.records}
    assert audited.audit.unfinished == {
        file: status for file, status in finals.items() if status is not FileStatus.FINISHED
    }
    assert FileStatus.STARTED not in {entry.status for entry in audited.records}
    complete = audited.counts[0] == len(files)
    assert (audited.status is ExecutionStatus.FINISHED) is complete
    assert (audited.reason == "") is complete
    if complete:
        assert all(present.get(file) == 20 for file in files)
    elif end_status is not None:
        assert audited.status is end_status
