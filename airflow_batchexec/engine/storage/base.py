"""The contract that every storage keeps; ``tests/contract`` holds each of them to it.

What an execution relies on: a result appears under its final name whole or not at all; create-if-absent has exactly
one winner; what is fetched is the very object that was listed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_batchexec.engine.config.locations import Location

__all__ = ["ObjectInfo", "Storage"]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object as it was at one moment.

    Attributes:
        location: Where it lies.
        size_bytes: Its size.
        etag: Changes whenever the content does; comparable within one storage only.
    """

    location: Location
    size_bytes: int
    etag: str


class Storage(ABC):
    """Objects by location.

    Every method may raise ``StorageError`` or one of its kinds: ``AccessDeniedError`` (wrong keys or no permission),
    ``BucketNotFoundError``, ``DiskFullError``; each names the URI. Methods may be called from several threads.
    """

    @abstractmethod
    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        """Every object below ``folder``, subfolders included, sorted by key. A missing folder lists nothing.

        Where ``folder`` names one object, that object alone is listed. Keys are given as they are stored, also where
        they are no normal path (``a//b`` in a bucket, a name that is not Unicode on disk), so that none is lost.
        """

    @abstractmethod
    def stat(self, location: Location) -> ObjectInfo:
        """The object as it is now.

        Raises:
            ObjectNotFoundError: There is none.
        """

    @abstractmethod
    def read(self, location: Location, *, start: int = 0, length: int | None = None) -> bytes:
        """The content of a small object, or up to ``length`` bytes of it from ``start``; none beyond its end.

        Raises:
            ObjectNotFoundError: There is none.
        """

    @abstractmethod
    def read_with_etag(self, location: Location) -> tuple[bytes, str]:
        """The whole content together with the etag that it had, read as one.

        Raises:
            ObjectNotFoundError: There is none.
        """

    @abstractmethod
    def fetch(self, info: ObjectInfo, scratch_file: Path) -> Path:
        """Bring an object to this machine: to ``scratch_file``, or nowhere where it is on disk already.

        Args:
            info: The object as it was listed.
            scratch_file: Where it may be put; its folder exists.

        Returns:
            The path to read. It may be the stored file itself and must not be changed.

        Raises:
            ObjectChangedError: It is not what it was when it was listed. Nothing is left behind.
            ObjectNotFoundError: It has been deleted since.
        """

    @abstractmethod
    def publish(self, path: Path, location: Location) -> ObjectInfo:
        """Put a file under its final name, whole or not at all, in place of what is there; missing folders are made.

        The file is consumed: after success ``path`` no longer exists. The content is durable, and its arrival
        checked, when this returns. After a failure nothing that was begun is left, and ``path`` is unharmed.
        """

    @abstractmethod
    def write(self, location: Location, data: bytes) -> ObjectInfo:
        """``publish`` for a small document."""

    @abstractmethod
    def create(self, location: Location, data: bytes) -> ObjectInfo:
        """Write a small document where there is none; of several callers at once, one succeeds.

        Raises:
            ObjectExistsError: There is one.
        """

    @abstractmethod
    def replace(self, location: Location, data: bytes, *, etag: str) -> ObjectInfo:
        """Write a small document in place of the one with this etag; of several callers at once, one succeeds.

        The documents of the callers differ: to a bucket, equal ones have equal etags.

        Raises:
            ObjectChangedError: It has another etag, or there is none.
        """

    @abstractmethod
    def delete(self, location: Location, *, etag: str | None = None) -> None:
        """Delete the object; nothing to delete is no error.

        Args:
            location: Where it lies.
            etag: Delete it only while it has this etag.

        Raises:
            ObjectChangedError: It has another etag.
        """

    @abstractmethod
    def staging(self, folder: Location) -> Path | None:
        """A folder on this machine from which ``publish`` below ``folder`` is a rename, or ``None``.

        The caller makes it and removes it.
        """
