"""What every test may use, and an Airflow home of the tests' own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from gcs_server import start_gcs_server
from s3_server import start_s3_server

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
