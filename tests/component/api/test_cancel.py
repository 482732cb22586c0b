"""Cancelling executions: what it leaves in Airflow's database for the tasks and for API clients."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import select
from wire_service import parse_response

from tools.seeded_execution import map_predict, seed_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session


def cancel(api: Any, run_id: str = "run", **arguments: Any) -> Any:
    response = api.post(f"/batch-job/{run_id}/cancel", **arguments)
    parse_response("cancel", response.json())
    return response


def states(run_id: str = "run") -> dict[tuple[str, int], str | None]:
    with create_session() as session:
        query = select(TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state)
        rows = session.execute(query.where(TaskInstance.run_id == run_id)).all()
        return {(row.task_id, row.map_index): row.state for row in rows}


def cancelled_rows() -> list[dict[str, Any]]:
    with create_session() as session:
        query = select(TaskStateStoreModel).where(TaskStateStoreModel.key == "cancelled")
        found = session.scalars(query).all()
        assert all((row.task_id, row.map_index) == ("finish", -1) for row in found)
        return [json.loads(row.value) for row in found]


def test_cancelling_a_queued_execution_leaves_only_its_finish_task(api: Any, seed: Callable[..., None]):
    seed("run")

    response = cancel(api, name="ann")

    assert (response.status_code, response.json()["success"]) == (200, True)
    assert states() == {("plan", -1): "skipped", ("predict", -1): "skipped", ("finish", -1): None}
    (row,) = cancelled_rows()
    assert (row["generation"], row["by"]) == (0, "ann")


def test_cancelling_stops_running_files_and_keeps_finished_ones(api: Any, seed: Callable[..., None]):
    def write(session: Session, run: DagRun) -> None:
        seed_plan(session, run, [("a", 0), ("b", 1), ("c", 2)])
        map_predict(session, run, {0: "success", 1: "running", 2: "scheduled"})

    seed("run", write, state="running", generation=2)

    assert cancel(api).status_code == 200
    assert {name: states()[name] for name in (("plan", -1), ("predict", 1), ("finish", -1))} == {
        ("plan", -1): "success",
        ("predict", 1): "failed",
        ("finish", -1): None,
    }
    assert states()["predict", 2] in {"failed", "skipped"}
    # Airflow failed the finished instance too, but the number of finished files is kept.
    status = api.get("/batch-job/run/status").json()
    assert (status["job_status"], status["finished_files"]) == ("BATCH_JOB_RUNNING_STATUS", 1)
    assert [row["generation"] for row in cancelled_rows()] == [2]
    report = api.get("/batch-job/run/report").json()["report_messages"]
    assert any(line.endswith("Cancellation requested by the user.") for line in report)


def test_a_repeated_cancellation_keeps_the_first_user(api: Any, seed: Callable[..., None]):
    seed("run", state="running")
    cancel(api, name="ann")

    assert cancel(api, name="bob").status_code == 200
    assert [row["by"] for row in cancelled_rows()] == ["ann"]


def test_a_cancellation_of_an_earlier_generation_does_not_count(api: Any, seed: Callable[..., None]):
    seed("run", state="running")
    cancel(api, name="ann")
    with create_session() as session:
        session.scalars(select(DagRun)).one().clear_number = 1

    assert cancel(api, name="bob").status_code == 200
    assert [(row["by"], row["generation"]) for row in cancelled_rows()] == [("bob", 1)]


@pytest.mark.parametrize("state", ["success", "failed"])
def test_ended_executions_cannot_be_cancelled(api: Any, seed: Callable[..., None], state: str):
    seed("run", state=state)

    response = cancel(api)

    assert response.status_code == 409
    assert "has ended" in response.json()["failure_message"]
    assert not cancelled_rows()


def test_concurrent_cancellations_are_recorded_once(api: Any, seed: Callable[..., None]):
    seed("run", state="running")

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda number: cancel(api, name=f"user-{number}"), range(8)))

    assert {response.status_code for response in responses} == {200}
    assert len(cancelled_rows()) == 1


def test_the_audit_log_records_cancellations_and_refusals(api: Any, seed: Callable[..., None]):
    seed("run", state="running")
    cancel(api, name="ann")
    seed("over", state="failed")
    cancel(api, "over", name="bob")

    with create_session() as session:
        rows = session.scalars(select(Log).order_by(Log.id)).all()
        found = [(row.event, row.owner, row.dag_id, row.run_id, json.loads(row.extra)) for row in rows]
    assert [entry[:4] for entry in found] == [
        ("cancel_batch_job", "ann", "batch_execution", "run"),
        ("cancel_batch_job", "bob", "batch_execution", "over"),
    ]
    assert "has ended" in found[1][4]["refused"]
