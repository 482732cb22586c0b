"""A real Airflow on this machine: API server, scheduler, DAG processor and triggerer, on loopback and free ports.

The parts are started one by one rather than by ``airflow standalone``, which also opens log servers on every network
interface. Each part is the leader of its own process group, and all of them end with the server, also where the process
that has started them is killed.

On SQLite, the API that tasks speak with is served by a process of its own. The REST API logs whoever changes something,
and commits that in its event loop (``log_action`` in ``airflow/api_fastapi/logging/decorators.py``, 3.3.2). There the loop
then waits for whoever writes; where that is a request of the same process, which needs the loop to commit, both wait
until SQLite gives up. Requests of tasks come all the time, requests that change something through the REST API one by one.
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

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["AirflowServer", "free_port"]

_LISTEN = ("--host", "127.0.0.1", "--port")
_API = {"api-server": ("api-server", *_LISTEN, "{port}")}
_TWO_APIS = {
    "api-server": ("api-server", "--apps", "core", *_LISTEN, "{port}"),
    "execution-api": ("api-server", "--apps", "execution", *_LISTEN, "{execution_port}"),
}
_OTHERS = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
# From util-linux: what it starts is ended by the system with whoever has started it.
_MORTAL = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
_START_SECONDS = 300.0
_STOP_SECONDS = 15.0


class AirflowServer(AirflowClient):
    """One Airflow with a home of its own.

    Args:
        home: Its folder, made where it is missing; database, logs and configuration lie there.
        dags_folder: Its DAGs.
        settings: More of its configuration, as environment variables ``AIRFLOW__SECTION__KEY``.
        path: Below which path of its server it is, such as ``/tools/airflow``, as behind a proxy that has others as well.
        users: The role of each user, by name; the requests of this class are the first one's, so that should be an
            admin. Without any, everybody is an admin.
        triggerer: Whether there is to be one; without deferrable tasks there is no need.
        database: An empty database in SQLite, to begin with a copy of. Without one it is made, which takes seconds.
        database_url: The address of an empty database that is not in SQLite, to use instead.
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
        self._parts = {**(_API if database_url else _TWO_APIS), **_OTHERS}
        if not triggerer:
            del self._parts["triggerer"]
        self.port = free_port()
        url = f"http://127.0.0.1:{self.port}{path}"
        self._execution_port = self.port if database_url else free_port()
        self._execution_url = f"http://127.0.0.1:{self._execution_port}{path}/execution/"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
            # On a busy machine, SQLite's own 5 seconds are soon over, and a request ends as an error of the server.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url or f"sqlite:///{home}/airflow.db?timeout=60",
            # It has just been made, and each part would take a second to find that out.
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
        """Make the database, start all parts, and wait until they are healthy.

        Raises:
            RuntimeError: A part ended, or they are not healthy in time; the message says where their logs are.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        if self.passwords:
            (self.home / "passwords.json").write_text(json.dumps(self.passwords))
        self._make_database()
        for part in self._parts:
            self._start_part(part)
        self.wait_until(self._is_healthy, "Airflow did not become healthy")
        self.wait_until(self._answers_tasks, "Airflow's execution API did not answer")
        self.log_in()

    def _make_database(self) -> None:
        if self._database is not None:
            shutil.copy(self._database, self.home / "airflow.db")
            return
        migrate = self._spawn("db-migrate", "db", "migrate")
        if migrate.wait(timeout=_START_SECONDS):
            raise RuntimeError(f"Airflow's database could not be made; see {self.home / 'db-migrate.log'}.")
        self._forget("db-migrate")

    def stop(self, *, seconds: float = _STOP_SECONDS) -> None:
        """End every process that was started here.

        Args:
            seconds: How long they have to end by themselves. An interrupt ends that, too.
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
            # Others of its group may be left where it has ended.
            _signal_group(process, signal.SIGKILL)
            process.wait()
        for orphan in self._orphans:
            _kill_tree(orphan)
        for part in list(self._processes):
            self._forget(part)
        self._orphans.clear()
        for log in self._logs:
            log.close()
        self._logs.clear()
        self.close()

    def kill(self, part: str, *, with_children: bool = False) -> None:
        """Kill the process of one part (``scheduler``, ``triggerer`` …), as the machine might.

        Args:
            part: The part.
            with_children: Whether all that it has started dies as well, as in a container. Otherwise that is left to
                itself, until the server ends.
        """
        process = self._forget(part)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for child in children if with_children else ():
            _kill_tree(child)
        self._orphans += children

    def restart(self, part: str) -> None:
        """Start a part again that was killed."""
        self._start_part(part)

    def add(self, part: str) -> str:
        """Start one more of a part that may be there several times, and give its name."""
        name = f"{part}-{len(self._processes)}"
        self._spawn(name, *self._parts[part])
        return name

    def pid(self, part: str) -> int:
        """The process of one part."""
        return self._processes[part].pid

    def _start_part(self, part: str) -> None:
        ports = {"port": self.port, "execution_port": self._execution_port}
        self._spawn(part, *(word.format(**ports) for word in self._parts[part]))

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.home / f"{name}.log").open("ab")
        self._logs.append(log)
        process = subprocess.Popen(
            [*_MORTAL, sys.executable, "-m", "airflow", *arguments],
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

    def _forget(self, part: str) -> subprocess.Popen[bytes]:
        del self._pids[part]
        return self._processes.pop(part)

    def _is_healthy(self) -> bool:
        try:
            health = self._session.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
        except (requests.RequestException, ValueError):
            return False
        # The API servers are healthy in that they answer.
        names = {part.replace("-", "_") for part in self._parts} & health.keys()
        return all(health[name]["status"] == "healthy" for name in names)

    def _answers_tasks(self) -> bool:
        # The first request makes it build its routes, which takes seconds that no run should wait.
        try:
            return self._session.get(f"{self._execution_url}health", timeout=60).ok
        except requests.RequestException:
            return False


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
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
