"""What the calls give: the wire's own fields, with moments as ``datetime`` and statuses as enums.

A status is its wire name (``BATCH_JOB_FINISHED_STATUS``) wherever a text is wanted, and has its short name
(``FINISHED``) as ``short``.
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
    """What every call gives.

    Attributes:
        success: Whether the server did what was asked.
        failure_message: Why not; empty where it did.
        status_code: The HTTP status of the answer.
        wire: The answer as it came.
    """

    success: bool
    failure_message: str = ""
    status_code: int = 200
    wire: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class StartExecutionResult(_Result):
    """Whether an execution was started.

    Attributes:
        execution_id: Its id, or that of the one that stands in its way; may be empty where it was refused.
    """

    execution_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ExecutionStatusResult(_Result):
    """What an execution is doing.

    Attributes:
        status: What it does, or has come to.
        finished_files: How many files have their result.
        total_files: How many files there are; 0 while that is not known.
    """

    status: JobStatus = JobStatus.UNDEFINED_BATCH_JOB_STATUS
    finished_files: int = 0
    total_files: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in _ENDED


@dataclass(frozen=True, kw_only=True)
class CancelExecutionResult(_Result):
    """Whether an execution was cancelled; its pods end in the seconds that follow."""


@dataclass(frozen=True, kw_only=True)
class GetExecutionReportResult(_Result):
    """An execution's log.

    Attributes:
        records: Its lines in their order.
        model_logs: Those of them that the model has printed.
    """

    records: list[str] = field(default_factory=list)

    @property
    def model_logs(self) -> list[str]:
        """The lines that the model has printed, each with its file."""
        return [line for line in self.records if _MODEL_LINE.match(line)]


@dataclass(frozen=True, kw_only=True)
class BatchJobSummary:
    """One execution in a list.

    Attributes:
        job_id: Its id.
        build_id: Its build.
        job_status: What it does, or has come to.
        start_time: When it began; ``None`` before.
        end_time: When it ended; ``None`` before.
        job_size: How many files it has.
        failure_message: Why it did not finish.
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
    """Executions, the newest first."""

    batch_jobs: list[BatchJobSummary] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ReportMessage:
    """One line of an execution's log."""

    time: datetime | None
    line: str


@dataclass(frozen=True, kw_only=True)
class ExecutionFileDetails:
    """Where an execution reads and writes, and how far it is."""

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
    """What became of one file, or of one share of the files.

    Attributes:
        task_id: The task.
        status: What became of it.
        start_time: When it began; ``None`` before.
        end_time: When it ended; ``None`` before.
        num_of_records: How many rows its result has.
        filename: The file.
        filenames: All files, where the task is of several.
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
    """One execution with all of its files.

    Attributes:
        job_id: Its id.
        model_id: Its model.
        branch_id: The branch that the request named.
        build_id: Its build.
        start_time: When it began; ``None`` before.
        end_time: When it ended; ``None`` before.
        job_status: What it does, or has come to.
        total_records: How many rows its results have.
        job_size: How many files it has.
        report_messages: Its log.
        execution_file_details: Where it reads and writes.
        task_executions: Its files.
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
    """One execution, or why there is none to show."""

    batch_job: BatchJob | None = None
