"""Kill processes of a real Airflow at random moments: executions must still end correctly.

The seed of the random moments is printed; set ``BATCHEXEC_TEST_SEED`` to repeat a run.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from airflow_models import expected, frame
from faults import Fault, FaultInjector, Triggerers, the_pod, worker_of
from pandas.testing import assert_frame_equal
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_deployment import Deployment

# Airflow detects lost tasks only after fixed timeouts, and an Airflow is started as well.
pytestmark = pytest.mark.timeout(1500)

log = logging.getLogger(__name__)

MOODS = {"f0": "slow", "f1": "slow", "f2": "gated"}
ROWS = 50
ENDED = {"success", "failed"}
# Polls often, so that a process does not exit between two polls before it is killed.
poll_until = partial(wait_until, pause_factor=1.0)

DAGS = """
from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_batchexec import BatchExecutionOperator, BatchExecutionSensor

RUN = {
    "model_id": "scaler",
    "source_folder": "{{ dag_run.conf['source_folder'] }}",
    "pods": 1,
    "poll_interval": 1.0,
}

with DAG("many", schedule=None):

    @task
    def executions(dag_run=None):
        conf = dag_run.conf
        return [
            {
                "destination_folder": conf["destination_folder"] + "/" + name,
                "parameters": {
                    "PAUSE": "1",
                    "GATE": conf["gates"] + "/" + name,
                    "TEST_FOLDER": conf["destination_folder"] + "/" + name,
                },
            }
            for name in conf["names"]
        ]

    BatchExecutionOperator.partial(task_id="run", deferrable=True, **RUN).expand_kwargs(executions())

with DAG("watchers", schedule=None):

    @task
    def ids(dag_run=None):
        return dag_run.conf["ids"]

    BatchExecutionSensor.partial(task_id="watch", deferrable=True, poke_interval=1.0).expand(execution_id=ids())

with DAG("pair", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}):
    for name, deferrable in (("working", False), ("deferred", True)):
        BatchExecutionOperator(
            task_id=name,
            destination_folder="{{ dag_run.conf['destination_folder'] }}/" + name,
            parameters={
                "PAUSE": "3",
                "GATE": "{{ dag_run.conf['gate'] }}",
                "TEST_FOLDER": "{{ dag_run.conf['destination_folder'] }}",
            },
            deferrable=deferrable,
            **RUN,
        )
