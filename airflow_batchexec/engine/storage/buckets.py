"""What all object stores share, whatever their protocol: limits, listing, reading, and error messages."""

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
"""Timeout for a connection."""
READ_SECONDS = 60
"""Timeout for the next bytes of a response."""
CONNECTIONS = 16
"""Size of the connection pool that the threads of a process share."""
READ_BYTES = 1024 * 1024
"""How much of a file or response is held in memory at a time."""

NO_OBJECT = "The object does not exist."
TRY_LATER = "Try again later."
UNREACHABLE = "Check the endpoint and the network."
REFUSED: dict[type[StorageError], str] = {
    ObjectChangedError: "The object has changed since it was listed or read.",
    ObjectExistsError: "The object already exists.",
}
"""What a failed precondition means, by error class."""

_Failure = TypeVar("_Failure", bound=StorageError)


class BucketStorage(Storage):
    """Objects in the buckets of one scheme.

    Subclasses implement the requests and map the store's errors to the error tree.
    """

    scheme: ClassVar[Scheme]
    store: ClassVar[str]
    """The store's name, for messages."""

    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        """List the objects below ``folder/``, except empty folder markers.

        Keys are listed as stored, even if they are not normal paths (``a//b``, ``a/../b``).
        """
        key = folder.key
        self._check_scheme(folder)
        if key:
            # A key sorts before every key it is a prefix of, so the first entry shows whether it is an object.
            first = next(self._entries(folder, key, only_first=True), None)
            if first is not None and first.location.key == key:
                yield first
                return
        for info in self._entries(folder, f"{key}/" if key else ""):
            if info.size_bytes or not info.location.key.endswith("/"):
                yield info

    def read(self, location: Location, *, start: int = 0, length: int | None = None) -> bytes:
        """Read the content, or a range of it; empty past the end."""
        if start == 0 and length is None:
            return self.read_with_etag(location)[0]
        if length == 0:
            self.stat(location)
            return b""
        return self._read_range(location, start, None if length is None else start + length - 1)

    def staging(self, folder: Location) -> Path | None:  # noqa: ARG002  nothing local can be renamed into a bucket
        """Return ``None``: publishing to a bucket is always an upload."""
        return None

    @abstractmethod
    def _entries(self, folder: Location, prefix: str, *, only_first: bool = False) -> Iterator[ObjectInfo]:
        """List the objects whose keys start with ``prefix``, sorted by key; messages name ``folder``."""

    @abstractmethod
    def _read_range(self, location: Location, first: int, last: int | None) -> bytes:
        """Read the bytes from ``first`` to ``last`` inclusive, or to the end; empty past the end."""

    def _check_scheme(self, location: Location) -> None:
        """Raise ``LocationError`` for a location of another scheme."""
        if location.scheme is not self.scheme:
            raise LocationError(f"{location.uri} is not in {self.store}.", uri=location.uri)

    def _address(self, location: Location) -> tuple[str, str]:
        """Return the bucket and key of an object.

        Raises:
            LocationError: The location has another scheme, or is a whole bucket.
        """
        self._check_scheme(location)
        if not location.key:
            raise LocationError(f"{location.uri} is a whole bucket, not an object.", uri=location.uri)
        return location.bucket, location.key

    def _written_earlier(self, location: Location, data: bytes) -> ObjectInfo | None:
        """Return the object if it holds ``data``: an earlier attempt of this call wrote it, but its response was lost.

        Without this check, the winner of a race could take itself for a loser, leaving no winner.
        """
        try:
            stored, etag = self.read_with_etag(location)
        except ObjectNotFoundError:
            return None
        return ObjectInfo(location, len(data), etag) if stored == data else None


def failure(
    kind: type[_Failure], doing: str, location: Location, reason: str, advice: str, *, code: str | None = None
) -> _Failure:
    """Build the error for a failed operation on an object.

    Args:
        kind: The error class.
        doing: The verb of the message: "publish", "fetch" ….
        location: The object.
        reason: The store's response, or why the request failed: a sentence that starts in lower case.
        advice: What to do about it: a sentence.
        code: The store's error code.
    """
    details = {"uri": location.uri} if code is None else {"uri": location.uri, "code": code}
    return kind(f"Cannot {doing} {location.uri}: {reason} {advice}", **details)


def no_bucket(location: Location) -> str:
    """Say that the bucket of a location is missing, and what to do about it."""
    return f"Bucket {location.bucket!r} does not exist; check its name and the endpoint."


def missing_bucket(location: Location) -> BucketNotFoundError:
    """Build the error for an object whose bucket is missing too."""
    return BucketNotFoundError(f"Cannot find {location.uri}. {no_bucket(location)}", uri=location.uri)


def byte_range(first: int, last: int | None) -> str:
    """Return the ``Range`` header for the bytes from ``first`` to ``last`` inclusive, or to the end."""
    return f"bytes={first}-{'' if last is None else last}"


def check_size(location: Location, *, received: int, expected: int) -> None:
    """Raise ``StorageError`` unless the object or range returned the expected number of bytes."""
    if received != expected:
        raise StorageError(
            f"{location.uri} returned {received} bytes, expected {expected}.", uri=location.uri
        )


def read_pieces(
    source: int, start: int, end: int, location: Location, *, piece_bytes: int = READ_BYTES
) -> Iterator[bytes]:
    """Yield the bytes of an open file from ``start`` up to ``end`` in pieces, without moving the file position.

    Args:
        source: The file descriptor.
        start: The first byte.
        end: The byte after the last.
        location: The publish target, for the message.
        piece_bytes: The maximum size of a piece.

    Raises:
        OSError: The file cannot be read.
        StorageError: The file has become shorter than ``end``.
    """
    while start < end:
        piece = os.pread(source, min(piece_bytes, end - start), start)
        if not piece:
            raise StorageError(
                f"The file to publish as {location.uri} became shorter while it was read.", uri=location.uri
            )
        yield piece
        start += len(piece)
