"""Reads the journal of an execution from Airflow's database, as the API server does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import NullPool, create_engine, text

from airflow_batchexec.engine.journal.packing import unpack, unpack_entries
from airflow_batchexec.engine.journal.replay import replay, report_lines

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from airflow_batchexec.engine.journal.replay import FileState

__all__ = ["Journal", "read_journal"]

_QUERY = "SELECT task_id, map_index, key, value FROM task_state_store WHERE run_id = :run_id ORDER BY id"


@cache
def _engine(database_url: str) -> Engine:
    return create_engine(database_url, poolclass=NullPool)


@dataclass(frozen=True)
class Journal:
    """The rows of one run.

    Attributes:
        rows: Values by task, map index and key, in the order in which the rows were first written.
    """

    rows: dict[tuple[str, int, str], Any]

    def row(self, task_id: str, key: str, *, map_index: int = -1) -> Any:
        """A row's value; ``None`` if there is no such row."""
        return self.rows.get((task_id, map_index, key))

    def entries(self, *kinds: str) -> list[dict[str, Any]]:
        """The entries of these kinds; all without arguments."""
        found = [
            entry
            for (_, _, key), value in self.rows.items()
            if key.startswith("journal-")
            for entry in unpack_entries(value)
        ]
        return [entry for entry in found if not kinds or entry["kind"] in kinds]

    def files(self) -> list[tuple[str, int]]:
        """The planned files, each with the index of its shard."""
        planned = self.row("plan", "planned")
        packed = [self.row("plan", f"files-{number:03d}") for number in range(planned["files_rows"])]
        return [(file, shard) for row in packed for file, shard in unpack(row)]

    def accounts(self, *, over: bool = True) -> list[FileState]:
        """The state of each planned file."""
        return replay(self.entries(), self.files(), self.row("finish", "ended"), over)

    def statuses(self, *, over: bool = True) -> dict[str, str]:
        """The status of each file."""
        return {state.file: state.status for state in self.accounts(over=over)}

    def report(self) -> list[str]:
        """The report's lines."""
        return [line for _, line in report_lines(self.entries())]


def read_journal(database_url: str, run_id: str) -> Journal:
    """Read the journal of a run; the database may be written concurrently."""
    with _engine(database_url).connect() as connection:
        found = connection.execute(text(_QUERY), {"run_id": run_id}).fetchall()
    return Journal({(task_id, index, key): json.loads(value) for task_id, index, key, value in found})
