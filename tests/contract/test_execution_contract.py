"""A complete execution with its model repository, files and results in each storage."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.config.locations import AllowedLocations, Scheme
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.running.local_execution import LocalExecution

MODEL = """
def predict(df):
    if df["x"].iloc[0] < 0:
        raise ValueError("this file upsets me")
    return df.assign(double=df["x"] * 2)
"""


@pytest.fixture
def repository(place, tmp_path):
    root = place.folder.join("models")
    build = tmp_path / "build"
    build.mkdir()
    (build / "model.toml").write_text('entrypoint = "model:predict"\n')
    (build / "model.py").write_text(MODEL)
    repository = ModelRepository(root=root, storage=place.storage, cache=tmp_path / "cache")
    repository.publish(build, model_id="double", build_id="v1")
    repository.deploy("double", "v1")
    return repository


def _run(place, repository, **fields):
    bucket = {"bucket": f"{place.folder.scheme.value}://{place.folder.bucket}"}
    folders = {
        "source_folder": place.folder.join("in").key,
        "destination_folder": place.folder.join("out").key,
    }
    if place.folder.scheme is Scheme.FILE:
        bucket, folders = {}, {name: f"file://{key}" for name, key in folders.items()}
    execution = LocalExecution(
        execution_id="first",
        config=ExecutionConfig.from_fields(model_id="double", **bucket, **folders, **fields),
        repository=repository,
        instances=InstanceTable(),
        open_storage=lambda _: place.storage,
        allowed=AllowedLocations((place.folder,)),
    )
    return execution.run(execution.prepare()).header


def test_an_execution_reads_and_writes_in_every_storage(place, repository):
    for number in range(3):
        place.put(f"in/2013/{number}.csv", f"x\n{number}\n{number + 1}\n".encode())
    manifest = _run(place, repository, output_file_type="parquet", pods=2)
    assert manifest.status == "FINISHED"
    assert [name for name in place.names() if name.startswith("out/2013/")] == [
        f"out/2013/{number}.parquet" for number in range(3)
    ]
    for number in range(3):
        info = place.storage.stat(place.folder.join(f"out/2013/{number}.parquet"))
        path = place.storage.fetch(info, place.scratch / "fetched")
        assert pd.read_parquet(path).to_dict("list") == {
            "x": [number, number + 1],
            "double": [2 * number, 2 * number + 2],
        }
    stored = json.loads(place.storage.read(place.folder.join("out/_batchexec/first/manifest.json")))
    assert {name: stored[name] for name in manifest.to_dict()} == manifest.to_dict()
    assert [entry["status"] for entry in stored["files"]] == ["FINISHED"] * 3
    assert "out/_SUCCESS" in place.names()
    assert not any("/locks/" in name for name in place.names())


def test_a_failed_execution_leaves_no_success_mark_in_any_storage(place, repository):
    place.put("in/a.csv", b"x\n-1\n")
    manifest = _run(place, repository)
    assert manifest.status == "FAILED"
    names = place.names()
    assert "out/_SUCCESS" not in names
    assert "out/a.csv" not in names
    assert not any("/locks/" in name for name in names)
