"""Behavior specific to S3; ``tests/contract`` covers what all storages share."""

from __future__ import annotations

import os
import pickle
import resource
import time

import boto3
import pytest
from botocore.config import Config
from flaky_proxy import start_flaky_proxy
from s3_server import free_port

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage.s3.session import S3Access
from airflow_batchexec.engine.storage.s3.storage import S3Storage, connect
from airflow_batchexec.engine.storage.s3.transfer import TransferLimits
from airflow_batchexec.exceptions import (
    AccessDeniedError,
    BucketNotFoundError,
    ConfigurationError,
    DiskFullError,
    LocationError,
    ObjectChangedError,
    ObjectExistsError,
    StorageError,
)

MIB = 1024 * 1024
SMALL_PARTS = TransferLimits(single_bytes=5 * MIB, part_bytes=5 * MIB, parallel=3)


@pytest.fixture(scope="module")
def access(s3_server):
    return S3Access(
        access_key_id=s3_server.access_key_id,
        secret_access_key=s3_server.secret_access_key,
        endpoint_url=s3_server.endpoint_url,
        region_name=s3_server.region,
    )


@pytest.fixture(scope="module")
def storage(access):
    return connect(access, limits=SMALL_PARTS)


@pytest.fixture
def folder(s3_server):
    return Location.parse(f"s3://{s3_server.make_bucket()}/in")


@pytest.fixture
def proxy(s3_server):
    with start_flaky_proxy(s3_server.endpoint_url) as running:
        yield running


@pytest.fixture
def proxied_storage(access, proxy):
    return connect(
        S3Access(
            access_key_id=access.access_key_id,
            secret_access_key=access.secret_access_key,
            endpoint_url=proxy.endpoint_url,
        ),
        limits=SMALL_PARTS,
    )


@pytest.fixture
def without_retries(s3_server, proxy):
    """A storage behind the proxy whose client does not retry."""
    client = boto3.client(
        "s3",
        endpoint_url=proxy.endpoint_url,
        region_name=s3_server.region,
        aws_access_key_id=s3_server.access_key_id,
        aws_secret_access_key=s3_server.secret_access_key,
        config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
    )
    return S3Storage(client=client, limits=SMALL_PARTS)


def _operations(storage, location, tmp_path):
    """Every operation on a location, by name."""
    source = tmp_path / "source"
    source.write_bytes(b"result")
    large = tmp_path / "large"
    large.write_bytes(bytes(6 * MIB))
    return {
        "list": lambda: list(storage.list(location)),
        "stat": lambda: storage.stat(location),
        "read": lambda: storage.read(location),
        "read a range": lambda: storage.read(location, start=1, length=2),
        "read_with_etag": lambda: storage.read_with_etag(location),
        "publish": lambda: storage.publish(source, location),
        "publish in parts": lambda: storage.publish(large, location),
        "write": lambda: storage.write(location, b"x"),
        "create": lambda: storage.create(location, b"x"),
        "replace": lambda: storage.replace(location, b"x", etag="e"),
        "delete": lambda: storage.delete(location),
        "delete by etag": lambda: storage.delete(location, etag="e"),
    }


def _assert_all_raise(kind, storage, location, tmp_path):
    errors = []
    for name, operation in _operations(storage, location, tmp_path).items():
        with pytest.raises(StorageError) as raised:
            operation()
        assert type(raised.value) is kind, name
        assert location.uri in str(raised.value)
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
        errors.append(raised.value)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "large"}
    return errors


def test_every_operation_is_denied_without_permission(s3_server, folder, tmp_path):
    keys = s3_server.denied
    storage = connect(
        S3Access(keys.access_key_id, keys.secret_access_key, endpoint_url=s3_server.endpoint_url)
    )
    errors = _assert_all_raise(AccessDeniedError, storage, folder.join("x"), tmp_path)
    assert not any(keys.secret_access_key in str(error) for error in errors)


def test_every_operation_is_denied_with_a_wrong_secret_which_is_never_revealed(s3_server, folder, tmp_path):
    secret = "wrong" * 8
    storage = connect(S3Access(s3_server.access_key_id, secret, endpoint_url=s3_server.endpoint_url))
    errors = _assert_all_raise(AccessDeniedError, storage, folder.join("x"), tmp_path)
    assert not any(secret in repr(error.details) + str(error) for error in errors)


