"""A temporary database for as many rows as an execution has files, in a fixed amount of memory."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batchexec.engine.storage.disk import disk_errors
from airflow_batchexec.exceptions import DiskFullError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["open_scratch_database"]

_CACHE_KIB = 32 * 1024
_SETTINGS = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -{_CACHE_KIB};
BEGIN;
"""


@contextmanager
def open_scratch_database(schema: str, folder: Path | None) -> Iterator[sqlite3.Connection]:
    """Open an SQLite database for a single thread, and delete it afterwards.

    It is in memory up to its cache, then in a file without a name, so a process that is killed leaves nothing behind.
    All statements are one transaction: a commit would write the cache to the file.

    Args:
        schema: The statements that create its tables, and their indexes. Large queries need an index for their order:
            without one, SQLite sorts in its own files, outside ``folder``. So does a later ``CREATE INDEX``.
        folder: Where its file is; ``None`` for the system's temporary folder.

    Raises:
        DiskFullError: The folder has no space left.
        StorageError: The folder cannot be used.
    """
    where = folder or Path(tempfile.gettempdir())
    with disk_errors("make a temporary database in", str(where)):
        descriptor, name = tempfile.mkstemp(prefix="batchexec-", suffix=".sqlite", dir=where)
    os.close(descriptor)
    try:
        with closing(_connect(Path(name))) as database:
            database.executescript(_SETTINGS + schema)
            yield database
    except sqlite3.Error as error:
        kind = DiskFullError if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL else StorageError
        raise kind(
            f"Cannot use a temporary database in {where}: {error}. Check the space in this temporary folder."
        ) from error


def _connect(file: Path) -> sqlite3.Connection:
    """Open the file, without locks because no other process can, and delete its name."""
    try:
        return sqlite3.connect(f"{file.as_uri()}?nolock=1", uri=True, isolation_level=None)
    finally:
        file.unlink()
