"""The contract of every storage, enforced by ``tests/contract``.

Executions rely on three guarantees: a result appears under its final name complete or not at all; create-if-absent has
exactly one winner; a fetch returns the exact object that was listed.
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
    """A snapshot of one stored object.

    Attributes:
        location: The object's location.
        size_bytes: The object's size.
        etag: Changes whenever the content does; comparable within one storage only.
    """

    location: Location
    size_bytes: int
    etag: str


class Storage(ABC):
    """Objects by location.

    Every method may raise ``StorageError`` or a subclass: ``AccessDeniedError`` (invalid credentials or missing
    permission), ``BucketNotFoundError``, ``DiskFullError``; each names the URI. Methods are thread-safe.
    """

    @abstractmethod
    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        """List every object below ``folder``, including subfolders, sorted by key. A missing folder lists nothing.

        If ``folder`` names an object, only that object is listed. Keys are returned as stored, even if they are not
        normal paths (``a//b`` in a bucket, a non-Unicode name on disk), so that none is lost.
        """

    @abstractmethod
    def stat(self, location: Location) -> ObjectInfo:
        """Return the current state of the object.

        Raises:
            ObjectNotFoundError: The object does not exist.
        """

    @abstractmethod
    def read(self, location: Location, *, start: int = 0, length: int | None = None) -> bytes:
        """Read a small object, or up to ``length`` bytes of it from ``start``; empty past its end.

        Raises:
            ObjectNotFoundError: The object does not exist.
        """

    @abstractmethod
    def read_with_etag(self, location: Location) -> tuple[bytes, str]:
        """Read the whole content and its etag atomically.

        Raises:
            ObjectNotFoundError: The object does not exist.
        """

    @abstractmethod
    def fetch(self, info: ObjectInfo, scratch_file: Path) -> Path:
        """Make an object available on this machine: in ``scratch_file``, or in place if it is already on disk.

        Args:
            info: The object as listed.
            scratch_file: The file to download to; its folder exists.

        Returns:
            The path to read. It may be the stored file itself and must not be changed.

        Raises:
            ObjectChangedError: The object has changed since it was listed. Nothing is left behind.
            ObjectNotFoundError: The object has been deleted since it was listed.
        """

    @abstractmethod
    def publish(self, path: Path, location: Location) -> ObjectInfo:
        """Atomically move a file to its final name, replacing any existing object; missing folders are created.

        The file is consumed: ``path`` no longer exists on success. When this returns, the content is durable and has
        been verified. A failure leaves nothing partial behind, and ``path`` intact.
        """

    @abstractmethod
    def write(self, location: Location, data: bytes) -> ObjectInfo:
        """Like ``publish``, for a small document."""

    @abstractmethod
    def create(self, location: Location, data: bytes) -> ObjectInfo:
        """Create a small document if absent; of several concurrent callers, exactly one succeeds.

        Raises:
            ObjectExistsError: The document exists.
        """

    @abstractmethod
    def replace(self, location: Location, data: bytes, *, etag: str) -> ObjectInfo:
        """Compare and swap a small document by its etag; of several concurrent callers, exactly one succeeds.

        The callers' documents must differ: in a bucket, equal documents have equal etags.

        Raises:
            ObjectChangedError: The document has another etag or does not exist.
        """

    @abstractmethod
    def delete(self, location: Location, *, etag: str | None = None) -> None:
        """Delete the object, if it exists.

        Args:
            location: The object's location.
            etag: Delete the object only if it has this etag.

        Raises:
            ObjectChangedError: The object has another etag.
        """

    @abstractmethod
    def staging(self, folder: Location) -> Path | None:
        """Return a folder on this machine from which ``publish`` below ``folder`` is a rename, or ``None``.

        The caller creates and removes it.
        """
