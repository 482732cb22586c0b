"""The API mounted as in Airflow's API server, in this process, on a real database with execution DAGs."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from airflow.api_fastapi.app import get_auth_manager, init_auth_manager, purge_cached_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.app import init_middlewares
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.settings import engine
from airflow.utils.session import create_session
from fastapi import FastAPI
from fastapi.testclient import TestClient
from inline_executions import publish_moody_model
from sqlalchemy import delete, event

from airflow_batchexec.plugin import BatchExecPlugin
from tools.seeded_execution import seed_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from httpx import Response
    from sqlalchemy.orm import Session

PREFIX = "/batchexec"
OTHER_DAG = "batch_execution_gpu"
_DAGS = f"""
from airflow_batchexec import create_execution_dag

create_execution_dag()
create_execution_dag({OTHER_DAG!r}, defaults={{"model_id": "moody", "instance": "tiny"}})
"""
_LIFETIME_SECONDS = 3600


@dataclass(frozen=True)
class Api:
    """Sends requests to the API as different users."""

    client: TestClient
    folder: Path

    def token(self, role: str = "user", *, name: str = "", seconds: int = _LIFETIME_SECONDS) -> str:
        """A token as issued by Airflow's login."""
        user = SimpleAuthManagerUser(username=name or f"the {role}", role=role)
        return get_auth_manager().generate_jwt(user, expiration_time_in_seconds=seconds)

    def request(
        self,
        method: str,
        path: str,
        *,
        role: str | None = "user",
        name: str = "",
        headers: dict[str, str] | None = None,
        **arguments: Any,
    ) -> Response:
        """Send a request as a user with a role; unauthenticated if ``role`` is ``None``."""
        authorization = {} if role is None else {"Authorization": f"Bearer {self.token(role, name=name)}"}
        # Drop cookies of earlier responses, so that requests are independent.
        self.client.cookies.clear()
        return self.client.request(
            method, f"{PREFIX}{path}", headers={**authorization, **(headers or {})}, **arguments
        )

    def get(self, path: str, **arguments: Any) -> Response:
        return self.request("GET", f"/api/v1{path}", **arguments)

    def post(self, path: str, **arguments: Any) -> Response:
        return self.request("POST", f"/api/v1{path}", **arguments)

    def start(self, job: str = "job", **arguments: Any) -> Response:
        """Start an execution over the folders of a job."""
        return self.post("/batch-job/start-job", json=self.job(job), **arguments)

    def job(self, name: str = "job", **fields: Any) -> dict[str, Any]:
        """A valid start request."""
        return {
            "model_id": "moody",
            "source_folder": f"file://{self.folder}/{name}/in",
            "destination_folder": f"file://{self.folder}/{name}/out",
            **fields,
        }


@pytest.fixture(scope="session")
def airflow_database(own_database: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tests' own database, with two execution DAGs."""
    folder = tmp_path_factory.mktemp("dags")
    (folder / "executions.py").write_text(_DAGS)
    settings = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    }
    subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "reserialize"],
        env={**os.environ, **settings},
        check=True,
        capture_output=True,
        timeout=600,
    )


@pytest.fixture(scope="session")
def server(airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """An app that mounts the API as Airflow does, with an auth manager and the middlewares that read cookies."""
    folder = tmp_path_factory.mktemp("users")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AIRFLOW__API_AUTH__JWT_SECRET": os.urandom(32).hex(),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
            "AIRFLOW__API__BASE_URL": "https://airflow.example.com/tools",
        }.items():
            patch.setenv(name, value)
        app = FastAPI()
        (mounted,) = BatchExecPlugin.fastapi_apps
        assert mounted["url_prefix"] == PREFIX
        app.mount(mounted["url_prefix"], mounted["app"])
        init_auth_manager(app)
        init_middlewares(app)
        yield app
        purge_cached_app()


@pytest.fixture
def api(server: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The API, with a published model and a database without runs."""
    repository = publish_moody_model(tmp_path)
    for option, value in {
        "EXECUTION_DAGS": f"batch_execution, {OTHER_DAG}",
        "MODEL_REPOSITORY": str(repository),
        "ALLOWED_LOCATIONS": f"file://{tmp_path},s3://flights",
    }.items():
        monkeypatch.setenv(f"AIRFLOW__BATCHEXEC__{option}", value)
    _remove_runs()
    with TestClient(server, base_url="http://airflow.test") as client:
        yield Api(client, tmp_path)
    _remove_runs()


@pytest.fixture
def seed(api: Api) -> Callable[..., Any]:
    """Creates a run of an execution DAG; a function may write what its tasks would have written."""

    def make(run_id: str, write: Callable[[Session, DagRun], None] | None = None, **arguments: Any) -> None:
        with create_session() as session:
            conf = {**api.job(run_id), **arguments.pop("conf", {})}
            run = seed_run(session, run_id=run_id, conf=conf, **arguments)
            if write is not None:
                write(session, run)

    return make


@pytest.fixture
def statements() -> Callable[[], Any]:
    """Collects the SQL statements executed within a context."""

    @contextmanager
    def collect() -> Iterator[list[str]]:
        found: list[str] = []

        def record(*arguments: Any) -> None:
            found.append(arguments[2])

        event.listen(engine, "before_cursor_execute", record)
        try:
            yield found
        finally:
            event.remove(engine, "before_cursor_execute", record)

    return collect


def _remove_runs() -> None:
    with create_session() as session:
        session.execute(delete(DagRun))
        session.execute(delete(Log))
