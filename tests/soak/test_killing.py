"""Processes of a real Airflow that are killed at random moments; whatever dies, executions come to their right end.

The moments come from a seed that is printed; ``BATCHEXEC_TEST_SEED`` repeats it.
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
import psutil
import pytest
from airflow_models import expected, frame
from faults import Murder, Murderer, Triggerers, pod_of, worker_of
from pandas.testing import assert_frame_equal
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_deployment import Deployment

# What is lost is found lost after a time that does not shrink, and an Airflow is started as well.
pytestmark = pytest.mark.timeout(1500)

_log = logging.getLogger(__name__)

MOODS = {"f0": "slow", "f1": "slow", "f2": "gated"}
ROWS = 50
ENDED = {"success", "failed"}
# Who is to die is not to get away between two looks.
keep_looking = partial(wait_until, pause_looks=1.0)

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
                    "TEST_FOLDER": conf["destination_folder"],
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
    # What is lost is found lost sooner than by default, though not so soon that a busy machine looks like a lost one.
    return {
        "AIRFLOW__CORE__MAX_MAP_LENGTH": str(2 * len(MURDERS)),
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
def chance() -> random.Random:
    seed = int(os.environ.get("BATCHEXEC_TEST_SEED") or random.randrange(2**32))
    _log.warning("BATCHEXEC_TEST_SEED=%d", seed)
    return random.Random(seed)


def write_inputs(deployment: Deployment, name: str) -> dict[str, str]:
    return deployment.write_files(name, MOODS, rows=ROWS)


def assert_right_end(deployment: Deployment, run_id: str, destination: str, status: str) -> dict[str, Any]:
    """The execution ended as it should: all is accounted for, nothing partial or left over. Gives its summary."""
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
        wanted = expected(frame(name, ROWS, mood=MOODS[name]))
        assert_frame_equal(pd.read_csv(out / f"{name}.csv"), wanted)
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


def wait_for_a_moment(
    chance: random.Random, seconds: float, on_poll: Callable[[], None] = lambda: None
) -> None:
    """Wait for a moment that chance has chosen within so many seconds; murders go on meanwhile."""
    moment = time.monotonic() + chance.uniform(0, seconds)
    keep_looking(lambda: on_poll() or time.monotonic() >= moment)


def has_failed_task(deployment: Deployment, run_id: str) -> bool:
    """Whether plan or predict was lost so often that Airflow gave it up."""
    tasks = [*deployment.instances(run_id, "plan"), *deployment.instances(run_id, "predict")]
    return any(task["state"] == "failed" for task in tasks)


def assert_nothing_lives(deployment: Deployment) -> None:
    wait_until(lambda: not deployment.pods(), seconds=60, what="the end of all pods")


# By destination: who dies there. A task has one retry. The last file of a predict task waits until all have died that
# are sure to, so that nobody of them gets away, however slow the machine is. Others may.
MURDERS = {
    "plan": [Murder("plan", 0.6)],
    "plan-for-good": [Murder("plan", 0.6, tries=(1, 2))],
    "predict": [Murder("predict", 3.0)],
    "predict-supervisor": [Murder("predict", 3.0, who=psutil.Process.parent)],
    "predict-for-good": [Murder("predict", 1.5, tries=(1, 2)), Murder("finish", 6.0)],
    "pod-worker": [Murder("predict", 2.0, who=worker_of)],
    "pod-supervisor": [Murder("predict", 2.0, who=pod_of)],
    "finish": [Murder("finish", 0.6)],
    "all-tasks": [Murder("plan", 0.6), Murder("predict", 1.5), Murder("finish", 0.6)],
    "lasting": [],
}
CERTAIN = {
    *(
        f"{name}: predict of try 1"
        for name in ("predict", "predict-supervisor", "pod-worker", "pod-supervisor")
    ),
    *(f"predict-for-good: predict of try {number}" for number in (1, 2)),
    "all-tasks: predict of try 1",
}
FOR_GOOD = {"plan-for-good", "predict-for-good"}
# They go on until they are told to end: the one while the triggerer stands still, the other when it has been replaced.
HELD = ("finish", "lasting")


class GatedMurderer(Murderer):
    """A murderer who opens the gate of an execution when all have died there that are sure to.

    Args:
        gates: A folder, in which a file of the execution's name is its open gate.
        more: What a murderer is told.
    """

    def __init__(self, gates: Path, *more: Any) -> None:
        super().__init__(*more)
        gates.mkdir()
        self._gates = gates

    def look(self) -> None:
        super().look()
        waiting = {what.partition(":")[0] for what in CERTAIN - set(self.done)}
        for name in MURDERS.keys() - waiting - set(HELD):
            self.open(name)

    def open(self, name: str) -> None:
        """Let an execution come to its end."""
        (self._gates / name).touch()


class Waiting:
    """Those who wait for executions: the operators that have started them, and sensors."""

    def __init__(self, deployment: Deployment, many: str, watchers: str) -> None:
        self._airflow = deployment.airflow
        self._runs = [("many", many, "run"), ("watchers", watchers, "watch")]

    def states(self) -> list[dict[int, str | None]]:
        """The states of the operators, then those of the sensors, by map index."""
        return [{i["map_index"]: i["state"] for i in instances} for instances in self._instances()]

    def triggerers(self) -> set[int | None]:
        """Whose job it is, by number, to look after those that are deferred."""
        deferred = [i for instances in self._instances() for i in instances if i["state"] == "deferred"]
        return {i["trigger"] and i["trigger"]["triggerer_id"] for i in deferred}

    def _instances(self) -> Iterator[list[dict[str, Any]]]:
        for dag_id, run_id, task_id in self._runs:
            instances = self._airflow.task_instances(dag_id, run_id)
            yield [i for i in instances if i["task_id"] == task_id]


def replace_triggerer(
    deployment: Deployment, murderer: GatedMurderer, waiting: Waiting, chance: random.Random
) -> str:
    """Let the triggerer freeze until another has taken its place, and find that out. Gives the other's name."""

    held = [list(MURDERS).index(name) for name in HELD]

    def have_come() -> bool:
        states = waiting.states()
        come = [state for found in states for state in found.values() if state in {"deferred", *ENDED}]
        return len(come) >= 15 and all(found.get(index) == "deferred" for found in states for index in held)

    keep_looking(lambda: murderer.look() or have_come(), what="the deferral of most who wait")
    wait_for_a_moment(chance, 2, murderer.look)
    triggerers = Triggerers(deployment.airflow)
    with triggerers.first_frozen() as first:
        other = deployment.airflow.add("triggerer")
        murderer.open("finish")

        def has_taken_over() -> bool:
            others = [job for job in triggerers.numbers() if job != first]
            if not others or waiting.triggerers() != set(others):
                return False
            # Its first question makes a triggerer stand still for as long as it takes to build an API of its own. One
            # that has told of an end is past that: before, it may be taken for lost itself, and the first has all back.
            return "Trigger fired event" in triggerers.logs(*others)

        keep_looking(lambda: murderer.look() or has_taken_over(), what="the takeover of the triggers")
    # Airflow ends the triggers of the one that froze as if a user had ended their tasks.
    keep_looking(lambda: murderer.look() or "invoking on_kill" in triggerers.logs(first), what="on_kill")
    return other


