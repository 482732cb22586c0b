"""A real Airflow with the provider, the test model and a bucket, and what tests do with it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
from airflow_models import frame, publish_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from s3_server import S3Server

    from tools.airflow_server import AirflowServer

__all__ = ["CONNECTION", "MAX_MAP_LENGTH", "PEOPLE", "Deployment"]

CONNECTION = "batch_execution_default"
MAX_MAP_LENGTH = 9
# Users and their roles, where there are any.
PEOPLE = {
    "root": "admin",
    "ada": "op",
    "ann": "user",
    "bob": "user",
    "eve": "viewer",
    "vera": "viewer",
    "nobody": "",
}


@dataclass(frozen=True)
class Deployment:
    """An Airflow with the provider, the test model and a bucket, as one module of tests has it.

    Attributes:
        airflow: The Airflow; other modules may have been there before.
        s3: The S3 server.
        bucket: A bucket that its executions may touch.
        folder: A folder of the module's own that they may touch.
        home: A folder of the Airflow's.
    """

    airflow: AirflowServer
    s3: S3Server
    bucket: str
    folder: Path
    home: Path

    @property
    def repository(self) -> Path:
        """The model repository."""
        return self.home / "repository"

    @property
    def scratch(self) -> Path:
        """The folder below which pods have theirs."""
        return self.home / "scratch"

    def publish(self, model_id: str) -> None:
        """See that the test model is there by another name as well."""
        if not (self.repository / model_id).exists():
            publish_model(self.home, model_id)

    def connect(self, extra: str) -> None:
        """Change what the connection says, by which executions reach S3."""
        body = {"connection_id": CONNECTION, "conn_type": "batch_execution", "extra": extra}
        self.airflow.api("PATCH", f"connections/{CONNECTION}", json=body)

    def execute(self, *, timeout: float = 300.0, **conf: Any) -> tuple[dict[str, Any], str]:
        """Run one execution to its end; give the run and its id."""
        run_id = self.start(**conf)
        return self.airflow.wait_for_run("batch_execution", run_id, timeout=timeout), run_id

    def start(self, **conf: Any) -> str:
        """Start one execution."""
        return self.airflow.trigger("batch_execution", {"model_id": "scaler", **conf})

    def clear(self, run_id: str, **selection: Any) -> dict[str, Any]:
        """Clear tasks of an execution, and wait until it has ended again."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": False,
            "reset_dag_runs": True,
            **selection,
        }
        self.airflow.api("POST", "dags/batch_execution/clearTaskInstances", json=body)
        return self.airflow.wait_for_run("batch_execution", run_id)

    def instances(self, run_id: str, task_id: str) -> list[dict[str, Any]]:
        """The instances of one task of an execution."""
        instances = self.airflow.task_instances("batch_execution", run_id)
        return [instance for instance in instances if instance["task_id"] == task_id]

    def execution_runs(self, folder: str) -> dict[str, list[dict[str, Any]]]:
        """The execution runs below a destination folder, oldest first, by the rest of their destination."""
        path = "dags/batch_execution/dagRuns?limit=1000&order_by=run_after"
        found: dict[str, list[dict[str, Any]]] = {}
        for run in self.airflow.api("GET", path)["dag_runs"]:
            destination = run["conf"]["destination_folder"]
            if destination.startswith(f"{folder}/"):
                found.setdefault(destination.removeprefix(f"{folder}/"), []).append(run)
        return found

    def write_files(self, name: str, moods: Mapping[str, str], *, rows: int = 5) -> dict[str, str]:
        """Write one CSV file per mood into a new folder; give the execution's folders."""
        source = self.folder / name / "in"
        source.mkdir(parents=True)
        for file, mood in moods.items():
            frame(file, rows, mood=mood).to_csv(source / f"{file}.csv", index=False)
        return {
            "source_folder": f"file://{source}",
            "destination_folder": f"file://{self.folder / name / 'out'}",
        }

    def manifest(self, name: str, run_id: str) -> dict[str, Any]:
        """The manifest of an execution over such a folder."""
        path = self.folder / name / "out" / "_batchexec" / run_id / "manifest.json"
        manifest: dict[str, Any] = json.loads(path.read_text())
        return manifest

    def kill_task(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Kill the process of a task that runs, as a machine that runs out of memory would."""
        (instance,) = [i for i in self.airflow.task_instances(dag_id, run_id) if i["task_id"] == task_id]
        os.kill(int(instance["pid"]), signal.SIGKILL)

    def pods(self) -> list[psutil.Process]:
        """The root process of every pod that lives, whoever is its parent by now: its home is in the scratch folder."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("HOME", "").startswith(str(self.scratch)):
                    found[process.pid] = (process, process.ppid())
        return [process for process, parent in found.values() if parent not in found]

    def triggerers(self) -> list[int]:
        """The triggerers that there are or were, by the numbers of their jobs."""
        jobs = self.airflow.api("GET", "jobs?job_type=TriggererJob&limit=100")["jobs"]
        return [job["id"] for job in jobs]

    def trigger_logs(self, triggerer: int) -> str:
        """All logs of the triggers of a triggerer, by the number of its job."""
        logs = (self.airflow.home / "logs").rglob(f"*.trigger.{triggerer}.log")
        return "".join(log.read_text() for log in logs)

    @contextmanager
    def frozen_triggerer(self) -> Iterator[int]:
        """The only triggerer freezes, and goes on afterwards. Gives its job's number."""
        (number,) = self.triggerers()
        triggerer = psutil.Process(self.airflow.pid("triggerer"))
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
        with closing(sqlite3.connect(self.airflow.home / "airflow.db", timeout=5.0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
        return True
