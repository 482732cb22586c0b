"""Staging folders on disk and in a bucket: files survive the round trip, and nothing is left behind."""

from __future__ import annotations

import pytest

from airflow_batchexec.client.staging import StagingFolder
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage import open_storage
from airflow_batchexec.exceptions import (
    AccessDeniedError,
    BucketNotFoundError,
    LocationError,
    ObjectNotFoundError,
)


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.server)])
def staging(request, tmp_path, monkeypatch):
    """The URI of a parent of staging folders."""
    if request.param == "file":
        return f"file://{tmp_path}/staging"
    server = request.getfixturevalue("s3_server")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_access_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", server.region)
    return f"s3://{server.make_bucket()}/staging"


@pytest.fixture
def parts(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(20):
        (folder / f"part-{number}.csv").write_text(f"x\n{number}\n")
    return sorted(folder.iterdir())


def objects(staging):
    location = Location.parse(staging)
    return {location.relative(info.location) for info in open_storage(location).list(location)}


def test_files_survive_the_round_trip_and_other_files_are_untouched(staging, parts, tmp_path):
    location = Location.parse(staging)
    storage = open_storage(location)
    storage.write(location.join("unrelated/file.csv"), b"x")
    folder, other = StagingFolder(staging), StagingFolder(staging)
    assert folder.location != other.location
    names = [path.name for path in parts]
    folder.upload(parts)
    assert not any(path.exists() for path in parts)
    for number, name in enumerate(names):
        storage.write(folder.destination.join(name), f"y\n{number}\n".encode())
    results = tmp_path / "results"
    results.mkdir()
    folder.download(names, results)
    folder.remove()
    assert {path.name for path in results.iterdir()} == set(names)
    assert (results / "part-7.csv").read_text().startswith("y")
    assert objects(staging) == {"unrelated/file.csv"}


def test_missing_result_error_names_the_file(staging, tmp_path):
    with pytest.raises(ObjectNotFoundError, match=r"out/part-3\.csv"):
        StagingFolder(staging).download(["part-3.csv"], tmp_path)


def test_removing_an_unused_folder_succeeds(staging):
    StagingFolder(staging).remove()


def test_keys_without_permission_are_an_error(s3_server, monkeypatch, parts):
    bucket = s3_server.make_bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.denied.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.denied.secret_access_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", s3_server.region)
    with pytest.raises(AccessDeniedError, match=f"s3://{bucket}/"):
        StagingFolder(f"s3://{bucket}").upload(parts)
    with pytest.raises((BucketNotFoundError, AccessDeniedError)):
        StagingFolder("s3://no-such-bucket-anywhere").upload(parts)


@pytest.mark.parametrize("uri", ["", "bucket/folder", "https://bucket/folder", "file://relative"])
def test_an_invalid_staging_uri_is_refused(uri):
    with pytest.raises(LocationError, match=r"^staging: ") as caught:
        StagingFolder(uri)
    assert caught.value.details["field"] == "staging"