"""


@pytest.fixture(scope="module")
def user_dags() -> str:
    return DAGS


@pytest.fixture(scope="module")
def airflow_settings() -> dict[str, str]:
    # Detect lost tasks sooner than by default, but not so soon that a busy machine looks like a lost one.
    return {
        "AIRFLOW__CORE__MAX_MAP_LENGTH": str(2 * len(FAULTS)),
        "AIRFLOW__CORE__PARALLELISM": "6",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "25",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "25",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    }


@pytest.fixture(scope="module")
def deployment(own_deployment: Deployment) -> Deployment:
    return own_deployment


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("BATCHEXEC_TEST_SEED") or random.randrange(2**32))
    log.warning("BATCHEXEC_TEST_SEED=%d", seed)
    return random.Random(seed)


def write_inputs(deployment: Deployment, name: str) -> dict[str, str]:
    return deployment.write_files(name, MOODS, rows=ROWS)


def assert_ended_as(deployment: Deployment, run_id: str, destination: str, status: str) -> dict[str, Any]:
    """Assert the execution's status, that every file is accounted for, and that nothing partial is left.

    Returns the execution's summary.
    """
    run = deployment.airflow.run("batch_execution", run_id)
    summary = deployment.airflow.xcom("batch_execution", run_id, "finish", key="summary")
    out = Path(destination.removeprefix("file://"))
    folder = out / "_batchexec" / run_id
    assert summary["status"] == status, summary
    assert run["state"] == ("success" if status == "FINISHED" else "failed")
    assert bool(summary["reason"]) == (status != "FINISHED")
    assert (out / "_SUCCESS").exists() == (status == "FINISHED")
    published = {p.stem for p in out.glob("*.csv")} if out.exists() else set()
    for name in published:
        result = expected(frame(name, ROWS, mood=MOODS[name]))
        assert_frame_equal(pd.read_csv(out / f"{name}.csv"), result)
    if "total_files" in summary:
        manifest = json.loads((folder / "manifest.json").read_text())
        records = {record["file"]: record["status"] for record in manifest["files"]}
        assert set(records) == {f"{name}.csv" for name in MOODS}
        assert {name for name in MOODS if records[f"{name}.csv"] == "FINISHED"} <= published
        assert manifest["status"] == status
    if status == "FINISHED":
        assert (summary["finished_files"], summary["rows"]) == (len(MOODS), len(MOODS) * ROWS)
        assert published == set(MOODS)
    assert not (folder / "cancel").exists()
    assert not (folder / "staging").exists()
    return summary


def wait_random_time(
    rng: random.Random, max_seconds: float, on_poll: Callable[[], None] = lambda: None
) -> None:
    """Wait for a random time of up to ``max_seconds``, calling ``on_poll`` meanwhile."""
    deadline = time.monotonic() + rng.uniform(0, max_seconds)
    poll_until(lambda: on_poll() or time.monotonic() >= deadline)


def has_failed_task(deployment: Deployment, run_id: str) -> bool:
    """Whether plan or predict was lost so often that Airflow failed it."""
    tasks = [*deployment.instances(run_id, "plan"), *deployment.instances(run_id, "predict")]
    return any(task["state"] == "failed" for task in tasks)


def assert_no_pods_left(deployment: Deployment) -> None:
    wait_until(lambda: not deployment.pods(), seconds=60, what="the end of all pods")


# The faults of each execution, by destination. A task has one retry. The last file of a predict task waits until all
# certain faults of its execution have been injected, so that these never miss, however slow the machine is. Others may.
FAULTS = {
    "plan": [Fault("plan", 0.6)],
    "plan-every-try": [Fault("plan", 0.6, tries=(1, 2))],
    "predict": [Fault("predict", 3.0)],
    "predict-supervisor": [Fault("predict", 3.0, target=lambda task, _: task.parent())],
    "predict-every-try": [Fault("predict", 1.5, tries=(1, 2)), Fault("finish", 6.0)],
    "pod-worker": [Fault("predict", 2.0, target=worker_of)],
    "pod-supervisor": [Fault("predict", 2.0, target=the_pod)],
    "finish": [Fault("finish", 0.6)],
    "all-tasks": [Fault("plan", 0.6), Fault("predict", 1.5), Fault("finish", 0.6)],
    "lasting": [],
}
CERTAIN = {
    *(
        f"{name}: predict of try 1"
        for name in ("predict", "predict-supervisor", "pod-worker", "pod-supervisor")
    ),
    *(f"predict-every-try: predict of try {number}" for number in (1, 2)),
    "all-tasks: predict of try 1",
}
EVERY_TRY = {"plan-every-try", "predict-every-try"}
# These run until the test opens their gates: "finish" while the triggerer is frozen, "lasting" once it has been replaced.
HELD = ("finish", "lasting")


class GatedFaultInjector(FaultInjector):
    """A fault injector that opens an execution's gate once all its certain faults have been injected.

    Args:
        gates: The folder of the gates: a file with the execution's name is its open gate.
        arguments: The arguments of the fault injector.
    """

    def __init__(self, gates: Path, *arguments: Any) -> None:
        super().__init__(*arguments)
        gates.mkdir()
        self._gates = gates

    def poll(self) -> None:
        super().poll()
        pending = {fault.partition(":")[0] for fault in CERTAIN - set(self.injected)}
        for name in FAULTS.keys() - pending - set(HELD):
            self.open(name)

    def open(self, name: str) -> None:
        """Let an execution finish."""
        (self._gates / name).touch()


class Waiting:
    """The tasks that wait for executions: the operators that started them, and sensors."""

    def __init__(self, deployment: Deployment, many: str, watchers: str) -> None:
        self._airflow = deployment.airflow
        self._runs = [("many", many, "run"), ("watchers", watchers, "watch")]

    def states(self) -> list[dict[int, str | None]]:
        """The states of the operators, then those of the sensors, by map index."""
        return [{i["map_index"]: i["state"] for i in instances} for instances in self._instances()]

    def triggerers(self) -> set[int | None]:
        """The job IDs of the triggerers that the deferred tasks are assigned to."""
        deferred = [i for instances in self._instances() for i in instances if i["state"] == "deferred"]
        return {i["trigger"] and i["trigger"]["triggerer_id"] for i in deferred}

    def _instances(self) -> Iterator[list[dict[str, Any]]]:
        for dag_id, run_id, task_id in self._runs:
            instances = self._airflow.task_instances(dag_id, run_id)
            yield [i for i in instances if i["task_id"] == task_id]


def replace_triggerer(
    deployment: Deployment, injector: GatedFaultInjector, waiting: Waiting, rng: random.Random
) -> str:
    """Freeze the triggerer until another has replaced it, then let it notice that. Returns the other's name."""

    held = [list(FAULTS).index(name) for name in HELD]

    def have_deferred() -> bool:
        states = waiting.states()
        settled = [state for found in states for state in found.values() if state in {"deferred", *ENDED}]
        return len(settled) >= 15 and all(
            found.get(index) == "deferred" for found in states for index in held
        )

    poll_until(lambda: injector.poll() or have_deferred(), what="the deferral of most waiting tasks")
    wait_random_time(rng, 2, injector.poll)
    triggerers = Triggerers(deployment.airflow)
    with triggerers.first_frozen() as first:
        other = deployment.airflow.add("triggerer")
        injector.open("finish")

        def has_taken_over() -> bool:
            others = [job for job in triggerers.numbers() if job != first]
            if not others or waiting.triggerers() != set(others):
                return False
            # A triggerer's first API call blocks it while it builds its in-process API. Until then, it may itself be
            # considered lost, and the first one would get the triggers back. A fired event shows that it is past that.
            return "Trigger fired event" in triggerers.logs(*others)

        poll_until(lambda: injector.poll() or has_taken_over(), what="the takeover of the triggers")
    # Airflow cancels the frozen triggerer's triggers as if a user had ended their tasks.
    poll_until(lambda: injector.poll() or "invoking on_kill" in triggerers.logs(first), what="on_kill")
    return other


