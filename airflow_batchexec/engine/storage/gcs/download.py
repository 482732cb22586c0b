"""Getting objects from Google Cloud Storage, into memory or onto this machine's disk.

One generation is asked for, also where a broken download goes on, and the whole of it is compared with its checksum.
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
from airflow_batchexec.engine.storage.gcs.errors import error_of
from airflow_batchexec.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import ObjectInfo

__all__ = ["Download", "fetch"]

_HASH = re.compile(r"(crc32c|md5)=([A-Za-z0-9+/]+=*)")


def fetch(connection: GcsConnection, info: ObjectInfo, generation: int, scratch_file: Path) -> None:
    """Write the very object that was listed to ``scratch_file``; on any failure the file is removed.

    Raises:
        PreconditionFailed: There is another generation.
        OSError: The disk did not take it.
        StorageError: What came is not what is stored.
    """
    with scratch(scratch_file) as descriptor:
        download = Download(
            connection, info.location, lambda piece: write_all(descriptor, piece), generation=generation
        )
        download.run(Attempts(more=info.size_bytes // BYTES_PER_ATTEMPT))
        check_size(info.location, received=download.received, expected=info.size_bytes)


class Download:
    """An object, or a range of it, on its way; after a break it goes on from there, in the same generation.

    Args:
        connection: The way to Google.
        location: Where it lies.
        take: Is given each piece.
        generation: The only one to take; the one that is there where it is left out.
        first: The first byte.
        last: The last byte; ``None`` for all there are.

    Attributes:
        generation: The generation that came.
        received: How many bytes have come.
    """

    def __init__(
        self,
        connection: GcsConnection,
        location: Location,
        take: Callable[[bytes], object],
        *,
        generation: int | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> None:
        self.generation = generation
        self._connection = connection
        self._location = location
        self._take = take
        self._first = first
        self._last = last
        self.received = 0
        self._sum = google_crc32c.Checksum()
        self._stored: str | None = None

    def run(self, attempts: Attempts) -> None:
        """Get all of it; where it is the whole object, its checksum is compared.

        Raises:
            PreconditionFailed: There is another generation, or is since a break.
            RequestRangeNotSatisfiable: The object ends before the range.
            StorageError: What came is not what is stored.
        """
        attempts.policy(self._get)()
        whole = self._first == 0 and self._last is None
        if whole and self._stored not in {None, base64.b64encode(self._sum.digest()).decode()}:
            raise StorageError(
                f"{self._location.uri} gave what does not fit its checksum. Try again later.",
                uri=self._location.uri,
            )

    def _get(self) -> None:
        """Ask for what is missing yet."""
        position = self._first + self.received
        headers = {"Accept-Encoding": "gzip"}  # else Google unpacks what is stored as such
        if position or self._last is not None:
            headers["Range"] = byte_range(position, self._last)
        with self._connection.session.get(
            f"{self._connection.client.api_endpoint}/download/storage/v1"
            f"/b/{quote(self._location.bucket, safe='')}/o/{quote(self._location.key, safe='')}",
            params={"alt": "media", "ifGenerationMatch": self.generation},
            headers=headers,
            timeout=TIMEOUT,
            stream=True,
        ) as answer:
            if answer.status_code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and self.received:
                return  # it broke after the last byte
            if answer.status_code != (http.client.PARTIAL_CONTENT if "Range" in headers else http.client.OK):
                raise error_of(answer)
            self.generation = int(answer.headers.get("x-goog-generation", 0))
            self._stored = dict(_HASH.findall(answer.headers.get("x-goog-hash", ""))).get("crc32c")
            for piece in answer.raw.stream(READ_BYTES, decode_content=False):
                self._take(piece)
                self._sum.update(piece)
                self.received += len(piece)
