"""``BatchExecutionSensor`` in user DAGs, in a real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from operator_dags import (
    assert_cancelled,
    executions_of,
    task_state,
)
from waiting import wait_until

if TYPE_CHECKING:
    from airflow_deployment import Deployment


def test_sensors_wait_for_an_operators_execution(deployment: Deployment) -> None:
    folders = deployment.write_files("sensed", {"a": "calm"}, rows=3)
    run_id = deployment.airflow.trigger("two_steps", folders)

    assert deployment.airflow.wait_for_run("two_steps", run_id)["state"] == "success"
    (execution,) = executions_of(deployment, run_id)
    assert deployment.airflow.xcom("two_steps", run_id, "start") == {"execution_id": execution["dag_run_id"]}
    for task_id in ("poking", "deferring"):
        summary = deployment.airflow.xcom("two_steps", run_id, task_id)
        assert (summary["status"], summary["rows"]) == ("FINISHED", 3)


@pytest.mark.parametrize("end", ["FAILED", "TIMEOUT", "CANCELLED", "unknown"])
def test_sensors_fail_at_once_with_the_reason_or_skip_with_soft_fail(
    deployment: Deployment, end: str
) -> None:
    if end == "unknown":
        execution_id, reason = "never_started", "has no execution"
    else:
        folders = deployment.write_files(f"sensed-{end}", {"hang": "hang"})
        limits = {"FAILED": {"file_timeout": 1}, "TIMEOUT": {"job_timeout": 4}, "CANCELLED": {}}[end]
        execution_id = deployment.start(**folders, **limits)
        if end == "CANCELLED":
            wait_until(lambda: deployment.used_pods(f"sensed-{end}"), what="a used pod")
            path = f"dags/batch_execution/dagRuns/{execution_id}"
            deployment.airflow.api("PATCH", path, json={"state": "failed"})
            assert_cancelled(deployment, f"sensed-{end}", execution_id)
        reason = f"ended as {end}"
    run_id = deployment.airflow.trigger("lookers", {"execution_id": execution_id})

    assert deployment.airflow.wait_for_run("lookers", run_id)["state"] == "failed"
    for deferrable in ("true", "false"):
        assert task_state(deployment, "lookers", run_id, f"strict_{deferrable}") == "failed"
        assert reason in deployment.airflow.task_log("lookers", run_id, f"strict_{deferrable}")
        assert task_state(deployment, "lookers", run_id, f"soft_{deferrable}") == "skipped"
