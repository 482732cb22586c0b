"""Real Airflow deployments with the provider, the test model and a bucket, and helpers to use them in tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from airflow_models import frame, publish_model
from postgresql_server import start_postgresql_server

from airflow_batchexec.engine.machine.files import is_locked
from tools.airflow_client import AirflowClient
from tools.airflow_server import AirflowServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from s3_server import S3Server
    from shared_servers import SharedServers

    from tools.airflow_client import AirflowAddress

__all__ = ["CONNECTION", "MAX_MAP_LENGTH", "PEOPLE", "DeployedAirflow", "Deployment", "deploy_airflow"]

_ROOT = Path(__file__).resolve().parents[2]
CONNECTION = "batch_execution_default"
MAX_MAP_LENGTH = 9
# Users and their roles, for deployments with users.
PEOPLE = {
    "root": "admin",
    "ada": "op",
    "ann": "user",
    "bob": "user",
    "eve": "viewer",
    "vera": "viewer",
    "nobody": "",
}
# The buckets that the documentation's commands use.
_DOCUMENTED_BUCKETS = ("delays", "flights", "weather-in", "weather-out")
# The parameter that identifies a module's pods among those of other modules in the same Airflow.
_OWNER = "TEST_FOLDER"


@dataclass(frozen=True)
class DeployedAirflow:
    """A picklable description of an Airflow, for tests in any process.

    Attributes:
        address: Its address.
        s3: The S3 server that its connection points to.
        bucket: A bucket that its executions may access.
        home: Its folder.
    """

    address: AirflowAddress
    s3: S3Server
    bucket: str
    home: Path

    @property
    def dags(self) -> Path:
        """Its DAGs folder."""
        return self.home / "dags"

    @property
    def files(self) -> Path:
        """A folder that its executions may access."""
        return self.home / "files"


def deploy_airflow(
    home: Path,
    running: ExitStack,
    *,
    s3: S3Server,
    database: Path | None,
    settings: Mapping[str, str] | None = None,
    users: Mapping[str, str] | None = None,
    path: str = "",
    owner: SharedServers | None = None,
) -> tuple[AirflowServer, DeployedAirflow]:
    """Start an Airflow with the execution DAG, the test model, and a connection to S3.

    Args:
        home: Its folder, which may contain a DAGs folder but nothing else.
        running: The stack to register the clean-up with.
        s3: The S3 server.
        database: An empty SQLite database to start from a copy of; ``None`` to use PostgreSQL.
        settings: Additional Airflow configuration, by environment variable.
        users: Airflow's users and their roles, an admin first; without users, every request has admin rights.
        path: Airflow's path on its server.
        owner: The servers' owner. If the tests were interrupted, Airflow is stopped with a short grace period.
    """
    airflow = DeployedAirflow(None, s3, s3.make_bucket(), home)  # type: ignore[arg-type]  # known once it runs
    airflow.dags.mkdir(parents=True, exist_ok=True)
    airflow.files.mkdir()
    (home / "scratch").mkdir()
    dag_file = _ROOT / "dags" / "batch_execution.py"
    (airflow.dags / dag_file.name).write_bytes(dag_file.read_bytes())
    publish_model(home, "scaler")
    allowed = [f"file://{airflow.files}", *(f"s3://{b}" for b in (airflow.bucket, *_DOCUMENTED_BUCKETS))]
    server = AirflowServer(
        home=home / "airflow",
        dags_folder=airflow.dags,
        settings={
            "AIRFLOW__BATCHEXEC__MODEL_REPOSITORY": str(home / "repository"),
            "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": ", ".join(allowed),
            "AIRFLOW__BATCHEXEC__EXECUTION_DAGS": "batch_execution, batch_execution_gpu",
            "AIRFLOW__BATCHEXEC__SCRATCH_FOLDER": str(home / "scratch"),
            # Tests hold several pods at once.
            "AIRFLOW__BATCHEXEC__MACHINE_CPUS": "64",
            "AIRFLOW__BATCHEXEC__MACHINE_MEMORY": "1000000",
            "AIRFLOW__BATCHEXEC__POD_IDLE_TIMEOUT_SECONDS": "20",
            "AIRFLOW__CORE__MAX_MAP_LENGTH": str(MAX_MAP_LENGTH),
            "AIRFLOW__CORE__PARALLELISM": "16",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            # Lets DAG files import the tests' support modules.
            "PYTHONPATH": str(_ROOT / "tests" / "support"),
            # DAG files are added but never changed, and reparsing one takes a second.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
            # Tests mostly wait for one Airflow component to poll for another's result.
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
            **(settings or {}),
        },
        path=path,
        users=users,
        database=database,
        database_url="" if database else running.enter_context(start_postgresql_server()),
    )
    running.callback(lambda: server.stop(**({"seconds": 1.0} if owner and owner.interrupted else {})))
    server.start()
    for key, value in {
        "bucket_key": s3.access_key_id,
        "bucket_secret": s3.secret_access_key,
        "denied_key": s3.denied.access_key_id,
        "denied_secret": s3.denied.secret_access_key,
    }.items():
        server.api("POST", "variables", json={"key": key, "value": value})
    extra = {"endpoint_url": s3.endpoint_url, "region_name": s3.region}
    server.api(
        "POST",
        "connections",
        json={"connection_id": CONNECTION, "conn_type": "batch_execution", "extra": json.dumps(extra)},
    )
    server.wait_for_dag("batch_execution")
    return server, DeployedAirflow(server.address, s3, airflow.bucket, home)


@dataclass(frozen=True)
class Deployment:
    """One test module's view of an Airflow that other modules may be using.

    Attributes:
        airflow: The client of the Airflow.
        s3: The S3 server.
        bucket: A bucket that executions may access.
        folder: The module's folder, which executions may access.
        home: The Airflow's folder.
    """

    airflow: AirflowClient
    s3: S3Server
    bucket: str
    folder: Path
    home: Path

    @classmethod
    def of(cls, deployed: DeployedAirflow, folder: Path, airflow: AirflowClient | None = None) -> Deployment:
        """Create one module's view of an Airflow.

        Args:
            deployed: The Airflow.
            folder: The module's folder.
            airflow: The server object, if the module started it.
        """
        if airflow is None:
            airflow = AirflowClient(deployed.address)
            airflow.log_in()
        return cls(airflow, deployed.s3, deployed.bucket, folder, deployed.home)

    @property
    def database_url(self) -> str:
        """The URL of Airflow's database."""
        return self.airflow.address.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]

    @property
    def repository(self) -> Path:
        """The model repository."""
        return Path(self.airflow.address.environment["AIRFLOW__BATCHEXEC__MODEL_REPOSITORY"])

    @property
    def scratch(self) -> Path:
        """The scratch folder of Airflow's tasks."""
        return self.home / "scratch"

    def scratch_of(self, pod: psutil.Process) -> Path:
        """The folder of a live pod's files."""
        return Path(pod.environ()["HOME"]).parent

    def publish(self, model_id: str) -> None:
        """Publish the test model under another name as well, unless it has been."""
        if not (self.repository / model_id).exists():
            publish_model(self.repository.parent, model_id)

    def add_example_model(self, model_id: str) -> None:
        """Add one of the project's example models, unless it already exists."""
        target = self.repository / model_id
        copy = Path(tempfile.mkdtemp(dir=self.home)) / model_id
        shutil.copytree(_ROOT / "models" / model_id, copy)
        # Another module may have added it in the meantime.
        with suppress(OSError):
            copy.rename(target)

    def add_dags(self, name: str, source: str, *dag_ids: str) -> None:
        """Add a DAG file, and wait until its DAGs are parsed."""
        path = self.home / "dags" / name
        # Airflow must not read a partial file, and modules may add the same file concurrently.
        unfinished = path.with_suffix(f".{os.getpid()}")
        if not path.exists():
            unfinished.write_text(source)
            unfinished.rename(path)
        for dag_id in dag_ids:
            self.airflow.wait_for_dag(dag_id)

    def parameters(self, **more: str) -> dict[str, str]:
        """Parameters that let :meth:`pods` find the execution's pods."""
        return {_OWNER: str(self.folder), **more}

    def execute(
        self, *, timeout: float = 300.0, dag_id: str = "batch_execution", **conf: Any
    ) -> tuple[dict[str, Any], str]:
        """Run one execution to completion; return the run and its ID."""
        run_id = self.start(dag_id=dag_id, **conf)
        return self.airflow.wait_for_run(dag_id, run_id, timeout=timeout), run_id

    def start(self, *, dag_id: str = "batch_execution", **conf: Any) -> str:
        """Start one execution and return its ID."""
        parameters = self.parameters(**conf.pop("parameters", {}))
        if str(self.folder) in conf["destination_folder"]:
            parameters[_OWNER] = conf["destination_folder"]
        return self.airflow.trigger(dag_id, {"model_id": "scaler", "parameters": parameters, **conf})

    def clear(self, run_id: str, **selection: Any) -> dict[str, Any]:
        """Clear tasks of an execution, and wait until it ends again."""
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
        """The execution runs below a destination folder, oldest first, by their path relative to it."""
        path = "dags/batch_execution/dagRuns?limit=1000&order_by=run_after"
        found: dict[str, list[dict[str, Any]]] = {}
        for run in self.airflow.api("GET", path)["dag_runs"]:
            destination = run["conf"]["destination_folder"]
            if destination.startswith(f"{folder}/"):
                found.setdefault(destination.removeprefix(f"{folder}/"), []).append(run)
        return found

    def write_files(self, name: str, moods: Mapping[str, str], *, rows: int = 5) -> dict[str, str]:
        """Write one CSV file per mood into a new folder; return the execution's source and destination."""
        source = self.folder / name / "in"
        source.mkdir(parents=True)
        for file, mood in moods.items():
            frame(file, rows, mood=mood).to_csv(source / f"{file}.csv", index=False)
        return {
            "source_folder": f"file://{source}",
            "destination_folder": f"file://{self.folder / name / 'out'}",
        }

    def manifest(self, name: str, run_id: str) -> dict[str, Any]:
        """The manifest of an execution over a folder from :meth:`write_files`."""
        path = self.folder / name / "out" / "_batchexec" / run_id / "manifest.json"
        manifest: dict[str, Any] = json.loads(path.read_text())
        return manifest

    def kill_task(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Kill a running task's process with SIGKILL, as the kernel's OOM killer would."""
        (instance,) = [i for i in self.airflow.task_instances(dag_id, run_id) if i["task_id"] == task_id]
        os.kill(int(instance["pid"]), signal.SIGKILL)

    def used_pods(self, name: str = "") -> list[psutil.Process]:
        """Those of :meth:`pods` that a task is using."""
        used = []
        for pod in self.pods(name):
            with suppress(psutil.Error):
                if is_locked(self.scratch_of(pod) / "busy"):
                    used.append(pod)
        return used

    def pods(self, name: str = "") -> list[psutil.Process]:
        """The root process of each live pod of the module's executions, orphans included.

        Pods are recognized by their home, which is in the scratch folder, and by a parameter of the execution.

        Args:
            name: Restricts the result to executions whose files are in this subfolder of the module's folder.
        """
        owner = f"{self.folder / name}/"
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                is_pod = environment.get("HOME", "").startswith(str(self.scratch))
                if is_pod and owner in f"{environment.get(_OWNER, '')}/":
                    found[process.pid] = (process, process.ppid())
        return [process for process, parent in found.values() if parent not in found]
