"""``BatchExecutionOperator`` in user DAGs, in a real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from operator_dags import (
    executions_of,
)

if TYPE_CHECKING:
    from airflow_deployment import Deployment


@pytest.mark.parametrize("dag_id", ["waiting", "deferring"])
def test_the_operator_starts_an_execution_waits_and_returns_its_summary(
    deployment: Deployment, dag_id: str
) -> None:
    folders = deployment.write_files(f"op-{dag_id}", {"a": "calm", "b": "calm"}, rows=4)
    run_id = deployment.airflow.trigger(dag_id, {**folders, "pods": 2})

    assert deployment.airflow.wait_for_run(dag_id, run_id)["state"] == "success"
    summary = deployment.airflow.xcom(dag_id, run_id, "run")
    (execution,) = executions_of(deployment, run_id)
    assert summary["execution_id"] == execution["dag_run_id"]
    assert summary["status"] == "FINISHED"
    assert (summary["finished_files"], summary["rows"]) == (2, 8)
    assert summary["manifest"].endswith(f"{summary['execution_id']}/manifest.json")
    assert execution["conf"]["pods"] == 2
    assert execution["note"] is not None


@pytest.mark.parametrize("dag_id", ["waiting", "deferring"])
def test_a_failed_execution_fails_the_operator_with_its_reason_and_a_retry_starts_another(
    deployment: Deployment, tmp_path: Any, dag_id: str
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    folders = deployment.write_files(f"failed-{dag_id}", {"bad": "fail"})
    run_id = deployment.airflow.trigger(dag_id, {**folders, "broken": str(broken)})

    assert deployment.airflow.wait_for_run(dag_id, run_id)["state"] == "failed"
    assert len(executions_of(deployment, run_id)) == 2
    for attempt in (1, 2):
        log = deployment.airflow.task_log(dag_id, run_id, "run", attempt=attempt)
        assert "ended as FAILED" in log
        assert "this file upsets me" in log


def test_a_refused_execution_fails_the_operator_without_a_retry(deployment: Deployment) -> None:
    (deployment.folder / "nothing").mkdir()
    folders = {
        "source_folder": f"file://{deployment.folder}/nothing",
        "destination_folder": f"file://{deployment.folder}/nothing-out",
    }
    run_id = deployment.airflow.trigger("waiting", folders)

    assert deployment.airflow.wait_for_run("waiting", run_id)["state"] == "failed"
    assert len(executions_of(deployment, run_id)) == 1
    assert "source_folder" in deployment.airflow.task_log("waiting", run_id, "run")


def test_a_template_with_an_invalid_value_is_refused_before_anything_starts(
    deployment: Deployment,
) -> None:
    folders = deployment.write_files("wrong-template", {"a": "calm"})
    run_id = deployment.airflow.trigger("waiting", {**folders, "pods": "many"})

    assert deployment.airflow.wait_for_run("waiting", run_id)["state"] == "failed"
    assert executions_of(deployment, run_id) == []
    assert "pods: " in deployment.airflow.task_log("waiting", run_id, "run")


def test_a_mapped_operator_runs_an_execution_for_each_element(deployment: Deployment) -> None:
    folders = deployment.write_files("mapped", {"a": "calm"})
    run_id = deployment.airflow.trigger("mapped", folders)

    assert deployment.airflow.wait_for_run("mapped", run_id)["state"] == "success"
    assert len(executions_of(deployment, run_id)) == 2
    for folder in ("a", "b"):
        assert (deployment.folder / "mapped" / "out" / folder / "_SUCCESS").exists()
