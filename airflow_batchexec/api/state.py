"""Derives the state of an execution from its run and from the rows its tasks have written. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.names import (
    CANCELLED_ROW,
    ENDED_ROW,
    FINISH_TASK_ID,
    PLAN_TASK_ID,
    PLANNED_ROW,
    PREDICT_TASK_ID,
    PROGRESS_ROW,
)
from airflow_batchexec.wire.values import JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_batchexec.api.queries import Run, StoredValue

__all__ = ["ExecutionState", "TaskRows", "execution_state", "needs_plan_state"]


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The task state rows that determine an execution's state; ``None`` for rows that have not been written.

    Attributes:
        planned: Row of the last plan: ``generation``, ``total_files``, ``shares``, ``build_id`` …
        ended: How the execution ended, in any generation.
        cancelled: Who cancelled it, in any generation.
        progress: How many files each shard has finished.
    """

    planned: dict[str, Any] | None
    ended: dict[str, Any] | None
    cancelled: dict[str, Any] | None
    progress: tuple[dict[str, Any], ...]

    @classmethod
    def from_stored(cls, values: Iterable[StoredValue]) -> TaskRows:
        """Select the rows; values that a task could not have written are ignored."""
        found: dict[str, list[dict[str, Any]]] = {}
        writers = {
            PLANNED_ROW: PLAN_TASK_ID,
            ENDED_ROW: FINISH_TASK_ID,
            CANCELLED_ROW: FINISH_TASK_ID,
            PROGRESS_ROW: PREDICT_TASK_ID,
        }
        for stored in values:
            value = stored.value if writers.get(stored.key) == stored.task_id else None
            if isinstance(value, dict) and isinstance(value.get("generation"), int):
                found.setdefault(stored.key, []).append(value)
        last = {key: rows[-1] for key, rows in found.items()}
        return cls(
            planned=last.get(PLANNED_ROW),
            ended=last.get(ENDED_ROW),
            cancelled=last.get(CANCELLED_ROW),
            progress=tuple(found.get(PROGRESS_ROW, ())),
        )

    def ended_in(self, generation: int) -> dict[str, Any] | None:
        """The row ``ended``, if it belongs to this generation."""
        return self.ended if self.ended and self.ended["generation"] == generation else None

    def cancelled_in(self, generation: int) -> dict[str, Any] | None:
        """The row ``cancelled``, if it belongs to this generation."""
        return self.cancelled if self.cancelled and self.cancelled["generation"] == generation else None


@dataclass(frozen=True, slots=True)
class ExecutionState:
    """The state of an execution.

    Attributes:
        status: The status as sent on the wire.
        reason: Why the execution ended without success; empty otherwise.
        finished_files: Number of files with a result.
        total_files: Number of planned files; 0 without a plan.
        rows: Rows of all results, once the execution has ended.
        build_id: The planned build; before planning, the requested one.
        has_plan: Whether a valid plan of this generation exists.
    """

    status: JobStatus
    reason: str
    finished_files: int
    total_files: int
    rows: int
    build_id: str
    has_plan: bool


def needs_plan_state(run: Run, rows: TaskRows) -> bool:
    """Whether the state of the plan task decides if the last plan is still valid.

    A clear raises the generation. If only later tasks were cleared, the plan of the older generation stays valid.
    """
    return rows.planned is not None and rows.planned["generation"] != run.generation


def execution_state(run: Run, rows: TaskRows, counts: Mapping[tuple[str, str], int]) -> ExecutionState:
    """Derive the state of an execution.

    Args:
        run: The execution's run.
        rows: What its tasks have written.
        counts: Number of task instances by task and state; only the plan and predict tasks are read.
    """
    planned = rows.planned
    if planned is not None and needs_plan_state(run, rows) and not counts.get((PLAN_TASK_ID, "success")):
        planned = None
    ended = rows.ended_in(run.generation) if run.is_over else None
    status, reason = _status(run, rows, ended, has_plan=planned is not None)
    total = _count(planned, "total_files")
    if ended is not None and "total_files" in ended:
        total, finished = _count(ended, "total_files"), _count(ended, "finished_files")
    elif planned is None:
        finished = 0
    elif _count(planned, "shares") == total:
        finished = counts.get((PREDICT_TASK_ID, "success"), 0)
    else:
        finished = sum(
            _count(row, "finished") for row in rows.progress if row["generation"] >= planned["generation"]
        )
    # Failing a run also fails the finished instances of a mapped task that is still running.
    finished = max(finished, _count(rows.cancelled_in(run.generation), "finished_files"))
    requested = run.conf.get("build_id")
    return ExecutionState(
        status=status,
        reason=reason,
        finished_files=min(finished, total),
        total_files=total,
        rows=_count(ended, "rows"),
        build_id=str((planned or {}).get("build_id") or requested or "").strip(),
        has_plan=planned is not None,
    )


def _status(
    run: Run, rows: TaskRows, ended: dict[str, Any] | None, *, has_plan: bool
) -> tuple[JobStatus, str]:
    if run.state == "queued":
        return JobStatus.BATCH_JOB_COMMITTED_STATUS, ""
    if not run.is_over:
        running = JobStatus.BATCH_JOB_RUNNING_STATUS if has_plan else JobStatus.BATCH_JOB_PENDING_STATUS
        return running, ""
    if ended is not None:
        status = _parse_status(ended.get("status"))
        return status, "" if status is JobStatus.BATCH_JOB_FINISHED_STATUS else str(ended.get("reason") or "")
    if cancelled := rows.cancelled_in(run.generation):
        return (
            JobStatus.BATCH_JOB_CANCELLED_STATUS,
            f"It was cancelled by {cancelled.get('by') or 'an unknown user'}.",
        )
    if run.state == "success":
        return JobStatus.BATCH_JOB_FINISHED_STATUS, ""
    return (
        JobStatus.BATCH_JOB_FAILED_STATUS,
        "The run failed without recording a reason; see the logs of its tasks.",
    )


def _parse_status(status: Any) -> JobStatus:
    try:
        return JobStatus.parse(status)
    except ValueError:
        return JobStatus.BATCH_JOB_FAILED_STATUS


def _count(row: Mapping[str, Any] | None, name: str) -> int:
    value = (row or {}).get(name)
    return value if isinstance(value, int) and value > 0 else 0
