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

LOCATION = Location.parse("s3://bucket/folder/name")


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
def test_range_of_a_file_is_read_in_pieces(tmp_path, start, end, pieces):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with opened(path) as source:
        assert list(read_pieces(source, start, end, LOCATION, piece_bytes=4)) == pieces
        assert os.read(source, 10) == b"0123456789"


def test_file_that_shrinks_while_being_read_is_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with opened(path) as source:
        pieces = read_pieces(source, 0, 10, LOCATION, piece_bytes=4)
        assert next(pieces) == b"0123"
        os.truncate(path, 4)
        with pytest.raises(StorageError, match="became shorter") as raised:
            next(pieces)
    assert raised.value.details == {"uri": LOCATION.uri}


def test_unexpected_size_is_an_error():
    check_size(LOCATION, received=3, expected=3)
    with pytest.raises(StorageError, match="s3://bucket/folder/name returned 2 bytes, expected 3"):
        check_size(LOCATION, received=2, expected=3)


def test_byte_range_ends_at_a_byte_or_with_the_object():
    assert byte_range(3, 7) == "bytes=3-7"
    assert byte_range(3, None) == "bytes=3-"


def test_missing_bucket_is_named():
    error = missing_bucket(LOCATION)
    assert error.message == (
        "Cannot find s3://bucket/folder/name. Bucket 'bucket' does not exist; check its name and the endpoint."
    )
    assert not error.retryable


@pytest.mark.parametrize(
    ("connect", "own", "other", "store"),
    [(connect_s3, "s3", "gs", "S3"), (connect_gcs, "gs", "s3", "Google Cloud Storage")],
)
def test_location_that_is_not_an_object_of_the_store_is_rejected_without_a_request(
    tmp_path, connect, own, other, store
):
    storage = connect()
    path = tmp_path / "file"
    path.write_bytes(b"x")
    for uri, problem in ((f"{own}://b", "whole bucket"), (f"{other}://b/x", f"is not in {store}")):
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
    with pytest.raises(LocationError, match=f"is not in {store}"):
        list(storage.list(Location.parse(f"{other}://b")))


def test_write_all_writes_at_a_position_or_sequentially(tmp_path):
    path = tmp_path / "file"
    with scratch(path) as descriptor:
        write_all(descriptor, b"56789", 5)
        write_all(descriptor, b"01")
        write_all(descriptor, b"234")
    assert path.read_bytes() == b"0123456789"


def test_scratch_file_starts_empty_and_is_removed_on_failure(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"from an earlier attempt")
    with scratch(path):
        assert path.read_bytes() == b""
    assert path.exists()
    with pytest.raises(KeyboardInterrupt), scratch(path):
        raise KeyboardInterrupt
    assert not path.exists()
