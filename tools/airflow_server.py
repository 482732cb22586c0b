"""A real Airflow on this machine: API server, scheduler, DAG processor and triggerer, on loopback and free ports.

The components are started one by one rather than by ``airflow standalone``, which also opens log servers on every network
interface. Each component leads its own process group, and all of them stop with the server, even if the process that
started them is killed.

On SQLite, a separate process serves the execution API. The REST API records every change in the audit log, and commits
that in its event loop (``log_action`` in ``airflow/api_fastapi/logging/decorators.py``, 3.3.2). The loop then waits for
the current writer; if that is a request in the same process, which needs the loop to commit, both wait until SQLite
times out. Tasks send requests all the time; requests that write through the REST API are sent one at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil
import requests

from tools.airflow_client import AirflowAddress, AirflowClient
from tools.processes import until_parent_dies

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["AirflowServer", "free_port"]

_LISTEN = ("--host", "127.0.0.1", "--port")
_ONE_API_SERVER = {"api-server": ("api-server", *_LISTEN, "{port}")}
_TWO_API_SERVERS = {
    "api-server": ("api-server", "--apps", "core", *_LISTEN, "{port}"),
    "execution-api": ("api-server", "--apps", "execution", *_LISTEN, "{execution_port}"),
}
_OTHER_COMPONENTS = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
_START_SECONDS = 300.0
_STOP_SECONDS = 15.0


class AirflowServer(AirflowClient):
    """One Airflow with its own home.

    Args:
        home: Its folder, for database, logs and configuration; created if it does not exist.
        dags_folder: Its DAGs folder.
        settings: Additional configuration, as environment variables ``AIRFLOW__SECTION__KEY``.
        path: Its path on its server, such as ``/tools/airflow``, as behind a proxy that serves other applications, too.
        users: The role of each user, by name. This class sends its requests as the first one, which should be an admin.
            Without users, every request has admin rights.
        triggerer: Whether to run a triggerer; only deferrable tasks need one.
        database: An empty SQLite database to start from a copy of. By default one is created, which takes seconds.
        database_url: The URL of an empty database other than SQLite, to use instead.
    """

    def __init__(
        self,
        *,
        home: Path,
        dags_folder: Path,
        settings: Mapping[str, str] | None = None,
        path: str = "",
        users: Mapping[str, str] | None = None,
        triggerer: bool = True,
        database: Path | None = None,
        database_url: str = "",
    ) -> None:
        self._database = database
        self._components = {**(_ONE_API_SERVER if database_url else _TWO_API_SERVERS), **_OTHER_COMPONENTS}
        if not triggerer:
            del self._components["triggerer"]
        self.port = free_port()
        url = f"http://127.0.0.1:{self.port}{path}"
        self._execution_port = self.port if database_url else free_port()
        self._execution_url = f"http://127.0.0.1:{self._execution_port}{path}/execution/"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
            # SQLite's default timeout of 5 seconds is too short on a busy machine: requests would end as server errors.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url or f"sqlite:///{home}/airflow.db?timeout=60",
            # The database has just been created; checking it would take each component a second.
            "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__FERNET_KEY": urlsafe_b64encode(os.urandom(32)).decode(),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": self._execution_url,
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            **(settings or {}),
        }
        passwords = {name: secrets.token_urlsafe(12) for name in users or {}}
        if users:
            self._environment |= {
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(
                    f"{n}:{role}" for n, role in users.items()
                ),
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
            }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pids: dict[str, int] = {}
        self._orphans: list[psutil.Process] = []
        self._logs: list[IO[bytes]] = []
        super().__init__(
            AirflowAddress(
                url=url, home=home, passwords=passwords, pids=self._pids, environment=self._environment
            )
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Create the database, start all components, and wait until they are healthy.

        Raises:
            RuntimeError: A component exited or did not become healthy in time; the message names the logs' folder.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        if self.passwords:
            (self.home / "passwords.json").write_text(json.dumps(self.passwords))
        self._create_database()
        for component in self._components:
            self._start_component(component)
        self.wait_until(self._is_healthy, "Airflow did not become healthy")
        self.wait_until(self._serves_tasks, "Airflow's execution API did not respond")
        self.log_in()

    def _create_database(self) -> None:
        if self._database is not None:
            shutil.copy(self._database, self.home / "airflow.db")
            return
        migrate = self._spawn("db-migrate", "db", "migrate")
        if migrate.wait(timeout=_START_SECONDS):
            raise RuntimeError(f"Could not create Airflow's database; see {self.home / 'db-migrate.log'}.")
        self._forget("db-migrate")

    def stop(self, *, seconds: float = _STOP_SECONDS) -> None:
        """Stop every process that this object started.

        Args:
            seconds: The grace period before they are killed; a keyboard interrupt cuts it short.
        """
        deadline = time.monotonic() + seconds
        try:
            for process in self._processes.values():
                _signal_group(process, signal.SIGTERM)
            for process in self._processes.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=max(0.1, deadline - time.monotonic()))
        finally:
            self._kill_all()

    def _kill_all(self) -> None:
        for process in self._processes.values():
            # Even if it has exited, others of its group may still be running.
            _signal_group(process, signal.SIGKILL)
            process.wait()
        for orphan in self._orphans:
            _kill_tree(orphan)
        for component in list(self._processes):
            self._forget(component)
        self._orphans.clear()
        for log in self._logs:
            log.close()
        self._logs.clear()
        self.close()

    def kill(self, component: str, *, with_children: bool = False) -> None:
        """Kill the process of one component (``scheduler``, ``triggerer`` …) with SIGKILL.

        Args:
            component: The component.
            with_children: Whether to kill all its descendants as well, as the end of a container would. Otherwise they
                keep running until the server stops.
        """
        process = self._forget(component)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for child in children if with_children else ():
            _kill_tree(child)
        self._orphans += children

    def restart(self, component: str) -> None:
        """Restart a component that was killed."""
        self._start_component(component)

    def add(self, component: str) -> str:
        """Start another instance of a component that supports several, and return its name."""
        name = f"{component}-{len(self._processes)}"
        self._spawn(name, *self._components[component])
        return name

    def pid(self, component: str) -> int:
        """The process ID of one component."""
        return self._processes[component].pid

    def _start_component(self, component: str) -> None:
        ports = {"port": self.port, "execution_port": self._execution_port}
        self._spawn(component, *(word.format(**ports) for word in self._components[component]))

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.home / f"{name}.log").open("ab")
        self._logs.append(log)
        process = subprocess.Popen(
            [*until_parent_dies(), sys.executable, "-m", "airflow", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self.home,
            start_new_session=True,
        )
        self._processes[name] = process
        self._pids[name] = process.pid
        return process

    def _forget(self, component: str) -> subprocess.Popen[bytes]:
        del self._pids[component]
        return self._processes.pop(component)

    def _is_healthy(self) -> bool:
        try:
            health = self._session.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
        except (requests.RequestException, ValueError):
            return False
        # The report does not list the API servers; that they respond shows that they are healthy.
        names = {component.replace("-", "_") for component in self._components} & health.keys()
        return all(health[name]["status"] == "healthy" for name in names)

    def _serves_tasks(self) -> bool:
        # The first request makes the server build its routes, which takes seconds; do not let the first run wait for it.
        try:
            return self._session.get(f"{self._execution_url}health", timeout=60).ok
        except requests.RequestException:
            return False


def free_port() -> int:
    """An unused port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _kill_tree(root: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (*root.children(recursive=True), root):
            process.kill()
