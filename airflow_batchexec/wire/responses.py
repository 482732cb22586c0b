"""The API's response messages: their fields, types and zero values.

The server serializes them (pydantic reads descriptions and limits from the field metadata) and the client parses them,
so this module must not import pydantic.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime  # noqa: TC003  annotations are evaluated at run time
from typing import Any, ClassVar

from airflow_batchexec.wire.values import InputFileType, JobStatus, OutputFileType, TaskStatus

__all__ = [
    "BatchJobDetails",
    "BatchJobSummary",
    "CancelResponse",
    "DetailsResponse",
    "FileDetails",
    "ListResponse",
    "Outcome",
    "ReportMessage",
    "ReportResponse",
    "StartResponse",
    "StatusResponse",
    "TaskExecution",
    "failure",
    "success_field",
]


def _description(description: str) -> dict[str, Any]:
    return {"description": description}


def _count(description: str | None = None) -> dict[str, Any]:
    return {"ge": 0, "description": description}


class _Message:
    # The server validates its responses. Without this, pydantic would serialize instances without validation.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"revalidate_instances": "always"}


@dataclass(frozen=True, kw_only=True)
class Outcome(_Message):
    """The outcome of a call; part of every response except the report."""

    success: bool = field(default=True, metadata=_description("Whether the call succeeded."))
    failure_message: str = field(
        default="",
        metadata=_description("Why the call failed, or why the execution did not finish."),
    )


@dataclass(frozen=True, kw_only=True)
class StartResponse(Outcome):
    """The response to a start."""

    batch_id: str = field(default="", metadata=_description("The execution ID; may be empty if refused."))


@dataclass(frozen=True, kw_only=True)
class CancelResponse(Outcome):
    """The response to a cancellation."""


@dataclass(frozen=True, kw_only=True)
class StatusResponse(Outcome):
    """Status and progress of an execution."""

    job_status: JobStatus = JobStatus.UNDEFINED_BATCH_JOB_STATUS
    finished_files: int = field(default=0, metadata=_count("Files with a result."))
    total_files: int = field(default=0, metadata=_count("Planned files; 0 until planned."))


@dataclass(frozen=True, kw_only=True)
class ReportResponse(_Message):
    """The log of an execution, in order."""

    successful: bool = field(default=True, metadata=_description("Whether the call succeeded."))
    failure_message: str = field(default="", metadata=_description("Why the call failed."))
    report_messages: list[str] = field(
        default_factory=list,
        metadata=_description("Lines, each with its UTC time. `[model]` marks what the model printed."),
    )


@dataclass(frozen=True, kw_only=True)
class BatchJobSummary(_Message):
    """An execution in a list."""

    job_id: str = ""
    build_id: str = field(default="", metadata=_description("The build; until planned, the requested one."))
    job_status: JobStatus = JobStatus.UNDEFINED_BATCH_JOB_STATUS
    start_time: datetime | None = field(default=None, metadata=_description("When the execution started."))
    end_time: datetime | None = field(default=None, metadata=_description("When the execution ended."))
    job_size: int = field(default=0, metadata=_count("Planned files; 0 until planned."))
    failure_message: str = field(default="", metadata=_description("Why the execution did not finish."))


@dataclass(frozen=True, kw_only=True)
class ListResponse(Outcome):
    """Executions, newest first."""

    batch_jobs: list[BatchJobSummary] = field(default_factory=list)
    next_cursor: str | None = field(
        default=None,
        metadata=_description("The `cursor` of the next page; null on the last page."),
    )


@dataclass(frozen=True, kw_only=True)
class ReportMessage(_Message):
    """A line of the report."""

    time: datetime
    line: str


@dataclass(frozen=True, kw_only=True)
class FileDetails(_Message):
    """Source and destination of an execution, and how many files have a result."""

    source_bucket: str = ""
    destination_bucket: str = ""
    source_path: str = ""
    destination_path: str = ""
    input_file_type: InputFileType = InputFileType.UNDEFINED_INPUT_FILE_TYPE
    output_file_type: OutputFileType = OutputFileType.UNDEFINED_OUTPUT_FILE_TYPE
    finished_files: int = field(default=0, metadata=_count())
    total_files: int = field(default=0, metadata=_count())


@dataclass(frozen=True, kw_only=True)
class TaskExecution(_Message):
    """The outcome of one file."""

    task_id: str = field(
        default="", metadata=_description("The mapped Airflow task, and the index of the file in it.")
    )
    status: TaskStatus = TaskStatus.UNDEFINED_BATCH_TASK_STATUS
    start_time: datetime | None = None
    end_time: datetime | None = None
    num_of_records: int = field(default=0, metadata=_count("Rows in the result."))
    filename: str = field(default="", metadata=_description("The path of the file below the source folder."))
    filenames: list[str] = field(default_factory=list, metadata=_description("The same path, as a list."))


@dataclass(frozen=True, kw_only=True)
class BatchJobDetails(_Message):
    """The details of an execution."""

    job_id: str = ""
    model_id: str = ""
    branch_id: str = ""
    build_id: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    job_status: JobStatus = JobStatus.UNDEFINED_BATCH_JOB_STATUS
    total_records: int = field(default=0, metadata=_count("Rows in all results."))
    job_size: int = field(default=0, metadata=_count("Planned files; 0 until planned."))
    report_messages: list[ReportMessage] = field(default_factory=list)
    execution_file_details: FileDetails = field(default_factory=FileDetails)
    task_executions: list[TaskExecution] = field(
        default_factory=list, metadata=_description("One for each planned file.")
    )


@dataclass(frozen=True, kw_only=True)
class DetailsResponse(Outcome):
    """An execution with all its files."""

    batch_job: BatchJobDetails | None = None


def success_field(message: type) -> str:
    """Return the name of the response field that tells whether the call succeeded.

    Args:
        message: The response type.
    """
    return "successful" if issubclass(message, ReportResponse) else "success"


def failure(message: type | None, reason: str) -> dict[str, Any]:
    """Return the response of a failed call, as JSON.

    Args:
        message: The response type of the call; ``Outcome`` if unknown.
        reason: Why the call failed.
    """
    kind = message if message is not None and issubclass(message, Outcome | ReportResponse) else Outcome
    fields: dict[str, Any] = {success_field(kind): False, "failure_message": reason}
    return asdict(kind(**fields))
