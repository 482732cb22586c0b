"""``BatchExecutionOperator`` and ``BatchExecutionSensor`` in DAGs of a user's own, in a real Airflow."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from waiting import wait_until

if TYPE_CHECKING:
    from airflow_deployment import Deployment

ENDS_WITHIN_SECONDS = 30.0

DAGS = """
from datetime import timedelta

from airflow.sdk import DAG

from airflow_batchexec import BatchExecutionOperator, BatchExecutionSensor

FOLDERS = {
    "source_folder": "{{ dag_run.conf['source_folder'] }}",
    "destination_folder": "{{ dag_run.conf['destination_folder'] }}",
}
FAST = {"poll_interval": 1.0}

for name, deferrable in (("waiting", False), ("deferring", True)):
    with DAG(name, schedule=None, default_args={"retry_delay": timedelta(0)}):
        BatchExecutionOperator(
            task_id="run",
            model_id="scaler",
            pods="{{ dag_run.conf.get('pods', '') }}",
            parameters={
                "BROKEN": "{{ dag_run.conf.get('broken', '') }}",
                "PAUSE": "0",
                "GATE": "{{ dag_run.conf.get('gate', '') }}",
            },
            deferrable=deferrable,
            retries=1,
            **FOLDERS,
            **FAST,
        )

with DAG("two_steps", schedule=None):
    start = BatchExecutionOperator(task_id="start", model_id="scaler", wait_for_completion=False, **FOLDERS)
    BatchExecutionSensor(task_id="poking", execution_id=start.output, deferrable=False, poke_interval=1)
    start >> BatchExecutionSensor(
        task_id="deferring", execution_id="{{ ti.xcom_pull('start')['execution_id'] }}", deferrable=True, poke_interval=1
    )

with DAG("lookers", schedule=None):
    for deferrable in (False, True):
        BatchExecutionSensor(
            task_id=f"strict_{deferrable}".lower(),
            execution_id="{{ dag_run.conf['execution_id'] }}",
            deferrable=deferrable,
            poke_interval=1,
        )
        BatchExecutionSensor(
            task_id=f"soft_{deferrable}".lower(),
            execution_id="{{ dag_run.conf['execution_id'] }}",
            deferrable=deferrable,
            poke_interval=1,
            soft_fail=True,
        )

with DAG("mapped", schedule=None):
    BatchExecutionOperator.partial(
        task_id="run", model_id="scaler", source_folder="{{ dag_run.conf['source_folder'] }}", deferrable=True, **FAST
    ).expand(destination_folder=["{{ dag_run.conf['destination_folder'] }}/a", "{{ dag_run.conf['destination_folder'] }}/b"])

with DAG("impatient", schedule=None):
    for deferrable in (False, True):
        BatchExecutionOperator(
            task_id=f"run_{deferrable}".lower(),
            model_id="scaler",
            source_folder="{{ dag_run.conf['source_folder'] }}",
            destination_folder="{{ dag_run.conf['destination_folder'] }}/" + str(deferrable),
            deferrable=deferrable,
            execution_timeout=timedelta(seconds=8),
            **FAST,
        )
"""


@pytest.fixture(scope="module")
def with_triggerer() -> bool:
    return True


@pytest.fixture(scope="module")
def user_dags() -> str:
    return DAGS


def task_state(deployment: Deployment, dag_id: str, run_id: str, task_id: str = "run") -> str | None:
    (instance,) = [i for i in deployment.airflow.task_instances(dag_id, run_id) if i["task_id"] == task_id]
    return instance["state"]


def executions_of(deployment: Deployment, run_id: str) -> list[dict[str, Any]]:
    """The execution runs that a run's operators have started, oldest first."""
    runs = deployment.airflow.api("GET", "dags/batch_execution/dagRuns?limit=1000&order_by=run_after")[
        "dag_runs"
    ]
    return [run for run in runs if run_id in run["dag_run_id"]]


def begun_execution(deployment: Deployment, run_id: str, *, files: int = 1) -> dict[str, Any]:
    """The execution that a run has started, once its pod is at work."""
    wait_until(lambda: len(deployment.pods()) >= files, what="a pod at work")
    (execution,) = executions_of(deployment, run_id)
    return execution


def assert_cancelled(deployment: Deployment, name: str, execution_id: str, ended_at: float) -> None:
    """The execution ends in time, as CANCELLED: no pod, no partial result, no lock."""
    left = ended_at + ENDS_WITHIN_SECONDS - time.monotonic()
    deployment.airflow.wait_for_run("batch_execution", execution_id, timeout=left)
    assert deployment.manifest(name, execution_id)["status"] == "CANCELLED"
    assert deployment.pods() == []
    out = deployment.folder / name / "out"
    left_behind = [p for p in out.rglob("*") if p.is_file() and "_batchexec" not in p.parts]
    assert [p.name for p in left_behind if p.name.startswith("hang")] == []
    assert list((out / "_batchexec" / "locks").glob("*")) == []
    assert not (out / "_batchexec" / execution_id / "cancel").exists()
    assert not (out / "_SUCCESS").exists()


