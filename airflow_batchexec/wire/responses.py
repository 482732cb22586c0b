"""The API's response messages: their fields, types and zero values.

The server serializes them (pydantic takes descriptions and limits from the metadata of the fields), and the client reads
them, so this module must not import pydantic.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime  # noqa: TC003  the annotations are read at run time
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


def _described(description: str) -> dict[str, Any]:
    return {"description": description}


def _count(description: str | None = None) -> dict[str, Any]:
    return {"ge": 0, "description": description}


class _Message:
    # The server validates what it sends. Without this, pydantic would serialize instances as they are.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"revalidate_instances": "always"}


@dataclass(frozen=True, kw_only=True)
class Outcome(_Message):
    """What every call but the report says of itself."""

    success: bool = field(default=True, metadata=_described("Whether the call did what it was asked."))
    failure_message: str = field(
        default="",
        metadata=_described(
            "Why it did not; or, of an execution that has ended without success, why that is so."
        ),
    )


@dataclass(frozen=True, kw_only=True)
class StartResponse(Outcome):
    """The answer to a start."""

    batch_id: str = field(default="", metadata=_described("The execution's id; empty where it was refused."))


@dataclass(frozen=True, kw_only=True)
class CancelResponse(Outcome):
    """The answer to a cancellation."""


@dataclass(frozen=True, kw_only=True)
class StatusResponse(Outcome):
    """How far an execution is."""

    job_status: JobStatus = JobStatus.UNDEFINED_BATCH_JOB_STATUS
    finished_files: int = field(default=0, metadata=_count("Files with a result."))
    total_files: int = field(default=0, metadata=_count("Files of the plan; 0 until there is one."))


@dataclass(frozen=True, kw_only=True)
class ReportResponse(_Message):
    """An execution's log, in order."""

    successful: bool = field(default=True, metadata=_described("Whether the call did what it was asked."))
    failure_message: str = field(default="", metadata=_described("Why it did not."))
    report_messages: list[str] = field(
        default_factory=list,
        metadata=_described("Lines, each with its time in UTC; `[model]` begins what the model printed."),
    )


@dataclass(frozen=True, kw_only=True)
class BatchJobSummary(_Message):
    """One execution of a list."""

    job_id: str = ""
    build_id: str = field(
        default="", metadata=_described("The build; before the plan, the one that was asked for.")
    )
    job_status: JobStatus = JobStatus.UNDEFINED_BATCH_JOB_STATUS
    start_time: datetime | None = field(default=None, metadata=_described("When it began to run."))
    end_time: datetime | None = field(default=None, metadata=_described("When it ended."))
    job_size: int = field(default=0, metadata=_count("Files of the plan; 0 until there is one."))
    failure_message: str = field(default="", metadata=_described("Why it ended without success."))


@dataclass(frozen=True, kw_only=True)
class ListResponse(Outcome):
    """Executions, newest first."""

    batch_jobs: list[BatchJobSummary] = field(default_factory=list)
    next_cursor: str | None = field(
        default=None,
        metadata=_described("The `cursor` that gives the next page; null where this is the last."),
    )


@dataclass(frozen=True, kw_only=True)
class ReportMessage(_Message):
    """One line of the report."""

    time: datetime
    line: str


@dataclass(frozen=True, kw_only=True)
class FileDetails(_Message):
    """Where an execution reads and writes, and how many of its files have a result."""

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
    """What became of one file."""

    task_id: str = field(
        default="", metadata=_described("Airflow's mapped task, and which of its files this is.")
    )
    status: TaskStatus = TaskStatus.UNDEFINED_BATCH_TASK_STATUS
    start_time: datetime | None = None
    end_time: datetime | None = None
    num_of_records: int = field(default=0, metadata=_count("Rows of its result."))
    filename: str = field(default="", metadata=_described("The file, by its path below the source folder."))
    filenames: list[str] = field(default_factory=list, metadata=_described("The same, as a list."))


@dataclass(frozen=True, kw_only=True)
class BatchJobDetails(_Message):
    """All that is known of one execution."""

    job_id: str = ""
    model_id: str = ""
    branch_id: str = ""
    build_id: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    job_status: JobStatus = JobStatus.UNDEFINED_BATCH_JOB_STATUS
    total_records: int = field(default=0, metadata=_count("Rows of all results."))
    job_size: int = field(default=0, metadata=_count("Files of the plan; 0 until there is one."))
    report_messages: list[ReportMessage] = field(default_factory=list)
    execution_file_details: FileDetails = field(default_factory=FileDetails)
    task_executions: list[TaskExecution] = field(
        default_factory=list, metadata=_described("One for each planned file.")
    )


@dataclass(frozen=True, kw_only=True)
class DetailsResponse(Outcome):
    """One execution with every file."""

    batch_job: BatchJobDetails | None = None


def success_field(message: type) -> str:
    """The name of the field in which a response says whether the call succeeded.

    Args:
        message: The type of the response.
    """
    return "successful" if issubclass(message, ReportResponse) else "success"


def failure(message: type | None, reason: str) -> dict[str, Any]:
    """The response of a call that failed, as JSON.

    Args:
        message: The type of the call's response; ``Outcome`` where it is not known.
        reason: Why the call failed.
    """
    kind = message if message is not None and issubclass(message, Outcome | ReportResponse) else Outcome
    said: dict[str, Any] = {success_field(kind): False, "failure_message": reason}
    return asdict(kind(**said))
