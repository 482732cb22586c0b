"""The read routes: status, list, report and details of executions, from Airflow's database."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow_batchexec.api import queries
from airflow_batchexec.api.auth import allowed_dags
from airflow_batchexec.api.database import in_transaction
from airflow_batchexec.api.errors import ApiError
from airflow_batchexec.api.report import ExecutionReport
from airflow_batchexec.api.state import TaskRows, execution_state, needs_plan_state
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
    from airflow_batchexec.api.state import ExecutionState

__all__ = ["get_details", "get_report", "get_status", "list_executions"]

# The Airflow states in which a run can have each status.
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
# How many runs a page may scan for a status or build; the next page continues the scan.
_MAX_SCANNED_RUNS = 5_000
_SCAN_BATCH_SIZE = 500


def get_status(execution_id: str, *, user: BaseUser) -> StatusResponse:
    """The status of an execution.

    Raises:
        ApiError: No execution with this ID is readable by the user.
    """

    def read(session: Session) -> StatusResponse:
        run = _find(session, execution_id, user)
        state = _state(session, run, queries.stored_values(session, [run.key])[run.key])
        return StatusResponse(
            failure_message=state.reason,
            job_status=state.status,
            finished_files=state.finished_files,
            total_files=state.total_files,
        )

    return in_transaction(read)


def get_report(execution_id: str, *, user: BaseUser) -> ReportResponse:
    """The report of an execution.

    Raises:
        ApiError: No execution with this ID is readable by the user.
    """

    def read(session: Session) -> ExecutionReport:
        run = _find(session, execution_id, user)
        return ExecutionReport(run, queries.stored_values(session, [run.key], keys=())[run.key])

    return ReportResponse(report_messages=in_transaction(read).report_messages())


def get_details(execution_id: str, *, user: BaseUser) -> DetailsResponse:
    """An execution with all its files.

    Raises:
        ApiError: No execution with this ID is readable by the user.
    """

    def read(session: Session) -> tuple[ExecutionReport, ExecutionState, dict[str, Any]]:
        run = _find(session, execution_id, user)
        rows = queries.stored_values(session, [run.key], keys=())[run.key]
        state = _state(session, run, rows)
        return ExecutionReport(run, rows), state, queries.load_default_params(session, run.dag_id)

    report, state, defaults = in_transaction(read)
    return DetailsResponse(failure_message=state.reason, batch_job=_details(report, state, defaults))


def list_executions(
    *, user: BaseUser, model_id: str, build_id: str, status: str, limit: int, cursor: str
) -> ListResponse:
    """Executions that the user may read, newest first.

    Args:
        user: The user.
        model_id: Only executions of this model; empty for all.
        build_id: Only executions of this build; empty for all.
        status: Only executions with this status, in any spelling of the wire; empty for all.
        limit: Maximum page size. Pages before the last may be smaller.
        cursor: Cursor of the page; empty for the first.

    Raises:
        ApiError: The user may not read any execution DAG, or the cursor or status is invalid.
    """
    job_status = _parse_status(status)
    before = _parse_cursor(cursor)

    def read(session: Session) -> ListResponse:
        return _page(
            session,
            allowed_dags("GET", user=user, session=session),
            status=job_status,
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
    status: JobStatus | None,
    model_id: str,
    build_id: str,
    limit: int,
    before: int | None,
) -> ListResponse:
    """One page. Filters that SQL cannot evaluate are applied run by run, up to a limit."""
    default_models = (
        {dag_id: str(queries.load_default_params(session, dag_id).get("model_id", "")) for dag_id in dag_ids}
        if model_id
        else {}
    )
    found: list[tuple[Run, ExecutionState]] = []
    scanned, is_last = 0, False
    # One more than the limit, to detect whether there is another page.
    batch_size = max(limit + 1, _SCAN_BATCH_SIZE if status or build_id else 0)
    while len(found) <= limit and scanned < _MAX_SCANNED_RUNS and not is_last:
        runs = queries.runs_before(
            session,
            dag_ids,
            before=before,
            limit=batch_size,
            states=_STATES[status] if status else (),
            model_id=model_id,
            build_id=build_id,
            default_models=default_models,
        )
        found += [
            (run, state)
            for run, state in _states(session, runs)
            if status in {None, state.status} and build_id in {"", state.build_id}
        ]
        scanned += len(runs)
        is_last = len(runs) < batch_size
        before = runs[-1].key if runs else before
    if len(found) > limit:
        found, is_last = found[:limit], False
        before = found[-1][0].key
    return ListResponse(
        batch_jobs=[_summary(run, state) for run, state in found],
        next_cursor=None if is_last or before is None else _format_cursor(before),
    )


def _states(session: Session, runs: list[Run]) -> list[tuple[Run, ExecutionState]]:
    """The states of executions, without the numbers of finished files."""
    if not runs:
        return []
    keys = (PLANNED_ROW, ENDED_ROW, CANCELLED_ROW)
    values = queries.stored_values(session, [run.key for run in runs], keys=keys)
    rows = {run.key: TaskRows.from_stored(values[run.key]) for run in runs}
    unclear = [run for run in runs if needs_plan_state(run, rows[run.key])]
    counts = queries.count_tasks(session, unclear, [PLAN_TASK_ID]) if unclear else {}
    return [
        (run, execution_state(run, rows[run.key], counts.get((run.dag_id, run.run_id), {}))) for run in runs
    ]


def _find(session: Session, execution_id: str, user: BaseUser) -> Run:
    run = queries.find_run(session, allowed_dags("GET", user=user, session=session), execution_id)
    if run is None:
        raise ApiError(HTTPStatus.NOT_FOUND, f"Execution {execution_id!r} not found.")
    return run


def _state(session: Session, run: Run, rows: list[StoredValue]) -> ExecutionState:
    counts = queries.count_tasks(session, [run], [PLAN_TASK_ID, PREDICT_TASK_ID])
    return execution_state(run, TaskRows.from_stored(rows), counts.get((run.dag_id, run.run_id), {}))


def _summary(run: Run, state: ExecutionState) -> BatchJobSummary:
    return BatchJobSummary(
        job_id=run.run_id,
        build_id=state.build_id,
        job_status=state.status,
        start_time=run.started_at,
        end_time=run.ended_at if run.is_over else None,
        job_size=state.total_files,
        failure_message=state.reason,
    )


def _details(report: ExecutionReport, state: ExecutionState, defaults: dict[str, Any]) -> BatchJobDetails:
    run = report.run
    fields = report.fields(defaults)
    files = report.files() if state.has_plan else []
    tasks = [
        TaskExecution(
            task_id=task_id,
            status=_TASK_STATUSES[file.status],
            start_time=report.to_datetime(file.started_at),
            end_time=report.to_datetime(file.ended_at),
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
        build_id=state.build_id,
        start_time=run.started_at,
        end_time=run.ended_at if run.is_over else None,
        job_status=state.status,
        total_records=state.rows or sum(task.num_of_records for task in tasks),
        job_size=state.total_files,
        report_messages=[ReportMessage(time=at, line=line) for at, line in report.lines()],
        execution_file_details=FileDetails(
            source_bucket=fields.source_bucket,
            destination_bucket=fields.destination_bucket,
            source_path=fields.source_path,
            destination_path=fields.destination_path,
            input_file_type=InputFileType.parse(fields.input_file_type),
            output_file_type=OutputFileType.parse(fields.output_file_type),
            finished_files=state.finished_files,
            total_files=state.total_files,
        ),
        task_executions=tasks,
    )


def _parse_status(text: str) -> JobStatus | None:
    if not text:
        return None
    try:
        status = JobStatus.parse(text)
    except ValueError:
        names = ", ".join(status.value for status in JobStatus)
        raise ApiError(HTTPStatus.BAD_REQUEST, f"status: must be one of {names}.") from None
    return None if status is JobStatus.UNDEFINED_BATCH_JOB_STATUS else status


def _format_cursor(before: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"before": before}).encode()).decode().rstrip("=")


def _parse_cursor(cursor: str) -> int | None:
    """The run key that a cursor encodes."""
    if not cursor:
        return None
    try:
        value = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        before = value["before"]
    except (ValueError, TypeError, KeyError, RecursionError):
        before = None
    if (
        not isinstance(before, int)
        or isinstance(before, bool)
        or not 0 < before < 2**31
        or _format_cursor(before) != cursor
    ):
        raise ApiError(HTTPStatus.BAD_REQUEST, "cursor: not a next_cursor of this API.")
    return before
