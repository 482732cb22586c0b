"""Objects in Google Cloud Storage.

Conditions are Google's own (``ifGenerationMatch``), so exactly one of several writers wins wherever they run.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from google.api_core.exceptions import (
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    RequestRangeNotSatisfiable,
)

from airflow_batchexec.engine.config.locations import Location, Scheme
from airflow_batchexec.engine.storage.base import ObjectInfo, Storage
from airflow_batchexec.engine.storage.disk import disk_errors, open_regular
from airflow_batchexec.engine.storage.gcs.access import GcsAccess
from airflow_batchexec.engine.storage.gcs.client import TIMEOUT, Attempts, GcsConnection
from airflow_batchexec.engine.storage.gcs.download import Download, fetch
from airflow_batchexec.engine.storage.gcs.errors import gcs_errors
from airflow_batchexec.engine.storage.gcs.upload import put, upload
from airflow_batchexec.exceptions import (
    BucketNotFoundError,
    LocationError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["GcsStorage", "connect"]

_LISTED = "items(name,size,generation),nextPageToken"
_PAGE_OBJECTS = 1000
_ABSENT = 0
_GENERATION = re.compile(r"[0-9]{1,19}")
# Generations are microseconds of this century. An etag that is none of Google's matches this one: no object.
_NO_GENERATION = 1
_MOST_GENERATION = 2**63 - 1


def connect(access: GcsAccess | None = None) -> GcsStorage:
    """Open Google Cloud Storage. No request is made yet, and without a key no credentials are looked for.

    Raises:
        ConfigurationError: The key cannot be used.
    """
    return GcsStorage(connection=GcsConnection(access or GcsAccess()))


class GcsStorage(Storage):
    """``gs://`` locations. An etag is an object's generation, which every write makes anew.

    Objects are read as they are stored: one that was uploaded with ``Content-Encoding: gzip`` is not unpacked.

    Args:
        connection: The way to Google. It is shared by all threads.
    """

    def __init__(self, *, connection: GcsConnection) -> None:
        self._connection = connection
        self._seen_buckets: set[str] = set()

    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        """Objects below ``folder/``; the empty ones that only stand for a folder are left out.

        A key is listed as it is stored, also where it is no normal path (``a//b``, ``a/../b``).
        """
        bucket, key = _bucket(folder), folder.key
        with gcs_errors("list", folder, absent=BucketNotFoundError):
            if key:
                # A key sorts before all that it is a prefix of, so one entry tells whether it is an object.
                first = next(self._entries(bucket, key, most=1), None)
                if first is not None and first.name == key:
                    yield _info(folder, first)
                    return
            for blob in self._entries(bucket, f"{key}/" if key else ""):
                if blob.size or not blob.name.endswith("/"):
                    yield _info(Location(Scheme.GS, bucket, blob.name), blob)

    def stat(self, location: Location) -> ObjectInfo:
        """The object as Google knows it now."""
        with gcs_errors("look at", location):
            blob = self._blob(location)
            try:
                blob.reload(timeout=TIMEOUT, retry=Attempts().policy)
            except NotFound as error:
                self._check_bucket(error, location)
                raise
            return _info(location, blob)

    def read(self, location: Location, *, start: int = 0, length: int | None = None) -> bytes:
        """The content, or a range of it; what lies beyond the end is empty."""
        if start == 0 and length is None:
            return self.read_with_etag(location)[0]
        if length == 0:
            self.stat(location)
            return b""
        return self._read(location, first=start, last=None if length is None else start + length - 1)[0]

    def read_with_etag(self, location: Location) -> tuple[bytes, str]:
        """The content and the generation of one answer."""
        return self._read(location)

    def fetch(self, info: ObjectInfo, scratch_file: Path) -> Path:
        """A download of the generation that was listed."""
        location = info.location
        _address(location)
        with (
            disk_errors(f"write {scratch_file} for", location.uri),
            gcs_errors("fetch", location, refused=ObjectChangedError),
        ):
            try:
                fetch(self._connection, info, _generation(info.etag), scratch_file)
            except NotFound as error:
                self._check_bucket(error, location)
                raise
        return scratch_file

    def publish(self, path: Path, location: Location) -> ObjectInfo:
        """One request with a checksum, or a resumable upload that is cancelled on any failure."""
        _address(location)
        with (
            disk_errors(f"publish {path} as", location.uri),
            open_regular(path, follow_links=False) as source,
            gcs_errors("publish", location, absent=BucketNotFoundError),
        ):
            info = upload(self._connection, source.fileno(), location)
            path.unlink()
        return info

    def write(self, location: Location, data: bytes) -> ObjectInfo:
        """One request with a checksum."""
        _address(location)
        with gcs_errors("write", location, absent=BucketNotFoundError):
            return put(self._connection, location, data, attempts=Attempts())

    def create(self, location: Location, data: bytes) -> ObjectInfo:
        """A write that Google refuses where there is an object."""
        with gcs_errors("create", location, absent=BucketNotFoundError, refused=ObjectExistsError):
            return self._put_instead_of(_ABSENT, location, data)

    def replace(self, location: Location, data: bytes, *, etag: str) -> ObjectInfo:
        """A write that Google refuses where there is another generation."""
        with gcs_errors("replace", location, absent=BucketNotFoundError, refused=ObjectChangedError):
            return self._put_instead_of(_generation(etag), location, data)

    def delete(self, location: Location, *, etag: str | None = None) -> None:
        """With an etag: a deletion that Google refuses where there is another generation."""
        with gcs_errors("delete", location, refused=ObjectChangedError):
            try:
                self._blob(location).delete(
                    if_generation_match=None if etag is None else _generation(etag),
                    timeout=TIMEOUT,
                    retry=Attempts().policy,
                )
            except NotFound as error:
                self._check_bucket(error, location)
            except PreconditionFailed:
                with suppress(ObjectNotFoundError):
                    self.stat(location)
                    raise

    def staging(self, folder: Location) -> Path | None:  # noqa: ARG002  no folder of this machine is in a bucket
        """Nowhere."""
        return None

    def _blob(self, location: Location) -> Any:
        bucket, key = _address(location)
        return self._connection.client.bucket(bucket).blob(key)

    def _entries(self, bucket: str, prefix: str, *, most: int | None = None) -> Iterator[Any]:
        attempts = Attempts()
        listing = self._connection.client.list_blobs(
            bucket,
            prefix=prefix,
            max_results=most,
            page_size=_PAGE_OBJECTS,
            fields=_LISTED,
            timeout=TIMEOUT,
            retry=attempts.policy,
        )
        for page in listing.pages:
            attempts.restart()
            yield from page

    def _read(self, location: Location, *, first: int = 0, last: int | None = None) -> tuple[bytes, str]:
        _address(location)
        pieces: list[bytes] = []
        download = Download(self._connection, location, pieces.append, first=first, last=last)
        with gcs_errors("read", location, refused=ObjectChangedError):
            try:
                download.run(Attempts())
            except NotFound as error:
                self._check_bucket(error, location)
                raise
            except RequestRangeNotSatisfiable:
                return b"", ""
        return b"".join(pieces), str(download.generation)

    def _put_instead_of(self, generation: int, location: Location, data: bytes) -> ObjectInfo:
        """A conditional write; what this very call wrote before its answer was lost counts as written.

        Without this, the winner of a race could believe that it has lost, and nobody would have won.
        """
        _address(location)
        attempts = Attempts()
        try:
            return put(self._connection, location, data, attempts=attempts, generation=generation)
        except PreconditionFailed:
            if attempts.retried:
                with suppress(ObjectNotFoundError):
                    stored, etag = self.read_with_etag(location)
                    if stored == data:
                        return ObjectInfo(location, len(data), etag)
            raise

    def _check_bucket(self, error: GoogleAPICallError, location: Location) -> None:
        """Google says "no such object" also where there is no bucket: ask for that, once.

        A listing needs no permission that an execution does not need anyway.
        """
        if location.bucket in self._seen_buckets:
            return
        try:
            next(self._entries(location.bucket, "", most=1), None)
        except NotFound:
            raise BucketNotFoundError(
                f"Cannot find {location.uri}: there is no bucket {location.bucket!r}; check its name and endpoint.",
                uri=location.uri,
            ) from error
        self._seen_buckets.add(location.bucket)


def _bucket(location: Location) -> str:
    if location.scheme is not Scheme.GS:
        raise LocationError(f"{location.uri} does not lie in Google Cloud Storage.", uri=location.uri)
    return location.bucket


def _address(location: Location) -> tuple[str, str]:
    bucket = _bucket(location)
    if not location.key:
        raise LocationError(f"{location.uri} is a whole bucket, not an object.", uri=location.uri)
    return bucket, location.key


def _info(location: Location, blob: Any) -> ObjectInfo:
    return ObjectInfo(location, int(blob.size), str(blob.generation))


def _generation(etag: str) -> int:
    number = int(etag) if _GENERATION.fullmatch(etag) else 0
    return number if 0 < number <= _MOST_GENERATION else _NO_GENERATION
