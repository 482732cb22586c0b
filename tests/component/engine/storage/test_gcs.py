"""What only Google Cloud Storage can do or suffer; tests/contract holds what every storage does.

``gcs_gate`` says which of Google's doings are the tests' own, and so not shown here.
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
LARGE = 9 * MIB  # more than one request takes


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
def behind_proxy(gcs_server, proxy):
    return connect(GcsAccess(service_account_key=gcs_server.account.key, endpoint_url=proxy.endpoint_url))


@pytest.fixture
def without_credentials(monkeypatch, tmp_path):
    """A machine on which Google's default chain finds nothing."""
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
    """Every method, by name, on one location."""
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


def _everything_said(error):
    return "".join(traceback.format_exception(error)) + repr(getattr(error, "details", ""))


# ---- who asks


def test_an_account_without_a_permission_is_denied_everything(gcs_server, folder, tmp_path):
    key = gcs_server.denied.key
    storage = connect(GcsAccess(service_account_key=key, endpoint_url=gcs_server.endpoint_url))
    for error in _assert_all_raise(AccessDeniedError, storage, folder.join("x"), tmp_path):
        assert "HTTP 403" in str(error)


def test_a_wrong_key_is_denied_everything_and_told_nowhere(gcs_server, folder, tmp_path):
    key = gcs_server.stranger.key
    storage = connect(GcsAccess(service_account_key=key, endpoint_url=gcs_server.endpoint_url))
    secrets = [line for line in gcs_server.stranger.parts["private_key"].splitlines() if len(line) > 20]
    for error in _assert_all_raise(AccessDeniedError, storage, folder.join("x"), tmp_path):
        assert "Invalid JWT Signature" in str(error)
        assert not any(secret in _everything_said(error) for secret in secrets[1:-1])


def test_a_token_that_is_no_longer_good_is_replaced(gcs_server, storage, folder, tmp_path):
    """Also in the middle of a large upload, which is then sent again from its first byte."""
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


def test_no_credentials_anywhere_are_said_to_be_missing(gcs_server, folder, without_credentials, tmp_path):
    storage = connect(GcsAccess(endpoint_url=gcs_server.endpoint_url))
    for error in _assert_all_raise(AccessDeniedError, storage, folder.join("x"), tmp_path):
        assert "no usable credentials" in str(error)


def test_without_a_key_the_default_chain_finds_one(
    gcs_server, folder, without_credentials, monkeypatch, tmp_path
):
    path = tmp_path / "key.json"
    path.write_text(gcs_server.account.key)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    storage = open_storage(folder, gcs=GcsAccess(endpoint_url=gcs_server.endpoint_url))
    info = storage.write(folder.join("x"), b"x")
    assert list(storage.list(folder)) == [info]


def _changed(key, **parts):
    return json.dumps({name: value for name, value in {**json.loads(key), **parts}.items() if value})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda key: key[: len(key) // 2], "is no JSON object"),
        (lambda key: json.dumps([key]), "is no JSON object"),
        (lambda key: json.loads(key)["private_key"], "is no JSON object"),
        (lambda key: "[" * 100_000 + key, "is no JSON object"),
        (lambda key: _changed(key, type="authorized_user"), "is no key of a service account"),
        (lambda key: _changed(key, type=None), "is no key of a service account"),
        (lambda key: _changed(key, client_email=None), '"client_email"'),
        (lambda key: _changed(key, private_key=""), '"private_key"'),
        (lambda key: _changed(key, token_uri=7), '"token_uri"'),
        (lambda key: _changed(key, private_key="not a key"), '"private_key" that cannot be read'),
        (
            lambda key: _changed(key, private_key=json.loads(key)["private_key"].replace("A", "B")),
            '"private_key" that cannot be read',
        ),
    ],
)
def test_a_key_that_cannot_be_used_is_a_configuration_error_and_not_shown(gcs_server, spoil, reason):
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
def test_a_malformed_endpoint_is_a_configuration_error(url):
    with pytest.raises(ConfigurationError) as refused:
        GcsAccess(endpoint_url=url)
    assert refused.value.details["field"] == "endpoint_url"
    assert repr(url) in str(refused.value)


def test_what_opens_a_bucket_is_shown_without_its_key(gcs_server):
    shown = repr(GcsAccess(service_account_key=gcs_server.account.key, endpoint_url="http://server"))
    assert "http://server" in shown
    assert gcs_server.account.email not in shown
    assert "PRIVATE KEY" not in shown


# ---- what is not there


def test_a_missing_bucket_is_named_by_everything(storage, tmp_path):
    location = Location.parse("gs://there-is-no-such-bucket/in/x")
    for error in _assert_all_raise(BucketNotFoundError, storage, location, tmp_path):
        assert "'there-is-no-such-bucket'" in str(error)
        assert not error.retryable