def left_in_scratch(deployment: Deployment) -> list[Path]:
    """Leftovers of pods, besides the folder in which they are counted."""
    return [path for path in deployment.scratch.glob("*/*/*") if path.is_dir()]


def test_executions_end_correctly_and_waiting_tasks_resume_whatever_is_killed(
    deployment: Deployment, rng: random.Random
) -> None:
    airflow, names = deployment.airflow, list(FAULTS)
    folders = write_inputs(deployment, "faults")
    out = folders["destination_folder"]
    gates = deployment.folder / "gates"
    injector = GatedFaultInjector(gates, deployment, out, FAULTS, rng)
    many = airflow.trigger("many", {**folders, "names": names, "gates": str(gates)})
    poll_until(
        lambda: injector.poll() or len(deployment.execution_runs(out)) == len(names), what="all executions"
    )
    runs = {name: run["dag_run_id"] for name, (run,) in deployment.execution_runs(out).items()}
    watchers = airflow.trigger("watchers", {"ids": [runs[name] for name in names]})
    waiting = Waiting(deployment, many, watchers)
    other = replace_triggerer(deployment, injector, waiting, rng)
    # Held until now, so that some tasks are still waiting when the first triggerer resumes.
    injector.open("lasting")
    wait_random_time(rng, 3, injector.poll)
    airflow.kill(other)
    for dag_id, run_id in [("many", many), ("watchers", watchers)]:
        airflow.wait_for_run(dag_id, run_id, timeout=900, on_poll=injector.poll)

    assert_no_pods_left(deployment)
    assert set(injector.injected) >= CERTAIN
    assert injector.surviving_pods == set()
    # A process may have exited before its fault was due.
    failed = {name for name in EVERY_TRY if has_failed_task(deployment, runs[name])}
    assert "predict-every-try" in failed
    for name in names:
        status = "FAILED" if name in failed else "FINISHED"
        assert_ended_as(deployment, runs[name], f"{out}/{name}", status)
    ended = {index: "failed" if name in failed else "success" for index, name in enumerate(names)}
    assert waiting.states() == [ended, ended]
    assert [name for name in names if len(deployment.execution_runs(out)[name]) > 1] == []
    assert left_in_scratch(deployment) == []
    # No lock is stuck: the next execution may run, even after those that left their locks behind.
    again = {
        name: deployment.start(
            source_folder=folders["source_folder"],
            destination_folder=f"{out}/{name}",
            pods=1,
            parameters={"PAUSE": "0", "GATE": "/"},
        )
        for name in [*EVERY_TRY, "all-tasks"]
    }
    for name, run_id in again.items():
        airflow.wait_for_run("batch_execution", run_id)
        assert_ended_as(deployment, run_id, f"{out}/{name}", "FINISHED")
    assert not list(deployment.folder.glob("faults/out/*/_batchexec/locks/*"))


@pytest.mark.parametrize("killed", ["alone", "with-children"])
def test_executions_survive_a_killed_scheduler(
    deployment: Deployment, rng: random.Random, killed: str
) -> None:
    airflow = deployment.airflow
    folders = write_inputs(deployment, f"scheduler-{killed}")
    out = folders["destination_folder"]
    gate = deployment.folder / f"gate-{killed}"
    pair = airflow.trigger("pair", {**folders, "gate": str(gate)})
    wait_until(lambda: len(deployment.execution_runs(out)) == 2, what="the pair's executions")
    plain = deployment.start(
        source_folder=folders["source_folder"],
        destination_folder=f"{out}/plain",
        pods=1,
        parameters={"PAUSE": "3", "GATE": str(gate)},
    )
    wait_until(lambda: len(deployment.pods()) == 3, what="three running pods")
    gate.touch()
    wait_random_time(rng, 6)
    airflow.kill("scheduler", with_children=killed != "alone")
    airflow.restart("scheduler")

    assert airflow.wait_for_run("pair", pair, timeout=600)["state"] == "success"
    assert airflow.wait_for_run("batch_execution", plain, timeout=600)["state"] == "success"
    assert_no_pods_left(deployment)
    runs = deployment.execution_runs(out)
    assert {name: len(found) for name, found in runs.items()} == {"working": 1, "deferred": 1, "plain": 1}
    for name, (run,) in runs.items():
        assert_ended_as(deployment, run["dag_run_id"], f"{out}/{name}", "FINISHED")
        assert not list(Path(f"{out}/{name}".removeprefix("file://")).glob("_batchexec/locks/*"))
