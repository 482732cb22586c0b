"""How an execution stands, told from its run and from what its tasks have said. Pure."""

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

__all__ = ["Standing", "Words", "needs_plan_state", "standing_of"]


@dataclass(frozen=True, slots=True)
class Words:
    """What the tasks of an execution have said that its standing is told from; ``None`` for what they have not.

    Attributes:
        planned: Of the last plan: ``generation``, ``total_files``, ``shares``, ``build_id`` …
        ended: Of the end, of whatever generation.
        cancelled: Who cancelled it, in whatever generation.
        progress: What each share has finished.
    """

    planned: dict[str, Any] | None
    ended: dict[str, Any] | None
    cancelled: dict[str, Any] | None
    progress: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, rows: Iterable[StoredValue]) -> Words:
        """Read the rows; what is not as the tasks write it counts as not said."""
        found: dict[str, list[dict[str, Any]]] = {}
        homes = {
            PLANNED_ROW: PLAN_TASK_ID,
            ENDED_ROW: FINISH_TASK_ID,
            CANCELLED_ROW: FINISH_TASK_ID,
            PROGRESS_ROW: PREDICT_TASK_ID,
        }
        for row in rows:
            value = row.value if homes.get(row.key) == row.task_id else None
            if isinstance(value, dict) and isinstance(value.get("generation"), int):
                found.setdefault(row.key, []).append(value)
        last = {key: values[-1] for key, values in found.items()}
        return cls(
            planned=last.get(PLANNED_ROW),
            ended=last.get(ENDED_ROW),
            cancelled=last.get(CANCELLED_ROW),
            progress=tuple(found.get(PROGRESS_ROW, ())),
        )

    def ended_in(self, generation: int) -> dict[str, Any] | None:
        """The end, if it is that of this generation."""
        return self.ended if self.ended and self.ended["generation"] == generation else None

    def cancelled_in(self, generation: int) -> dict[str, Any] | None:
        """Who cancelled it, if that was in this generation."""
        return self.cancelled if self.cancelled and self.cancelled["generation"] == generation else None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an execution stands.

    Attributes:
        status: Its status on the wire.
        reason: Why it has ended without success; empty otherwise.
        finished_files: How many files have a result.
        total_files: How many the plan has; 0 without one.
        rows: The rows of all results, once it has ended.
        build_id: The build, or the one that was asked for.
        has_plan: Whether the plan is there, and is that of this generation.
    """

    status: JobStatus
    reason: str
    finished_files: int
    total_files: int
    rows: int
    build_id: str
    has_plan: bool


def needs_plan_state(run: Run, words: Words) -> bool:
    """Whether only the state of the task that plans tells if the last plan still holds.

    A clear raises the generation. If it was of later tasks only, the plan stays, with an older one.
    """
    return words.planned is not None and words.planned["generation"] != run.generation


def standing_of(run: Run, words: Words, counts: Mapping[tuple[str, str], int]) -> Standing:
    """Tell how an execution stands.

    Args:
        run: Its run.
        words: What its tasks have said.
        counts: How many instances of a task are in a state; only those of the tasks that plan and predict are asked for.
    """
    planned = words.planned
    if planned is not None and needs_plan_state(run, words) and not counts.get((PLAN_TASK_ID, "success")):
        planned = None
    ended = words.ended_in(run.generation) if run.is_over else None
    status, reason = _status(run, words, ended, has_plan=planned is not None)
    total = _count(planned, "total_files")
    if ended is not None and "total_files" in ended:
        total, finished = _count(ended, "total_files"), _count(ended, "finished_files")
    elif planned is None:
        finished = 0
    elif _count(planned, "shares") == total:
        finished = counts.get((PREDICT_TASK_ID, "success"), 0)
    else:
        finished = sum(
            _count(said, "finished") for said in words.progress if said["generation"] >= planned["generation"]
        )
    # Failing a run makes all instances of a mapped task failed if one of them runs, also those that had finished.
    finished = max(finished, _count(words.cancelled_in(run.generation), "finished_files"))
    requested = run.conf.get("build_id")
    return Standing(
        status=status,
        reason=reason,
        finished_files=min(finished, total),
        total_files=total,
        rows=_count(ended, "rows"),
        build_id=str((planned or {}).get("build_id") or requested or "").strip(),
        has_plan=planned is not None,
    )


def _status(run: Run, words: Words, ended: dict[str, Any] | None, *, has_plan: bool) -> tuple[JobStatus, str]:
    if run.state == "queued":
        return JobStatus.BATCH_JOB_COMMITTED_STATUS, ""
    if not run.is_over:
        running = JobStatus.BATCH_JOB_RUNNING_STATUS if has_plan else JobStatus.BATCH_JOB_PENDING_STATUS
        return running, ""
    if ended is not None:
        status = _parse(ended.get("status"))
        return status, "" if status is JobStatus.BATCH_JOB_FINISHED_STATUS else str(ended.get("reason") or "")
    if cancelled := words.cancelled_in(run.generation):
        return (
            JobStatus.BATCH_JOB_CANCELLED_STATUS,
            f"It was cancelled by {cancelled.get('by') or 'somebody'}.",
        )
    if run.state == "success":
        return JobStatus.BATCH_JOB_FINISHED_STATUS, ""
    return (
        JobStatus.BATCH_JOB_FAILED_STATUS,
        "Its run failed, and nothing says why; see the logs of its tasks.",
    )


def _parse(status: Any) -> JobStatus:
    try:
        return JobStatus.parse(status)
    except ValueError:
        return JobStatus.BATCH_JOB_FAILED_STATUS


def _count(said: Mapping[str, Any] | None, name: str) -> int:
    value = (said or {}).get(name)
    return value if isinstance(value, int) and value > 0 else 0