def test_unknown_access_key_is_denied(s3_server, folder):
    storage = connect(S3Access("AKIA0000000000000000", "s" * 40, endpoint_url=s3_server.endpoint_url))
    with pytest.raises(AccessDeniedError, match="InvalidAccessKeyId"):
        list(storage.list(folder))


def test_every_operation_names_a_missing_bucket(storage, tmp_path):
    location = Location.parse("s3://there-is-no-such-bucket/in/x")
    for error in _assert_all_raise(BucketNotFoundError, storage, location, tmp_path):
        assert "'there-is-no-such-bucket'" in str(error)
        assert not error.retryable


def test_missing_credentials_are_reported(s3_server, folder, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    storage = connect(S3Access(endpoint_url=s3_server.endpoint_url))
    with pytest.raises(AccessDeniedError, match="no usable credentials"):
        storage.stat(folder.join("x"))


def test_default_chain_is_used_without_keys(s3_server, folder, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_access_key)
    assert list(connect(S3Access(endpoint_url=s3_server.endpoint_url)).list(folder)) == []


def test_session_credentials_are_used(s3_server, folder):
    session = boto3.Session(s3_server.access_key_id, s3_server.secret_access_key)
    storage = S3Storage.from_session(
        session, endpoint_url=s3_server.endpoint_url, region_name=s3_server.region
    )
    assert storage.write(folder.join("x"), b"x") == storage.stat(folder.join("x"))


def test_refused_connection_fails_fast_and_is_retryable(folder):
    storage = connect(S3Access("key", "s" * 40, endpoint_url=f"http://127.0.0.1:{free_port()}"))
    started = time.monotonic()
    with pytest.raises(StorageError, match="Check the endpoint") as raised:
        storage.stat(folder.join("x"))
    assert time.monotonic() - started < 60
    assert type(raised.value) is StorageError
    assert raised.value.retryable


@pytest.mark.parametrize(
    ("access", "field"),
    [({"access_key_id": "key"}, "secret_access_key"), ({"secret_access_key": "s"}, "access_key_id")],
)
def test_access_key_and_secret_require_each_other(access, field):
    with pytest.raises(ConfigurationError) as refused:
        S3Access(**access)
    assert refused.value.details["field"] == field


def test_malformed_endpoint_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="no-scheme:9000"):
        connect(S3Access("key", "secret", endpoint_url="no-scheme:9000"))


def test_missing_profile_is_a_configuration_error(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "missing-profile")
    with pytest.raises(ConfigurationError, match="missing-profile"):
        connect()


def test_repr_of_s3_access_hides_secrets():
    shown = repr(S3Access("key", "a secret", session_token="a token"))
    assert "key" in shown
    assert "a secret" not in shown
    assert "a token" not in shown


def test_bucket_can_be_listed_but_is_not_an_object(storage, folder, tmp_path):
    info = storage.write(folder.join("x"), b"x")
    assert list(storage.list(folder.parent)) == [info]
    with pytest.raises(LocationError, match="whole bucket"):
        storage.stat(folder.parent)


def test_listing_skips_folder_markers_and_keeps_odd_keys(s3_server, storage, folder):
    for key, body in (("in/", b""), ("in/a/", b""), ("in/a/x", b"x"), ("in/full/", b"x"), ("in//y", b"y")):
        s3_server.client.put_object(Bucket=folder.bucket, Key=key, Body=body)
    listed = list(storage.list(folder))
    assert [info.location.key for info in listed] == ["in//y", "in/a/x", "in/full/"]
    assert storage.read(listed[0].location) == b"y"


def test_listing_follows_all_pages(s3_server, folder):
    def shorten(params, **_):
        params["MaxKeys"] = 2

    client = s3_server.client
    client.meta.events.register("provide-client-params.s3.ListObjectsV2", shorten)
    storage = S3Storage(client=client)
    written = [storage.write(folder.join(str(number)), b"x") for number in range(7)]
    assert list(storage.list(folder)) == written


