"""What object stores have in common, whatever their protocol: how a bucket is listed, read and written, and what goes
wrong there.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeVar

from airflow_batchexec.engine.storage.base import ObjectInfo, Storage
from airflow_batchexec.exceptions import (
    BucketNotFoundError,
    LocationError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_batchexec.engine.config.locations import Location, Scheme

__all__ = [
    "CONNECTIONS",
    "CONNECT_SECONDS",
    "NO_OBJECT",
    "READ_BYTES",
    "READ_SECONDS",
    "REFUSED",
    "TRY_LATER",
    "UNREACHABLE",
    "BucketStorage",
    "byte_range",
    "check_size",
    "failure",
    "missing_bucket",
    "no_bucket",
    "read_pieces",
]

CONNECT_SECONDS = 5
"""How long to wait for a connection."""
READ_SECONDS = 60
"""How long to wait for more of a response."""
CONNECTIONS = 16
"""The connections that the threads of a process share."""
READ_BYTES = 1024 * 1024
"""How much of a file or a response is held at a time."""

NO_OBJECT = "There is no such object."
TRY_LATER = "Try again later."
UNREACHABLE = "Check the endpoint and the network."
REFUSED: dict[type[StorageError], str] = {
    ObjectChangedError: "It is no longer what it was when it was listed or read.",
    ObjectExistsError: "It exists already.",
}
"""What it means that a request's condition did not hold."""

_Failure = TypeVar("_Failure", bound=StorageError)


class BucketStorage(Storage):
    """Objects in the buckets of one scheme.

    A subclass says how the store is asked, and turns the store's errors into the error tree.
    """

    scheme: ClassVar[Scheme]
    store: ClassVar[str]
    """The store's name, for messages."""

    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        """Objects below ``folder/``; the empty ones that only stand for a folder are left out.

        A key is listed as it is stored, also where it is not a normal path (``a//b``, ``a/../b``).
        """
        key = folder.key
        self._check_scheme(folder)
        if key:
            # A key sorts before all that it is a prefix of, so one entry tells whether it is an object.
            first = next(self._entries(folder, key, only_first=True), None)
            if first is not None and first.location.key == key:
                yield first
                return
        for info in self._entries(folder, f"{key}/" if key else ""):
            if info.size_bytes or not info.location.key.endswith("/"):
                yield info

    def read(self, location: Location, *, start: int = 0, length: int | None = None) -> bytes:
        """The content, or a range of it; what is beyond the end is empty."""
        if start == 0 and length is None:
            return self.read_with_etag(location)[0]
        if length == 0:
            self.stat(location)
            return b""
        return self._read_range(location, start, None if length is None else start + length - 1)

    def staging(self, folder: Location) -> Path | None:  # noqa: ARG002  no folder of this machine is in a bucket
        """Nowhere."""
        return None

    @abstractmethod
    def _entries(self, folder: Location, prefix: str, *, only_first: bool = False) -> Iterator[ObjectInfo]:
        """The objects whose keys begin with ``prefix``, sorted by key; ``folder`` is what messages name."""

    @abstractmethod
    def _read_range(self, location: Location, first: int, last: int | None) -> bytes:
        """The bytes from ``first`` to ``last``, both included, or to the end; none beyond the end."""

    def _check_scheme(self, location: Location) -> None:
        """Raise ``LocationError`` for a location of another scheme."""
        if location.scheme is not self.scheme:
            raise LocationError(f"{location.uri} does not lie in {self.store}.", uri=location.uri)

    def _address(self, location: Location) -> tuple[str, str]:
        """The bucket and the key of an object.

        Raises:
            LocationError: The location is of another scheme, or a whole bucket.
        """
        self._check_scheme(location)
        if not location.key:
            raise LocationError(f"{location.uri} is a whole bucket, not an object.", uri=location.uri)
        return location.bucket, location.key

    def _written_earlier(self, location: Location, data: bytes) -> ObjectInfo | None:
        """The object, if it holds ``data``: what this very call wrote before the response was lost and the request
        was sent again.

        Without this, the winner of a race could believe that it has lost, and nobody would have won.
        """
        try:
            stored, etag = self.read_with_etag(location)
        except ObjectNotFoundError:
            return None
        return ObjectInfo(location, len(data), etag) if stored == data else None


def failure(
    kind: type[_Failure], doing: str, location: Location, reason: str, advice: str, *, code: str | None = None
) -> _Failure:
    """The error for an operation on an object that failed.

    Args:
        kind: The class of the error.
        doing: The verb of the message: "publish", "fetch" ….
        location: The object.
        reason: What the store said, or what kept the request from it; a sentence without its capital.
        advice: What to do about it; a sentence.
        code: The store's code for the reason.
    """
    details = {"uri": location.uri} if code is None else {"uri": location.uri, "code": code}
    return kind(f"Cannot {doing} {location.uri}: {reason} {advice}", **details)


def no_bucket(location: Location) -> str:
    """That the bucket of a location is missing, and what to do about it."""
    return f"There is no bucket {location.bucket!r}; check its name and endpoint."


def missing_bucket(location: Location) -> BucketNotFoundError:
    """The error for an object that is missing together with its bucket."""
    return BucketNotFoundError(f"Cannot find {location.uri}. {no_bucket(location)}", uri=location.uri)


def byte_range(first: int, last: int | None) -> str:
    """The value of the header ``Range`` for the bytes from ``first`` to ``last``, both included, or to the end."""
    return f"bytes={first}-{'' if last is None else last}"


def check_size(location: Location, *, received: int, expected: int) -> None:
    """Raise ``StorageError`` unless the object, or the range of it, gave so many bytes."""
    if received != expected:
        raise StorageError(f"{location.uri} gave {received} bytes, not {expected}.", uri=location.uri)


def read_pieces(
    source: int, start: int, end: int, location: Location, *, piece_bytes: int = READ_BYTES
) -> Iterator[bytes]:
    """The bytes of an open file from ``start`` up to ``end``, piece by piece; the file's own position stays.

    Args:
        source: The file.
        start: The first byte.
        end: The byte after the last.
        location: What it is published as, for the message.
        piece_bytes: The maximum size of a piece.

    Raises:
        OSError: The file cannot be read.
        StorageError: The file has become shorter than ``end``.
    """
    while start < end:
        piece = os.pread(source, min(piece_bytes, end - start), start)
        if not piece:
            raise StorageError(
                f"The file to publish as {location.uri} became shorter meanwhile.", uri=location.uri
            )
        yield piece
        start += len(piece)
