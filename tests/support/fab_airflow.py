"""An Airflow API server with the FAB auth manager, users with custom roles, and two execution DAGs.

As a script, this module fills the database of the Airflow that the environment configures; it reads the passwords as
JSON from standard input.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from tools.airflow_server import free_port
from tools.processes import until_parent_dies

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DAGS", "USERS", "FabAirflow", "start_fab_airflow"]

DAGS = ("batch_execution", "batch_execution_gpu")
# Their permissions on the DAGs and their runs: everything, read all, read one, change one, none.
USERS = ("admin", "viewer", "gpu_reader", "gpu_user", "nobody")
_ROOT = Path(__file__).resolve().parents[2]
_DAG_FILE = """
from airflow_batchexec import create_execution_dag

READ = {"DAGs": {"can_read"}, "DAG Runs": {"can_read"}}
USE = {"DAGs": {"can_read", "can_edit"}, "DAG Runs": {"can_read", "can_create"}}

create_execution_dag()
create_execution_dag("batch_execution_gpu", access_control={"gpu_reader": READ, "gpu_user": USE})
"""
_START_SECONDS = 180.0


@dataclass(frozen=True)
class FabAirflow:
    """A running server."""

    url: str
    passwords: dict[str, str]

    def token(self, user: str) -> str:
        """Log a user in with their password, and return the token."""
        login = {"username": user, "password": self.passwords[user]}
        response = requests.post(f"{self.url}/auth/token", json=login, timeout=600)
        response.raise_for_status()
        return str(response.json()["access_token"])


@contextmanager
def start_fab_airflow(folder: Path) -> Iterator[FabAirflow]:
    """Create the database, start the server on loopback, and stop it afterwards."""
    (folder / "dags").mkdir(parents=True)
    (folder / "dags" / "executions.py").write_text(_DAG_FILE)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": "s3://flights",
        "AIRFLOW__BATCHEXEC__EXECUTION_DAGS": ",".join(reversed(DAGS)),
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db?timeout=60",
    }
    passwords = {user: secrets.token_urlsafe(12) for user in USERS}

    def run(*words: str, stdin: str = "") -> None:
        done = subprocess.run(
            [sys.executable, *words],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("-m", "airflow", "db", "migrate")
    run(str(Path(__file__).resolve()), stdin=json.dumps(passwords))
    run("-m", "airflow", "dags", "reserialize")
    words = ("-m", "airflow", "api-server", "--apps", "core", "--host", "127.0.0.1", "--port", str(port))
    with (folder / "api-server.log").open("wb") as log:
        server = subprocess.Popen(
            [*until_parent_dies(), sys.executable, *words],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_up(url, server)
            yield FabAirflow(url, passwords)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=600)


def _wait_until_up(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert server.poll() is None, "the API server exited"
        assert time.monotonic() < deadline, "the API server did not start in time"
        try:
            if requests.get(f"{url}/api/v2/version", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)


def _fill() -> None:
    from airflow.providers.fab.auth_manager.cli_commands.utils import (  # noqa: PLC0415  reads its settings
        get_application_builder,
    )

    passwords = json.load(sys.stdin)
    with get_application_builder() as builder:
        manager = builder.sm
        manager.sync_roles()
        for user, password in passwords.items():
            # The DAG's access_control grants the other roles their permissions.
            role = manager.find_role(user.capitalize()) or manager.add_role(user)
            if user == "gpu_user":
                # FAB has this permission only for the runs of all DAGs, and also requires can_edit on the DAG itself.
                manager.add_permission_to_role(role, manager.create_permission("can_edit", "DAG Runs"))
            assert manager.add_user(user, user, user, f"{user}@example.com", role, password)


if __name__ == "__main__":
    _fill()
