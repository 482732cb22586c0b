"""What the tasks of an execution have recorded: its report, its parameters, and the state of its files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_batchexec.api.state import TaskRows
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.engine.journal.listed_files import are_listed, failed_files
from airflow_batchexec.engine.journal.packing import unpack, unpack_entries
from airflow_batchexec.engine.journal.replay import audited_statuses, current_entries, replay, report_lines
from airflow_batchexec.exceptions import BatchExecError
from airflow_batchexec.names import (
    CLIENT_KEY,
    FILES_ROWS,
    JOURNAL_ROWS,
    PLAN_TASK_ID,
    PREDICT_TASK_ID,
    WARNINGS,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_batchexec.api.queries import Run, StoredValue
    from airflow_batchexec.engine.journal.replay import FileState

__all__ = ["ExecutionFields", "ExecutionReport"]

log = logging.getLogger(__name__)

_TRIGGERS = {
    "rest_api": "through the REST API",
    "ui": "in the Airflow UI",
    "cli": "with the Airflow CLI",
    "operator": "by a task",
}
# The end of the year 9999, in seconds since the epoch: datetime cannot represent later times.
_MAX_TIMESTAMP = 253_402_300_799.0


@dataclass(frozen=True, slots=True)
class ExecutionFields:
    """The parameters of an execution, as far as they can be parsed."""

    model_id: str = ""
    branch: str = ""
    source_bucket: str = ""
    source_path: str = ""
    destination_bucket: str = ""
    destination_path: str = ""
    input_file_type: str = "0"
    output_file_type: str = "0"


class ExecutionReport:
    """The report of one execution.

    Args:
        run: The execution's run.
        rows: All task state rows of the run.
    """

    def __init__(self, run: Run, rows: list[StoredValue]) -> None:
        self.run = run
        self._task_rows = TaskRows.from_stored(rows)
        self._entries = _journal_entries(rows)
        self._rows = rows

    def report_messages(self) -> list[str]:
        """The report, one line per message, each with its timestamp."""
        return [
            f"{at.isoformat(timespec='milliseconds').removesuffix('+00:00')}Z {line}"
            for at, line in self.lines()
        ]

    def lines(self) -> list[tuple[datetime, str]]:
        """The lines of the report with their times in UTC, starting with the acceptance."""
        accepted = self.run.accepted_at
        start = accepted.timestamp() if accepted is not None else 0.0
        lines = [(start, self._acceptance()), *((start, f"Warning: {text}") for text in self._warnings())]
        cancelled = self._task_rows.cancelled
        if cancelled and (at := _timestamp(cancelled)) is not None:
            lines.append((at, f"Cancellation requested by {cancelled.get('by') or 'an unknown user'}."))
        lines += report_lines(self._entries)
        return [(_utc(at), line) for at, line in sorted(lines, key=lambda pair: pair[0])]

    def files(self) -> list[tuple[str, FileState]]:
        """The task ID and state of every planned file, in plan order; of failed files only if files are not listed."""
        ended = self._task_rows.ended_in(self.run.generation) if self.run.is_over else None
        if not are_listed(self._total_files()):
            return self._failed_files(ended)
        files = self._planned_files()
        try:
            states = replay(self._entries, files, ended, self.run.is_over)
        except (TypeError, ValueError):
            # Anyone who may edit task state can write anything there.
            log.warning("Cannot read the journal of execution %s", self.run.run_id, exc_info=True)
            states = replay([], files, None, self.run.is_over)
        shard_sizes: dict[int, int] = {}
        for _, shard in files:
            shard_sizes[shard] = shard_sizes.get(shard, 0) + 1
        seen: dict[int, int] = {}
        found = []
        for state in states:
            number = seen[state.shard] = seen.get(state.shard, -1) + 1
            task_id = f"predict[{state.shard}]"
            found.append((f"{task_id}.{number}" if shard_sizes[state.shard] > 1 else task_id, state))
        return found

    def _failed_files(self, ended: Mapping[str, Any] | None) -> list[tuple[str, FileState]]:
        try:
            files = failed_files(current_entries(self._entries), audited_statuses(ended))
            states = replay(self._entries, files, ended, self.run.is_over)
        except (TypeError, ValueError):
            log.warning("Cannot read the journal of execution %s", self.run.run_id, exc_info=True)
            return []
        return [
            (f"predict[{state.shard}]" if state.shard >= 0 else PREDICT_TASK_ID, state) for state in states
        ]

    def _total_files(self) -> int:
        total = (self._task_rows.planned or {}).get("total_files")
        return total if isinstance(total, int) else 0

    def fields(self, defaults: Mapping[str, Any]) -> ExecutionFields:
        """The parameters of the execution.

        Args:
            defaults: The default parameters of its DAG.
        """
        table = flat_fields()
        given = {name: value for name, value in {**defaults, **self.run.conf}.items() if name in table}
        try:
            config = ExecutionConfig.from_fields(**given)
        except BatchExecError:
            # The plan refused this configuration; show the values as they were given.
            return ExecutionFields(
                model_id=str(given.get("model_id") or ""),
                source_path=str(given.get("source_folder") or ""),
                destination_path=str(given.get("destination_folder") or ""),
            )
        source, destination = config.source, config.destination
        return ExecutionFields(
            model_id=config.execution.model_id,
            branch=config.execution.branch,
            source_bucket=source.bucket,
            source_path=source.key,
            destination_bucket=destination.bucket,
            destination_path=destination.key,
            input_file_type=config.execution.input_file_type.value,
            output_file_type=config.execution.output_file_type.value,
        )

    def to_datetime(self, at: float | None) -> datetime | None:
        """Convert a journal time, in seconds since the epoch, to UTC."""
        return None if at is None else _utc(at)

    def _acceptance(self) -> str:
        run = self.run
        user = f" by {run.user}" if run.user else ""
        return f"Accepted as {run.run_id}: started{user} {_TRIGGERS.get(run.by, 'by Airflow')}."

    def _warnings(self) -> list[str]:
        client = self.run.conf.get(CLIENT_KEY)
        warnings = client.get(WARNINGS) if isinstance(client, dict) else None
        return [text for text in warnings if isinstance(text, str)] if isinstance(warnings, list) else []

    def _planned_files(self) -> list[tuple[str, int]]:
        planned = self._task_rows.planned or {}
        parts = {
            row.key: row.value
            for row in self._rows
            if row.task_id == PLAN_TASK_ID and row.key.startswith(FILES_ROWS)
        }
        count = planned.get("files_rows")
        if isinstance(count, int):
            parts = {key: parts[key] for key in sorted(parts)[:count]}
        files: list[tuple[str, int]] = []
        try:
            for key in sorted(parts):
                files += [(str(file), int(shard)) for file, shard in unpack(parts[key])]
        except (TypeError, ValueError):
            log.warning("Cannot read the planned files of execution %s", self.run.run_id, exc_info=True)
            return []
        return files


def _journal_entries(rows: list[StoredValue]) -> list[dict[str, Any]]:
    """The entries of all journals, in the order in which they were written."""
    found = []
    for row in rows:
        value = unpack_entries(row.value) if row.key.startswith(JOURNAL_ROWS) else []
        found += [
            entry
            for entry in value
            if isinstance(entry, dict)
            and isinstance(entry.get("kind"), str)
            and _timestamp(entry) is not None
        ]
    return found


def _timestamp(row: Mapping[str, Any]) -> float | None:
    at = row.get("at")
    return float(at) if isinstance(at, (int, float)) and 0 <= at <= _MAX_TIMESTAMP else None


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
