"""Fixtures for real Airflows: one on SQLite, one with users on PostgreSQL, and private ones for single modules."""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow_deployment import Deployment, deploy_airflow
from shared_servers import shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_deployment import DeployedAirflow
    from s3_server import S3Server


@pytest.fixture(scope="module")
def user_dags() -> str:
    """The source of DAGs to add to the Airflow; override it in a module to add some."""
    return ""


@pytest.fixture(scope="module")
def on_postgresql() -> bool:
    """Whether the module uses the Airflow on PostgreSQL; override it in a module to do so."""
    return False


@pytest.fixture(scope="module")
def deployment(
    user_dags: str,
    on_postgresql: bool,  # noqa: FBT001  a fixture
    request: pytest.FixtureRequest,
) -> Deployment:
    """A shared Airflow, which other modules may use at the same time."""
    airflow: DeployedAirflow = shared("Airflow on PostgreSQL" if on_postgresql else "Airflow on SQLite")
    return _with_dags(Deployment.of(airflow, _own_folder(airflow, request)), user_dags, request)


@pytest.fixture(scope="module")
def airflow_settings() -> dict[str, str]:
    """Configuration of the private Airflow, by environment variable; override it in a module to set some."""
    return {}


@pytest.fixture(scope="module")
def airflow_path() -> str:
    """The path of the private Airflow on its server; override it in a module to set one."""
    return ""


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the private Airflow. A module overrides this fixture to put files into it before it starts."""
    return tmp_path_factory.mktemp("deployment") / "home"


@pytest.fixture(scope="module")
def own_deployment(
    airflow_home: Path,
    empty_database: Path,
    s3_server: S3Server,
    user_dags: str,
    airflow_settings: dict[str, str],
    airflow_path: str,
    request: pytest.FixtureRequest,
) -> Iterator[Deployment]:
    """A private Airflow, which the module may break."""
    with ExitStack() as running:
        server, airflow = deploy_airflow(
            airflow_home,
            running,
            s3=s3_server,
            database=empty_database,
            settings=airflow_settings,
            path=airflow_path,
        )
        folder = airflow.files / request.path.stem
        folder.mkdir()
        yield _with_dags(Deployment.of(airflow, folder, server), user_dags, request)


def _own_folder(airflow: DeployedAirflow, request: pytest.FixtureRequest) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{request.path.stem}-", dir=airflow.files))


def _with_dags(deployment: Deployment, source: str, request: pytest.FixtureRequest) -> Deployment:
    if source:
        deployment.add_dags(f"of_{request.path.name}", source, *re.findall(r'DAG\("(\w+)"', source))
    return deployment
