"""Behavior specific to Google Cloud Storage; ``tests/contract`` covers what all storages share.

``gcs_gate`` documents which parts of Google's behavior it emulates, so these tests do not verify them.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import resource
import socket
import subprocess
import sys
import time
import traceback

import pytest
from flaky_proxy import start_flaky_proxy
from s3_server import free_port

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage import open_storage
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.gcs import client as gcs_client
from airflow_batchexec.engine.storage.gcs import storage as gcs
from airflow_batchexec.engine.storage.gcs.access import GcsAccess
from airflow_batchexec.engine.storage.gcs.storage import connect
from airflow_batchexec.exceptions import (
    AccessDeniedError,
    BucketNotFoundError,
    ConfigurationError,
    DiskFullError,
    LocationError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)

MIB = 1024 * 1024
LARGE = 9 * MIB  # more than Google's client sends in one request


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(gcs_client, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture(scope="module")
def access(gcs_server):
    return GcsAccess(service_account_key=gcs_server.account.key, endpoint_url=gcs_server.endpoint_url)


@pytest.fixture(scope="module")
def storage(access):
    return connect(access)


@pytest.fixture
def folder(gcs_server):
    return Location.parse(f"gs://{gcs_server.make_bucket()}/in")


@pytest.fixture
def gate(gcs_server):
    gcs_server.gate.requests.clear()
    yield gcs_server.gate
    assert gcs_server.gate.nothing_staged()


@pytest.fixture
def proxy(gcs_server):
    with start_flaky_proxy(gcs_server.endpoint_url) as running:
        yield running


@pytest.fixture
def proxied_storage(gcs_server, proxy):
    return connect(GcsAccess(service_account_key=gcs_server.account.key, endpoint_url=proxy.endpoint_url))


@pytest.fixture
def without_credentials(monkeypatch, tmp_path):
    """A machine on which Google's default chain finds no credentials."""
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


def _source(tmp_path, content):
    path = tmp_path / "source"
    path.write_bytes(content)
    return path


