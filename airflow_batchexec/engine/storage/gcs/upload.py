"""Sending large and small contents to Google Cloud Storage.

Google compares the checksum that it is told with what has come, and only then does the object appear.
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
from airflow_batchexec.engine.storage.gcs.errors import error_of
from airflow_batchexec.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_batchexec.engine.config.locations import Location

__all__ = ["put", "upload"]

# What Google's client sends in one request. More it would send in several, and compare the checksum too late.
_SINGLE_BYTES = 8 * 1024 * 1024
_CONTENT_TYPE = "application/octet-stream"
_TAKEN = {200, 201, http.client.PERMANENT_REDIRECT}
_CANCELLED = {204, 404, 410, 499}

_log = logging.getLogger(__name__)


def put(
    connection: GcsConnection,
    location: Location,
    data: bytes,
    *,
    attempts: Attempts,
    generation: int | None = None,
) -> ObjectInfo:
    """Send a content that is in memory.

    Args:
        connection: The way to Google.
        location: Where it goes.
        data: The content.
        attempts: How often to try.
        generation: The one to replace; 0 for none, ``None`` for any or none.

    Raises:
        PreconditionFailed: There is another generation.
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
    """Send an open file; the object is there whole when this returns, and not at all when it raises.

    Raises:
        StorageError: The file changed meanwhile, or Google lost what it had of it.
        OSError: The file cannot be read.
    """
    size = os.fstat(source).st_size
    content = _Content(lambda start: read_pieces(source, start, size, location), size)
    if size <= _SINGLE_BYTES:
        return put(connection, location, b"".join(content.from_byte(0)), attempts=Attempts())
    return _send(connection, location, content, None)


@dataclass(frozen=True, slots=True)
class _Content:
    """What is to be sent: pieces of it from any byte on, and how many bytes there are."""

    from_byte: Callable[[int], Iterator[bytes]]
    size: int


class _Rest:
    """A content from some byte on, as the body of a request. It is read anew each time that the request is sent."""

    def __init__(self, content: _Content, start: int) -> None:
        self._content = content
        self._start = start

    def __len__(self) -> int:
        return self._content.size - self._start

    def __iter__(self) -> Iterator[bytes]:
        return self._content.from_byte(self._start)


class _Upload:
    """One upload session: the content goes in one request, and after a break on from what has arrived.

    https://cloud.google.com/storage/docs/performing-resumable-uploads
    """

    def __init__(
        self, session: requests.Session, address: str, content: _Content, location: Location
    ) -> None:
        self._session = session
        self._address = address
        self._content = content
        self._location = location
        self._begun = False

    def finish(self) -> dict[str, Any]:
        """Send all of it; the stored object's description."""
        attempts = Attempts(more=self._content.size // BYTES_PER_ATTEMPT)
        try:
            stored: dict[str, Any] = attempts.policy(self._send)()
        except GoogleAPICallError as error:
            if error.code not in {http.client.NOT_FOUND, http.client.GONE}:
                raise
            raise StorageError(
                f"Cannot publish {self._location.uri}: Google has given up the upload. Try again later.",
                uri=self._location.uri,
            ) from error
        return stored

    def cancel(self) -> None:
        """Let Google drop what has arrived; otherwise it does so after a week."""
        try:
            answer = self._session.delete(self._address, headers={"Content-Length": "0"}, timeout=TIMEOUT)
            reason = f"HTTP {answer.status_code}"
            cancelled = answer.status_code in _CANCELLED
        except (requests.RequestException, GoogleAuthError) as error:
            reason, cancelled = type(error).__name__, False
        if not cancelled:
            _log.warning(
                "What was sent for %s may be kept by Google, unseen, for a week: the upload could not be cancelled "
                "(%s).",
                self._location.uri,
                reason,
            )

    def _send(self) -> Any:
        start, size = 0, self._content.size
        if self._begun:
            answer = self._put(None, f"bytes */{size}")
            if answer.status_code != http.client.PERMANENT_REDIRECT:
                return answer.json()
            start = _arrived(answer)
        self._begun = True
        answer = self._put(_Rest(self._content, start), f"bytes {start}-{size - 1}/{size}")
        if answer.status_code == http.client.PERMANENT_REDIRECT:
            raise ConnectionError("only a part has arrived")
        return answer.json()

    def _put(self, body: _Rest | None, content_range: str) -> requests.Response:
        answer = self._session.put(
            self._address,
            data=body,
            headers={"Content-Range": content_range},
            timeout=TIMEOUT,
            allow_redirects=False,  # 308 is no redirect here
        )
        if answer.status_code not in _TAKEN:
            raise error_of(answer)
        return answer


def _blob(connection: GcsConnection, location: Location) -> Any:
    return connection.client.bucket(location.bucket).blob(location.key)


def _send(
    connection: GcsConnection, location: Location, content: _Content, generation: int | None
) -> ObjectInfo:
    blob = _blob(connection, location)
    blob.crc32c = _checksum(content)
    address = blob.create_resumable_upload_session(
        content_type=_CONTENT_TYPE,
        size=content.size,
        checksum=None,  # it is given above, for Google to compare before the object appears
        if_generation_match=generation,
        timeout=TIMEOUT,
        retry=Attempts().policy,
    )
    upload = _Upload(connection.session, address, content, location)
    try:
        stored = upload.finish()
    except BaseException:
        upload.cancel()
        raise
    return ObjectInfo(location, content.size, str(stored["generation"]))


def _arrived(answer: requests.Response) -> int:
    """How many bytes Google has, as it says in "Range: bytes=0-41"."""
    last = answer.headers.get("Range", "").rpartition("-")[2]
    return int(last) + 1 if last else 0


def _checksum(content: _Content) -> str:
    total = google_crc32c.Checksum()
    for piece in content.from_byte(0):
        total.update(piece)
    return base64.b64encode(total.digest()).decode()
