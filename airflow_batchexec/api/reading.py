"""What is told of executions: status, list, report and details, out of what Airflow's database has of them."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow_batchexec.api import queries
from airflow_batchexec.api.auth import dags_for
from airflow_batchexec.api.database import in_transaction
from airflow_batchexec.api.errors import ApiError
from airflow_batchexec.api.report import Account
from airflow_batchexec.api.state import Words, needs_plan_state, standing_of
from airflow_batchexec.names import (
    CANCELLED_ROW,
    ENDED_ROW,
    ENDED_RUN_STATES,
    PLAN_TASK_ID,
    PLANNED_ROW,
    PREDICT_TASK_ID,
)
from airflow_batchexec.wire.responses import (
    BatchJobDetails,
    BatchJobSummary,
    DetailsResponse,
    FileDetails,
    ListResponse,
    ReportMessage,
    ReportResponse,
    StatusResponse,
    TaskExecution,
)
from airflow_batchexec.wire.values import InputFileType, JobStatus, OutputFileType, TaskStatus

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
    from sqlalchemy.orm import Session

    from airflow_batchexec.api.queries import Run, StoredValue
    from airflow_batchexec.api.state import Standing

__all__ = ["details_of", "list_of", "report_of", "status_of"]

# Airflow's states that a status of the wire may be told from.
_STATES: dict[JobStatus, tuple[str, ...]] = {
    JobStatus.BATCH_JOB_COMMITTED_STATUS: ("queued",),
    JobStatus.BATCH_JOB_PENDING_STATUS: ("running",),
    JobStatus.BATCH_JOB_RUNNING_STATUS: ("running",),
    JobStatus.BATCH_JOB_FINISHED_STATUS: ENDED_RUN_STATES,
    JobStatus.BATCH_JOB_FAILED_STATUS: ENDED_RUN_STATES,
    JobStatus.BATCH_JOB_CANCELLED_STATUS: ENDED_RUN_STATES,
    JobStatus.BATCH_JOB_TIMEOUT_STATUS: ENDED_RUN_STATES,
}
_TASK_STATUSES = {status.short: status for status in TaskStatus}
# How many runs a page may look at to find those of a status or build: what takes longer goes on with the next page.
_LOOK_AT = 5_000
_AT_ONCE = 500


def status_of(execution_id: str, *, user: BaseUser) -> StatusResponse:
    """How far an execution is.

    Raises:
        ApiError: There is none of that id that the user may read.
    """

    def read(session: Session) -> StatusResponse:
        run = _find(session, execution_id, user)
        standing = _standing(session, run, queries.stored_values(session, [run.key])[run.key])
        return StatusResponse(
            failure_message=standing.reason,
            job_status=standing.status,
            finished_files=standing.finished_files,
            total_files=standing.total_files,
        )

    return in_transaction(read)


def report_of(execution_id: str, *, user: BaseUser) -> ReportResponse:
    """An execution's log.

    Raises:
        ApiError: There is none of that id that the user may read.
    """

    def read(session: Session) -> Account:
        run = _find(session, execution_id, user)
        return Account(run, queries.stored_values(session, [run.key], keys=())[run.key])

    return ReportResponse(report_messages=in_transaction(read).report_messages())


def details_of(execution_id: str, *, user: BaseUser) -> DetailsResponse:
    """An execution with every file.

    Raises:
        ApiError: There is none of that id that the user may read.
    """

    def read(session: Session) -> tuple[Account, Standing, dict[str, Any]]:
        run = _find(session, execution_id, user)
        rows = queries.stored_values(session, [run.key], keys=())[run.key]
        standing = _standing(session, run, rows)
        return Account(run, rows), standing, queries.params_of(session, run.dag_id)

    account, standing, defaults = in_transaction(read)
    return DetailsResponse(failure_message=standing.reason, batch_job=_details(account, standing, defaults))


def list_of(
    *, user: BaseUser, model_id: str, build_id: str, status: str, limit: int, cursor: str
) -> ListResponse:
    """Executions that the user may read, newest first.

    Args:
        user: Who asks.
        model_id: Only those of this model; empty for all.
        build_id: Only those of this build; empty for all.
        status: Only those of this status, in any spelling of the wire; empty for all.
        limit: How many at most. There may be fewer on a page that is not the last.
        cursor: Where to go on; empty for the beginning.

    Raises:
        ApiError: The user may not read any, or the cursor or the status is none.
    """
    wanted = _job_status(status)
    before = _position(cursor)

    def read(session: Session) -> ListResponse:
        return _page(
            session,
            dags_for("GET", user=user, session=session),
            wanted=wanted,
            model_id=model_id,
            build_id=build_id,
            limit=limit,
            before=before,
        )

    return in_transaction(read)


def _page(
    session: Session,
    dag_ids: list[str],
    *,
    wanted: JobStatus | None,
    model_id: str,
    build_id: str,
    limit: int,
    before: int | None,
) -> ListResponse:
    """One page. What the database cannot tell by itself is found out run by run, but not for ever."""
    models = {d: str(queries.params_of(session, d).get("model_id", "")) for d in dag_ids} if model_id else {}
    found: list[tuple[Run, Standing]] = []
    looked_at, is_last = 0, False
    # One more than asked for tells whether there is another page.
    at_once = max(limit + 1, _AT_ONCE if wanted or build_id else 0)
    while len(found) <= limit and looked_at < _LOOK_AT and not is_last:
        runs = queries.runs_before(
            session,
            dag_ids,
            before=before,
            limit=at_once,
            states=_STATES[wanted] if wanted else (),
            model_id=model_id,
            build_id=build_id,
            models_by_default=models,
        )
        found += [
            (run, standing)
            for run, standing in _standings(session, runs)
            if wanted in {None, standing.status} and build_id in {"", standing.build_id}
        ]
        looked_at += len(runs)
        is_last = len(runs) < at_once
        before = runs[-1].key if runs else before
    if len(found) > limit:
        found, is_last = found[:limit], False
        before = found[-1][0].key
    return ListResponse(
        batch_jobs=[_summary(run, standing) for run, standing in found],
        next_cursor=None if is_last or before is None else _cursor(before),
    )


def _standings(session: Session, runs: list[Run]) -> list[tuple[Run, Standing]]:
    """How some executions stand, without how many files they have finished."""
    if not runs:
        return []
    keys = (PLANNED_ROW, ENDED_ROW, CANCELLED_ROW)
    rows = queries.stored_values(session, [run.key for run in runs], keys=keys)
    words = {run.key: Words.of(rows[run.key]) for run in runs}
    unclear = [run for run in runs if needs_plan_state(run, words[run.key])]
    counts = queries.count_tasks(session, unclear, [PLAN_TASK_ID]) if unclear else {}
    return [(run, standing_of(run, words[run.key], counts.get((run.dag_id, run.run_id), {}))) for run in runs]


def _find(session: Session, execution_id: str, user: BaseUser) -> Run:
    run = queries.find_run(session, dags_for("GET", user=user, session=session), execution_id)
    if run is None:
        raise ApiError(HTTPStatus.NOT_FOUND, f"There is no execution {execution_id!r}.")
    return run


def _standing(session: Session, run: Run, rows: list[StoredValue]) -> Standing:
    counts = queries.count_tasks(session, [run], [PLAN_TASK_ID, PREDICT_TASK_ID])
    return standing_of(run, Words.of(rows), counts.get((run.dag_id, run.run_id), {}))


def _summary(run: Run, standing: Standing) -> BatchJobSummary:
    return BatchJobSummary(
        job_id=run.run_id,
        build_id=standing.build_id,
        job_status=standing.status,
        start_time=run.started_at,
        end_time=run.ended_at if run.is_over else None,
        job_size=standing.total_files,
        failure_message=standing.reason,
    )


def _details(account: Account, standing: Standing, defaults: dict[str, Any]) -> BatchJobDetails:
    run = account.run
    fields = account.fields(defaults)
    files = account.files() if standing.has_plan else []
    tasks = [
        TaskExecution(
            task_id=task_id,
            status=_TASK_STATUSES[file.status],
            start_time=account.time(file.started_at),
            end_time=account.time(file.ended_at),
            num_of_records=max(file.rows, 0),
            filename=file.file,
            filenames=[file.file],
        )
        for task_id, file in files
    ]
    return BatchJobDetails(
        job_id=run.run_id,
        model_id=fields.model_id,
        branch_id=fields.branch,
        build_id=standing.build_id,
        start_time=run.started_at,
        end_time=run.ended_at if run.is_over else None,
        job_status=standing.status,
        total_records=standing.rows or sum(task.num_of_records for task in tasks),
        job_size=standing.total_files,
        report_messages=[ReportMessage(time=at, line=line) for at, line in account.lines()],
        execution_file_details=FileDetails(
            source_bucket=fields.source_bucket,
            destination_bucket=fields.destination_bucket,
            source_path=fields.source_path,
            destination_path=fields.destination_path,
            input_file_type=InputFileType.parse(fields.input_file_type),
            output_file_type=OutputFileType.parse(fields.output_file_type),
            finished_files=standing.finished_files,
            total_files=standing.total_files,
        ),
        task_executions=tasks,
    )


def _job_status(text: str) -> JobStatus | None:
    if not text:
        return None
    try:
        status = JobStatus.parse(text)
    except ValueError as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"status: this is {error}.") from None
    return None if status is JobStatus.UNDEFINED_BATCH_JOB_STATUS else status


def _cursor(before: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"before": before}).encode()).decode().rstrip("=")


def _position(cursor: str) -> int | None:
    """The place that a cursor stands for."""
    if not cursor:
        return None
    try:
        said = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        before = said["before"]
    except (ValueError, TypeError, KeyError, RecursionError):
        before = None
    if (
        not isinstance(before, int)
        or isinstance(before, bool)
        or not 0 < before < 2**31
        or _cursor(before) != cursor
    ):
        raise ApiError(HTTPStatus.BAD_REQUEST, "cursor: this is none that a list has given.")
    return before
