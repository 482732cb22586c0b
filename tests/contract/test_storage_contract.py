"""The storage contract; each test runs against every storage."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_batchexec.engine.config.locations import Location, Scheme
from airflow_batchexec.exceptions import (
    LocationError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
)

MIB = 1024 * 1024
ODD_NAMES = [
    "with space.csv",
    " leading and trailing ",
    "a+b=c&d.csv",
    "100%.csv",
    "%41%2F.csv",
    "year=2013/month=01/day=1.csv",
    "Zürich/日本 😀.csv",
    "e\u0301-decomposed.csv",
    "quotes'\"<>*?#;,@!$(){}[]^`|~.csv",
    "back\\slash.csv",
    ".hidden",
    "_SUCCESS",
    "no suffix",
    "-dash",
]


def test_a_missing_folder_lists_nothing(place):
    assert place.names() == []
    place.put("other/x")
    assert place.names(place.folder.join("missing")) == []


def test_a_folder_lists_everything_below_it_sorted_by_key_and_nothing_else(place):
    inside = [
        "b.csv",
        "a/x.csv",
        "a-b.csv",
        "a.csv",
        "a/b/c/deep.csv",
        "é.csv",
        "Z.csv",
        ".hidden",
        "a/b-c",
        "10",
        "9",
    ]
    for name in inside:
        place.put(f"in/{name}")
    for name in ("in-other/x.csv", "in.csv", "im/x.csv", "io/x.csv"):
        place.put(name)

    listed = list(place.storage.list(place.folder.join("in")))

    keys = [info.location.key for info in listed]
    assert keys == sorted(place.folder.join(f"in/{name}").key for name in inside)


def test_list_agrees_with_stat_and_write(place):
    written = [place.put("a", b"1"), place.put("b/c", b""), place.put("d", b"x" * 1000)]
    assert list(place.storage.list(place.folder)) == written
    assert [place.storage.stat(info.location) for info in written] == written
    assert [info.size_bytes for info in written] == [1, 0, 1000]


def test_listing_an_objects_location_returns_that_object_only(place):
    info = place.put("x.csv")
    place.put("x.csv.bak")
    place.put("x")
    assert list(place.storage.list(info.location)) == [info]
    assert place.names(place.folder.join("x.cs")) == []


def test_stat_and_read_refuse_a_missing_object(place):
    place.put("folder/x", b"1")
    for name in ("missing", "folder", "folder/x/below", "folder/missing/x"):
        location = place.folder.join(name)
        for operation in (place.storage.stat, place.storage.read, place.storage.read_with_etag):
            with pytest.raises(ObjectNotFoundError) as refused:
                operation(location)
            assert location.key in str(refused.value)
            assert not refused.value.retryable


def test_an_object_is_read_whole_or_in_ranges(place):
    info = place.put("x", b"0123456789")
    read = place.storage.read
    assert read(info.location) == b"0123456789"
    assert read(info.location, start=3) == b"3456789"
    assert read(info.location, length=4) == b"0123"
    assert read(info.location, start=8, length=1) == b"8"
    assert read(info.location, start=8, length=10) == b"89"
    assert read(info.location, start=2, length=0) == b""
    assert read(info.location, start=10) == b""
    assert read(info.location, start=100, length=5) == b""


def test_an_empty_object_is_read_and_fetched(place):
    info = place.put("empty", b"")
    assert place.storage.read(info.location) == b""
    assert place.storage.read(info.location, start=0, length=5) == b""
    assert place.storage.fetch(info, place.scratch / "x").read_bytes() == b""


def test_content_and_etag_are_read_consistently(place):
    first = place.put("x", b"one")
    assert place.storage.read_with_etag(first.location) == (b"one", first.etag)
    second = place.put("x", b"two")
    assert place.storage.read_with_etag(first.location) == (b"two", second.etag)


def test_the_etag_changes_whenever_the_content_does(place):
    etags = {place.put("x", f"{number:03}".encode()).etag for number in range(50)}
    assert len(etags) == 50


def test_the_etag_changes_when_an_object_is_deleted_and_recreated(place):
    etags = set()
    for number in range(20):
        info = place.storage.create(place.folder.join("x"), f"{number:03}".encode())
        etags.add(info.etag)
        place.storage.delete(info.location, etag=info.etag)
    assert len(etags) == 20


def test_a_listed_object_is_fetched(place):
    place.put("x", b"content")
    (info,) = place.storage.list(place.folder)
    path = place.storage.fetch(info, place.scratch / "fetched")
    assert path.read_bytes() == b"content"
    assert place.storage.read(info.location) == b"content"


def test_an_object_that_changed_since_it_was_listed_is_not_fetched(place):
    info = place.put("x", b"old")
    place.put("x", b"new")
    with pytest.raises(ObjectChangedError) as refused:
        place.storage.fetch(info, place.scratch / "fetched")
    assert info.location.uri in str(refused.value)
    assert list(place.scratch.iterdir()) == []


def test_an_object_that_was_deleted_since_it_was_listed_is_not_fetched(place):
    info = place.put("x", b"old")
    place.storage.delete(info.location)
    with pytest.raises(ObjectNotFoundError) as refused:
        place.storage.fetch(info, place.scratch / "fetched")
    assert info.location.uri in str(refused.value)
    assert list(place.scratch.iterdir()) == []


def test_publishing_creates_folders_consumes_the_file_and_returns_the_objects_info(place):
    path = place.source(b"result")
    location = place.folder.join("a/b/c/result.csv")
    info = place.storage.publish(path, location)
    assert not path.exists()
    assert info == place.storage.stat(location)
    assert info.size_bytes == 6
    assert place.storage.read(location) == b"result"
    assert place.names() == ["a/b/c/result.csv"]


def test_publishing_replaces_an_existing_object(place):
    old = place.put("result.csv", b"a longer old result")
    new = place.storage.publish(place.source(b"new"), old.location)
    assert new.etag != old.etag
    assert place.storage.read(old.location) == b"new"
    assert place.names() == ["result.csv"]


def test_an_empty_file_is_published(place):
    info = place.storage.publish(place.source(b""), place.folder.join("empty"))
    assert info == place.storage.stat(info.location)
    assert info.size_bytes == 0


def test_only_a_regular_file_is_published(place):
    secret = place.source(b"secret")
    link = place.scratch / "link"
    link.symlink_to(secret)
    for path in (link, place.scratch, place.scratch / "missing"):
        with pytest.raises(ObjectNotFoundError, match=str(path)):
            place.storage.publish(path, place.folder.join("result"))
    assert place.names() == []
    assert secret.read_bytes() == b"secret"


def test_a_reader_never_sees_a_partial_or_missing_result(place):
    location = place.folder.join("result")
    contents = [bytes([65 + number % 26]) * (200_000 + number) for number in range(50)]
    place.storage.publish(place.source(contents[0]), location)
    done = threading.Event()
    started = threading.Event()

    def poll():
        seen = []
        while not done.is_set():
            seen.append(place.storage.read(location))
            started.set()
        return seen

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(poll)
        try:
            assert started.wait(120)
            for content in contents[1:]:
                place.storage.publish(place.source(content), location)
        finally:
            done.set()
        assert set(reader.result()) <= set(contents)
    assert place.storage.read(location) == contents[-1]


def test_a_document_is_created(place):
    info = place.storage.create(place.folder.join("a/lock"), b"owner")
    assert info == place.storage.stat(info.location)
    assert place.storage.read(info.location) == b"owner"


def test_a_document_is_not_created_if_it_already_exists(place):
    first = place.put("lock", b"owner")
    with pytest.raises(ObjectExistsError) as refused:
        place.storage.create(first.location, b"other")
    assert first.location.uri in str(refused.value)
    assert place.storage.read_with_etag(first.location) == (b"owner", first.etag)
    assert place.names() == ["lock"]


def test_only_one_of_many_concurrent_creates_succeeds(place):
    location = place.folder.join("locks/lock")
    winners = _race(
        16, lambda number: place.storage.create(location, f"owner {number}".encode()), ObjectExistsError
    )
    ((number, info),) = winners
    assert place.storage.read_with_etag(location) == (f"owner {number}".encode(), info.etag)
    assert place.names() == ["locks/lock"]


def test_a_document_is_replaced_only_if_its_etag_matches(place):
    first = place.put("x", b"first")
    second = place.storage.replace(first.location, b"second", etag=first.etag)
    assert second == place.storage.stat(first.location)
    with pytest.raises(ObjectChangedError) as refused:
        place.storage.replace(first.location, b"third", etag=first.etag)
    assert first.location.uri in str(refused.value)
    assert place.storage.read(first.location) == b"second"
    assert place.names() == ["x"]


def test_a_missing_document_is_not_replaced(place):
    info = place.put("x", b"first")
    place.storage.delete(info.location)
    for location in (info.location, place.folder.join("missing/x")):
        with pytest.raises(ObjectChangedError):
            place.storage.replace(location, b"second", etag=info.etag)
    assert place.names() == []


def test_only_one_of_many_concurrent_replaces_succeeds(place):
    first = place.put("x", b"first")
    winners = _race(
        16,
        lambda number: place.storage.replace(first.location, f"owner {number}".encode(), etag=first.etag),
        ObjectChangedError,
    )
    ((number, info),) = winners
    assert place.storage.read_with_etag(first.location) == (f"owner {number}".encode(), info.etag)
    assert place.names() == ["x"]


def test_no_update_is_lost_among_concurrent_read_and_replace_loops(place):
    location = place.put("count", b"0").location

    def add(_number):
        for _ in range(5):
            while True:
                data, etag = place.storage.read_with_etag(location)
                try:
                    place.storage.replace(location, str(int(data) + 1).encode(), etag=etag)
                    break
                except ObjectChangedError:
                    continue

    _race(6, add, ())
    assert place.storage.read(location) == b"30"


def test_an_object_is_deleted_and_deleting_a_missing_one_is_not_an_error(place):
    info = place.put("a/x")
    place.storage.delete(info.location)
    assert place.names() == []
    place.storage.delete(info.location)
    place.storage.delete(info.location, etag=info.etag)
    place.storage.delete(place.folder.join("missing/folder/x"))
    place.storage.delete(place.folder.join("missing/folder/x"), etag="any")


def test_deleting_a_folder_leaves_its_contents(place):
    info = place.put("a/x")
    place.storage.delete(place.folder.join("a"))
    assert list(place.storage.list(place.folder)) == [info]


def test_an_object_is_deleted_only_if_its_etag_matches(place):
    old = place.put("x", b"old")
    new = place.put("x", b"new")
    with pytest.raises(ObjectChangedError) as refused:
        place.storage.delete(old.location, etag=old.etag)
    assert old.location.uri in str(refused.value)
    assert place.storage.read(old.location) == b"new"
    place.storage.delete(new.location, etag=new.etag)
    assert place.names() == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_object_names_are_preserved(place, name):
    location = place.folder.join(name)
    info = place.storage.publish(place.source(b"odd"), location)
    assert list(place.storage.list(place.folder)) == [info]
    assert info == place.storage.stat(location)
    assert place.storage.read(location) == b"odd"
    assert place.storage.fetch(info, place.scratch / "x").read_bytes() == b"odd"
    replaced = place.storage.replace(location, b"even", etag=info.etag)
    place.storage.delete(location, etag=replaced.etag)
    assert place.names() == []


def test_a_large_object_round_trips(place):
    content = os.urandom(MIB) * 20 + b"the end"
    info = place.storage.publish(place.source(content), place.folder.join("large"))
    assert info == place.storage.stat(info.location)
    assert info.size_bytes == len(content)
    path = place.storage.fetch(info, place.scratch / "fetched")
    assert path.read_bytes() == content
    assert place.storage.read(info.location, start=20 * MIB) == b"the end"


def test_a_storage_with_a_staging_folder_publishes_by_rename(place):
    staging = place.storage.staging(place.folder)
    if staging is None:
        assert place.folder.scheme is not Scheme.FILE
        return
    staging.mkdir(parents=True)
    path = staging / "result"
    path.write_bytes(b"result")
    inode = path.stat().st_ino
    info = place.storage.publish(path, place.folder.join("out/result"))
    assert info.location.path.stat().st_ino == inode


def test_a_location_of_another_storage_is_refused(place):
    other = Location.parse("s3://bucket/x" if place.folder.scheme is Scheme.GS else "gs://bucket/x")
    for operation in (place.storage.stat, place.storage.read, place.storage.delete):
        with pytest.raises(LocationError, match=other.uri):
            operation(other)
    with pytest.raises(LocationError, match=other.uri):
        list(place.storage.list(other))


def _race(runners, act, losing):
    """Run ``act`` concurrently in all runners; return the results of those that did not raise ``losing``."""
    start = threading.Barrier(runners)

    def run(number):
        start.wait(120)
        try:
            return number, act(number)
        except losing:
            return None

    with ThreadPoolExecutor(runners) as pool:
        return [result for result in pool.map(run, range(runners)) if result is not None]
