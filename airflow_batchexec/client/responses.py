"""Answers of the API, read into the results; a field that is missing or null counts as unset, as on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_batchexec.client.results import (
    BatchJob,
    BatchJobSummary,
    CancelExecutionResult,
    ExecutionFileDetails,
    ExecutionStatusResult,
    GetBatchJobDetailsResult,
    GetExecutionReportResult,
    ListBatchJobsResult,
    ReportMessage,
    StartExecutionResult,
    TaskExecution,
)
from airflow_batchexec.exceptions import UnexpectedAnswerError
from airflow_batchexec.wire.values import JobStatus, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_batchexec.client.transport import Answer
    from airflow_batchexec.wire.values import WireEnum

    E = TypeVar("E", bound=WireEnum)

__all__ = [
    "read_cancelled",
    "read_details",
    "read_page",
    "read_report",
    "read_started",
    "read_status",
]

T = TypeVar("T")


def read_started(answer: Answer) -> StartExecutionResult:
    """The answer to a start."""
    return StartExecutionResult(**_outcome(answer), execution_id=_Object(answer.body).text("batch_id"))


def read_status(answer: Answer) -> ExecutionStatusResult:
    """The answer to a question for the status."""
    body = _Object(answer.body)
    return ExecutionStatusResult(
        **_outcome(answer),
        status=body.enum("job_status", JobStatus),
        finished_files=body.number("finished_files"),
        total_files=body.number("total_files"),
    )


def read_cancelled(answer: Answer) -> CancelExecutionResult:
    """The answer to a cancel."""
    return CancelExecutionResult(**_outcome(answer))


def read_report(answer: Answer) -> GetExecutionReportResult:
    """The answer to a question for the report."""
    return GetExecutionReportResult(
        **_outcome(answer, "successful"), records=_Object(answer.body).texts("report_messages")
    )


def read_page(answer: Answer) -> tuple[ListBatchJobsResult, str]:
    """One page of a list, and the cursor of the next; empty after the last."""
    body = _Object(answer.body)
    jobs = [
        BatchJobSummary(
            job_id=job.text("job_id"),
            build_id=job.text("build_id"),
            job_status=job.enum("job_status", JobStatus),
            start_time=job.moment("start_time"),
            end_time=job.moment("end_time"),
            job_size=job.number("job_size"),
            failure_message=job.text("failure_message"),
        )
        for job in body.objects("batch_jobs")
    ]
    return ListBatchJobsResult(**_outcome(answer), batch_jobs=jobs), body.text("next_cursor")


def read_details(answer: Answer) -> GetBatchJobDetailsResult:
    """The answer to a question for one execution."""
    body = _Object(answer.body)
    return GetBatchJobDetailsResult(
        **_outcome(answer), batch_job=_job(body.inner("batch_job")) if body.has("batch_job") else None
    )


def _job(job: _Object) -> BatchJob:
    files = job.inner("execution_file_details")
    return BatchJob(
        job_id=job.text("job_id"),
        model_id=job.text("model_id"),
        branch_id=job.text("branch_id"),
        build_id=job.text("build_id"),
        start_time=job.moment("start_time"),
        end_time=job.moment("end_time"),
        job_status=job.enum("job_status", JobStatus),
        total_records=job.number("total_records"),
        job_size=job.number("job_size"),
        report_messages=[
            ReportMessage(time=message.moment("time"), line=message.text("line"))
            for message in job.objects("report_messages")
        ],
        execution_file_details=ExecutionFileDetails(
            source_bucket=files.text("source_bucket"),
            destination_bucket=files.text("destination_bucket"),
            source_path=files.text("source_path"),
            destination_path=files.text("destination_path"),
            input_file_type=files.text("input_file_type"),
            output_file_type=files.text("output_file_type"),
            finished_files=files.number("finished_files"),
            total_files=files.number("total_files"),
        ),
        task_executions=[_task(task) for task in job.objects("task_executions")],
    )


def _task(task: _Object) -> TaskExecution:
    return TaskExecution(
        task_id=task.text("task_id"),
        status=task.enum("status", TaskStatus),
        start_time=task.moment("start_time"),
        end_time=task.moment("end_time"),
        num_of_records=task.number("num_of_records"),
        filename=task.text("filename"),
        filenames=task.texts("filenames"),
    )


def _outcome(answer: Answer, success: str = "success") -> dict[str, Any]:
    body = _Object(answer.body)
    return {
        # A list has no such field: it is one where the server gave it.
        "success": body.flag(success, unset=answer.status_code < 400),  # noqa: PLR2004  the refusals
        "failure_message": body.text("failure_message"),
        "status_code": answer.status_code,
        "wire": answer.body,
    }


class _Object:
    """A JSON object whose values have the types that the wire gives them.

    Its methods raise ``UnexpectedAnswerError``, naming the field, where one has another.
    """

    def __init__(self, value: Any, path: str = "") -> None:
        self._path = path
        self._value: dict[str, Any] = self._checked(value, dict, "")

    def has(self, name: str) -> bool:
        return self._value.get(name) is not None

    def text(self, name: str) -> str:
        return self._get(name, str, "")

    def flag(self, name: str, *, unset: bool) -> bool:
        return self._get(name, bool, unset)

    def number(self, name: str) -> int:
        value = self._value.get(name)
        # 64-bit integers may come as texts.
        return self._convert(name, int, value if not isinstance(value, (float, bool)) else "") if value else 0

    def moment(self, name: str) -> datetime | None:
        text = self.text(name)
        return self._convert(name, _moment, text) if text else None

    def enum(self, name: str, kind: type[E]) -> E:
        value = self._value.get(name)
        return self._convert(name, kind.parse, value) if value not in (None, "") else next(iter(kind))

    def inner(self, name: str) -> _Object:
        return _Object(self._value.get(name) or {}, f"{self._path}{name}.")

    def objects(self, name: str) -> list[_Object]:
        values: Sequence[Any] = self._get(name, list, [])
        return [_Object(value, f"{self._path}{name}[{number}].") for number, value in enumerate(values)]

    def texts(self, name: str) -> list[str]:
        return [self._checked(value, str, name) for value in self._get(name, list, [])]

    def _get(self, name: str, kind: type[T], unset: T) -> T:
        value = self._value.get(name)
        return unset if value is None else self._checked(value, kind, name)

    def _checked(self, value: Any, kind: type[T], name: str) -> T:
        if not isinstance(value, kind):
            raise self._wrong(name)
        return value

    def _convert(self, name: str, convert: Callable[[Any], T], value: Any) -> T:
        try:
            return convert(value)
        except (ValueError, TypeError) as error:
            raise self._wrong(name) from error

    def _wrong(self, name: str) -> UnexpectedAnswerError:
        path = f"{self._path}{name}".rstrip(".") or "the whole"
        return UnexpectedAnswerError(
            f"The server's answer cannot be read: {path} has the wrong type or value.", field=path
        )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment
