"""Processes of a real Airflow that are killed at random moments; whatever dies, executions come to their right end.

The moments come from a seed that is printed; ``BATCHEXEC_TEST_SEED`` repeats it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil
import pytest
from airflow_models import expected, frame
from pandas.testing import assert_frame_equal
from pods import is_running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_deployment import Deployment

_log = logging.getLogger(__name__)

FILES = [f"f{i}" for i in range(3)]
ROWS = 50
OUTLIVES_SECONDS = 5.0

DAGS = """
from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_batchexec import BatchExecutionOperator, BatchExecutionSensor

RUN = {
    "model_id": "scaler",
    "source_folder": "{{ dag_run.conf['source_folder'] }}",
    "parameters": {"PAUSE": "{{ dag_run.conf['pause'] }}"},
    "pods": 1,
    "poll_interval": 1.0,
}

with DAG("many", schedule=None):

    @task
    def destinations(dag_run=None):
        return [dag_run.conf["destination_folder"] + "/" + name for name in dag_run.conf["names"]]

    BatchExecutionOperator.partial(task_id="run", deferrable=True, **RUN).expand(destination_folder=destinations())

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
        "AIRFLOW__CORE__PARALLELISM": "6",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "8",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    }


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("BATCHEXEC_TEST_SEED") or random.randrange(2**32))
    _log.warning("BATCHEXEC_TEST_SEED=%d", seed)
    return random.Random(seed)


def wait_until(condition: Callable[[], Any], *, seconds: float = 120.0, what: str = "the condition") -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.2)
    return value


def write_inputs(deployment: Deployment, name: str) -> dict[str, str]:
    return deployment.write_files(name, dict.fromkeys(FILES, "slow"), rows=ROWS)


def execution_runs(deployment: Deployment, folder: str) -> dict[str, list[dict[str, Any]]]:
    """The execution runs below a destination folder, oldest first, by the rest of their destination."""
    path = "dags/batch_execution/dagRuns?limit=1000&order_by=run_after"
    found: dict[str, list[dict[str, Any]]] = {}
    for run in deployment.airflow.api("GET", path)["dag_runs"]:
        destination = run["conf"]["destination_folder"]
        if destination.startswith(f"{folder}/"):
            found.setdefault(destination.removeprefix(f"{folder}/"), []).append(run)
    return found


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
        wanted = expected(frame(name, ROWS, mood="slow"))
        assert_frame_equal(pd.read_csv(out / f"{name}.csv"), wanted)
    if "total_files" in summary:
        manifest = json.loads((folder / "manifest.json").read_text())
        records = {record["file"]: record["status"] for record in manifest["files"]}
        assert set(records) == {f"{name}.csv" for name in FILES}
        assert {name for name in FILES if records[f"{name}.csv"] == "FINISHED"} <= published
        assert manifest["status"] == status
    if status == "FINISHED":
        assert (summary["finished_files"], summary["rows"]) == (len(FILES), len(FILES) * ROWS)
        assert published == set(FILES)
    assert not (folder / "cancel").exists()
    assert not (folder / "staging").exists()
    return summary


def has_failed_task(deployment: Deployment, run_id: str) -> bool:
    """Whether plan or predict was lost so often that Airflow gave it up."""
    tasks = [*deployment.instances(run_id, "plan"), *deployment.instances(run_id, "predict")]
    return any(task["state"] == "failed" for task in tasks)


def assert_nothing_lives(deployment: Deployment) -> None:
    wait_until(lambda: not deployment.pods(), seconds=30, what="the end of all pods")


@dataclass
class Murder:
    """A process that is to die.

    Attributes:
        task_id: Of which task.
        tries: In which tries of it.
        after: Up to how many seconds after it was seen.
        who: Finds it, given the task's own process.
    """

    task_id: str
    after: float
    tries: tuple[int, ...] = (1,)
    who: Callable[[psutil.Process], psutil.Process | None] = lambda task: task


def pod_of(task: psutil.Process) -> psutil.Process | None:
    return next(iter(task.children()), None)


def worker_of(task: psutil.Process) -> psutil.Process | None:
    keeper = pod_of(task)
    return next(iter(keeper.children()), None) if keeper else None