@pytest.mark.parametrize("dag_id", ["waiting", "deferring"])
def test_the_operator_starts_an_execution_waits_for_it_and_gives_its_summary(
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
@pytest.mark.parametrize("how", ["mark failed", "clear", "fail the run"])
def test_ending_the_waiting_operator_ends_the_execution(
    deployment: Deployment, dag_id: str, how: str
) -> None:
    name = f"end-{dag_id}-{how.replace(' ', '-')}"
    folders = deployment.write_files(name, {"hang": "hang", "calm": "calm"})
    run_id = deployment.airflow.trigger(dag_id, folders)
    execution = begun_execution(deployment, run_id)
    state = "deferred" if dag_id == "deferring" else "running"
    wait_until(lambda: task_state(deployment, dag_id, run_id) == state, what=f"the operator {state}")

    api = deployment.airflow.api
    ended_at = time.monotonic()
    if how == "mark failed":
        api("PATCH", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/run", json={"new_state": "failed"})
    elif how == "fail the run":
        api("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})
    else:
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["run"], "only_failed": False}
        api("POST", f"dags/{dag_id}/clearTaskInstances", json=body)

    if how != "clear":
        assert_cancelled(deployment, name, execution["dag_run_id"], ended_at)
        assert deployment.airflow.wait_for_run(dag_id, run_id)["state"] == "failed"
        return
    # A clear ends the old execution and starts a new one, which waits until the lock is free.
    deployment.airflow.wait_for_run("batch_execution", execution["dag_run_id"], timeout=ENDS_WITHIN_SECONDS)
    assert deployment.manifest(name, execution["dag_run_id"])["status"] == "CANCELLED"
    wait_until(lambda: len(executions_of(deployment, run_id)) == 2, what="a second execution")
    (second,) = [e for e in executions_of(deployment, run_id) if e["dag_run_id"] != execution["dag_run_id"]]
    wait_until(deployment.pods, what="a pod of the second execution")
    api("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})
    assert_cancelled(deployment, name, second["dag_run_id"], time.monotonic())


def test_an_operator_that_takes_longer_than_its_execution_timeout_ends_its_execution(
    deployment: Deployment,
) -> None:
    folders = deployment.write_files("impatient", {"hang": "hang"})
    run_id = deployment.airflow.trigger("impatient", folders)

    assert deployment.airflow.wait_for_run("impatient", run_id)["state"] == "failed"
    for execution in executions_of(deployment, run_id):
        run = deployment.airflow.wait_for_run(
            "batch_execution", execution["dag_run_id"], timeout=ENDS_WITHIN_SECONDS
        )
        assert run["state"] == "failed"
    # One that was ended while it was planned has no manifest.
    summaries = [
        deployment.airflow.xcom("batch_execution", execution["dag_run_id"], "finish", key="summary")
        for execution in executions_of(deployment, run_id)
    ]
    assert [summary["status"] for summary in summaries] == ["CANCELLED"] * 2


def test_a_retry_finds_the_execution_that_the_lost_try_has_started(
    deployment: Deployment, tmp_path: Any
) -> None:
    gate = tmp_path / "gate"
    folders = deployment.write_files("adopted", {"a": "gated", "b": "calm"})
    run_id = deployment.airflow.trigger("waiting", {**folders, "pods": 1, "gate": str(gate)})
    execution = begun_execution(deployment, run_id)

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


def test_a_template_that_renders_to_a_wrong_value_is_refused_before_anything_starts(
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


def test_sensors_wait_for_what_an_operator_has_started(deployment: Deployment) -> None:
    folders = deployment.write_files("sensed", {"a": "calm"}, rows=3)
    run_id = deployment.airflow.trigger("two_steps", folders)

    assert deployment.airflow.wait_for_run("two_steps", run_id)["state"] == "success"
    (execution,) = executions_of(deployment, run_id)
    assert deployment.airflow.xcom("two_steps", run_id, "start") == {"execution_id": execution["dag_run_id"]}
    for task_id in ("poking", "deferring"):
        summary = deployment.airflow.xcom("two_steps", run_id, task_id)
        assert (summary["status"], summary["rows"]) == ("FINISHED", 3)


@pytest.mark.parametrize("end", ["FAILED", "TIMEOUT", "CANCELLED", "unknown"])
def test_sensors_fail_at_once_with_the_reason_or_skip_where_they_are_soft(
    deployment: Deployment, end: str
) -> None:
    if end == "unknown":
        execution_id, reason = "never_started", "there is no execution"
    else:
        folders = deployment.write_files(f"looked-at-{end}", {"hang": "hang"})
        limits = {"FAILED": {"file_timeout": 1}, "TIMEOUT": {"job_timeout": 4}, "CANCELLED": {}}[end]
        execution_id = deployment.start(**folders, **limits)
        if end == "CANCELLED":
            wait_until(deployment.pods, what="a pod at work")
            path = f"dags/batch_execution/dagRuns/{execution_id}"
            deployment.airflow.api("PATCH", path, json={"state": "failed"})
            assert_cancelled(deployment, f"looked-at-{end}", execution_id, time.monotonic())
        reason = f"ended as {end}"
    run_id = deployment.airflow.trigger("lookers", {"execution_id": execution_id})

    assert deployment.airflow.wait_for_run("lookers", run_id)["state"] == "failed"
    for deferrable in ("true", "false"):
        assert task_state(deployment, "lookers", run_id, f"strict_{deferrable}") == "failed"
        assert reason in deployment.airflow.task_log("lookers", run_id, f"strict_{deferrable}")
        assert task_state(deployment, "lookers", run_id, f"soft_{deferrable}") == "skipped"
