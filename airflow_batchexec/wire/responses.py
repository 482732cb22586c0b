"""What the API answers: the messages of the wire, each with the fields that say whether the call succeeded."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  pydantic reads the annotations
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

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
]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class Outcome(_Message):
    """What every call but the report says of itself."""

    success: bool = Field(default=True, description="Whether the call did what it was asked.")
    failure_message: str = Field(
        default="",
        description="Why it did not; or, of an execution that has ended without success, why that is so.",
    )


class StartResponse(Outcome):
    """The answer to a start."""

    batch_id: str = Field(default="", description="The execution's id; empty where it was refused.")


class CancelResponse(Outcome):
    """The answer to a cancellation."""


class StatusResponse(Outcome):
    """How far an execution is."""

    job_status: JobStatus = Field(default=JobStatus.UNDEFINED_BATCH_JOB_STATUS)
    finished_files: int = Field(default=0, ge=0, description="Files with a result.")
    total_files: int = Field(default=0, ge=0, description="Files of the plan; 0 until there is one.")


class ReportResponse(_Message):
    """An execution's log, in order."""

    successful: bool = Field(default=True, description="Whether the call did what it was asked.")
    failure_message: str = Field(default="", description="Why it did not.")
    report_messages: list[str] = Field(
        default_factory=list,
        description="Lines, each with its time in UTC; `[model]` begins what the model printed.",
    )


class BatchJobSummary(_Message):
    """One execution of a list."""

    job_id: str = ""
    build_id: str = Field(default="", description="The build; before the plan, the one that was asked for.")
    job_status: JobStatus = JobStatus.UNDEFINED_BATCH_JOB_STATUS
    start_time: datetime | None = Field(default=None, description="When it began to run.")
    end_time: datetime | None = Field(default=None, description="When it ended.")
    job_size: int = Field(default=0, ge=0, description="Files of the plan; 0 until there is one.")
    failure_message: str = Field(default="", description="Why it ended without success.")


class ListResponse(Outcome):
    """Executions, newest first."""

    batch_jobs: list[BatchJobSummary] = Field(default_factory=list)
    next_cursor: str | None = Field(
        default=None, description="The `cursor` that gives the next page; null where this is the last."
    )


class ReportMessage(_Message):
    """One line of the report."""

    time: datetime
    line: str


class FileDetails(_Message):
    """Where an execution reads and writes, and how many of its files have a result."""

    source_bucket: str = ""
    destination_bucket: str = ""
    source_path: str = ""
    destination_path: str = ""
    input_file_type: InputFileType = InputFileType.UNDEFINED_INPUT_FILE_TYPE
    output_file_type: OutputFileType = OutputFileType.UNDEFINED_OUTPUT_FILE_TYPE
    finished_files: int = Field(default=0, ge=0)
    total_files: int = Field(default=0, ge=0)


class TaskExecution(_Message):
    """What became of one file."""

    task_id: str = Field(default="", description="Airflow's mapped task, and which of its files this is.")
    status: TaskStatus = TaskStatus.UNDEFINED_BATCH_TASK_STATUS
    start_time: datetime | None = None
    end_time: datetime | None = None
    num_of_records: int = Field(default=0, ge=0, description="Rows of its result.")
    filename: str = Field(default="", description="The file, by its path below the source folder.")
    filenames: list[str] = Field(default_factory=list, description="The same, as a list.")


class BatchJobDetails(_Message):
    """All that is known of one execution."""

    job_id: str = ""
    model_id: str = ""
    branch_id: str = ""
    build_id: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    job_status: JobStatus = JobStatus.UNDEFINED_BATCH_JOB_STATUS
    total_records: int = Field(default=0, ge=0, description="Rows of all results.")
    job_size: int = Field(default=0, ge=0, description="Files of the plan; 0 until there is one.")
    report_messages: list[ReportMessage] = Field(default_factory=list)
    execution_file_details: FileDetails = Field(default_factory=FileDetails)
    task_executions: list[TaskExecution] = Field(
        default_factory=list, description="One for each planned file."
    )


class DetailsResponse(Outcome):
    """One execution with every file."""

    batch_job: BatchJobDetails | None = None


def failure(model: type[BaseModel] | None, message: str) -> dict[str, Any]:
    """The answer of a call that failed, as the JSON of its own response type."""
    if model is None or not issubclass(model, Outcome | ReportResponse):
        model = Outcome
    said = {
        "successful" if issubclass(model, ReportResponse) else "success": False,
        "failure_message": message,
    }
    return model.model_validate(said).model_dump(mode="json")
