"""Getting objects from Google Cloud Storage, into memory or onto this machine's disk.

One generation is asked for, also where a broken download goes on, and the whole of it is compared with its checksum.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import google_crc32c

from airflow_batchexec.engine.storage.gcs.client import BYTES_PER_ATTEMPT, TIMEOUT, Attempts, GcsConnection
from airflow_batchexec.engine.storage.gcs.errors import error_of
from airflow_batchexec.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import ObjectInfo

__all__ = ["Download", "fetch"]

_READ_BYTES = 1024 * 1024
_HASH = re.compile(r"(crc32c|md5)=([A-Za-z0-9+/]+=*)")


def fetch(connection: GcsConnection, info: ObjectInfo, generation: int, scratch_file: Path) -> None:
    """Write the very object that was listed to ``scratch_file``; on any failure the file is removed.

    Raises:
        PreconditionFailed: There is another generation.
        OSError: The disk did not take it.
        StorageError: What came is not what is stored.
    """
    descriptor = os.open(scratch_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    download = Download(
        connection, info.location, lambda piece: _write_all(descriptor, piece), generation=generation
    )
    try:
        try:
            download.run(Attempts(more=info.size_bytes // BYTES_PER_ATTEMPT))
        finally:
            os.close(descriptor)
        download.check_size(info.size_bytes)
    except BaseException:
        scratch_file.unlink()
        raise


class Download:
    """An object, or a range of it, on its way; after a break it goes on from there, in the same generation.

    Args:
        connection: The way to Google.
        location: Where it lies.
        take: Is given each piece.
        generation: The only one to take; the one that is there where it is left out.
        first: The first byte.
        last: The last byte; ``None`` for all there are.
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
        self._received = 0
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

    def check_size(self, size: int) -> None:
        """Raise ``StorageError`` where other than so many bytes came."""
        if self._received != size:
            raise StorageError(
                f"{self._location.uri} gave {self._received} bytes, not {size}.", uri=self._location.uri
            )

    def _get(self) -> None:
        """Ask for what is missing yet."""
        position = self._first + self._received
        headers = {"Accept-Encoding": "gzip"}  # else Google unpacks what is stored as such
        if position or self._last is not None:
            headers["Range"] = f"bytes={position}-{'' if self._last is None else self._last}"
        with self._connection.session.get(
            f"{self._connection.client.api_endpoint}/download/storage/v1"
            f"/b/{quote(self._location.bucket, safe='')}/o/{quote(self._location.key, safe='')}",
            params={"alt": "media", "ifGenerationMatch": self.generation},
            headers=headers,
            timeout=TIMEOUT,
            stream=True,
        ) as answer:
            if answer.status_code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and self._received:
                return  # it broke after the last byte
            if answer.status_code != (http.client.PARTIAL_CONTENT if "Range" in headers else http.client.OK):
                raise error_of(answer)
            self.generation = int(answer.headers.get("x-goog-generation", 0))
            self._stored = dict(_HASH.findall(answer.headers.get("x-goog-hash", ""))).get("crc32c")
            for piece in answer.raw.stream(_READ_BYTES, decode_content=False):
                self._take(piece)
                self._sum.update(piece)
                self._received += len(piece)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
