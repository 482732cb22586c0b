"""User DAGs with ``BatchExecutionOperator`` and ``BatchExecutionSensor``, and helpers to inspect their runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from waiting import wait_until

if TYPE_CHECKING:
    from airflow_deployment import Deployment

__all__ = [
    "DAGS",
    "DAG_IDS",
    "assert_cancelled",
    "executions_of",
    "is_waiting",
    "task_state",
    "wait_for_execution_with_pod",
]

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
                    "GATE": "{{ dag_run.conf.get('gate', '') }}",
                "TEST_FOLDER": "{{ dag_run.conf['destination_folder'] }}",
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

DAG_IDS = ("waiting", "deferring", "two_steps", "lookers", "mapped", "impatient")


def task_state(deployment: Deployment, dag_id: str, run_id: str, task_id: str = "run") -> str | None:
    (instance,) = [i for i in deployment.airflow.task_instances(dag_id, run_id) if i["task_id"] == task_id]
    return instance["state"]


def is_waiting(deployment: Deployment, dag_id: str, run_id: str) -> bool:
    """Whether the operator of a run waits for its execution: it runs, or it is deferred and its trigger runs.

    Airflow does not tell a trigger that has not been started yet that its task was ended.
    """
    (instance,) = [i for i in deployment.airflow.task_instances(dag_id, run_id) if i["task_id"] == "run"]
    if dag_id != "deferring":
        return bool(instance["state"] == "running")
    trigger = instance["trigger"] if instance["state"] == "deferred" else None
    return bool(trigger and trigger["triggerer_id"])


def executions_of(deployment: Deployment, run_id: str) -> list[dict[str, Any]]:
    """The execution runs that a run's operators started, oldest first."""
    runs = deployment.airflow.api("GET", "dags/batch_execution/dagRuns?limit=1000&order_by=run_after")[
        "dag_runs"
    ]
    return [run for run in runs if run_id in run["dag_run_id"]]


def wait_for_execution_with_pod(deployment: Deployment, name: str, run_id: str) -> dict[str, Any]:
    """Wait until the execution that a run started uses a pod, and return the execution's run."""
    wait_until(lambda: deployment.used_pods(name), what="a used pod")
    (execution,) = executions_of(deployment, run_id)
    return execution


def assert_cancelled(deployment: Deployment, name: str, execution_id: str) -> None:
    """Assert that the execution ends as CANCELLED and leaves no pod, partial result, lock or mark behind."""
    deployment.airflow.wait_for_run("batch_execution", execution_id)
    assert deployment.manifest(name, execution_id)["status"] == "CANCELLED"
    wait_until(lambda: not deployment.pods(name), what="the end of all pods")
    out = deployment.folder / name / "out"
    left_behind = [p for p in out.rglob("*") if p.is_file() and "_batchexec" not in p.parts]
    assert [p.name for p in left_behind if p.name.startswith("hang")] == []
    assert list((out / "_batchexec" / "locks").glob("*")) == []
    assert not (out / "_batchexec" / execution_id / "cancel").exists()
    assert not (out / "_SUCCESS").exists()
