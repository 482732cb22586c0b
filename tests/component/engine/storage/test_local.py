"""Behavior specific to the local disk; ``tests/contract`` covers what all storages share."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_batchexec.engine.config.locations import Location, Scheme
from airflow_batchexec.engine.storage import disk
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import (
    AccessDeniedError,
    DiskFullError,
    LocationError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)

not_root = pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not apply to root")
COUNT_UP = """
import sys
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import ObjectChangedError
storage, location = LocalStorage(), Location.parse(sys.argv[1])
for _ in range(50):
    while True:
        data, etag = storage.read_with_etag(location)
        try:
            storage.replace(location, str(int(data) + 1).encode(), etag=etag)
            break
        except ObjectChangedError:
            pass
"""
KILLED = """
import os
import signal
import sys
from pathlib import Path
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage.local import LocalStorage
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
method, step, uri, result = sys.argv[1:]
storage, location = LocalStorage(), Location.parse(uri)
etag = storage.stat(location).etag if method == "replace" else ""
rename = os.replace
if method == "publish":
    def other_disk(source, target):
        if source == Path(result):
            raise OSError(18, "Invalid cross-device link")
        kill() if step == "replace" else rename(source, target)
    os.replace = other_disk
if (method, step) != ("publish", "replace"):
    setattr(os, step, kill)