def test_a_server_that_only_says_not_found_is_asked_for_the_bucket(gcs_server, folder):
    storage = connect(GcsAccess(service_account_key=gcs_server.account.key, endpoint_url=gcs_server.open_url))
    with pytest.raises(ObjectNotFoundError):
        storage.stat(folder.join("x"))
    location = Location.parse("gs://there-is-no-such-bucket/in/x")
    for ask in (storage.stat, storage.read, storage.delete):
        with pytest.raises(BucketNotFoundError, match="'there-is-no-such-bucket'"):
            ask(location)


def test_an_endpoint_that_nobody_listens_on_fails_soon_and_may_be_tried_again(
    gcs_server, folder, monkeypatch
):
    url = f"http://127.0.0.1:{free_port()}"
    without_tokens = _changed(gcs_server.account.key, token_uri=f"{url}/token")
    for key in (without_tokens, gcs_server.account.key):
        storage = connect(GcsAccess(service_account_key=key, endpoint_url=url))
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"Connection refused\. Check the endpoint") as raised:
            storage.stat(folder.join("x"))
        assert time.monotonic() - started < 60
        assert type(raised.value) is StorageError
        assert raised.value.retryable
        monkeypatch.undo()  # the second with the pauses that it has


# ---- names


def test_a_bucket_is_listed_whole_but_is_no_object(storage, folder):
    info = storage.write(folder.join("x"), b"x")
    assert list(storage.list(folder.parent)) == [info]
    with pytest.raises(LocationError, match="whole bucket"):
        storage.stat(folder.parent)


def test_markers_of_folders_are_not_listed_and_odd_keys_are(gcs_server, storage, folder):
    for key, data in (("in/", b""), ("in/a/", b""), ("in/a/x", b"x"), ("in/full/", b"x"), ("in//y", b"y")):
        gcs_server.put(folder.bucket, key, data)
    listed = list(storage.list(folder))
    assert [info.location.key for info in listed] == ["in//y", "in/a/x", "in/full/"]
    assert storage.read(listed[0].location) == b"y"


def test_a_folder_of_several_pages_is_listed_whole(storage, folder, gate, monkeypatch):
    monkeypatch.setattr(gcs, "_PAGE_OBJECTS", 2)
    written = [storage.write(folder.join(str(number)), b"x") for number in range(7)]
    gate.refuse("pageToken", 503, times=4)
    gate.before("pageToken", lambda: None)
    gate.refuse("pageToken", 503, times=4)  # each page is tried as often as an operation
    assert list(storage.list(folder)) == written
    assert len([line for line in gate.requests if "pageToken" in line]) == 3 + 4 + 4


@pytest.mark.parametrize("etag", ["0", "", "any", "-1", "1" * 5000, "²", "1.5"])
def test_an_etag_that_is_no_generation_fits_nothing(storage, folder, etag):
    info = storage.write(folder.join("x"), b"x")
    for location in (info.location, folder.join("missing")):
        with pytest.raises(ObjectChangedError):
            storage.replace(location, b"y", etag=etag)
    with pytest.raises(ObjectChangedError):
        storage.delete(info.location, etag=etag)
    storage.delete(folder.join("missing"), etag=etag)
    assert list(storage.list(folder)) == [info]


def test_an_object_is_read_as_it_is_stored(gcs_server, storage, folder, tmp_path):
    packed = gzip.compress(b"a\n1\n" * 100)
    gcs_server.put(folder.bucket, "in/x.csv", packed, contentEncoding="gzip")
    (info,) = storage.list(folder)
    assert info.size_bytes == len(packed)
    assert storage.read(info.location) == packed
    assert storage.fetch(info, tmp_path / "fetched").read_bytes() == packed


def test_nothing_is_asked_but_what_is_needed(access, gate, folder):
    """Nor in a thread: what a test finds here is what an account needs permission for."""
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
        f"GET {objects}",  # once: is there a bucket at all?
        f"GET {objects}/in%2Fx",
        f"GET {objects}/in%2Fx",
        f"POST /upload{objects}",
        f"GET /download{objects}/in%2Fx",
        f"DELETE {objects}/in%2Fx",
    ]


