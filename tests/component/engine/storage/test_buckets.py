from __future__ import annotations

import os
from contextlib import contextmanager

import pytest

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.buckets import byte_range, check_size, missing_bucket, read_pieces
from airflow_batchexec.engine.storage.disk import scratch, write_all
from airflow_batchexec.engine.storage.gcs.storage import connect as connect_gcs
from airflow_batchexec.engine.storage.s3.storage import connect as connect_s3
from airflow_batchexec.exceptions import LocationError, StorageError

PLACE = Location.parse("s3://bucket/folder/name")


@contextmanager
def opened(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("start", "end", "pieces"),
    [(0, 10, [b"0123", b"4567", b"89"]), (3, 7, [b"3456"]), (8, 10, [b"89"]), (5, 5, [])],
)
def test_a_part_of_a_file_is_read_in_pieces(tmp_path, start, end, pieces):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with opened(path) as source:
        assert list(read_pieces(source, start, end, PLACE, piece_bytes=4)) == pieces
        assert os.read(source, 10) == b"0123456789"


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with opened(path) as source:
        pieces = read_pieces(source, 0, 10, PLACE, piece_bytes=4)
        assert next(pieces) == b"0123"
        os.truncate(path, 4)
        with pytest.raises(StorageError, match="became shorter") as raised:
            next(pieces)
    assert raised.value.details == {"uri": PLACE.uri}


def test_another_size_than_expected_is_refused():
    check_size(PLACE, received=3, expected=3)
    with pytest.raises(StorageError, match="s3://bucket/folder/name gave 2 bytes, not 3"):
        check_size(PLACE, received=2, expected=3)


def test_a_range_ends_at_a_byte_or_with_the_object():
    assert byte_range(3, 7) == "bytes=3-7"
    assert byte_range(3, None) == "bytes=3-"


def test_a_missing_bucket_is_named():
    error = missing_bucket(PLACE)
    assert error.message == (
        "Cannot find s3://bucket/folder/name. There is no bucket 'bucket'; check its name and endpoint."
    )
    assert not error.retryable


@pytest.mark.parametrize(
    ("connect", "own", "other", "store"),
    [(connect_s3, "s3", "gs", "S3"), (connect_gcs, "gs", "s3", "Google Cloud Storage")],
)
def test_a_location_that_is_not_an_object_of_the_store_is_refused_without_a_request(
    tmp_path, connect, own, other, store
):
    storage = connect()
    path = tmp_path / "file"
    path.write_bytes(b"x")
    for uri, problem in ((f"{own}://b", "whole bucket"), (f"{other}://b/x", f"not lie in {store}")):
        location = Location.parse(uri)
        for operation in (
            lambda location=location: storage.stat(location),
            lambda location=location: storage.read(location),
            lambda location=location: storage.read(location, start=1, length=2),
            lambda location=location: storage.fetch(ObjectInfo(location, 1, "1"), tmp_path / "scratch"),
            lambda location=location: storage.publish(path, location),
            lambda location=location: storage.write(location, b""),
            lambda location=location: storage.create(location, b""),
            lambda location=location: storage.replace(location, b"", etag="1"),
            lambda location=location: storage.delete(location),
        ):
            with pytest.raises(LocationError, match=problem):
                operation()
    with pytest.raises(LocationError, match=f"not lie in {store}"):
        list(storage.list(Location.parse(f"{other}://b")))


def test_bytes_are_written_at_a_position_or_one_after_the_other(tmp_path):
    path = tmp_path / "file"
    with scratch(path) as descriptor:
        write_all(descriptor, b"56789", 5)
        write_all(descriptor, b"01")
        write_all(descriptor, b"234")
    assert path.read_bytes() == b"0123456789"


def test_a_scratch_file_begins_empty_and_is_removed_on_failure(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"from an earlier attempt")
    with scratch(path):
        assert path.read_bytes() == b""
    assert path.exists()
    with pytest.raises(KeyboardInterrupt), scratch(path):
        raise KeyboardInterrupt
    assert not path.exists()