def test_multipart_object_round_trips(s3_server, storage, folder, tmp_path):
    content = os.urandom(MIB) * 12 + b"the end"
    source = tmp_path / "source"
    source.write_bytes(content)
    info = storage.publish(source, folder.join("x"))
    assert info == storage.stat(info.location)
    assert info.etag.endswith("-3")
    assert storage.fetch(info, tmp_path / "fetched").read_bytes() == content
    assert "Uploads" not in s3_server.client.list_multipart_uploads(Bucket=folder.bucket)


def test_ranges_of_two_versions_never_mix(storage, folder, tmp_path):
    old = storage.write(folder.join("x"), b"a" * (6 * MIB))
    storage.write(folder.join("x"), b"b" * (6 * MIB))
    with pytest.raises(ObjectChangedError):
        storage.fetch(old, tmp_path / "fetched")
    assert list(tmp_path.iterdir()) == []


def test_failed_multipart_upload_leaves_nothing_behind(s3_server, without_retries, proxy, folder, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(11 * MIB))
    proxy.cut("partNumber=2")
    with pytest.raises(StorageError, match=folder.join("x").uri) as raised:
        without_retries.publish(source, folder.join("x"))
    assert raised.value.retryable
    assert "Uploads" not in s3_server.client.list_multipart_uploads(Bucket=folder.bucket)
    assert list(without_retries.list(folder)) == []
    assert source.stat().st_size == 11 * MIB


def test_failure_to_abort_a_multipart_upload_is_logged(without_retries, proxy, folder, tmp_path, caplog):
    source = tmp_path / "source"
    source.write_bytes(bytes(11 * MIB))
    proxy.cut("partNumber=2")
    proxy.cut("^DELETE ")
    with pytest.raises(StorageError, match="x: "):
        without_retries.publish(source, folder.join("x"))
    assert folder.join("x").uri in caplog.text
    assert "Could not abort the multipart upload" in caplog.text


@pytest.mark.parametrize("size", [4 * MIB, 12 * MIB])
def test_broken_download_resumes_where_it_stopped(proxied_storage, proxy, folder, tmp_path, size):
    content = os.urandom(size)
    info = proxied_storage.write(folder.join("x"), content)
    proxy.cut("^GET ", after_bytes=MIB, times=2)
    assert proxied_storage.fetch(info, tmp_path / "fetched").read_bytes() == content
    assert len([line for line in proxy.requests if line.startswith("GET ")]) == -(-size // (5 * MIB)) + 2


def test_download_that_keeps_breaking_fails_and_leaves_nothing_behind(
    storage, proxied_storage, proxy, folder, tmp_path
):
    info = storage.write(folder.join("x"), os.urandom(4 * MIB))
    proxy.cut("^GET ", after_bytes=MIB, times=10)
    with pytest.raises(StorageError, match=info.location.uri) as raised:
        proxied_storage.fetch(info, tmp_path / "fetched")
    assert raised.value.retryable
    assert list(tmp_path.iterdir()) == []


def test_write_with_a_lost_response_is_recognized_as_own(proxied_storage, proxy, folder):
    location = folder.join("lock")
    proxy.cut("^PUT ")
    created = proxied_storage.create(location, b"owner 1")
    assert created == proxied_storage.stat(location)
    proxy.cut("^PUT ")
    replaced = proxied_storage.replace(location, b"owner 2", etag=created.etag)
    assert proxied_storage.read_with_etag(location) == (b"owner 2", replaced.etag)


def test_document_of_another_writer_is_not_mistaken_for_own(proxied_storage, storage, proxy, folder):
    other = storage.write(folder.join("lock"), b"owner 1")
    proxy.cut("^PUT ", times=2)
    with pytest.raises(ObjectExistsError):
        proxied_storage.create(other.location, b"owner 2")
    with pytest.raises(ObjectChangedError):
        proxied_storage.replace(other.location, b"owner 2", etag="another")
    assert storage.read(other.location) == b"owner 1"


@pytest.mark.parametrize("size", [MIB, 12 * MIB])
def test_full_scratch_disk_is_reported_and_leaves_nothing_behind(storage, folder, tmp_path, size):
    info = storage.write(folder.join("x"), bytes(size))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, hard))
    try:
        with pytest.raises(DiskFullError) as raised:
            storage.fetch(info, tmp_path / "fetched")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "fetched") in str(raised.value)
    assert info.location.uri in str(raised.value)
    assert list(tmp_path.iterdir()) == []