def test_a_token_for_another_server_is_not_shown_to_google(gcs_server, folder):
    """Google's library would, in a thread: here every thread has ended before it is looked."""
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
    with socket.create_server(("127.0.0.1", 0)) as way_out:
        environment = {**os.environ, "HTTPS_PROXY": f"http://127.0.0.1:{way_out.getsockname()[1]}"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            input="\0".join(given),
            env=environment,
            check=False,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0
        way_out.setblocking(False)
        with pytest.raises(BlockingIOError):
            way_out.accept()


# ---- large objects


def test_a_large_file_goes_in_one_request(storage, folder, gate, tmp_path):
    content = os.urandom(MIB) * 12 + b"the end"
    info = storage.publish(_source(tmp_path, content), folder.join("x"))
    assert info == storage.stat(info.location)
    assert storage.fetch(info, tmp_path / "fetched").read_bytes() == content
    sent = [line for line in gate.requests if "upload_id" in line]
    assert len(sent) == 1
    assert sent[0].endswith(f"bytes 0-{len(content) - 1}/{len(content)}")


def test_a_large_document_is_written_under_a_condition_too(storage, folder):
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


def test_an_upload_that_breaks_goes_on_where_it_broke(storage, folder, gate, tmp_path):
    content = os.urandom(LARGE)
    gate.keep_only("upload_id", 3 * MIB)
    info = storage.publish(_source(tmp_path, content), folder.join("x"))
    assert storage.read_with_etag(folder.join("x")) == (content, info.etag)
    ranges = [line.rpartition("bytes ")[2] for line in gate.requests if "upload_id" in line]
    assert ranges == [f"0-{LARGE - 1}/{LARGE}", f"*/{LARGE}", f"{3 * MIB}-{LARGE - 1}/{LARGE}"]


def test_an_upload_whose_answer_was_lost_is_not_sent_twice(behind_proxy, proxy, folder, tmp_path):
    content = os.urandom(LARGE)
    proxy.cut("^PUT .*upload_id")
    info = behind_proxy.publish(_source(tmp_path, content), folder.join("x"))
    assert info == behind_proxy.stat(folder.join("x"))
    assert len([line for line in proxy.requests if line.startswith("PUT ")]) == 2
    assert behind_proxy.read(folder.join("x")) == content


@pytest.mark.parametrize(
    ("status", "said"), [(400, "HTTP 400"), (404, "has given up"), (410, "has given up")]
)
def test_an_upload_that_fails_in_the_middle_leaves_nothing(storage, folder, gate, tmp_path, status, said):
    source = _source(tmp_path, bytes(LARGE))
    gate.refuse("^PUT .*upload_id", status)
    with pytest.raises(StorageError, match=folder.join("x").uri) as raised:
        storage.publish(source, folder.join("x"))
    assert said in str(raised.value)
    assert raised.value.retryable
    assert gate.unfinished() == []
    assert list(storage.list(folder)) == []
    assert source.stat().st_size == LARGE


def test_an_upload_that_cannot_be_taken_back_is_told_in_the_log(storage, folder, gate, tmp_path, caplog):
    gate.refuse("^PUT .*upload_id", 400)
    gate.refuse("^DELETE .*upload_id", 500)
    with pytest.raises(StorageError, match="x: "):
        storage.publish(_source(tmp_path, bytes(LARGE)), folder.join("x"))
    assert folder.join("x").uri in caplog.text
    assert "could not be cancelled (HTTP 500)" in caplog.text
    gate.sessions.clear()


@pytest.mark.parametrize("content", [b"some content", b"some content" * MIB])
def test_what_arrives_damaged_never_appears(storage, folder, gate, tmp_path, content):
    old = storage.write(folder.join("x"), b"old")
    source = _source(tmp_path, content)
    gate.corrupt("^PUT .*upload_id" if len(content) > LARGE else "^POST .*uploadType=multipart")
    with pytest.raises(StorageError, match=r"HTTP 400 \(Provided crc32c") as raised:
        storage.publish(source, folder.join("x"))
    assert raised.value.retryable
    assert list(storage.list(folder)) == [old]
    assert source.read_bytes() == content


def test_a_file_that_becomes_shorter_while_it_is_sent_is_not_published(storage, folder, gate, tmp_path):
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


def test_a_download_that_breaks_goes_on_where_it_broke(behind_proxy, proxy, folder, tmp_path):
    content = os.urandom(4 * MIB)
    info = behind_proxy.write(folder.join("x"), content)
    proxy.cut("^GET ", after_bytes=MIB, times=2)
    assert behind_proxy.fetch(info, tmp_path / "fetched").read_bytes() == content
    assert len([line for line in proxy.requests if line.startswith("GET ")]) == 3


def test_an_object_that_changes_while_its_download_is_broken_is_not_fetched(
    storage, behind_proxy, proxy, gate, folder, tmp_path
):
    info = storage.write(folder.join("x"), os.urandom(4 * MIB))
    proxy.cut("^GET ", after_bytes=MIB)
    gate.before("^GET ", lambda: None)
    gate.before("^GET ", lambda: storage.write(info.location, os.urandom(4 * MIB)))
    with pytest.raises(ObjectChangedError):
        behind_proxy.fetch(info, tmp_path / "fetched")
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_after_its_last_byte_is_whole(storage, gate, folder, tmp_path):
    content = os.urandom(2 * MIB)
    info = storage.write(folder.join("x"), content)
    for get in (
        lambda: storage.read(info.location),
        lambda: storage.fetch(info, tmp_path / "fetched").read_bytes(),
    ):
        gate.hang_up("^GET /download")
        assert get() == content


@pytest.mark.parametrize("breaks", [0, 1])
def test_what_comes_damaged_is_not_fetched(behind_proxy, proxy, gate, folder, tmp_path, breaks):
    """Nor where the download has gone on after a break, of which Google's library checks nothing."""
    info = behind_proxy.write(folder.join("x"), os.urandom(4 * MIB))
    proxy.cut("^GET ", after_bytes=MIB, times=breaks)
    if breaks:
        gate.before("^GET /download", lambda: None)
    gate.corrupt("^GET /download")
    with pytest.raises(StorageError, match=info.location.uri) as raised:
        behind_proxy.fetch(info, tmp_path / "fetched")
    assert "does not fit its checksum" in str(raised.value)
    assert raised.value.retryable
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_damaged_is_refused(storage, folder, gate):
    info = storage.write(folder.join("x"), b"content")
    gate.corrupt("^GET /download")
    with pytest.raises(StorageError, match=info.location.uri) as raised:
        storage.read(info.location)
    assert raised.value.retryable


def test_a_download_that_keeps_breaking_fails_and_leaves_nothing(
    storage, behind_proxy, proxy, folder, tmp_path
):
    info = storage.write(folder.join("x"), os.urandom(8 * MIB))
    proxy.cut("^GET ", after_bytes=MIB, times=10)
    with pytest.raises(StorageError, match=info.location.uri) as raised:
        behind_proxy.fetch(info, tmp_path / "fetched")
    assert raised.value.retryable
    assert len([line for line in proxy.requests if line.startswith("GET ")]) == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [MIB, 12 * MIB])
