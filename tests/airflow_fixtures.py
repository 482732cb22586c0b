"""A real Airflow for the tests of a module, or of several modules that run one after another in one process."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow_deployment import CONNECTION, MAX_MAP_LENGTH, Deployment
from airflow_models import publish_model
from postgresql_server import start_postgresql_server
from together import group_of

from tools.airflow_server import AirflowServer

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from s3_server import S3Server

_ROOT = Path(__file__).resolve().parents[1]
# The buckets in the commands that the documents show.
_BUCKETS_OF_DOCUMENTS = ("delays", "flights", "weather-in", "weather-out")


@pytest.fixture(scope="module")
def user_dags() -> str:
    """The source of a user's own DAGs, beside the execution DAG; a module's own fixture of this name gives it."""
    return ""


@pytest.fixture(scope="module")
def dag_files() -> list[Path]:
    """The project's DAG files that are there; a module's own fixture of this name gives others."""
    return [_ROOT / "dags" / "batch_execution.py"]


@pytest.fixture(scope="module")
def airflow_settings() -> dict[str, str]:
    """More of Airflow's configuration, by environment variable; a module's own fixture of this name gives it."""
    return {}


@pytest.fixture(scope="module")
def airflow_path() -> str:
    """Below which path of its server Airflow is; a module's own fixture of this name gives it."""
    return ""


@pytest.fixture(scope="module")
def airflow_users() -> dict[str, str]:
    """Airflow's users and their roles, an admin first; a module's own fixture of this name gives them. None: all are admins."""
    return {}


@pytest.fixture(scope="module")
def on_postgresql() -> bool:
    """Whether Airflow's database is PostgreSQL; a module whose own fixture of this name gives ``True`` has that."""
    return False


@pytest.fixture(scope="module")
def with_triggerer() -> bool:
    """Whether Airflow has a triggerer; a module with deferrable tasks has a fixture of this name that gives ``True``."""
    return False


class Airflows:
    """The Airflow that is there, one at a time; modules that want the same one after another share it."""

    def __init__(self) -> None:
        self._wanted: dict[str, Any] = {}
        self._server: AirflowServer | None = None
        self._running = ExitStack()
        self._bucket = ""
        self._home = Path()

    def get(
        self,
        folder: Path,
        dags: Mapping[str, str],
        *,
        s3: S3Server,
        settings: Mapping[str, str],
        database: Path | None,
        **wanted: Any,
    ) -> Deployment:
        """An Airflow with DAG files, as is wanted.

        Args:
            folder: A new folder of the module's own.
            dags: The DAG files, by name.
            s3: The S3 server.
            settings: More of Airflow's configuration.
            database: An empty database in SQLite, to begin with a copy of; ``None`` for one in PostgreSQL.
            wanted: What else is wanted of :class:`AirflowServer`.
        """
        wanted = {"settings": dict(settings), "database": database, **wanted}
        if self._server is not None and wanted != self._wanted:
            self.close()
        begins = self._server is None
        if begins:
            self._wanted, self._home, self._bucket = wanted, folder / "home", s3.make_bucket()
            (self._home / "dags").mkdir(parents=True)
        for name, source in dags.items():
            (self._home / "dags" / name).write_text(source)
        if begins:
            self._begin(folder.parent, s3)
        assert self._server is not None
        return Deployment(self._server, s3, self._bucket, folder, self._home)

    def close(self, *, at_once: bool = False) -> None:
        """End it."""
        if self._server is not None and at_once:
            self._server.stop(seconds=1.0)
        self._server = None
        self._running.close()

    def _begin(self, files: Path, s3: S3Server) -> None:
        home = self._home
        publish_model(home, "scaler")
        (home / "scratch").mkdir()
        buckets = [self._bucket, *_BUCKETS_OF_DOCUMENTS]
        allowed = [f"file://{files}", *(f"s3://{bucket}" for bucket in buckets)]
        settings = {
            "AIRFLOW__BATCHEXEC__MODEL_REPOSITORY": str(home / "repository"),
            "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": ", ".join(allowed),
            "AIRFLOW__BATCHEXEC__EXECUTION_DAGS": "batch_execution, batch_execution_gpu",
            "AIRFLOW__BATCHEXEC__SCRATCH_FOLDER": str(home / "scratch"),
            "AIRFLOW__CORE__MAX_MAP_LENGTH": str(MAX_MAP_LENGTH),
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            # Where DAG files find what tests have for them.
            "PYTHONPATH": str(_ROOT / "tests"),
            # DAG files come, but do not change, and to read one again costs a second.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
            **self._wanted["settings"],
        }
        on_postgresql = self._wanted["database"] is None
        url = self._running.enter_context(start_postgresql_server()) if on_postgresql else ""
        self._server = self._running.enter_context(
            AirflowServer(
                home=home / "airflow",
                dags_folder=home / "dags",
                **{**self._wanted, "settings": settings},
                database_url=url,
            )
        )
        connection = {"endpoint_url": s3.endpoint_url, "region_name": s3.region}
        self._server.api(
            "POST",
            "connections",
            json={
                "connection_id": CONNECTION,
                "conn_type": "batch_execution",
                "extra": json.dumps(connection),
            },
        )
        for key, value in {
            "bucket_key": s3.access_key_id,
            "bucket_secret": s3.secret_access_key,
            "denied_key": s3.denied.access_key_id,
            "denied_secret": s3.denied.secret_access_key,
        }.items():
            self._server.api("POST", "variables", json={"key": key, "value": value})


_AIRFLOWS = Airflows()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """End the Airflow with the last test that may want it."""
    yield
    if nextitem is None or group_of(item.path) != group_of(nextitem.path):
        _AIRFLOWS.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish() -> Generator[None]:
    """End the Airflow also where somebody interrupts the tests. xdist soon interrupts once more, and then kills."""
    try:
        return (yield)
    finally:
        _AIRFLOWS.close(at_once=True)


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory,
    empty_database: Path,
    s3_server: S3Server,
    user_dags: str,
    dag_files: list[Path],
    airflow_settings: dict[str, str],
    airflow_path: str,
    airflow_users: dict[str, str],
    on_postgresql: bool,  # noqa: FBT001  a fixture
    with_triggerer: bool,  # noqa: FBT001  a fixture
    request: pytest.FixtureRequest,
) -> Deployment:
    dags = {path.name: path.read_text() for path in dag_files}
    if user_dags:
        dags[f"of_{request.path.name}"] = user_dags
    deployment = _AIRFLOWS.get(
        tmp_path_factory.mktemp("deployment"),
        dags,
        s3=s3_server,
        settings=airflow_settings,
        path=airflow_path,
        database=None if on_postgresql else empty_database,
        triggerer=with_triggerer,
        users=airflow_users,
    )
    deployment.airflow.wait_for_dag("batch_execution")
    for dag_id in re.findall(r'DAG\("(\w+)"', user_dags):
        deployment.airflow.wait_for_dag(dag_id)
    return deployment
