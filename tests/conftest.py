"""Fixtures and hooks for all tests, and a private Airflow home."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow_deployment import PEOPLE, deploy_airflow
from gcs_server import start_gcs_server
from s3_server import start_s3_server
from shared_servers import SharedServers, shared, shared_folder
from xdist_groups import GroupScheduling, rank_of

pytest_plugins = ["airflow_fixtures"]

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import ExitStack

    from airflow_deployment import DeployedAirflow
    from gcs_server import GcsServer
    from s3_server import S3Server

# Airflow reads these variables when it is first imported, and writes its configuration and logs into its home. Set them
# here, before any test module is imported, and unconditionally: tests must not touch the developer's own Airflow.
_AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="batchexec-tests-airflow-", dir=shared_folder()))
atexit.register(shutil.rmtree, _AIRFLOW_HOME, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": str(_AIRFLOW_HOME),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_AIRFLOW_HOME}/airflow.db",
}

_SERVERS = pytest.StashKey[SharedServers]()
# A test that uses one of these fixtures, directly or indirectly, needs a server, a browser, or Airflow's database.
_SERVER_FIXTURES = {
    "deployment",
    "empty_database",
    "fab",
    "gcs_server",
    "own_deployment",
    "page",
    "s3_server",
}


def _empty_database(servers: SharedServers, cache: Path) -> Path:
    """A migrated database, cached by pytest per Airflow version, because migrating takes ten seconds."""
    versions = {d.name: d.version for d in distributions() if d.name.startswith("apache-airflow")}
    database = cache / f"{sha256(repr(sorted(versions.items())).encode()).hexdigest()[:16]}.db"
    if not database.exists():
        home = servers.folder / "empty-airflow"
        home.mkdir()
        settings = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        }
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        subprocess.run(migrate, env={**os.environ, **settings}, check=True, capture_output=True)
        copy = database.with_suffix(f".{os.getpid()}")
        shutil.copy(home / "airflow.db", copy)
        copy.rename(database)
    return database


def _airflow_on_sqlite(servers: SharedServers, running: ExitStack) -> DeployedAirflow:
    home, database = servers.folder / "airflow-on-sqlite", servers.get("empty database")
    return deploy_airflow(home, running, s3=servers.get("S3"), database=database, owner=servers)[1]


def _airflow_on_postgresql(servers: SharedServers, running: ExitStack) -> DeployedAirflow:
    home = servers.folder / "airflow-on-postgresql"
    return deploy_airflow(home, running, s3=servers.get("S3"), database=None, users=PEOPLE, owner=servers)[1]


def _s3(servers: SharedServers, running: ExitStack) -> S3Server:
    folder = servers.folder / "s3"
    folder.mkdir()
    return running.enter_context(start_s3_server(folder))


_STARTERS = {
    "Airflow on PostgreSQL": _airflow_on_postgresql,
    "Airflow on SQLite": _airflow_on_sqlite,
    "S3": _s3,
}


def pytest_configure(config: pytest.Config) -> None:
    """Start the shared-server service in the main process; xdist's workers are its clients."""
    if not hasattr(config, "workerinput"):
        assert config.cache is not None
        cache = config.cache.mkdir("airflow-database")
        starters = {} if config.getoption("markexpr") == "not server" else _STARTERS
        config.stash[_SERVERS] = SharedServers(
            {**starters, "empty database": lambda servers, _: _empty_database(servers, cache)}
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None]:
    """Stop the servers after all workers have exited, even if the tests are interrupted."""
    try:
        return (yield)
    finally:
        servers = session.config.stash.get(_SERVERS, None)
        if servers is not None:
            servers.interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
            servers.close(keep_files=servers.used and exitstatus == pytest.ExitCode.TESTS_FAILED)


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print the location of the servers' logs if a test failed."""
    servers = config.stash.get(_SERVERS, None)
    if servers is not None and servers.used and exitstatus == pytest.ExitCode.TESTS_FAILED:
        terminalreporter.write_line(f"The servers' logs are in {servers.folder}.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests that share a resource, start the slowest first, and mark those that need a server."""
    items.sort(key=lambda item: rank_of(item.path))
    for item in items:
        if _SERVER_FIXTURES & {*getattr(item, "fixturenames", ())}:
            item.add_marker("server")


def pytest_collection_finish() -> None:
    """Exempt everything imported so far from garbage collection: it is never freed, and scanning it takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    """Run each group of modules in a single worker."""
    return GroupScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def restored_signals() -> Iterator[None]:
    """Reset inherited ignored signals (``nohup``, a background job), so that processes that tests start handle them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    ignored = [number for number, handler in before.items() if handler is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def empty_database() -> Path:
    """An empty, migrated Airflow database."""
    database: Path = shared("empty database")
    return database


@pytest.fixture(scope="session")
def own_database(empty_database: Path) -> Path:
    """The database of the tests' own Airflow home, initially empty."""
    database = _AIRFLOW_HOME / "airflow.db"
    if not database.exists():
        shutil.copy(empty_database, database)
    return database


@pytest.fixture(scope="session")
def s3_server() -> S3Server:
    """One S3 server for the whole run."""
    server: S3Server = shared("S3")
    return server


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """A Google Cloud Storage server per process, because tests inject faults into its gate."""
    with start_gcs_server(tmp_path_factory.mktemp("gcs")) as server:
        yield server