def left_in_scratch(deployment: Deployment) -> list[Path]:
    """What is left of pods. A task that dies before it has one, and so nobody to clean up, leaves an empty folder."""
    return [path for folder in deployment.scratch.iterdir() for path in folder.iterdir()]


def test_whatever_is_killed_executions_end_right_and_whoever_waits_hears_of_it(
    deployment: Deployment, chance: random.Random
) -> None:
    airflow, names = deployment.airflow, list(MURDERS)
    folders = write_inputs(deployment, "murders")
    out = folders["destination_folder"]
    gates = deployment.folder / "gates"
    murderer = GatedMurderer(gates, deployment, out, MURDERS, chance)
    many = airflow.trigger("many", {**folders, "names": names, "gates": str(gates)})
    keep_looking(
        lambda: murderer.look() or len(deployment.execution_runs(out)) == len(names), what="all executions"
    )
    runs = {name: run["dag_run_id"] for name, (run,) in deployment.execution_runs(out).items()}
    watchers = airflow.trigger("watchers", {"ids": [runs[name] for name in names]})
    waiting = Waiting(deployment, many, watchers)
    other = replace_triggerer(deployment, murderer, waiting, chance)
    # Until now, so that somebody still waits when the triggerer is itself again.
    murderer.open("lasting")
    wait_for_a_moment(chance, 3, murderer.look)
    airflow.kill(other)
    for dag_id, run_id in [("many", many), ("watchers", watchers)]:
        airflow.wait_for_run(dag_id, run_id, timeout=900, on_poll=murderer.look)

    assert_nothing_lives(deployment)
    assert set(murderer.done) >= CERTAIN
    assert murderer.outlived == set()
    # A process may have ended before its moment came.
    failed = {name for name in FOR_GOOD if has_failed_task(deployment, runs[name])}
    assert "predict-for-good" in failed
    for name in names:
        status = "FAILED" if name in failed else "FINISHED"
        assert_right_end(deployment, runs[name], f"{out}/{name}", status)
    ended = {index: "failed" if name in failed else "success" for index, name in enumerate(names)}
    assert waiting.states() == [ended, ended]
    assert [name for name in names if len(deployment.execution_runs(out)[name]) > 1] == []
    assert left_in_scratch(deployment) == []
    # No lock is stuck: who comes next may run, also after those that left theirs behind.
    again = {
        name: deployment.start(
            source_folder=folders["source_folder"],
            destination_folder=f"{out}/{name}",
            pods=1,
            parameters={"PAUSE": "0", "GATE": "/"},
        )
        for name in [*FOR_GOOD, "all-tasks"]
    }
    for name, run_id in again.items():
        airflow.wait_for_run("batch_execution", run_id)
        assert_right_end(deployment, run_id, f"{out}/{name}", "FINISHED")
    assert not list(deployment.folder.glob("murders/out/*/_batchexec/locks/*"))


