"""Objects in Google Cloud Storage.

Preconditions are Google's own (``ifGenerationMatch``), so exactly one of several writers wins, wherever they run.
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
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.buckets import BucketStorage, missing_bucket
from airflow_batchexec.engine.storage.disk import disk_errors, open_regular
from airflow_batchexec.engine.storage.gcs.access import GcsAccess
from airflow_batchexec.engine.storage.gcs.client import TIMEOUT, Attempts, GcsConnection
from airflow_batchexec.engine.storage.gcs.download import Download, fetch
from airflow_batchexec.engine.storage.gcs.errors import gcs_errors
from airflow_batchexec.engine.storage.gcs.upload import put, upload
from airflow_batchexec.exceptions import (
    BucketNotFoundError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["GcsStorage", "connect"]

_LIST_FIELDS = "items(name,size,generation),nextPageToken"
_PAGE_OBJECTS = 1000
_ABSENT = 0
_GENERATION = re.compile(r"[0-9]{1,19}")
# Generations are microseconds of this century, so no object has this one. It stands for an etag that is not Google's.
_NO_GENERATION = 1
_MAX_GENERATION = 2**63 - 1


def connect(access: GcsAccess | None = None) -> GcsStorage:
    """Open Google Cloud Storage. This sends no request and, without a key, does not look for credentials yet.

    Raises:
        ConfigurationError: The key cannot be used.
    """
    return GcsStorage(connection=GcsConnection(access or GcsAccess()))


class GcsStorage(BucketStorage):
    """``gs://`` locations. An etag is an object's generation, which changes with every write.

    Objects are read as stored: those uploaded with ``Content-Encoding: gzip`` are not decompressed.

    Args:
        connection: The connection to Google, shared by all threads.
    """

    scheme = Scheme.GS
    store = "Google Cloud Storage"

    def __init__(self, *, connection: GcsConnection) -> None:
        self._connection = connection
        self._known_buckets: set[str] = set()

    def stat(self, location: Location) -> ObjectInfo:
        """Return the current state of the object."""
        with gcs_errors("stat", location):
            blob = self._blob(location)
            try:
                blob.reload(timeout=TIMEOUT, retry=Attempts().policy)
            except NotFound as error:
                self._check_bucket(error, location)
                raise
            return _info(location, blob)

    def read_with_etag(self, location: Location) -> tuple[bytes, str]:
        """Read the content and the generation from one response."""
        return self._read(location)

    def fetch(self, info: ObjectInfo, scratch_file: Path) -> Path:
        """Download the generation that was listed."""
        location = info.location
        self._address(location)
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
        """Upload in one request with a checksum, or in a resumable upload that is cancelled on any failure."""
        self._address(location)
        with (
            disk_errors(f"publish {path} as", location.uri),
            open_regular(path, follow_links=False) as source,
            gcs_errors("publish", location, absent=BucketNotFoundError),
        ):
            info = upload(self._connection, source.fileno(), location)
            path.unlink()
        return info

    def write(self, location: Location, data: bytes) -> ObjectInfo:
        """Write in one request with a checksum."""
        self._address(location)
        with gcs_errors("write", location, absent=BucketNotFoundError):
            return put(self._connection, location, data, attempts=Attempts())

    def create(self, location: Location, data: bytes) -> ObjectInfo:
        """Write if Google has no such object."""
        with gcs_errors("create", location, absent=BucketNotFoundError, refused=ObjectExistsError):
            return self._put_if_generation(_ABSENT, location, data)

    def replace(self, location: Location, data: bytes, *, etag: str) -> ObjectInfo:
        """Write if the object still has this generation."""
        with gcs_errors("replace", location, absent=BucketNotFoundError, refused=ObjectChangedError):
            return self._put_if_generation(_generation(etag), location, data)

    def delete(self, location: Location, *, etag: str | None = None) -> None:
        """Delete the object; with an etag, only if it still has this generation."""
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

    def _blob(self, location: Location) -> Any:
        bucket, key = self._address(location)
        return self._connection.client.bucket(bucket).blob(key)

    def _entries(self, folder: Location, prefix: str, *, only_first: bool = False) -> Iterator[ObjectInfo]:
        with gcs_errors("list", folder, absent=BucketNotFoundError):
            for blob in self._blobs(folder.bucket, prefix, only_first=only_first):
                yield _info(Location(Scheme.GS, folder.bucket, blob.name), blob)

    def _read_range(self, location: Location, first: int, last: int | None) -> bytes:
        return self._read(location, first=first, last=last)[0]

    def _blobs(self, bucket: str, prefix: str, *, only_first: bool) -> Iterator[Any]:
        attempts = Attempts()
        listing = self._connection.client.list_blobs(
            bucket,
            prefix=prefix,
            max_results=1 if only_first else None,
            page_size=_PAGE_OBJECTS,
            fields=_LIST_FIELDS,
            timeout=TIMEOUT,
            retry=attempts.policy,
        )
        for page in listing.pages:
            attempts.restart()
            yield from page

    def _read(self, location: Location, *, first: int = 0, last: int | None = None) -> tuple[bytes, str]:
        self._address(location)
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

    def _put_if_generation(self, generation: int, location: Location, data: bytes) -> ObjectInfo:
        """Write on a precondition; an earlier attempt of this call that went through counts as success."""
        self._address(location)
        attempts = Attempts()
        try:
            return put(self._connection, location, data, attempts=attempts, generation=generation)
        except PreconditionFailed:
            info = self._written_earlier(location, data) if attempts.retried else None
            if info is None:
                raise
            return info

    def _check_bucket(self, error: GoogleAPICallError, location: Location) -> None:
        """Raise ``BucketNotFoundError`` if the bucket is missing, which Google reports as a missing object too.

        The check is a listing, once per bucket, which needs no permission that executions do not need anyway.
        """
        if location.bucket in self._known_buckets:
            return
        try:
            next(self._blobs(location.bucket, "", only_first=True), None)
        except NotFound:
            raise missing_bucket(location) from error
        self._known_buckets.add(location.bucket)


def _info(location: Location, blob: Any) -> ObjectInfo:
    return ObjectInfo(location, int(blob.size), str(blob.generation))


def _generation(etag: str) -> int:
    number = int(etag) if _GENERATION.fullmatch(etag) else 0
    return number if 0 < number <= _MAX_GENERATION else _NO_GENERATION
