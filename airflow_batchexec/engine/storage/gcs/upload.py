"""Uploads to Google Cloud Storage, large and small.

Google verifies the given checksum before the object appears.
"""

from __future__ import annotations

import base64
import http.client
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import google_crc32c
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError

from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.buckets import read_pieces
from airflow_batchexec.engine.storage.gcs.client import BYTES_PER_ATTEMPT, TIMEOUT, Attempts, GcsConnection
from airflow_batchexec.engine.storage.gcs.errors import error_from_response
from airflow_batchexec.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_batchexec.engine.config.locations import Location

__all__ = ["put", "upload"]

# The most that Google's client sends in one request. With several requests, it compares the checksum too late.
_SINGLE_BYTES = 8 * 1024 * 1024
_CONTENT_TYPE = "application/octet-stream"
_ACCEPTED = {200, 201, http.client.PERMANENT_REDIRECT}
_CANCELLED = {204, 404, 410, 499}

log = logging.getLogger(__name__)


def put(
    connection: GcsConnection,
    location: Location,
    data: bytes,
    *,
    attempts: Attempts,
    generation: int | None = None,
) -> ObjectInfo:
    """Upload content from memory.

    Args:
        connection: The connection to Google.
        location: The target.
        data: The content.
        attempts: The retries; not used for content that is too large for one request.
        generation: The generation to replace: 0 requires that the object does not exist, ``None`` accepts anything.

    Raises:
        PreconditionFailed: The object has another generation.
    """
    if len(data) > _SINGLE_BYTES:
        content = _Content(lambda start: iter((data[start:],)), len(data))
        return _send(connection, location, content, generation)
    blob = _blob(connection, location)
    blob.upload_from_string(
        data,
        content_type=_CONTENT_TYPE,
        checksum="crc32c",
        if_generation_match=generation,
        timeout=TIMEOUT,
        retry=attempts.policy,
    )
    return ObjectInfo(location, len(data), str(blob.generation))


def upload(connection: GcsConnection, source: int, location: Location) -> ObjectInfo:
    """Upload an open file; the object exists and is complete if this returns, and does not appear if it raises.

    Raises:
        StorageError: The file changed meanwhile, or Google gave up the upload.
        OSError: The file cannot be read.
    """
    size = os.fstat(source).st_size
    content = _Content(lambda start: read_pieces(source, start, size, location), size)
    if size <= _SINGLE_BYTES:
        return put(connection, location, b"".join(content.from_byte(0)), attempts=Attempts())
    return _send(connection, location, content, None)


@dataclass(frozen=True, slots=True)
class _Content:
    """The content to upload: an iterator over its pieces from any offset, and its size in bytes."""

    from_byte: Callable[[int], Iterator[bytes]]
    size: int


class _Body:
    """The content from an offset on, as a request body. It is read again each time the request is sent."""

    def __init__(self, content: _Content, start: int) -> None:
        self._content = content
        self._start = start

    def __len__(self) -> int:
        return self._content.size - self._start

    def __iter__(self) -> Iterator[bytes]:
        return self._content.from_byte(self._start)


class _Upload:
    """One upload session: a single request sends the content; after a break, the upload resumes.

    https://cloud.google.com/storage/docs/performing-resumable-uploads
    """

    def __init__(self, session: requests.Session, url: str, content: _Content, location: Location) -> None:
        self._session = session
        self._url = url
        self._content = content
        self._location = location
        self._started = False

    def finish(self) -> dict[str, Any]:
        """Send the content and return the stored object's metadata."""
        attempts = Attempts(extra=self._content.size // BYTES_PER_ATTEMPT)
        try:
            stored: dict[str, Any] = attempts.policy(self._send)()
        except GoogleAPICallError as error:
            if error.code not in {http.client.NOT_FOUND, http.client.GONE}:
                raise
            raise StorageError(
                f"Cannot publish {self._location.uri}: Google gave up the upload. Try again later.",
                uri=self._location.uri,
            ) from error
        return stored

    def cancel(self) -> None:
        """Have Google discard what it has received; otherwise it does so after a week."""
        try:
            response = self._session.delete(self._url, headers={"Content-Length": "0"}, timeout=TIMEOUT)
            reason = f"HTTP {response.status_code}"
            cancelled = response.status_code in _CANCELLED
        except (requests.RequestException, GoogleAuthError) as error:
            reason, cancelled = type(error).__name__, False
        if not cancelled:
            log.warning(
                "Could not cancel the upload of %s (%s). Google may keep the data it received, invisibly, for a week.",
                self._location.uri,
                reason,
            )

    def _send(self) -> Any:
        start, size = 0, self._content.size
        if self._started:
            response = self._put(None, f"bytes */{size}")
            if response.status_code != http.client.PERMANENT_REDIRECT:
                return response.json()
            start = _received_bytes(response)
        self._started = True
        response = self._put(_Body(self._content, start), f"bytes {start}-{size - 1}/{size}")
        if response.status_code == http.client.PERMANENT_REDIRECT:
            raise ConnectionError("only part of the content arrived")
        return response.json()

    def _put(self, body: _Body | None, content_range: str) -> requests.Response:
        response = self._session.put(
            self._url,
            data=body,
            headers={"Content-Range": content_range},
            timeout=TIMEOUT,
            allow_redirects=False,  # 308 is not a redirect here
        )
        if response.status_code not in _ACCEPTED:
            raise error_from_response(response)
        return response


def _blob(connection: GcsConnection, location: Location) -> Any:
    return connection.client.bucket(location.bucket).blob(location.key)


def _send(
    connection: GcsConnection, location: Location, content: _Content, generation: int | None
) -> ObjectInfo:
    blob = _blob(connection, location)
    blob.crc32c = _checksum(content)
    url = blob.create_resumable_upload_session(
        content_type=_CONTENT_TYPE,
        size=content.size,
        checksum=None,  # set above, so that Google verifies it before the object appears
        if_generation_match=generation,
        timeout=TIMEOUT,
        retry=Attempts().policy,
    )
    upload = _Upload(connection.session, url, content, location)
    try:
        stored = upload.finish()
    except BaseException:
        upload.cancel()
        raise
    return ObjectInfo(location, content.size, str(stored["generation"]))


def _received_bytes(response: requests.Response) -> int:
    """Return how many bytes Google has received, from a header such as "Range: bytes=0-41"."""
    last = response.headers.get("Range", "").rpartition("-")[2]
    return int(last) + 1 if last else 0


def _checksum(content: _Content) -> str:
    total = google_crc32c.Checksum()
    for piece in content.from_byte(0):
        total.update(piece)
    return base64.b64encode(total.digest()).decode()