@pytest.mark.parametrize("what", ["alone", "with-all-it-started"])
def test_a_scheduler_that_is_killed_costs_no_execution(
    deployment: Deployment, chance: random.Random, what: str
) -> None:
    airflow = deployment.airflow
    folders = write_inputs(deployment, f"scheduler-{what}")
    out = folders["destination_folder"]
    gate = deployment.folder / f"gate-{what}"
    pair = airflow.trigger("pair", {**folders, "gate": str(gate)})
    wait_until(lambda: len(deployment.execution_runs(out)) == 2, what="the pair's executions")
    plain = deployment.start(
        source_folder=folders["source_folder"],
        destination_folder=f"{out}/plain",
        pods=1,
        parameters={"PAUSE": "3", "GATE": str(gate)},
    )
    wait_until(lambda: len(deployment.pods()) == 3, what="three pods at work")
    gate.touch()
    wait_for_a_moment(chance, 6)
    airflow.kill("scheduler", with_children=what != "alone")
    airflow.restart("scheduler")

    assert airflow.wait_for_run("pair", pair, timeout=600)["state"] == "success"
    assert airflow.wait_for_run("batch_execution", plain, timeout=600)["state"] == "success"
    assert_nothing_lives(deployment)
    runs = deployment.execution_runs(out)
    assert {name: len(found) for name, found in runs.items()} == {"working": 1, "deferred": 1, "plain": 1}
    for name, (run,) in runs.items():
        assert_right_end(deployment, run["dag_run_id"], f"{out}/{name}", "FINISHED")
        assert not list(Path(f"{out}/{name}".removeprefix("file://")).glob("_batchexec/locks/*"))
