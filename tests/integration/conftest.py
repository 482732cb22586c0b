"""One real Airflow and one real S3 server for all tests of this folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow_models import frame, publish_model

from demo.airflow_server import AirflowServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from s3_server import S3Server

_ROOT = Path(__file__).resolve().parents[2]
MAX_MAP_LENGTH = 30


@dataclass(frozen=True)
class Deployment:
    """An Airflow with the provider, the test model and a bucket."""

    airflow: AirflowServer
    s3: S3Server
    bucket: str
    folder: Path

    def execute(self, *, timeout: float = 180.0, **conf: Any) -> tuple[dict[str, Any], str]:
        """Run one execution to its end; give the run and its id."""
        run_id = self.start(**conf)
        return self.airflow.wait_for_run("batch_execution", run_id, timeout=timeout), run_id

    def start(self, **conf: Any) -> str:
        """Start one execution."""
        return self.airflow.trigger("batch_execution", {"model_id": "scaler", **conf})

    def instances(self, run_id: str, task_id: str) -> list[dict[str, Any]]:
        """The instances of one task of an execution."""
        instances = self.airflow.task_instances("batch_execution", run_id)
        return [instance for instance in instances if instance["task_id"] == task_id]

    def write_files(self, name: str, moods: Mapping[str, str], *, rows: int = 5) -> dict[str, str]:
        """Write one CSV file per mood into a new folder; give the execution's folders."""
        source = self.folder / name / "in"
        source.mkdir(parents=True)
        for file, mood in moods.items():
            frame(file, rows, mood=mood).to_csv(source / f"{file}.csv", index=False)
        return {
            "source_folder": f"file://{source}",
            "destination_folder": f"file://{self.folder / name / 'out'}",
        }

    def manifest(self, name: str, run_id: str) -> dict[str, Any]:
        """The manifest of an execution over such a folder."""
        path = self.folder / name / "out" / "_batchexec" / run_id / "manifest.json"
        manifest: dict[str, Any] = json.loads(path.read_text())
        return manifest


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    bucket = s3_server.make_bucket()
    publish_model(folder, "scaler")
    airflow = AirflowServer(
        home=folder / "airflow",
        dags_folder=_ROOT / "dags",
        settings={
            "AIRFLOW__BATCHEXEC__MODEL_REPOSITORY": str(folder / "repository"),
            "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": f"file://{folder}, s3://{bucket}",
            "AIRFLOW__CORE__MAX_MAP_LENGTH": str(MAX_MAP_LENGTH),
        },
    )
    with airflow:
        airflow.wait_for_dag("batch_execution")
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