# By destination: who dies there. A task has one retry.
MURDERS = {
    "plan": [Murder("plan", 1.5)],
    "plan-for-good": [Murder("plan", 1.0, tries=(1, 2))],
    "predict": [Murder("predict", 5.0)],
    "predict-supervisor": [Murder("predict", 5.0, who=psutil.Process.parent)],
    "predict-for-good": [Murder("predict", 3.0, tries=(1, 2)), Murder("finish", 6.0)],
    "pod-worker": [Murder("predict", 3.0, who=worker_of)],
    "pod-keeper": [Murder("predict", 3.0, who=pod_of)],
    "finish": [Murder("finish", 1.5)],
    "all-tasks": [Murder(task_id, 1.5) for task_id in ("plan", "predict", "finish")],
    "nobody": [],
}
FOR_GOOD = {"plan-for-good", "predict-for-good"}


class Murderer:
    """Kills what is to die, each at a random moment after it was first seen; watches whether its pod dies as well."""

    def __init__(self, deployment: Deployment, folder: str, chance: random.Random) -> None:
        self._deployment = deployment
        self._folder = folder
        self._chance = chance
        self._names: dict[str, str] = {}
        self._due: dict[tuple[str, str, int], float] = {}
        self._orphans: list[tuple[str, psutil.Process, float]] = []
        self.done: list[str] = []
        self.outlived: set[str] = set()

    def look(self) -> None:
        for what, pod, killed_at in self._orphans:
            if time.monotonic() > killed_at + OUTLIVES_SECONDS and is_running(pod.pid):
                self.outlived.add(what)
        for instance in self._running():
            name = self._name(instance["dag_run_id"])
            for murder in MURDERS.get(name, ()):
                if instance["task_id"] == murder.task_id and instance["try_number"] in murder.tries:
                    self._kill(name, murder, instance)

    def _running(self) -> Iterator[dict[str, Any]]:
        path = "dags/batch_execution/dagRuns/~/taskInstances?state=running&limit=100"
        yield from self._deployment.airflow.api("GET", path)["task_instances"]

    def _name(self, run_id: str) -> str:
        if run_id not in self._names:
            runs = execution_runs(self._deployment, self._folder)
            self._names |= {run["dag_run_id"]: name for name, found in runs.items() for run in found}
        return self._names.get(run_id, "")

    def _kill(self, name: str, murder: Murder, instance: dict[str, Any]) -> None:
        key = (name, murder.task_id, instance["try_number"])
        with suppress(psutil.Error):
            task = psutil.Process(instance["pid"])
            victim, pod = murder.who(task), pod_of(task)
            if victim is None:
                return
            due = self._due.setdefault(key, time.monotonic() + self._chance.uniform(0, murder.after))
            if time.monotonic() >= due:
                victim.kill()
                self._due[key] = float("inf")
                self.done.append("{}: {} of try {}".format(*key))
                _log.warning("Killed %s.", self.done[-1])
                if pod is not None:
                    self._orphans.append((self.done[-1], pod, time.monotonic()))


def logs_of(deployment: Deployment, triggerer: int) -> str:
    """All logs of the triggers of a triggerer, by the number of its job."""
    logs = (deployment.airflow.home / "logs").rglob(f"*.trigger.{triggerer}.log")
    return "".join(log.read_text() for log in logs)


def freeze_and_replace_triggerer(
    deployment: Deployment, murderer: Murderer, chance: random.Random
) -> tuple[int, str]:
    """Let the triggerer freeze until another has taken its place. Gives its job's number, and the other's name."""
    airflow = deployment.airflow
    jobs = airflow.api("GET", "jobs?job_type=TriggererJob&limit=100")["jobs"]
    (number,) = [job["id"] for job in jobs]
    triggerer = psutil.Process(airflow.pid("triggerer"))
    frozen = [triggerer, *triggerer.children(recursive=True)]
    time.sleep(chance.uniform(0, 2))
    for process in frozen:
        process.suspend()
    try:
        other = airflow.add("triggerer")

        def has_taken_over() -> bool:
            murderer.look()
            jobs = airflow.api("GET", "jobs?job_type=TriggererJob&limit=100")["jobs"]
            return any(logs_of(deployment, job["id"]) for job in jobs if job["id"] != number)

        wait_until(has_taken_over, what="the takeover of the triggers")
    finally:
        for process in frozen:
            process.resume()
    return number, other


