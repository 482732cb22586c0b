"""Cancels an execution: fails its run as Airflow's own API does, and leaves the user's name for its last task."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from airflow.api_fastapi.core_api.datamodels.dag_run import DagRunMutableStates
from airflow.api_fastapi.core_api.services.public.dag_run import patch_dag_run_state
from airflow.models.dagrun import DagRun
from airflow.sdk import conf
from airflow.state import TaskScope, get_state_backend

from airflow_batchexec import settings
from airflow_batchexec.api import queries
from airflow_batchexec.api.auth import allowed_dags, has_permission
from airflow_batchexec.api.database import dag_bag, in_transaction
from airflow_batchexec.api.errors import ApiError, read_option
from airflow_batchexec.api.state import TaskRows, execution_state
from airflow_batchexec.names import CANCELLED_ROW, FINISH_TASK_ID, PLAN_TASK_ID, PREDICT_TASK_ID

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
    from sqlalchemy.orm import Session

    from airflow_batchexec.api.queries import Run

__all__ = ["cancel"]


def cancel(execution_id: str, *, user: BaseUser) -> None:
    """Cancel an execution; a no-op if it is already being cancelled.

    Raises:
        ApiError: The execution does not exist or has ended, or the user lacks the permission.
    """
    outcome = in_transaction(lambda session: _cancel(session, execution_id, user))
    if outcome is not None:
        raise outcome


def _cancel(session: Session, execution_id: str, user: BaseUser) -> ApiError | None:
    run = _find(session, execution_id, user)
    entry = queries.add_audit_entry(
        session,
        "cancel_batch_job",
        user=user.get_name(),
        dag_id=run.dag_id,
        run_id=run.run_id,
        extra={"method": "POST"},
    )
    # Read again: the lock taken here excludes concurrent cancellations.
    row = session.get_one(DagRun, run.key, with_for_update=True)
    now = queries.find_run(session, [run.dag_id], run.run_id) or run
    refusal = _refusal(now)
    if refusal is not None:
        entry.extra = queries.as_json({"method": "POST", "refused": refusal.message})
        return refusal
    rows = TaskRows.from_stored(queries.stored_values(session, [now.key])[now.key])
    if rows.cancelled_in(now.generation):
        return None
    counts = queries.count_tasks(session, [now], [PLAN_TASK_ID, PREDICT_TASK_ID])
    state = execution_state(now, rows, counts.get((now.dag_id, now.run_id), {}))
    dag = dag_bag().get_dag_for_run(row, session=session)
    if dag is None:
        return ApiError(
            HTTPStatus.SERVICE_UNAVAILABLE, f"Cannot load the DAG {run.dag_id} from Airflow's database."
        )
    value = {
        "generation": now.generation,
        "by": user.get_name(),
        "at": time.time(),
        "finished_files": state.finished_files,
    }
    # Through Airflow's state backend, so that the task reads it from the same place.
    get_state_backend().set(
        TaskScope(dag_id=run.dag_id, run_id=run.run_id, task_id=FINISH_TASK_ID),
        CANCELLED_ROW,
        json.dumps(value),
        expires_at=_expiry(),
        session=session,
    )
    patch_dag_run_state(dag=dag, dag_run=row, state=DagRunMutableStates.FAILED, session=session)
    return None


def _find(session: Session, execution_id: str, user: BaseUser) -> Run:
    """The run to cancel. A user without read permission gets 404, so that its existence is not revealed."""
    dag_ids = allowed_dags("PUT", user=user, session=session)
    run = queries.find_run(session, read_option(settings.execution_dags), execution_id)
    if run is not None and run.dag_id in dag_ids:
        return run
    if run is not None and has_permission("GET", run.dag_id, user=user, session=session):
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"You may not change executions: you lack this permission on runs of {run.dag_id}.",
        )
    raise ApiError(HTTPStatus.NOT_FOUND, f"Execution {execution_id!r} not found.")


def _refusal(run: Run) -> ApiError | None:
    if run.is_over:
        return ApiError(HTTPStatus.CONFLICT, f"Execution {run.run_id} has ended and cannot be cancelled.")
    return None


def _expiry() -> datetime | None:
    """When the row expires, as in Airflow's own API."""
    days = conf.getint("state_store", "default_retention_days")
    return datetime.now(UTC) + timedelta(days=days) if days > 0 else None
