"""A folder of one's own in a bucket or on a shared disk, through which a frame's files go to a server and come back."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import Location, Scheme
from airflow_batchexec.engine.parallel import parallel_map
from airflow_batchexec.engine.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["StagingFolder"]

_THREADS = 8


class StagingFolder:
    """A new folder below ``staging``, reached with this machine's own credentials.

    Args:
        staging: An ``s3://``, ``gs://`` or ``file://`` URI.

    Raises:
        LocationError: It is none.
        ConfigurationError: What its storage needs is not installed or set up.
    """

    def __init__(self, staging: str) -> None:
        self._storage = open_storage(Location.parse(staging, field="staging"))
        self.location = Location.parse(staging, field="staging").join(f"run-{secrets.token_hex(8)}")
        self.source = self.location.join("in")
        self.destination = self.location.join("out")

    def upload(self, paths: Iterable[Path]) -> None:
        """Put files into ``source``; they are gone from where they were.

        Raises:
            StorageError: It cannot be done.
        """
        parallel_map(
            lambda path: self._storage.publish(path, self.source.join(path.name)),
            paths,
            threads=_THREADS,
            name="staging",
        )

    def download(self, names: Iterable[str], folder: Path) -> None:
        """Bring results from ``destination`` into a folder of this machine.

        Raises:
            ObjectNotFoundError: A result is not there.
            StorageError: It cannot be done.
        """

        def fetch(name: str) -> None:
            path = self._storage.fetch(self._storage.stat(self.destination.join(name)), folder / name)
            if path != folder / name:
                # What is on disk already is given where it lies, and that is about to be removed.
                shutil.copyfile(path, folder / name)

        parallel_map(fetch, names, threads=_THREADS, name="staging")

    def remove(self) -> None:
        """Delete all that is in the folder.

        Raises:
            StorageError: It cannot be done.
        """
        parallel_map(
            lambda info: self._storage.delete(info.location),
            self._storage.list(self.location),
            threads=_THREADS,
            name="staging",
        )
        if self.location.scheme is Scheme.FILE:
            shutil.rmtree(self.location.path, ignore_errors=True)