def _operations(storage, location, tmp_path):
    """Every operation on a location, by name."""
    source = tmp_path / "source"
    source.write_bytes(b"result")
    large = tmp_path / "large"
    large.write_bytes(bytes(LARGE))
    return {
        "list": lambda: list(storage.list(location)),
        "stat": lambda: storage.stat(location),
        "read": lambda: storage.read(location),
        "read a range": lambda: storage.read(location, start=1, length=2),
        "read_with_etag": lambda: storage.read_with_etag(location),
        "fetch": lambda: storage.fetch(ObjectInfo(location, 1, "1"), tmp_path / "fetched"),
        "publish": lambda: storage.publish(source, location),
        "publish a large file": lambda: storage.publish(large, location),
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


def _full_text(error):
    return "".join(traceback.format_exception(error)) + repr(getattr(error, "details", ""))


# ---- credentials


def test_every_operation_is_denied_without_permission(gcs_server, folder, tmp_path):
    key = gcs_server.denied.key
    storage = connect(GcsAccess(service_account_key=key, endpoint_url=gcs_server.endpoint_url))
    for error in _assert_all_raise(AccessDeniedError, storage, folder.join("x"), tmp_path):
        assert "HTTP 403" in str(error)


def test_every_operation_is_denied_with_a_wrong_key_which_is_never_revealed(gcs_server, folder, tmp_path):
    key = gcs_server.stranger.key
    storage = connect(GcsAccess(service_account_key=key, endpoint_url=gcs_server.endpoint_url))
    secrets = [line for line in gcs_server.stranger.parts["private_key"].splitlines() if len(line) > 20]
    for error in _assert_all_raise(AccessDeniedError, storage, folder.join("x"), tmp_path):
        assert "Invalid JWT Signature" in str(error)
        assert not any(secret in _full_text(error) for secret in secrets[1:-1])


def test_invalid_token_is_refreshed(gcs_server, storage, folder, tmp_path):
    """Even in the middle of a large upload, which is then sent again from the first byte."""
    content = os.urandom(LARGE)
    for act in (
        lambda: storage.write(folder.join("x"), b"x"),
        lambda: storage.stat(folder.join("x")),
        lambda: list(storage.list(folder)),
        lambda: storage.publish(_source(tmp_path, content), folder.join("large")),
    ):
        gcs_server.gate.accounts.forget_tokens()
        given = gcs_server.gate.accounts.given
        act()
        assert gcs_server.gate.accounts.given == given + 1
    assert storage.read(folder.join("large")) == content


def test_missing_credentials_are_reported(gcs_server, folder, without_credentials, tmp_path):
    storage = connect(GcsAccess(endpoint_url=gcs_server.endpoint_url))
    for error in _assert_all_raise(AccessDeniedError, storage, folder.join("x"), tmp_path):
        assert "no usable credentials" in str(error)


def test_default_chain_is_used_without_a_key(gcs_server, folder, without_credentials, monkeypatch, tmp_path):
    path = tmp_path / "key.json"
    path.write_text(gcs_server.account.key)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    storage = open_storage(folder, gcs=GcsAccess(endpoint_url=gcs_server.endpoint_url))
    info = storage.write(folder.join("x"), b"x")
    assert list(storage.list(folder)) == [info]


def _modified(key, **parts):
    return json.dumps({name: value for name, value in {**json.loads(key), **parts}.items() if value})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda key: key[: len(key) // 2], "is not a JSON object"),
        (lambda key: json.dumps([key]), "is not a JSON object"),
        (lambda key: json.loads(key)["private_key"], "is not a JSON object"),
        (lambda key: "[" * 100_000 + key, "is not a JSON object"),
        (lambda key: _modified(key, type="authorized_user"), "is not a service account key"),
        (lambda key: _modified(key, type=None), "is not a service account key"),
        (lambda key: _modified(key, client_email=None), '"client_email"'),
        (lambda key: _modified(key, private_key=""), '"private_key"'),
        (lambda key: _modified(key, token_uri=7), '"token_uri"'),
        (lambda key: _modified(key, private_key="not a key"), '"private_key" that cannot be read'),
        (
            lambda key: _modified(key, private_key=json.loads(key)["private_key"].replace("A", "B")),
            '"private_key" that cannot be read',
        ),
    ],
)
def test_unusable_key_is_a_configuration_error_that_does_not_reveal_it(gcs_server, spoil, reason):
    with pytest.raises(ConfigurationError) as refused:
        connect(GcsAccess(service_account_key=spoil(gcs_server.account.key)))
    assert refused.value.details == {"field": "service_account_key_secret_name"}
    assert str(refused.value).startswith("service_account_key_secret_name: ")
    assert reason in str(refused.value)
    chain, error = [], refused.value
    while error is not None:
        chain.append(repr(error.__dict__) + repr(error.args))
        error = error.__cause__ or error.__context__
    secrets = gcs_server.account.parts["private_key"].splitlines()[1:-1]
    assert not any(secret in text for secret in secrets for text in chain)


@pytest.mark.parametrize(
    "url", ["no-scheme:9000", "ftp://server", "http://", "http://server:port", "http://s?x"]
)
def test_malformed_endpoint_is_a_configuration_error(url):
    with pytest.raises(ConfigurationError) as refused:
        GcsAccess(endpoint_url=url)
    assert refused.value.details["field"] == "endpoint_url"
    assert repr(url) in str(refused.value)


def test_repr_of_gcs_access_hides_the_key(gcs_server):
    shown = repr(GcsAccess(service_account_key=gcs_server.account.key, endpoint_url="http://server"))
    assert "http://server" in shown
    assert gcs_server.account.email not in shown
    assert "PRIVATE KEY" not in shown


# ---- missing buckets and servers


def test_every_operation_names_a_missing_bucket(storage, tmp_path):
    location = Location.parse("gs://there-is-no-such-bucket/in/x")
    for error in _assert_all_raise(BucketNotFoundError, storage, location, tmp_path):
        assert "'there-is-no-such-bucket'" in str(error)
        assert not error.retryable