more = {"replace": {"etag": etag}}.get(method, {})
storage.publish(Path(result), location) if method == "publish" else getattr(storage, method)(location, b"new", **more)
"""


@pytest.fixture
def storage():
    return LocalStorage()


@pytest.fixture
def folder(tmp_path):
    return Location.of_path(tmp_path / "stored")


@contextmanager
def _max_file_size(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def other_disk():
    """A folder on a different file system than temporary files."""
    shared_memory = Path("/dev/shm")
    if not os.access(shared_memory, os.W_OK):
        pytest.skip("needs a second writable file system")
    folder = Path(tempfile.mkdtemp(dir=shared_memory))
    yield folder
    shutil.rmtree(folder)


def _names(storage, folder):
    return [folder.relative(info.location) for info in storage.list(folder)]


def _on_disk(folder):
    return sorted(path.name for path in folder.path.iterdir())


def test_links_to_files_and_folders_are_followed_but_loops_are_not(storage, folder, tmp_path):
    storage.write(folder.join("a/x"), b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y").write_bytes(b"yy")
    here = folder.path
    (here / "file-link").symlink_to(tmp_path / "elsewhere" / "y")
    (here / "folder-link").symlink_to(tmp_path / "elsewhere")
    (here / "a" / "up").symlink_to(here)
    (here / "itself").symlink_to(here / "itself")
    (here / "nowhere").symlink_to(here / "missing")

    assert _names(storage, folder) == ["a/x", "file-link", "folder-link/y"]
    info = storage.stat(folder.join("file-link"))
    assert info.size_bytes == 2
    assert storage.fetch(info, tmp_path / "scratch").read_bytes() == b"yy"


def test_only_regular_files_are_objects(storage, folder, tmp_path):
    storage.write(folder.join("x"), b"x")
    os.mkfifo(folder.path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder.path / "socket"))
        assert _names(storage, folder) == ["x"]
        for name in ("fifo", "socket"):
            with pytest.raises(ObjectNotFoundError):
                storage.stat(folder.join(name))
    with pytest.raises(ObjectNotFoundError, match="not a regular file"):
        storage.read(folder.join("fifo"))


def test_listing_includes_hidden_files_but_not_files_being_written(storage, folder, monkeypatch):
    storage.write(folder.join(".hidden"), b"x")
    seen = []
    link = os.link

    def list_and_link(*names, **more):
        seen.append((_on_disk(folder), _names(storage, folder)))
        link(*names, **more)

    monkeypatch.setattr(os, "link", list_and_link)
    # As on a file system without unnamed files.
    monkeypatch.setattr(disk, "_O_TMPFILE", 0)
    storage.create(folder.join("lock"), b"x")

    ((on_disk, listed),) = seen
    assert len(on_disk) == 2
    assert listed == [".hidden"]
    assert _on_disk(folder) == [".hidden", "lock"]


# ``link`` and ``replace`` are the last steps; neither may be visible half done.
@pytest.mark.parametrize(
    ("method", "step"),
    [
        *(("create", step) for step in ("write", "utime", "fsync", "link")),
        *(
            (method, step)
            for method in ("write", "replace")
            for step in ("write", "utime", "fsync", "link", "replace")
        ),
        *(("publish", step) for step in ("link", "replace")),
    ],
)
def test_process_killed_while_writing_leaves_existing_content(storage, folder, tmp_path, method, step):
    folder.path.mkdir()
    if method == "replace":
        storage.write(folder.join("document"), b"old")
    result = tmp_path / "result"
    result.write_bytes(b"new")
    program = [sys.executable, "-c", KILLED, method, step, folder.join("document").uri, result]

    assert subprocess.run(program, check=False).returncode == -signal.SIGKILL

    expected = {"document": b"old"} if method == "replace" else {}
    found = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    if step == "replace":
        # A complete replacement file, which the next process to write in this folder removes.
        (leftover,) = found.keys() - expected.keys()
        assert found.pop(leftover) == b"new"
    assert found == expected
    assert _names(storage, folder) == list(expected)
    storage.write(folder.join("next"), b"next")
    assert _on_disk(folder) == sorted([*expected, "next"])


def test_non_unicode_name_is_listed_but_is_not_a_relative_path(storage, folder, tmp_path):
    folder.path.mkdir()
    Path(os.fsdecode(os.fsencode(folder.path) + b"/caf\xe9.csv")).write_bytes(b"x")
    (info,) = storage.list(folder)
    assert storage.fetch(info, tmp_path / "scratch").read_bytes() == b"x"
    with pytest.raises(LocationError, match="Unicode"):
        folder.join(folder.relative(info.location))


def test_fetched_file_is_used_in_place(storage, folder, tmp_path):
    info = storage.write(folder.join("x"), b"x")
    assert storage.fetch(info, tmp_path / "scratch") == folder.path / "x"
    assert not (tmp_path / "scratch").exists()


def test_result_is_copied_across_file_systems(storage, folder, other_disk):
    source = other_disk / "result"
    source.write_bytes(b"result" * 1000)
    if other_disk.stat().st_dev == folder.path.parent.stat().st_dev:
        pytest.skip("needs a second file system")
    info = storage.publish(source, folder.join("result"))
    assert info == storage.stat(info.location)
    assert storage.read(info.location) == b"result" * 1000
    assert _on_disk(folder) == ["result"]
    assert not source.exists()


def test_copy_to_a_full_disk_leaves_nothing_behind_and_keeps_the_source(storage, folder, other_disk):
    old = storage.write(folder.join("result"), b"old")
    source = other_disk / "result"
    source.write_bytes(bytes(100_000))
    if other_disk.stat().st_dev == folder.path.parent.stat().st_dev:
        pytest.skip("needs a second file system")
    with _max_file_size(50_000), pytest.raises(DiskFullError, match=old.location.uri) as raised:
        storage.publish(source, old.location)
    assert raised.value.retryable
    assert storage.read_with_etag(old.location) == (b"old", old.etag)
    assert _on_disk(folder) == ["result"]
    assert source.stat().st_size == 100_000


@pytest.mark.parametrize("method", ["write", "create", "replace"])
def test_document_write_to_a_full_disk_leaves_nothing_behind(storage, folder, method):
    old = storage.write(folder.join("x"), b"old")
    location = folder.join("new") if method == "create" else old.location
    condition = {"etag": old.etag} if method == "replace" else {}
    with _max_file_size(50_000), pytest.raises(DiskFullError, match=location.uri):
        getattr(storage, method)(location, bytes(100_000), **condition)
    assert _on_disk(folder) == ["x"]
    assert storage.read_with_etag(old.location) == (b"old", old.etag)


def test_file_in_place_of_a_folder_is_reported_and_kept(storage, folder, tmp_path):
    info = storage.write(folder.join("a"), b"a file")
    source = tmp_path / "source"
    source.write_bytes(b"result")
    for location in (folder.join("a/x"), folder.join("a/b/x")):
        for write in (
            lambda location=location: storage.publish(source, location),
            lambda location=location: storage.write(location, b"x"),
            lambda location=location: storage.create(location, b"x"),
        ):
            with pytest.raises(StorageError, match="is a file, not a folder") as raised:
                write()
            assert location.uri in str(raised.value)
        assert list(storage.list(location)) == []
    assert source.read_bytes() == b"result"
    assert list(storage.list(folder)) == [info]


def test_folder_in_place_of_a_file_is_reported_and_kept(storage, folder, tmp_path):
    info = storage.write(folder.join("a/x"), b"x")
    source = tmp_path / "source"
    source.write_bytes(b"result")
    with pytest.raises(StorageError, match="A folder with that name exists"):
        storage.publish(source, folder.join("a"))
    with pytest.raises(StorageError, match="A folder with that name exists"):
        storage.write(folder.join("a"), b"x")
    with pytest.raises(ObjectExistsError):
        storage.create(folder.join("a"), b"x")
    assert source.exists()
    assert list(storage.list(folder)) == [info]


@not_root
def test_unwritable_folder_is_reported(storage, folder):
    info = storage.write(folder.join("x"), b"x")
    folder.path.chmod(0o500)
    try:
        for write in (
            lambda: storage.write(folder.join("y"), b"x"),
            lambda: storage.create(folder.join("y"), b"x"),
            lambda: storage.write(folder.join("new/y"), b"x"),
            lambda: storage.replace(info.location, b"y", etag=info.etag),
            lambda: storage.delete(info.location),
        ):
            with pytest.raises(AccessDeniedError, match=folder.uri):
                write()
    finally:
        folder.path.chmod(0o700)
    assert list(storage.list(folder)) == [info]


@not_root
def test_unreadable_file_is_reported(storage, folder, tmp_path):
    info = storage.write(folder.join("x"), b"x")
    info.location.path.chmod(0)
    for read in (lambda: storage.read(info.location), lambda: storage.fetch(info, tmp_path / "scratch")):
        with pytest.raises(AccessDeniedError, match=info.location.uri):
            read()


def test_read_only_file_system_is_reported(storage, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    # No user, not even root, can create a file in a folder of /proc.
    location = Location(Scheme.FILE, "", "/proc/self/x")
    with pytest.raises(StorageError, match="file:///proc/self/x"):
        storage.write(location, b"x")
    with pytest.raises(StorageError, match="file:///proc/self/x"):
        storage.publish(source, location)
    assert source.exists()


def test_concurrent_processes_lose_no_update(storage, folder):
    location = storage.write(folder.join("count"), b"0").location
    processes = [subprocess.Popen([sys.executable, "-c", COUNT_UP, location.uri]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert storage.read(location) == b"150"
    assert _on_disk(folder) == ["count"]


def test_document_is_created_exclusively_without_hard_links(storage, folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    info = storage.create(folder.join("lock"), b"owner")
    assert storage.read_with_etag(info.location) == (b"owner", info.etag)
    with pytest.raises(ObjectExistsError, match=info.location.uri):
        storage.create(info.location, b"other")
    assert storage.read(info.location) == b"owner"
    assert _on_disk(folder) == ["lock"]


def test_staging_is_inside_the_folder(storage, folder):
    assert storage.staging(folder) == folder.path / "staging"
