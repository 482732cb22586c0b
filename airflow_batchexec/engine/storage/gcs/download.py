"""Downloads from Google Cloud Storage, into memory or to this machine's disk.

A download reads a single generation, even if it is resumed, and a whole object is verified against its checksum.
"""

from __future__ import annotations

import base64
import http.client
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import google_crc32c

from airflow_batchexec.engine.storage.buckets import READ_BYTES, byte_range, check_size
from airflow_batchexec.engine.storage.disk import scratch, write_all
from airflow_batchexec.engine.storage.gcs.client import BYTES_PER_ATTEMPT, TIMEOUT, Attempts, GcsConnection
from airflow_batchexec.engine.storage.gcs.errors import error_from_response
from airflow_batchexec.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import ObjectInfo

__all__ = ["Download", "fetch"]

_HASH = re.compile(r"(crc32c|md5)=([A-Za-z0-9+/]+=*)")


def fetch(connection: GcsConnection, info: ObjectInfo, generation: int, scratch_file: Path) -> None:
    """Download the exact object that was listed to ``scratch_file``; the file is removed on any failure.

    Raises:
        PreconditionFailed: The object has another generation.
        OSError: Writing to the disk failed.
        StorageError: The received content does not match the stored object.
    """
    with scratch(scratch_file) as descriptor:
        download = Download(
            connection, info.location, lambda piece: write_all(descriptor, piece), generation=generation
        )
        download.run(Attempts(extra=info.size_bytes // BYTES_PER_ATTEMPT))
        check_size(info.location, received=download.received, expected=info.size_bytes)


class Download:
    """The download of an object or a range; a broken download resumes where it stopped, in the same generation.

    Args:
        connection: The connection to Google.
        location: The object.
        on_piece: Called with each piece.
        generation: The generation to download; ``None`` for the current one.
        first: The first byte.
        last: The last byte; ``None`` for the end of the object.

    Attributes:
        generation: The generation of the received content.
        received: The number of bytes received.
    """

    def __init__(
        self,
        connection: GcsConnection,
        location: Location,
        on_piece: Callable[[bytes], object],
        *,
        generation: int | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> None:
        self.generation = generation
        self._connection = connection
        self._location = location
        self._on_piece = on_piece
        self._first = first
        self._last = last
        self.received = 0
        self._checksum = google_crc32c.Checksum()
        self._expected_checksum: str | None = None

    def run(self, attempts: Attempts) -> None:
        """Download the content, and verify the checksum of a whole object.

        Raises:
            PreconditionFailed: The object has another generation, or the generation changed before a resume.
            RequestRangeNotSatisfiable: The object ends before the range.
            StorageError: The received content does not match the stored object.
        """
        attempts.policy(self._get_rest)()
        whole = self._first == 0 and self._last is None
        checksum = base64.b64encode(self._checksum.digest()).decode()
        if whole and self._expected_checksum not in {None, checksum}:
            raise StorageError(
                f"The content received from {self._location.uri} does not match its checksum. Try again later.",
                uri=self._location.uri,
            )

    def _get_rest(self) -> None:
        """Request the bytes not received yet."""
        position = self._first + self.received
        headers = {
            "Accept-Encoding": "gzip"
        }  # otherwise Google decompresses objects stored with gzip encoding
        if position or self._last is not None:
            headers["Range"] = byte_range(position, self._last)
        with self._connection.session.get(
            f"{self._connection.client.api_endpoint}/download/storage/v1"
            f"/b/{quote(self._location.bucket, safe='')}/o/{quote(self._location.key, safe='')}",
            params={"alt": "media", "ifGenerationMatch": self.generation},
            headers=headers,
            timeout=TIMEOUT,
            stream=True,
        ) as response:
            if response.status_code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and self.received:
                return  # the connection broke after the last byte
            if response.status_code != (
                http.client.PARTIAL_CONTENT if "Range" in headers else http.client.OK
            ):
                raise error_from_response(response)
            self.generation = int(response.headers.get("x-goog-generation", 0))
            hashes = dict(_HASH.findall(response.headers.get("x-goog-hash", "")))
            self._expected_checksum = hashes.get("crc32c")
            for piece in response.raw.stream(READ_BYTES, decode_content=False):
                self._on_piece(piece)
                self._checksum.update(piece)
                self.received += len(piece)