def test_missing_bucket_is_detected_if_the_server_only_reports_not_found(gcs_server, folder):
    storage = connect(GcsAccess(service_account_key=gcs_server.account.key, endpoint_url=gcs_server.open_url))
    with pytest.raises(ObjectNotFoundError):
        storage.stat(folder.join("x"))
    location = Location.parse("gs://there-is-no-such-bucket/in/x")
    for ask in (storage.stat, storage.read, storage.delete):
        with pytest.raises(BucketNotFoundError, match="'there-is-no-such-bucket'"):
            ask(location)


def test_refused_connection_fails_fast_and_is_retryable(gcs_server, folder, monkeypatch):
    url = f"http://127.0.0.1:{free_port()}"
    without_tokens = _modified(gcs_server.account.key, token_uri=f"{url}/token")
    for key in (without_tokens, gcs_server.account.key):
        storage = connect(GcsAccess(service_account_key=key, endpoint_url=url))
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"Connection refused\. Check the endpoint") as raised:
            storage.stat(folder.join("x"))
        assert time.monotonic() - started < 60
        assert type(raised.value) is StorageError
        assert raised.value.retryable
        monkeypatch.undo()  # the second key with the real pauses


# ---- names


def test_bucket_can_be_listed_but_is_not_an_object(storage, folder):
    info = storage.write(folder.join("x"), b"x")
    assert list(storage.list(folder.parent)) == [info]
    with pytest.raises(LocationError, match="whole bucket"):
        storage.stat(folder.parent)


def test_listing_skips_folder_markers_and_keeps_odd_keys(gcs_server, storage, folder):
    for key, data in (("in/", b""), ("in/a/", b""), ("in/a/x", b"x"), ("in/full/", b"x"), ("in//y", b"y")):
        gcs_server.put(folder.bucket, key, data)
    listed = list(storage.list(folder))
    assert [info.location.key for info in listed] == ["in//y", "in/a/x", "in/full/"]
    assert storage.read(listed[0].location) == b"y"


def test_listing_follows_all_pages(storage, folder, gate, monkeypatch):
    monkeypatch.setattr(gcs, "_PAGE_OBJECTS", 2)
    written = [storage.write(folder.join(str(number)), b"x") for number in range(7)]
    gate.refuse("pageToken", 503, times=4)
    gate.before("pageToken", lambda: None)
    gate.refuse("pageToken", 503, times=4)  # each page has as many attempts as an operation
    assert list(storage.list(folder)) == written
    assert len([line for line in gate.requests if "pageToken" in line]) == 3 + 4 + 4


@pytest.mark.parametrize("etag", ["0", "", "any", "-1", "1" * 5000, "²", "1.5"])
def test_etag_that_is_not_a_generation_matches_nothing(storage, folder, etag):
    info = storage.write(folder.join("x"), b"x")
    for location in (info.location, folder.join("missing")):
        with pytest.raises(ObjectChangedError):
            storage.replace(location, b"y", etag=etag)
    with pytest.raises(ObjectChangedError):
        storage.delete(info.location, etag=etag)
    storage.delete(folder.join("missing"), etag=etag)
    assert list(storage.list(folder)) == [info]


def test_object_is_read_as_stored(gcs_server, storage, folder, tmp_path):
    packed = gzip.compress(b"a\n1\n" * 100)
    gcs_server.put(folder.bucket, "in/x.csv", packed, contentEncoding="gzip")
    (info,) = storage.list(folder)
    assert info.size_bytes == len(packed)
    assert storage.read(info.location) == packed
    assert storage.fetch(info, tmp_path / "fetched").read_bytes() == packed


def test_only_necessary_requests_are_sent(access, gate, folder):
    """Includes requests from threads: an account needs permission for all of them."""
    storage = connect(access)
    location = folder.join("x")
    for _ in range(3):
        with pytest.raises(ObjectNotFoundError):
            storage.stat(location)
    storage.write(location, b"x")
    storage.read(location)
    storage.delete(location)
    objects = f"/storage/v1/b/{folder.bucket}/o"
    assert [line.partition("?")[0].strip() for line in gate.requests] == [
        f"GET {objects}/in%2Fx",
        f"GET {objects}",  # once: does the bucket exist?
        f"GET {objects}/in%2Fx",
        f"GET {objects}/in%2Fx",
        f"POST /upload{objects}",
        f"GET /download{objects}/in%2Fx",
        f"DELETE {objects}/in%2Fx",
    ]


