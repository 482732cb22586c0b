"""Kills processes of a real Airflow's executions at random moments."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
from pods import is_running

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow_deployment import Deployment

    from tools.airflow_server import AirflowServer

__all__ = ["Murder", "Murderer", "Triggerers", "pod_of", "worker_of"]

_log = logging.getLogger(__name__)

_OUTLIVES_SECONDS = 10.0


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
    """The root process of a task's pod."""
    return next(iter(task.children()), None)


def worker_of(task: psutil.Process) -> psutil.Process | None:
    """The process of a task's pod that has the model."""
    supervisor = pod_of(task)
    return next(iter(supervisor.children()), None) if supervisor else None


class Murderer:
    """Kills what is to die, each at a random moment after it was first seen; watches whether its pod dies as well.

    Args:
        deployment: Where.
        folder: Below which destination the executions lie.
        murders: Who is to die, by the rest of the execution's destination.
        chance: Chooses the moments.

    Attributes:
        done: Who has died.
        outlived: Of these, whose pod lived on.
    """

    def __init__(
        self,
        deployment: Deployment,
        folder: str,
        murders: Mapping[str, Sequence[Murder]],
        chance: random.Random,
    ) -> None:
        self._deployment = deployment
        self._folder = folder
        self._murders = murders
        self._chance = chance
        self._names: dict[str, str] = {}
        self._due: dict[tuple[str, str, int], float] = {}
        self._orphans: list[tuple[str, psutil.Process, float]] = []
        self.done: list[str] = []
        self.outlived: set[str] = set()

    def look(self) -> None:
        """Kill whose moment has come."""
        for what, pod, killed_at in self._orphans:
            if time.monotonic() > killed_at + _OUTLIVES_SECONDS and is_running(pod.pid):
                self.outlived.add(what)
        for instance in self._running():
            name = self._name(instance["dag_run_id"])
            for murder in self._murders.get(name, ()):
                if instance["task_id"] == murder.task_id and instance["try_number"] in murder.tries:
                    self._kill(name, murder, instance)

    def _running(self) -> Iterator[dict[str, Any]]:
        path = "dags/batch_execution/dagRuns/~/taskInstances?state=running&limit=100"
        yield from self._deployment.airflow.api("GET", path)["task_instances"]

    def _name(self, run_id: str) -> str:
        if run_id not in self._names:
            runs = self._deployment.execution_runs(self._folder)
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


class Triggerers:
    """The triggerers of an Airflow, by the numbers of their jobs.

    Args:
        airflow: The Airflow.
    """

    def __init__(self, airflow: AirflowServer) -> None:
        self._airflow = airflow

    def numbers(self) -> list[int]:
        """The triggerers that there are or were, by the numbers of their jobs."""
        jobs = self._airflow.api("GET", "jobs?job_type=TriggererJob&limit=100")["jobs"]
        return [job["id"] for job in jobs]

    def logs(self, triggerer: int) -> str:
        """All logs of the triggers of a triggerer, by the number of its job."""
        logs = (self._airflow.home / "logs").rglob(f"*.trigger.{triggerer}.log")
        return "".join(log.read_text() for log in logs)

    @contextmanager
    def first_frozen(self) -> Iterator[int]:
        """The only triggerer freezes, and goes on afterwards. Gives its job's number."""
        (number,) = self.numbers()
        triggerer = psutil.Process(self._airflow.pid("triggerer"))
        frozen = [triggerer, *triggerer.children(recursive=True)]
        try:
            for process in frozen:
                process.suspend()
            # SQLite has one writer: frozen in the middle of a change, it would keep all others from theirs.
            while not self._can_be_written():
                triggerer.resume()
                self._can_be_written()
                triggerer.suspend()
            yield number
        finally:
            for process in frozen:
                process.resume()

    def _can_be_written(self) -> bool:
        """Whether Airflow's database can be written, now or within seconds."""
        with closing(sqlite3.connect(self._airflow.home / "airflow.db", timeout=5.0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
        return True
