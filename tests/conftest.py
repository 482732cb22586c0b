"""What every test may use, and an Airflow home of the tests' own."""

from __future__ import annotations

import atexit
import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gcs_server import start_gcs_server
from s3_server import start_s3_server
from together import OneProcessEach, rank_of

pytest_plugins = ["airflow_fixtures"]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gcs_server import GcsServer
    from s3_server import S3Server

# Airflow reads these when it is first imported, and writes its configuration and logs into its home. So they are set
# here, before any test module is, and set hard: a test must not touch the Airflow of whoever runs it.
_AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="batchexec-tests-airflow-"))
atexit.register(shutil.rmtree, _AIRFLOW_HOME, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": str(_AIRFLOW_HOME),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_AIRFLOW_HOME}/airflow.db",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what shares something run together, and what takes long begin early."""
    items.sort(key=lambda item: rank_of(item.path))


def pytest_collection_finish() -> None:
    """Spare whoever looks for garbage all that has been imported: that stays, and to go through it takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneProcessEach:
    """Give each process of the tests whole groups of modules."""
    return OneProcessEach(config, log)


@pytest.fixture(scope="session", autouse=True)
def heeded_signals() -> Iterator[None]:
    """Have what tests start heed signals, also where whoever started the tests ignores them: ``nohup``, a background job."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    ignored = [number for number, handler in before.items() if handler is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


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
            }
            migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
            subprocess.run(migrate, env={**os.environ, **settings}, check=True, capture_output=True)
            making.rename(database)
    return database


@pytest.fixture(scope="session")
def own_database(empty_database: Path) -> Path:
    """The database of the tests' own Airflow home, empty in the beginning."""
    database = _AIRFLOW_HOME / "airflow.db"
    if not database.exists():
        shutil.copy(empty_database, database)
    return database


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for the whole run."""
    with start_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """One Google Cloud Storage server for the whole run."""
    with start_gcs_server(tmp_path_factory.mktemp("gcs")) as server:
        yield server
