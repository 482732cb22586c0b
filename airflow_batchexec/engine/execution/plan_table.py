"""A temporary table of the files of an execution that is being planned.

Planning needs the files in several orders: as listed, by result, by size, and by shard. The table keeps them in a
temporary database, so that the memory to plan an execution does not depend on the number of its files.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import count, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.execution.scratch_database import open_scratch_database

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["Conflict", "PlanTable", "open_plan_table"]

# Text is compared by its bytes in UTF-8, which is the order of Python's strings.
_SCHEMA = """
CREATE TABLE task (number INTEGER PRIMARY KEY, file TEXT, size_bytes INTEGER, etag TEXT, result TEXT);
CREATE INDEX task_result ON task (result);
CREATE INDEX task_order ON task (size_bytes DESC, file);
CREATE TABLE folder (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE place (shard INTEGER, position INTEGER, task INTEGER, PRIMARY KEY (shard, position)) WITHOUT ROWID;
"""
_SAME_RESULT = """
SELECT other.file, task.file, task.result
FROM task JOIN task AS other ON other.result = task.result AND other.number < task.number
ORDER BY task.number, other.number LIMIT 1
"""
# The paths below a folder are those between "folder/" and "folder0", as "0" is the next character.
_RESULT_IS_FOLDER = """
SELECT other.file, task.file, other.result
FROM task AS other JOIN task ON task.result > other.result || '/' AND task.result < other.result || '0'
ORDER BY task.number, length(other.result) DESC LIMIT 1
"""
_RESULT_IS_INPUT = """
SELECT input.file, task.file, task.result
FROM task AS input JOIN task ON task.result = ? || input.file
ORDER BY task.number LIMIT 1
"""
# A path without its name: trimmed by the characters that are not slashes, then by the slash.
_ADD_FOLDERS = (
    "INSERT OR IGNORE INTO folder SELECT rtrim(rtrim(result, replace(result, '/', '')), '/') FROM task"
)
_BY_SHARD = """
SELECT shard, file, size_bytes, etag, result FROM place JOIN task ON task.number = place.task
ORDER BY shard, position
"""
_SHARD_OF_FILE = "SELECT file, shard FROM place JOIN task ON task.number = place.task ORDER BY position"


class Conflict(NamedTuple):
    """Two files that cannot both be planned: the first ones in the order of the listing.

    Attributes:
        other: The file that the result of ``file`` is in conflict with.
        file: An input.
        result: The path that is in conflict.
    """

    other: str
    file: str
    result: str


class PlanTable:
    """The file tasks of an execution; see :func:`open_plan_table`. For a single thread."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add_tasks(self, tasks: Iterable[FileTask]) -> None:
        """Add the file tasks, once, in the order of the listing."""
        rows = ((task.file, task.size_bytes, task.etag, task.result) for task in tasks)
        self._database.executemany(
            "INSERT INTO task (file, size_bytes, etag, result) VALUES (?, ?, ?, ?)", rows
        )

    def totals(self) -> tuple[int, int]:
        """The number of files, and their total size in bytes."""
        files, size_bytes = self._database.execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0) FROM task"
        ).fetchone()
        return files, size_bytes

    def same_result(self) -> Conflict | None:
        """Two files with the same result."""
        return self._conflict(_SAME_RESULT)

    def result_in_result(self) -> Conflict | None:
        """A file whose result would be in a folder that is the result of another."""
        return self._conflict(_RESULT_IS_FOLDER)

    def result_on_input(self, inputs: str) -> Conflict | None:
        """A file whose result is an input.

        Args:
            inputs: The path of the inputs below the destination: empty, or ending in a slash.
        """
        return self._conflict(_RESULT_IS_INPUT, inputs)

    def files(self) -> Iterator[str]:
        """The files, largest first, then by name: the order of the plan."""
        for (file,) in self._database.execute("SELECT file FROM task ORDER BY size_bytes DESC, file"):
            yield file

    def sizes(self) -> Iterator[int]:
        """The sizes of the files in bytes, in the order of the plan."""
        for (size_bytes,) in self._database.execute(
            "SELECT size_bytes FROM task ORDER BY size_bytes DESC, file"
        ):
            yield size_bytes

    def result_folders(self) -> Iterator[str]:
        """The folders of the results, each once, sorted; empty for the destination itself."""
        self._database.execute(_ADD_FOLDERS)
        for (folder,) in self._database.execute("SELECT path FROM folder ORDER BY path"):
            yield folder

    def place(self, shards: Iterable[int]) -> None:
        """Add the shard of each file, once, in the order of the plan."""
        tasks = self._database.execute("SELECT number FROM task ORDER BY size_bytes DESC, file")
        rows = ((shard, position, task) for shard, position, (task,) in zip(shards, count(), tasks))
        self._database.executemany("INSERT INTO place VALUES (?, ?, ?)", rows)

    def shards(self) -> Iterator[Iterator[FileTask]]:
        """The file tasks of each shard, in the order of the plan, after :meth:`place`."""
        for _, rows in groupby(self._database.execute(_BY_SHARD), key=itemgetter(0)):
            yield (FileTask(*values) for _, *values in rows)

    def shard_of_files(self) -> Iterator[tuple[str, int]]:
        """Each file and its shard, in the order of the plan, after :meth:`place`. For a few thousand files."""
        yield from self._database.execute(_SHARD_OF_FILE)

    def _conflict(self, query: str, *values: str) -> Conflict | None:
        row = self._database.execute(query, values).fetchone()
        return None if row is None else Conflict(*row)


@contextmanager
def open_plan_table(folder: Path | None) -> Iterator[PlanTable]:
    """Open an empty table, and delete it afterwards.

    Args:
        folder: Where its temporary file is; ``None`` for the system's temporary folder.

    Raises:
        DiskFullError: The folder has no space left.
        StorageError: The folder cannot be used.
    """
    with open_scratch_database(_SCHEMA, folder) as database:
        yield PlanTable(database)