def test_a_full_scratch_disk_is_named_and_nothing_is_left(storage, folder, tmp_path, size):
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


def test_a_large_object_is_moved_through_little_memory(gcs_server, folder, tmp_path):
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


# ---- answers that are lost, and a server that is busy


def test_a_document_whose_answer_was_lost_is_known_to_be_ones_own(behind_proxy, proxy, folder):
    location = folder.join("lock")
    proxy.cut("^POST /upload")
    created = behind_proxy.create(location, b"owner 1")
    assert created == behind_proxy.stat(location)
    proxy.cut("^POST /upload")
    replaced = behind_proxy.replace(location, b"owner 2", etag=created.etag)
    assert behind_proxy.read_with_etag(location) == (b"owner 2", replaced.etag)
    proxy.cut("^DELETE ")
    behind_proxy.delete(location, etag=replaced.etag)
    assert list(behind_proxy.list(folder)) == []


def test_a_large_document_whose_answer_was_lost_is_known_to_be_ones_own(behind_proxy, proxy, folder):
    location = folder.join("plan")
    content = os.urandom(LARGE)
    proxy.cut("^POST /upload")
    proxy.cut("^PUT .*upload_id")
    created = behind_proxy.create(location, content)
    assert behind_proxy.read_with_etag(location) == (content, created.etag)


def test_a_document_of_somebody_else_is_not_taken_for_ones_own(behind_proxy, storage, proxy, folder):
    other = storage.write(folder.join("lock"), b"owner 1")
    proxy.cut("^POST /upload", times=2)
    with pytest.raises(ObjectExistsError):
        behind_proxy.create(other.location, b"owner 2")
    proxy.cut("^POST /upload", times=2)
    with pytest.raises(ObjectChangedError):
        behind_proxy.replace(other.location, b"owner 2", etag="1")
    proxy.cut("^DELETE ")
    with pytest.raises(ObjectChangedError):
        behind_proxy.delete(other.location, etag="1")
    assert storage.read(other.location) == b"owner 1"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(storage, folder, gate, status):
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


def test_a_server_that_stays_busy_is_given_up_and_may_be_tried_again(storage, folder, gate):
    gate.refuse("^GET ", 429, times=5)
    with pytest.raises(StorageError, match=r"HTTP 429 \(Staged by the test\)\. Try again later") as raised:
        storage.stat(folder.join("x"))
    assert raised.value.retryable
    assert len(gate.requests) == 5
