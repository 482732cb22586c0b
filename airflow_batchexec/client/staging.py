"""A unique folder in a bucket or on a shared disk that exchanges a frame's files with a server."""

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

_MAX_THREADS = 8


class StagingFolder:
    """A new folder below ``staging``, accessed with this machine's credentials.

    Args:
        staging: An ``s3://``, ``gs://`` or ``file://`` URI.

    Raises:
        LocationError: The URI is invalid.
        ConfigurationError: The storage's dependencies are not installed, or it is not configured.
    """

    def __init__(self, staging: str) -> None:
        self._storage = open_storage(Location.parse(staging, field="staging"))
        self.location = Location.parse(staging, field="staging").join(f"run-{secrets.token_hex(8)}")
        self.source = self.location.join("in")
        self.destination = self.location.join("out")

    def upload(self, paths: Iterable[Path]) -> None:
        """Move files into ``source``.

        Raises:
            StorageError: A file cannot be uploaded.
        """
        parallel_map(
            lambda path: self._storage.publish(path, self.source.join(path.name)),
            paths,
            threads=_MAX_THREADS,
            name="staging",
        )

    def download(self, names: Iterable[str], folder: Path) -> None:
        """Download results from ``destination`` into a local folder.

        Raises:
            ObjectNotFoundError: A result does not exist.
            StorageError: A result cannot be downloaded.
        """

        def fetch(name: str) -> None:
            path = self._storage.fetch(self._storage.stat(self.destination.join(name)), folder / name)
            if path != folder / name:
                # The local storage returns the original file, which is about to be removed.
                shutil.copyfile(path, folder / name)

        parallel_map(fetch, names, threads=_MAX_THREADS, name="staging")

    def remove(self) -> None:
        """Delete the folder and its contents.

        Raises:
            StorageError: A file cannot be deleted.
        """
        parallel_map(
            lambda info: self._storage.delete(info.location),
            self._storage.list(self.location),
            threads=_MAX_THREADS,
            name="staging",
        )
        if self.location.scheme is Scheme.FILE:
            shutil.rmtree(self.location.path, ignore_errors=True)