def test_token_for_another_server_is_not_sent_to_google(gcs_server, folder):
    """Google's library would send it from a thread, so the script waits for all threads before the check."""
    code = """
import sys, threading
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage import open_storage
from airflow_batchexec.engine.storage.gcs.access import GcsAccess
key, endpoint, uri = sys.stdin.read().split("\\0")
location = Location.parse(uri)
open_storage(location, gcs=GcsAccess(service_account_key=key, endpoint_url=endpoint)).write(location, b"x")
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
"""
    given = [gcs_server.account.key, gcs_server.endpoint_url, folder.join("x").uri]
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        environment = {**os.environ, "HTTPS_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            input="\0".join(given),
            env=environment,
            check=False,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


# ---- large objects


def test_large_file_is_sent_in_one_request(storage, folder, gate, tmp_path):
    content = os.urandom(MIB) * 12 + b"the end"
    info = storage.publish(_source(tmp_path, content), folder.join("x"))
    assert info == storage.stat(info.location)
    assert storage.fetch(info, tmp_path / "fetched").read_bytes() == content
    sent = [line for line in gate.requests if "upload_id" in line]
    assert len(sent) == 1
    assert sent[0].endswith(f"bytes 0-{len(content) - 1}/{len(content)}")


def test_large_document_is_written_conditionally(storage, folder):
    location = folder.join("x")
    content = os.urandom(LARGE)
    created = storage.create(location, content)
    assert storage.read_with_etag(location) == (content, created.etag)
    with pytest.raises(ObjectExistsError):
        storage.create(location, bytes(LARGE))
    replaced = storage.replace(location, content[::-1], etag=created.etag)
    with pytest.raises(ObjectChangedError):
        storage.replace(location, bytes(LARGE), etag=created.etag)
    assert storage.read_with_etag(location) == (content[::-1], replaced.etag)
    assert storage.write(location, content) == storage.stat(location)


def test_broken_upload_resumes_where_it_stopped(storage, folder, gate, tmp_path):
    content = os.urandom(LARGE)
    gate.keep_only("upload_id", 3 * MIB)
    info = storage.publish(_source(tmp_path, content), folder.join("x"))
    assert storage.read_with_etag(folder.join("x")) == (content, info.etag)
    ranges = [line.rpartition("bytes ")[2] for line in gate.requests if "upload_id" in line]
    assert ranges == [f"0-{LARGE - 1}/{LARGE}", f"*/{LARGE}", f"{3 * MIB}-{LARGE - 1}/{LARGE}"]


def test_upload_with_a_lost_response_is_not_sent_twice(proxied_storage, proxy, folder, tmp_path):
    content = os.urandom(LARGE)
    proxy.cut("^PUT .*upload_id")
    info = proxied_storage.publish(_source(tmp_path, content), folder.join("x"))
    assert info == proxied_storage.stat(folder.join("x"))
    assert len([line for line in proxy.requests if line.startswith("PUT ")]) == 2
    assert proxied_storage.read(folder.join("x")) == content


@pytest.mark.parametrize(("status", "message"), [(400, "HTTP 400"), (404, "gave up"), (410, "gave up")])
def test_failed_upload_leaves_nothing_behind(storage, folder, gate, tmp_path, status, message):
    source = _source(tmp_path, bytes(LARGE))
    gate.refuse("^PUT .*upload_id", status)
    with pytest.raises(StorageError, match=folder.join("x").uri) as raised:
        storage.publish(source, folder.join("x"))
    assert message in str(raised.value)
    assert raised.value.retryable
    assert gate.unfinished() == []
    assert list(storage.list(folder)) == []
    assert source.stat().st_size == LARGE


def test_failure_to_cancel_an_upload_is_logged(storage, folder, gate, tmp_path, caplog):
    gate.refuse("^PUT .*upload_id", 400)
    gate.refuse("^DELETE .*upload_id", 500)
    with pytest.raises(StorageError, match="x: "):
        storage.publish(_source(tmp_path, bytes(LARGE)), folder.join("x"))
    assert folder.join("x").uri in caplog.text
    assert "Could not cancel the upload" in caplog.text
    assert "(HTTP 500)" in caplog.text
    gate.sessions.clear()


@pytest.mark.parametrize("content", [b"some content", b"some content" * MIB])
def test_corrupted_upload_never_appears(storage, folder, gate, tmp_path, content):
    old = storage.write(folder.join("x"), b"old")
    source = _source(tmp_path, content)
    gate.corrupt("^PUT .*upload_id" if len(content) > LARGE else "^POST .*uploadType=multipart")
    with pytest.raises(StorageError, match=r"HTTP 400 \(Provided crc32c") as raised:
        storage.publish(source, folder.join("x"))
    assert raised.value.retryable
    assert list(storage.list(folder)) == [old]
    assert source.read_bytes() == content


def test_file_that_shrinks_while_being_sent_is_not_published(storage, folder, gate, tmp_path):
    source = _source(tmp_path, bytes(LARGE))
    gate.before("^POST .*uploadType=resumable", lambda: os.truncate(source, MIB))
    with pytest.raises(StorageError, match="became shorter"):
        storage.publish(source, folder.join("x"))
    assert gate.unfinished() == []
    assert list(storage.list(folder)) == []


# ---- downloads


def test_generations_never_mix(storage, folder, tmp_path):
    old = storage.write(folder.join("x"), b"a" * LARGE)
    storage.write(folder.join("x"), b"b" * LARGE)
    with pytest.raises(ObjectChangedError):
        storage.fetch(old, tmp_path / "fetched")
    assert list(tmp_path.iterdir()) == []


def test_broken_download_resumes_where_it_stopped(proxied_storage, proxy, folder, tmp_path):
    content = os.urandom(4 * MIB)
    info = proxied_storage.write(folder.join("x"), content)
    proxy.cut("^GET ", after_bytes=MIB, times=2)
    assert proxied_storage.fetch(info, tmp_path / "fetched").read_bytes() == content
    assert len([line for line in proxy.requests if line.startswith("GET ")]) == 3


def test_object_that_changes_before_a_download_resumes_is_not_fetched(
    storage, proxied_storage, proxy, gate, folder, tmp_path
):
    info = storage.write(folder.join("x"), os.urandom(4 * MIB))
    proxy.cut("^GET ", after_bytes=MIB)
    gate.before("^GET ", lambda: None)
    gate.before("^GET ", lambda: storage.write(info.location, os.urandom(4 * MIB)))
    with pytest.raises(ObjectChangedError):
        proxied_storage.fetch(info, tmp_path / "fetched")
    assert list(tmp_path.iterdir()) == []


def test_download_that_breaks_after_the_last_byte_is_complete(storage, gate, folder, tmp_path):
    content = os.urandom(2 * MIB)
    info = storage.write(folder.join("x"), content)
    for get in (
        lambda: storage.read(info.location),
        lambda: storage.fetch(info, tmp_path / "fetched").read_bytes(),
    ):
        gate.hang_up("^GET /download")
        assert get() == content


@pytest.mark.parametrize("breaks", [0, 1])
def test_corrupted_download_is_not_fetched(proxied_storage, proxy, gate, folder, tmp_path, breaks):
    """Even if the download resumed after a break, where Google's library verifies nothing."""
    info = proxied_storage.write(folder.join("x"), os.urandom(4 * MIB))
    proxy.cut("^GET ", after_bytes=MIB, times=breaks)
    if breaks:
        gate.before("^GET /download", lambda: None)
    gate.corrupt("^GET /download")
    with pytest.raises(StorageError, match=info.location.uri) as raised:
        proxied_storage.fetch(info, tmp_path / "fetched")
    assert "does not match its checksum" in str(raised.value)
    assert raised.value.retryable
    assert list(tmp_path.iterdir()) == []


def test_corrupted_read_is_an_error(storage, folder, gate):
    info = storage.write(folder.join("x"), b"content")
    gate.corrupt("^GET /download")
    with pytest.raises(StorageError, match=info.location.uri) as raised:
        storage.read(info.location)
    assert raised.value.retryable


def test_download_that_keeps_breaking_fails_and_leaves_nothing_behind(
    storage, proxied_storage, proxy, folder, tmp_path
):
    info = storage.write(folder.join("x"), os.urandom(8 * MIB))
    proxy.cut("^GET ", after_bytes=MIB, times=10)
    with pytest.raises(StorageError, match=info.location.uri) as raised:
        proxied_storage.fetch(info, tmp_path / "fetched")
    assert raised.value.retryable
    assert len([line for line in proxy.requests if line.startswith("GET ")]) == 5
    assert list(tmp_path.iterdir()) == []


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


def test_large_object_is_transferred_with_little_memory(gcs_server, folder, tmp_path):
    content = os.urandom(MIB) * 50
    source = _source(tmp_path, content)
    code = """
import sys, tracemalloc, pathlib
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage import open_storage
from airflow_batchexec.engine.storage.gcs.access import GcsAccess
key, endpoint, uri, source, fetched = sys.stdin.read().split("\\0")
location = Location.parse(uri)
storage = open_storage(location, gcs=GcsAccess(service_account_key=key, endpoint_url=endpoint))
storage.write(location, b"x")
tracemalloc.start()
info = storage.publish(pathlib.Path(source), location)
storage.fetch(info, pathlib.Path(fetched))
print(tracemalloc.get_traced_memory()[1])
"""
    given = [
        gcs_server.account.key,
        gcs_server.endpoint_url,
        folder.join("x").uri,
        source,
        tmp_path / "fetched",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="\0".join(map(str, given)),
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 8 * MIB
    assert (tmp_path / "fetched").read_bytes() == content


# ---- lost responses and busy servers


def test_write_with_a_lost_response_is_recognized_as_own(proxied_storage, proxy, folder):
    location = folder.join("lock")
    proxy.cut("^POST /upload")
    created = proxied_storage.create(location, b"owner 1")
    assert created == proxied_storage.stat(location)
    proxy.cut("^POST /upload")
    replaced = proxied_storage.replace(location, b"owner 2", etag=created.etag)
    assert proxied_storage.read_with_etag(location) == (b"owner 2", replaced.etag)
    proxy.cut("^DELETE ")
    proxied_storage.delete(location, etag=replaced.etag)
    assert list(proxied_storage.list(folder)) == []


def test_large_write_with_a_lost_response_is_recognized_as_own(proxied_storage, proxy, folder):
    location = folder.join("plan")
    content = os.urandom(LARGE)
    proxy.cut("^POST /upload")
    proxy.cut("^PUT .*upload_id")
    created = proxied_storage.create(location, content)
    assert proxied_storage.read_with_etag(location) == (content, created.etag)


def test_document_of_another_writer_is_not_mistaken_for_own(proxied_storage, storage, proxy, folder):
    other = storage.write(folder.join("lock"), b"owner 1")
    proxy.cut("^POST /upload", times=2)
    with pytest.raises(ObjectExistsError):
        proxied_storage.create(other.location, b"owner 2")
    proxy.cut("^POST /upload", times=2)
    with pytest.raises(ObjectChangedError):
        proxied_storage.replace(other.location, b"owner 2", etag="1")
    proxy.cut("^DELETE ")
    with pytest.raises(ObjectChangedError):
        proxied_storage.delete(other.location, etag="1")
    assert storage.read(other.location) == b"owner 1"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_requests_to_a_busy_server_are_retried(storage, folder, gate, status):
    location = folder.join("x")
    gate.refuse("^POST /upload", status, times=3)
    info = storage.create(location, b"x")
    gate.refuse("^GET ", status, times=3)
    assert storage.stat(location) == info
    gate.refuse("^GET ", status, times=3)
    assert storage.read(location) == b"x"
    gate.refuse("^DELETE ", status, times=3)
    storage.delete(location, etag=info.etag)
    assert list(storage.list(folder)) == []


def test_server_that_stays_busy_fails_with_a_retryable_error(storage, folder, gate):
    gate.refuse("^GET ", 429, times=5)
    with pytest.raises(StorageError, match=r"HTTP 429 \(Staged by the test\)\. Try again later") as raised:
        storage.stat(folder.join("x"))
    assert raised.value.retryable
    assert len(gate.requests) == 5
