"""The next step of an attempt at a shard, as tables of what it has seen and the step that follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus
from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.exceptions import (
    ExecutionCancelledError,
    InputFileError,
    JobTimeoutError,
    PredictError,
    StorageError,
)
from airflow_batchexec.operators.shard_steps import Fail, Finish, Predict, Read, Seen, Skip, next_step

A, B = (FileTask(f"{name}.csv", 10, f"etag-{name}", f"{name}.csv") for name in "ab")
STARTED_AT = 1_000.0
KILLED = ExecutionCancelledError("Its task was terminated.")
CANCELLED = ExecutionCancelledError("It was cancelled by maria.")
BROKEN = InputFileError("a.csv is empty.", file="a.csv")
FLAKY = PredictError("a.csv: ValueError", file="a.csv")
TIMEOUT = "The execution exceeded its job_timeout of 60 s."


def record(
    task: FileTask,
    status: FileStatus = FileStatus.FINISHED,
    *,
    etag: str | None = None,
    generation: int = 0,
) -> FileRecord:
    return FileRecord(
        file=task.file,
        etag=task.etag if etag is None else etag,
        status=status,
        pod="pod-0",
        attempt=1,
        at=STARTED_AT,
        generation=generation,
    )


def records(*given: FileRecord) -> dict[str, FileRecord]:
    return {one.file: one for one in given}


NEW = Seen(files=[A, B], may_retry=True, job_timeout=60.0, started_at=STARTED_AT)
DONE = records(record(A), record(B))
TRIED = {"records": {}, "tried": [A, B]}

BEFORE_PREDICTING = {
    "the ledger has not been read": ({}, Read()),
    "another file failed": (
        {"stopped": True},
        Skip("The execution has ended, so this was not started. Another file has failed."),
    ),
    "the execution was cancelled": (
        {"stopped": True, "cancelled": CANCELLED},
        Skip("The execution has ended, so this was not started. It was cancelled by maria."),
    ),
    "the execution was cancelled while the ledger was read": (
        {"cancelled": CANCELLED, "stopped": True, "records": {}},
        Skip("The execution has ended, so this was not started. It was cancelled by maria."),
    ),
    "no file was processed": ({"records": {}}, Predict([A, B])),
    "one file finished": ({"records": records(record(A))}, Predict([B])),
    "one file only started": ({"records": records(record(A, FileStatus.STARTED))}, Predict([A, B])),
    "one file failed": ({"records": records(record(A, FileStatus.FAILED), record(B))}, Predict([A])),
    "one file finished with different content": (
        {"records": records(record(A, etag="older"), record(B))},
        Predict([A]),
    ),
    "all files finished": ({"records": DONE}, Finish()),
    "all files finished, cleared after a failure": (
        {"records": DONE, "generation": 1, "execution_finished": False},
        Finish(),
    ),
    "all files finished, cleared after the execution finished": (
        {"records": DONE, "generation": 1, "execution_finished": True},
        Predict([A, B]),
    ),
    "all files finished since the clear": (
        {
            "records": records(record(A, generation=1), record(B, generation=1)),
            "generation": 1,
            "execution_finished": True,
        },
        Finish(),
    ),
    "one file finished since the clear, one before": (
        {
            "records": records(record(A, generation=1), record(B)),
            "generation": 1,
            "execution_finished": True,
        },
        Predict([A, B]),
    ),
}


@pytest.mark.parametrize(("seen", "step"), BEFORE_PREDICTING.values(), ids=BEFORE_PREDICTING)
def test_the_step_before_predicting(seen, step):
    assert next_step(replace(NEW, **seen), now=STARTED_AT + 59) == step


@pytest.mark.parametrize("now", [STARTED_AT + 60, STARTED_AT + 3600])
def test_after_the_job_timeout_nothing_starts_and_the_execution_ends(now):
    step = next_step(replace(NEW, records={}), now=now)

    assert isinstance(step, Fail)
    assert isinstance(step.error, JobTimeoutError)
    assert (step.message, step.retry, step.end_execution) == (TIMEOUT, False, True)


def test_a_complete_shard_finishes_even_after_the_job_timeout():
    assert next_step(replace(NEW, records=DONE), now=STARTED_AT + 3600) == Finish()


def test_without_a_job_timeout_there_is_no_deadline():
    assert next_step(replace(NEW, records={}, job_timeout=0), now=1e12) == Predict([A, B])


AFTER_PREDICTING = {
    "all files finished": ({"finished": 2}, Finish()),
    "a file failed permanently": (
        {"error": BROKEN},
        Fail("a.csv is empty.", BROKEN, end_execution=True),
    ),
    "a file failed and may be retried": ({"error": FLAKY}, Fail("a.csv: ValueError", FLAKY, retry=True)),
    "a file failed in the last try": (
        {"error": FLAKY, "may_retry": False},
        Fail("a.csv: ValueError", FLAKY, retry=True, end_execution=True),
    ),
    "another task's file failed": (
        {"finished": 1, "stopped": True},
        Fail("1 of 2 files were not started: another file has failed, and so the execution."),
    ),
    "another task's file failed after all files here finished": ({"finished": 2, "stopped": True}, Finish()),
    "a file failed, and so did another task's": (
        {"error": BROKEN, "stopped": True},
        Fail("a.csv is empty.", BROKEN, end_execution=True),
    ),
    "the task was terminated while predicting": (
        {"finished": 1, "killed": KILLED, "error": KILLED},
        Fail(KILLED.message, KILLED, retry=True, record_cancelled=True),
    ),
    "the task was terminated between two files": (
        {"finished": 1, "killed": KILLED},
        Fail(KILLED.message, KILLED, retry=True, record_cancelled=True),
    ),
    "the task was terminated after its last file": ({"finished": 2, "killed": KILLED}, Finish()),
    "a file failed just before the task was terminated": (
        {"killed": KILLED, "error": BROKEN},
        Fail("a.csv is empty.", BROKEN, end_execution=True),
    ),
    "the execution was cancelled while predicting": (
        {"finished": 1, "stopped": True, "cancelled": CANCELLED, "error": CANCELLED},
        Fail(
            "The execution was cancelled. It was cancelled by maria.",
            CANCELLED,
            skip_siblings=True,
            record_cancelled=True,
        ),
    ),
    "the execution was cancelled after its last file": (
        {"finished": 2, "stopped": True, "cancelled": CANCELLED},
        Finish(skip_siblings=True),
    ),
    "a file failed just before the execution was cancelled": (
        {"error": BROKEN, "stopped": True, "cancelled": CANCELLED},
        Fail("a.csv is empty.", BROKEN, end_execution=True),
    ),
    "the task was terminated because the execution was cancelled": (
        {"finished": 1, "stopped": True, "cancelled": CANCELLED, "killed": KILLED, "error": KILLED},
        Fail(KILLED.message, KILLED, retry=True, record_cancelled=True),
    ),
}


@pytest.mark.parametrize(("seen", "step"), AFTER_PREDICTING.values(), ids=AFTER_PREDICTING)
def test_the_step_after_predicting(seen, step):
    assert next_step(replace(NEW, **TRIED, **seen), now=STARTED_AT) == step


def test_files_left_without_another_reason_mean_the_job_timeout():
    step = next_step(replace(NEW, **TRIED, finished=1), now=STARTED_AT + 60)

    assert isinstance(step, Fail)
    assert isinstance(step.error, JobTimeoutError)
    assert (step.message, step.retry, step.end_execution) == (TIMEOUT, False, True)


@pytest.mark.parametrize("may_retry", [True, False])
def test_a_storage_error_ends_the_execution_only_at_the_last_try(may_retry):
    error = StorageError("Cannot publish.")
    step = next_step(replace(NEW, **TRIED, error=error, may_retry=may_retry), now=STARTED_AT)

    assert step == Fail("Cannot publish.", error, retry=True, end_execution=not may_retry)
