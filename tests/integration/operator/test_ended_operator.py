"""The execution of a waiting operator that is ended, lost, or past its timeout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from operator_dags import (
    assert_cancelled,
    executions_of,
    is_waiting,
    wait_for_execution_with_pod,
)
from waiting import wait_until

if TYPE_CHECKING:
    from airflow_deployment import Deployment


@pytest.mark.parametrize("dag_id", ["waiting", "deferring"])
@pytest.mark.parametrize("how", ["mark failed", "clear", "fail the run"])
def test_ending_the_waiting_operator_cancels_the_execution(
    deployment: Deployment, dag_id: str, how: str
) -> None:
    name = f"end-{dag_id}-{how.replace(' ', '-')}"
    folders = deployment.write_files(name, {"hang": "hang", "calm": "calm"})
    run_id = deployment.airflow.trigger(dag_id, folders)
    execution = wait_for_execution_with_pod(deployment, name, run_id)
    wait_until(lambda: is_waiting(deployment, dag_id, run_id), what="the waiting operator")

    api = deployment.airflow.api
    if how == "mark failed":
        api("PATCH", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/run", json={"new_state": "failed"})
    elif how == "fail the run":
        api("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})
    else:
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["run"], "only_failed": False}
        api("POST", f"dags/{dag_id}/clearTaskInstances", json=body)

    if how != "clear":
        assert_cancelled(deployment, name, execution["dag_run_id"])
        assert deployment.airflow.wait_for_run(dag_id, run_id)["state"] == "failed"
        return
    # A clear ends the old execution and starts a new one, which waits until the lock is free.
    deployment.airflow.wait_for_run("batch_execution", execution["dag_run_id"])
    assert deployment.manifest(name, execution["dag_run_id"])["status"] == "CANCELLED"
    wait_until(lambda: len(executions_of(deployment, run_id)) == 2, what="a second execution")
    (second,) = [e for e in executions_of(deployment, run_id) if e["dag_run_id"] != execution["dag_run_id"]]
    wait_until(lambda: deployment.used_pods(name), what="a pod of the second execution")
    api("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})
    assert_cancelled(deployment, name, second["dag_run_id"])


def test_an_operator_past_its_execution_timeout_cancels_its_execution(
    deployment: Deployment,
) -> None:
    folders = deployment.write_files("impatient", {"hang": "hang"})
    run_id = deployment.airflow.trigger("impatient", folders)

    assert deployment.airflow.wait_for_run("impatient", run_id)["state"] == "failed"
    for execution in executions_of(deployment, run_id):
        run = deployment.airflow.wait_for_run("batch_execution", execution["dag_run_id"])
        assert run["state"] == "failed"
    # An execution cancelled during planning has no manifest.
    summaries = [
        deployment.airflow.xcom("batch_execution", execution["dag_run_id"], "finish", key="summary")
        for execution in executions_of(deployment, run_id)
    ]
    assert [summary["status"] for summary in summaries] == ["CANCELLED"] * 2


def test_a_retry_finds_the_execution_of_the_lost_try(deployment: Deployment, tmp_path: Any) -> None:
    gate = tmp_path / "gate"
    folders = deployment.write_files("adopted", {"a": "gated", "b": "calm"})
    run_id = deployment.airflow.trigger("waiting", {**folders, "pods": 1, "gate": str(gate)})
    execution = wait_for_execution_with_pod(deployment, "adopted", run_id)

    deployment.kill_task("waiting", run_id, "run")
    wait_until(
        lambda: [i["try_number"] for i in deployment.airflow.task_instances("waiting", run_id)] == [2],
        what="the second try",
    )
    gate.touch()

    assert deployment.airflow.wait_for_run("waiting", run_id)["state"] == "success"
    assert [e["dag_run_id"] for e in executions_of(deployment, run_id)] == [execution["dag_run_id"]]
    assert deployment.airflow.xcom("waiting", run_id, "run")["execution_id"] == execution["dag_run_id"]
    (instance,) = deployment.airflow.task_instances("waiting", run_id)
    assert instance["try_number"] == 2