def test_whatever_is_killed_executions_end_right_and_whoever_waits_hears_of_it(
    deployment: Deployment, chance: random.Random
) -> None:
    airflow, names = deployment.airflow, list(MURDERS)
    folders = write_inputs(deployment, "murders")
    out = folders["destination_folder"]
    many = airflow.trigger("many", {**folders, "names": names, "pause": 1})
    murderer = Murderer(deployment, out, chance)
    wait_until(lambda: murderer.look() or len(execution_runs(deployment, out)) == len(names))
    runs = {name: run["dag_run_id"] for name, (run,) in execution_runs(deployment, out).items()}
    watchers = airflow.trigger("watchers", {"ids": [runs[name] for name in names]})

    def states(dag_id: str, run_id: str, task_id: str) -> list[str | None]:
        instances = airflow.task_instances(dag_id, run_id)
        found = {i["map_index"]: i["state"] for i in instances if i["task_id"] == task_id}
        return [found.get(index) for index in range(len(names))]

    def waiting() -> int:
        found = states("many", many, "run") + states("watchers", watchers, "watch")
        return sum(state == "deferred" for state in found)

    count = wait_until(lambda: murderer.look() or ((count := waiting()) >= 15 and count))
    _log.warning("%d wait when the triggerer freezes.", count)
    first, other = freeze_and_replace_triggerer(deployment, murderer, chance)
    # Airflow ends the triggers of the one that froze as if a user had ended their tasks.
    wait_until(lambda: murderer.look() or "invoking on_kill" in logs_of(deployment, first))
    time.sleep(chance.uniform(0, 3))
    airflow.kill(other)
    for dag_id, run_id in [("many", many), ("watchers", watchers)]:
        airflow.wait_for_run(dag_id, run_id, on_poll=murderer.look)

    assert_nothing_lives(deployment)
    assert len(murderer.done) >= len(names)
    assert murderer.outlived == set()
    # A process may have ended before its moment came.
    failed = {name for name in FOR_GOOD if has_failed_task(deployment, runs[name])}
    assert "predict-for-good" in failed
    for name in names:
        status = "FAILED" if name in failed else "FINISHED"
        assert_right_end(deployment, runs[name], f"{out}/{name}", status)
    ended = ["failed" if name in failed else "success" for name in names]
    assert states("many", many, "run") == ended
    assert states("watchers", watchers, "watch") == ended
    assert [name for name in names if len(execution_runs(deployment, out)[name]) > 1] == []
    assert not list((deployment.folder / "scratch").iterdir())
    # No lock is stuck: who comes next may run, also after those that left theirs behind.
    again = {
        name: deployment.start(
            source_folder=folders["source_folder"],
            destination_folder=f"{out}/{name}",
            pods=1,
            parameters={"PAUSE": "0"},
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
    pair = airflow.trigger("pair", {**folders, "pause": 3})
    plain = deployment.start(
        source_folder=folders["source_folder"],
        destination_folder=f"{out}/plain",
        pods=1,
        parameters={"PAUSE": "3"},
    )
    wait_until(lambda: len(deployment.pods()) == 3, what="three pods at work")
    time.sleep(chance.uniform(0, 6))
    airflow.kill("scheduler", with_children=what != "alone")
    airflow.restart("scheduler")

    assert airflow.wait_for_run("pair", pair)["state"] == "success"
    assert airflow.wait_for_run("batch_execution", plain)["state"] == "success"
    assert_nothing_lives(deployment)
    runs = execution_runs(deployment, out)
    assert {name: len(found) for name, found in runs.items()} == {"working": 1, "deferred": 1, "plain": 1}
    for name, (run,) in runs.items():
        assert_right_end(deployment, run["dag_run_id"], f"{out}/{name}", "FINISHED")
        assert not list(Path(f"{out}/{name}".removeprefix("file://")).glob("_batchexec/locks/*"))
