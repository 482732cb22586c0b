"""A real Airflow for the tests of a module; it ends with them, as its processes come and go all the time."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow_deployment import MAX_MAP_LENGTH, Deployment
from airflow_models import publish_model

from demo.airflow_server import AirflowServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3_server import S3Server

_ROOT = Path(__file__).resolve().parents[2]


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
def with_triggerer() -> bool:
    """Whether Airflow has a triggerer; a module with deferrable tasks has a fixture of this name that gives ``True``."""
    return False


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Airflow's database as it is in the beginning, made once for all processes of the tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    home = folder / "empty-airflow"
    with (folder / "empty-airflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        database = home / "airflow.db"
        if not database.exists():
            making = home / "in-the-making.db"
            settings = {
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{making}",
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            }
            migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
            subprocess.run(migrate, env={**os.environ, **settings}, check=True, capture_output=True)
            making.rename(database)
    return database


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
    with_triggerer: bool,  # noqa: FBT001  a fixture
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    (folder / "dags").mkdir()
    for path in dag_files:
        shutil.copy(path, folder / "dags")
    if user_dags:
        (folder / "dags" / "of_the_user.py").write_text(user_dags)
    bucket = s3_server.make_bucket()
    publish_model(folder, "scaler")
    (folder / "scratch").mkdir()
    airflow = AirflowServer(
        home=folder / "airflow",
        dags_folder=folder / "dags",
        settings={
            "AIRFLOW__BATCHEXEC__MODEL_REPOSITORY": str(folder / "repository"),
            "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": f"file://{folder}, s3://{bucket}",
            "AIRFLOW__BATCHEXEC__SCRATCH_FOLDER": str(folder / "scratch"),
            "AIRFLOW__CORE__MAX_MAP_LENGTH": str(MAX_MAP_LENGTH),
            # DAG files do not change here, and to read them again costs a second each.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
            **airflow_settings,
        },
        path=airflow_path,
        database=empty_database,
        triggerer=with_triggerer,
        users=airflow_users,
    )
    with airflow:
        airflow.wait_for_dag("batch_execution")
        for dag_id in re.findall(r'DAG\("(\w+)"', user_dags):
            airflow.wait_for_dag(dag_id)
        airflow.api(
            "POST",
            "connections",
            json={
                "connection_id": "batch_execution_default",
                "conn_type": "batch_execution",
                "extra": json.dumps(
                    {"endpoint_url": s3_server.endpoint_url, "region_name": s3_server.region}
                ),
            },
        )
        for key, value in {
            "bucket_key": s3_server.access_key_id,
            "bucket_secret": s3_server.secret_access_key,
            "denied_key": s3_server.denied.access_key_id,
            "denied_secret": s3_server.denied.secret_access_key,
        }.items():
            airflow.api("POST", "variables", json={"key": key, "value": value})
        yield Deployment(airflow, s3_server, bucket, folder)
