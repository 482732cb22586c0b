"""An Airflow database for this folder's tests, created once, in the home that all tests share."""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from pathlib import Path

import pytest
from inline_executions import DAG_SOURCE, InlineExecutions, publish_moody_model


@pytest.fixture(scope="session")
def dag_file(own_database: Path) -> Path:
    """The DAG file, in Airflow's DAGs folder, and a migrated database."""
    with warnings.catch_warnings():
        # Importing the execution API emits deprecation warnings of its libraries.
        warnings.simplefilter("ignore")
        import_module("airflow.api_fastapi.execution_api.app")
    file = Path(os.environ["AIRFLOW_HOME"]) / "dags" / "inline_executions.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(DAG_SOURCE)
    return file


@pytest.fixture
def executions(dag_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InlineExecutions:
    """Runs executions over files below this test's folder, with a test model."""
    (tmp_path / "scratch").mkdir()
    for option, value in {
        "MODEL_REPOSITORY": publish_moody_model(tmp_path),
        "ALLOWED_LOCATIONS": f"file://{tmp_path}",
        "SCRATCH_FOLDER": tmp_path / "scratch",
    }.items():
        monkeypatch.setenv(f"AIRFLOW__BATCHEXEC__{option}", str(value))
    return InlineExecutions(dag_file, tmp_path)
