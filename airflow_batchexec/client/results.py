"""Results of the client's calls: the fields of the responses, with times as ``datetime`` and statuses as enums.

A status is a string enum whose value is its wire name (``BATCH_JOB_FINISHED_STATUS``); ``short`` is its short name
(``FINISHED``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_batchexec.wire.values import JobStatus, TaskStatus

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "BatchJob",
    "BatchJobSummary",
    "CancelExecutionResult",
    "ExecutionFileDetails",
    "ExecutionStatusResult",
    "GetBatchJobDetailsResult",
    "GetExecutionReportResult",
    "ListBatchJobsResult",
    "ReportMessage",
    "StartExecutionResult",
    "TaskExecution",
]

_ENDED = frozenset(
    {
        JobStatus.BATCH_JOB_FINISHED_STATUS,
        JobStatus.BATCH_JOB_FAILED_STATUS,
        JobStatus.BATCH_JOB_CANCELLED_STATUS,
        JobStatus.BATCH_JOB_TIMEOUT_STATUS,
    }
)
_MODEL_LINE = re.compile(r"(?:\S+ )?\[model\] ")


@dataclass(frozen=True, kw_only=True)
class _Result:
    """The fields that every result has.

    Attributes:
        success: Whether the call succeeded.
        failure_message: Why the call failed; empty if it succeeded.
        status_code: The HTTP status of the response.
        wire: The response body as received.
    """

    success: bool
    failure_message: str = ""
    status_code: int = 200
    wire: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class StartExecutionResult(_Result):
    """Whether an execution was started.

    Attributes:
        execution_id: The ID of the execution. If refused: the ID of the running execution that conflicts with it, or
            empty.
    """

    execution_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ExecutionStatusResult(_Result):
    """The status of an execution.

    Attributes:
        status: The status.
        finished_files: The number of files with a result.
        total_files: The number of input files; 0 if not known yet.
    """

    status: JobStatus = JobStatus.UNDEFINED_BATCH_JOB_STATUS
    finished_files: int = 0
    total_files: int = 0

    @property
    def ended(self) -> bool:
        """Whether the status is final."""
        return self.status in _ENDED


@dataclass(frozen=True, kw_only=True)
class CancelExecutionResult(_Result):
    """Whether an execution was cancelled. Its pods exit within seconds."""


@dataclass(frozen=True, kw_only=True)
class GetExecutionReportResult(_Result):
    """The log of an execution.

    Attributes:
        records: The lines, in order.
        model_logs: The lines that the model printed.
    """

    records: list[str] = field(default_factory=list)

    @property
    def model_logs(self) -> list[str]:
        """The lines that the model printed, each with the name of the file."""
        return [line for line in self.records if _MODEL_LINE.match(line)]


@dataclass(frozen=True, kw_only=True)
class BatchJobSummary:
    """An execution in a list.

    Attributes:
        job_id: The ID of the execution.
        build_id: The build.
        job_status: The status.
        start_time: When the execution started; ``None`` if it has not.
        end_time: When the execution ended; ``None`` if it has not.
        job_size: The number of input files.
        failure_message: Why the execution did not finish.
    """

    job_id: str
    build_id: str
    job_status: JobStatus
    start_time: datetime | None
    end_time: datetime | None
    job_size: int
    failure_message: str


@dataclass(frozen=True, kw_only=True)
class ListBatchJobsResult(_Result):
    """Executions, newest first."""

    batch_jobs: list[BatchJobSummary] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ReportMessage:
    """One line of an execution's log."""

    time: datetime | None
    line: str


@dataclass(frozen=True, kw_only=True)
class ExecutionFileDetails:
    """Source and destination of an execution, and its progress."""

    source_bucket: str
    destination_bucket: str
    source_path: str
    destination_path: str
    input_file_type: str
    output_file_type: str
    finished_files: int
    total_files: int


@dataclass(frozen=True, kw_only=True)
class TaskExecution:
    """The outcome of one file, or of one shard of the files.

    Attributes:
        task_id: The task.
        status: The status.
        start_time: When the task started; ``None`` if it has not.
        end_time: When the task ended; ``None`` if it has not.
        num_of_records: The number of rows in its result.
        filename: The file.
        filenames: All files of the task, if there are several.
    """

    task_id: str
    status: TaskStatus
    start_time: datetime | None
    end_time: datetime | None
    num_of_records: int
    filename: str
    filenames: list[str]


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """An execution with all its files.

    Attributes:
        job_id: The ID of the execution.
        model_id: The model.
        branch_id: The branch given in the request.
        build_id: The build.
        start_time: When the execution started; ``None`` if it has not.
        end_time: When the execution ended; ``None`` if it has not.
        job_status: The status.
        total_records: The number of rows in all results.
        job_size: The number of input files.
        report_messages: The log.
        execution_file_details: The source, the destination and the progress.
        task_executions: The outcome of each file.
    """

    job_id: str
    model_id: str
    branch_id: str
    build_id: str
    start_time: datetime | None
    end_time: datetime | None
    job_status: JobStatus
    total_records: int
    job_size: int
    report_messages: list[ReportMessage]
    execution_file_details: ExecutionFileDetails
    task_executions: list[TaskExecution]


@dataclass(frozen=True, kw_only=True)
class GetBatchJobDetailsResult(_Result):
    """An execution, or why it cannot be shown."""

    batch_job: BatchJob | None = None
