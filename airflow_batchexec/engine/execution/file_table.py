"""A temporary table of an execution's files: what was planned, what was recorded, and which results are stored.

The table is a temporary database, so that the memory to conclude an execution does not depend on the number of its
files.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus
from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.execution.scratch_database import open_scratch_database

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["FileRow", "FileTable", "open_file_table"]

_SCHEMA = """
CREATE TABLE task (position INTEGER PRIMARY KEY, file TEXT UNIQUE, size_bytes INTEGER, etag TEXT, result TEXT);
CREATE TABLE result (path TEXT PRIMARY KEY, position INTEGER) WITHOUT ROWID;
CREATE TABLE record (
    position INTEGER PRIMARY KEY, generation INTEGER, attempt INTEGER, has_ended INTEGER, at REAL,
    has_finished INTEGER, line BLOB
);
CREATE TABLE stored (position INTEGER PRIMARY KEY, size_bytes INTEGER);
"""
_ADD_RECORD = """
INSERT INTO record SELECT position, ?, ?, ?, ?, ?, ? FROM task WHERE file = ?
ON CONFLICT (position) DO UPDATE SET
    generation = excluded.generation, attempt = excluded.attempt, has_ended = excluded.has_ended, at = excluded.at,
    has_finished = excluded.has_finished, line = excluded.line
WHERE (excluded.generation, excluded.attempt, excluded.has_ended, excluded.at)
    >= (record.generation, record.attempt, record.has_ended, record.at)
"""
_ADD_STORED = """
INSERT OR IGNORE INTO stored SELECT position, ? FROM result JOIN record USING (position)
WHERE result.path = ? AND record.has_finished
"""
_ROWS = """
SELECT task.file, task.size_bytes, task.etag, task.result, record.line, stored.size_bytes
FROM task LEFT JOIN record USING (position) LEFT JOIN stored USING (position) ORDER BY task.position
"""


class FileRow(NamedTuple):
    """One planned file.

    Attributes:
        task: The file task.
        record: The file's latest record, as :attr:`FileRecord.order` defines it; ``None`` without any.
        stored_bytes: The size of its result, if it was found; ``None`` does not mean that it is missing.
    """

    task: FileTask
    record: FileRecord | None
    stored_bytes: int | None


class FileTable:
    """The planned files of an execution; see :func:`open_file_table`. For a single thread."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add_tasks(self, tasks: Iterable[FileTask]) -> None:
        """Add the plan, once, before anything else."""
        rows = ((task.file, task.size_bytes, task.etag, task.result) for task in tasks)
        self._database.executemany(
            "INSERT INTO task (file, size_bytes, etag, result) VALUES (?, ?, ?, ?)", rows
        )

    def add_records(self, lines: Iterable[bytes]) -> None:
        """Add lines of the ledger, in any order. Those of files that are not planned are ignored."""
        self._database.executemany(_ADD_RECORD, map(_record_values, lines))

    def finished_files(self) -> int:
        """The number of files whose latest record says that they have finished."""
        (count,) = self._database.execute("SELECT count(*) FROM record WHERE has_finished").fetchone()
        return int(count)

    def result_range(self) -> tuple[str, str]:
        """The first and last path of the results, in the order in which buckets list them."""
        self._database.execute("INSERT OR IGNORE INTO result SELECT result, position FROM task")
        first, last = self._database.execute(
            "SELECT (SELECT min(path) FROM result), (SELECT max(path) FROM result)"
        ).fetchone()
        return first, last

    def add_stored(self, results: Iterable[tuple[str, int]]) -> int:
        """Add the sizes of stored results, by their path below the destination, after :meth:`result_range`.

        Returns:
            How many of them belong to files that have finished and had no result yet.
        """
        values = ((size_bytes, path) for path, size_bytes in results)
        return self._database.executemany(_ADD_STORED, values).rowcount

    def rows(self) -> Iterator[FileRow]:
        """All files, in the order of the plan."""
        for file, size_bytes, etag, result, line, stored_bytes in self._database.execute(_ROWS):
            yield FileRow(
                FileTask(file, size_bytes, etag, result),
                None if line is None else FileRecord.from_dict(json.loads(line)),
                stored_bytes,
            )


@contextmanager
def open_file_table(folder: Path | None = None) -> Iterator[FileTable]:
    """Open an empty table, and delete it afterwards.

    Args:
        folder: Where its temporary file is; ``None`` for the system's temporary folder.

    Raises:
        DiskFullError: The folder has no space left.
        StorageError: The folder cannot be used.
    """
    with open_scratch_database(_SCHEMA, folder) as database:
        yield FileTable(database)


def _record_values(line: bytes) -> tuple[int, int, bool, float, bool, bytes, str]:
    record = FileRecord.from_dict(json.loads(line))
    return (*record.order, record.status is FileStatus.FINISHED, line, record.file)
