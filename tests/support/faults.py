"""Inject faults: kill the processes of a real Airflow's executions at random moments."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from predictors import is_running

from airflow_batchexec.engine.machine.files import is_locked

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow_deployment import Deployment

    from tools.airflow_server import AirflowServer

__all__ = ["Fault", "FaultInjector", "Triggerers", "the_pod", "worker_of"]

log = logging.getLogger(__name__)

_ORPHAN_GRACE_SECONDS = 10.0


@dataclass
class Fault:
    """A process to kill.

    Attributes:
        task_id: The task that it belongs to.
        within: The maximum delay after the task is first seen running, in seconds.
        tries: The tries of the task in which to kill it.
        target: Finds it, given the task's own process and its execution's pods.
    """

    task_id: str
    within: float
    tries: tuple[int, ...] = (1,)
    target: Callable[[psutil.Process, list[psutil.Process]], psutil.Process | None] = lambda task, _: task


def the_pod(_: psutil.Process, pods: list[psutil.Process]) -> psutil.Process | None:
    """The root process of an execution's only pod, which is its supervisor."""
    return pods[0] if pods else None


def worker_of(_: psutil.Process, pods: list[psutil.Process]) -> psutil.Process | None:
    """The process of an execution's only pod that runs the model."""
    return next(iter(pods[0].children()), None) if pods else None


class FaultInjector:
    """Kills each fault's process at a random moment after it is first seen, and checks whether its pod dies as well.

    Args:
        deployment: The Airflow.
        folder: The destination folder that contains the executions' destinations. Each execution's parameter
            ``TEST_FOLDER`` is its own.
        faults: The faults of each execution, by its destination's path relative to ``folder``.
        rng: Chooses the moments.

    Attributes:
        injected: The faults injected so far.
        surviving_pods: Those whose pod outlived its task.
    """

    def __init__(
        self,
        deployment: Deployment,
        folder: str,
        faults: Mapping[str, Sequence[Fault]],
        rng: random.Random,
    ) -> None:
        self._deployment = deployment
        self._folder = folder
        self._faults = faults
        self._rng = rng
        self._names: dict[str, str] = {}
        self._due: dict[tuple[str, str, int], float] = {}
        self._orphans: list[tuple[str, psutil.Process, float]] = []
        self.injected: list[str] = []
        self.surviving_pods: set[str] = set()

    def poll(self) -> None:
        """Inject the faults that are due."""
        for description, pod, killed_at in self._orphans:
            if time.monotonic() > killed_at + _ORPHAN_GRACE_SECONDS and is_running(pod.pid):
                self.surviving_pods.add(description)
        for instance in self._running():
            name = self._name(instance["dag_run_id"])
            for fault in self._faults.get(name, ()):
                if instance["task_id"] == fault.task_id and instance["try_number"] in fault.tries:
                    self._inject(name, fault, instance)

    def _running(self) -> Iterator[dict[str, Any]]:
        path = "dags/batch_execution/dagRuns/~/taskInstances?state=running&limit=100"
        yield from self._deployment.airflow.api("GET", path)["task_instances"]

    def _name(self, run_id: str) -> str:
        if run_id not in self._names:
            runs = self._deployment.execution_runs(self._folder)
            self._names |= {run["dag_run_id"]: name for name, found in runs.items() for run in found}
        return self._names.get(run_id, "")

    def _pods(self, name: str) -> list[psutil.Process]:
        folder = Path(self._folder.removeprefix("file://")).relative_to(self._deployment.folder)
        return self._deployment.pods(f"{folder}/{name}")

    def _inject(self, name: str, fault: Fault, instance: dict[str, Any]) -> None:
        key = (name, fault.task_id, instance["try_number"])
        with suppress(psutil.Error):
            task = psutil.Process(instance["pid"])
            pods = self._pods(name)
            target = fault.target(task, pods)
            if target is None:
                return
            due = self._due.setdefault(key, time.monotonic() + self._rng.uniform(0, fault.within))
            if time.monotonic() >= due:
                used = [pod for pod in pods if is_locked(self._deployment.scratch_of(pod) / "busy")]
                target.kill()
                self._due[key] = float("inf")
                self.injected.append("{}: {} of try {}".format(*key))
                log.warning("Killed %s.", self.injected[-1])
                self._orphans += [(self.injected[-1], pod, time.monotonic()) for pod in used]


class Triggerers:
    """The triggerers of an Airflow, by job ID.

    Args:
        airflow: The Airflow.
    """

    def __init__(self, airflow: AirflowServer) -> None:
        self._airflow = airflow

    def numbers(self) -> list[int]:
        """The job IDs of all current and past triggerers."""
        jobs = self._airflow.api("GET", "jobs?job_type=TriggererJob&limit=100")["jobs"]
        return [job["id"] for job in jobs]

    def logs(self, triggerer: int) -> str:
        """All trigger logs of the triggerer with this job ID."""
        logs = (self._airflow.home / "logs").rglob(f"*.trigger.{triggerer}.log")
        return "".join(log.read_text() for log in logs)

    @contextmanager
    def first_frozen(self) -> Iterator[int]:
        """Freeze the only triggerer until the block ends. Yields its job ID."""
        (number,) = self.numbers()
        triggerer = psutil.Process(self._airflow.pid("triggerer"))
        frozen = [triggerer, *triggerer.children(recursive=True)]
        try:
            for process in frozen:
                process.suspend()
            # SQLite has one writer: a triggerer frozen within a transaction would block all other writers.
            while not self._is_writable():
                triggerer.resume()
                self._is_writable()
                triggerer.suspend()
            yield number
        finally:
            for process in frozen:
                process.resume()

    def _is_writable(self) -> bool:
        """Whether a write to Airflow's database succeeds within a few seconds."""
        with closing(sqlite3.connect(self._airflow.home / "airflow.db", timeout=5.0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
        return True
