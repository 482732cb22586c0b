"""A staging folder on disk and in a real bucket: what goes in comes back, and nothing of it stays."""

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
def place(request, tmp_path, monkeypatch):
    """A place for staging folders, as a URI."""
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


def objects(place):
    location = Location.parse(place)
    return {location.relative(info.location) for info in open_storage(location).list(location)}


def test_files_go_there_and_come_back_and_nothing_else_is_touched(place, parts, tmp_path):
    location = Location.parse(place)
    storage = open_storage(location)
    storage.write(location.join("of-somebody-else/file.csv"), b"x")
    folder, other = StagingFolder(place), StagingFolder(place)
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
    assert objects(place) == {"of-somebody-else/file.csv"}


def test_a_result_that_is_missing_is_named(place, tmp_path):
    with pytest.raises(ObjectNotFoundError, match=r"out/part-3\.csv"):
        StagingFolder(place).download(["part-3.csv"], tmp_path)


def test_removing_what_was_never_filled_is_no_error(place):
    StagingFolder(place).remove()


def test_keys_without_the_right_are_an_error(s3_server, monkeypatch, parts):
    bucket = s3_server.make_bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.denied.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.denied.secret_access_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", s3_server.region)
    with pytest.raises(AccessDeniedError, match=f"s3://{bucket}/"):
        StagingFolder(f"s3://{bucket}").upload(parts)
    with pytest.raises((BucketNotFoundError, AccessDeniedError)):
        StagingFolder("s3://no-such-bucket-anywhere").upload(parts)


@pytest.mark.parametrize("staging", ["", "bucket/folder", "https://bucket/folder", "file://relative"])
def test_what_is_no_uri_of_a_storage_is_refused_by_name(staging):
    with pytest.raises(LocationError, match=r"^staging: ") as caught:
        StagingFolder(staging)
    assert caught.value.details["field"] == "staging"
