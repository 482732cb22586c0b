"""Cancelling: what Airflow's database holds afterwards, for the tasks and for whoever asks."""

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


def words() -> list[dict[str, Any]]:
    with create_session() as session:
        query = select(TaskStateStoreModel).where(TaskStateStoreModel.key == "cancelled")
        found = session.scalars(query).all()
        assert all((row.task_id, row.map_index) == ("finish", -1) for row in found)
        return [json.loads(row.value) for row in found]


def test_a_queued_execution_keeps_only_its_last_task(api: Any, seed: Callable[..., None]):
    seed("run")

    response = cancel(api, name="ann")

    assert (response.status_code, response.json()["success"]) == (200, True)
    assert states() == {("plan", -1): "skipped", ("predict", -1): "skipped", ("finish", -1): None}
    (word,) = words()
    assert (word["generation"], word["by"]) == (0, "ann")


def test_files_in_work_are_ended_and_finished_ones_stay_finished(api: Any, seed: Callable[..., None]):
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
    # Airflow has failed the finished one with them; what was finished stays told.
    status = api.get("/batch-job/run/status").json()
    assert (status["job_status"], status["finished_files"]) == ("BATCH_JOB_RUNNING_STATUS", 1)
    assert [word["generation"] for word in words()] == [2]
    report = api.get("/batch-job/run/report").json()["report_messages"]
    assert any(line.endswith("the user asked for its cancellation.") for line in report)


def test_a_cancellation_can_be_repeated_and_keeps_its_author(api: Any, seed: Callable[..., None]):
    seed("run", state="running")
    cancel(api, name="ann")

    assert cancel(api, name="bob").status_code == 200
    assert [word["by"] for word in words()] == ["ann"]


def test_a_cancellation_of_an_earlier_generation_is_not_this_ones(api: Any, seed: Callable[..., None]):
    seed("run", state="running")
    cancel(api, name="ann")
    with create_session() as session:
        session.scalars(select(DagRun)).one().clear_number = 1

    assert cancel(api, name="bob").status_code == 200
    assert [(word["by"], word["generation"]) for word in words()] == [("bob", 1)]


@pytest.mark.parametrize("state", ["success", "failed"])
def test_what_has_ended_cannot_be_cancelled(api: Any, seed: Callable[..., None], state: str):
    seed("run", state=state)

    response = cancel(api)

    assert response.status_code == 409
    assert "has ended" in response.json()["failure_message"]
    assert not words()


def test_cancellations_at_the_same_moment_are_one(api: Any, seed: Callable[..., None]):
    seed("run", state="running")

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda number: cancel(api, name=f"user-{number}"), range(8)))

    assert {response.status_code for response in responses} == {200}
    assert len(words()) == 1


def test_the_audit_log_tells_who_cancelled_what(api: Any, seed: Callable[..., None]):
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
