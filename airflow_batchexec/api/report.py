"""What an execution has written of itself: its report, and the account of its files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_batchexec.api.state import Words
from airflow_batchexec.engine.config.model import ExecutionConfig, flat_fields
from airflow_batchexec.engine.journal.replay import fold, report_lines, unpack
from airflow_batchexec.exceptions import BatchExecError
from airflow_batchexec.names import CLIENT_KEY, FILES_ROWS, JOURNAL_ROWS, PLAN_TASK_ID, WARNINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_batchexec.api.queries import Run, StoredValue
    from airflow_batchexec.engine.journal.replay import FileAccount

__all__ = ["Account", "Fields"]

log = logging.getLogger(__name__)

_HOW = {
    "rest_api": "through the REST API",
    "ui": "in Airflow's user interface",
    "cli": "on Airflow's command line",
    "operator": "by a task",
}
# What no time of day is: the year 9999, in seconds since the epoch.
_LATEST = 253_402_300_799.0


@dataclass(frozen=True, slots=True)
class Fields:
    """What an execution was asked to do, as far as it can be read."""

    model_id: str = ""
    branch: str = ""
    source_bucket: str = ""
    source_path: str = ""
    destination_bucket: str = ""
    destination_path: str = ""
    input_file_type: str = "0"
    output_file_type: str = "0"


class Account:
    """One execution's own words.

    Args:
        run: Its run.
        rows: All that its tasks have said.
    """

    def __init__(self, run: Run, rows: list[StoredValue]) -> None:
        self.run = run
        self._words = Words.of(rows)
        self._entries = _entries(rows)
        self._rows = rows

    def report_messages(self) -> list[str]:
        """The report, a line each, with its time."""
        return [
            f"{at.isoformat(timespec='milliseconds').removesuffix('+00:00')}Z {line}"
            for at, line in self.lines()
        ]

    def lines(self) -> list[tuple[datetime, str]]:
        """The report, with times in UTC, from the acceptance on."""
        accepted = self.run.accepted_at
        began = accepted.timestamp() if accepted is not None else 0.0
        lines = [(began, self._acceptance()), *((began, f"Warning: {text}") for text in self._warnings())]
        if self._words.cancelled and (at := _time_of(self._words.cancelled)) is not None:
            lines.append((at, f"{self._words.cancelled.get('by') or 'Somebody'} asked for its cancellation."))
        lines += report_lines(self._entries)
        return [(_utc(at), line) for at, line in sorted(lines, key=lambda pair: pair[0])]

    def files(self) -> list[tuple[str, FileAccount]]:
        """Every planned file with the task that it belongs to, in the plan's order."""
        files = self._planned_files()
        ended = self._words.ended_in(self.run.generation) if self.run.is_over else None
        try:
            accounts = fold(self._entries, files, ended, self.run.is_over)
        except (TypeError, ValueError):
            # Whoever may change what a task keeps may write anything there.
            log.warning("The journal of the execution %s cannot be read.", self.run.run_id, exc_info=True)
            accounts = fold([], files, None, self.run.is_over)
        in_share: dict[int, int] = {}
        for _, share in files:
            in_share[share] = in_share.get(share, 0) + 1
        seen: dict[int, int] = {}
        found = []
        for account in accounts:
            number = seen[account.share] = seen.get(account.share, -1) + 1
            task_id = f"predict[{account.share}]"
            found.append((f"{task_id}.{number}" if in_share[account.share] > 1 else task_id, account))
        return found

    def fields(self, defaults: Mapping[str, Any]) -> Fields:
        """What the execution was asked to do.

        Args:
            defaults: What its DAG has by default.
        """
        table = flat_fields()
        given = {name: value for name, value in {**defaults, **self.run.conf}.items() if name in table}
        try:
            config = ExecutionConfig.from_fields(**given)
        except BatchExecError:
            # It was refused; what stands there is shown as it is.
            return Fields(
                model_id=str(given.get("model_id") or ""),
                source_path=str(given.get("source_folder") or ""),
                destination_path=str(given.get("destination_folder") or ""),
            )
        source, destination = config.source, config.destination
        return Fields(
            model_id=config.execution.model_id,
            branch=config.execution.branch,
            source_bucket=source.bucket,
            source_path=source.key,
            destination_bucket=destination.bucket,
            destination_path=destination.key,
            input_file_type=config.execution.input_file_type.value,
            output_file_type=config.execution.output_file_type.value,
        )

    def time(self, at: float | None) -> datetime | None:
        """A time of the journal's, in UTC."""
        return None if at is None else _utc(at)

    def _acceptance(self) -> str:
        run = self.run
        who = f" by {run.user}" if run.user else ""
        return f"Accepted as {run.run_id}: started{who} {_HOW.get(run.by, 'by Airflow')}."

    def _warnings(self) -> list[str]:
        client = self.run.conf.get(CLIENT_KEY)
        warnings = client.get(WARNINGS) if isinstance(client, dict) else None
        return [text for text in warnings if isinstance(text, str)] if isinstance(warnings, list) else []

    def _planned_files(self) -> list[tuple[str, int]]:
        planned = self._words.planned or {}
        parts = {
            row.key: row.value
            for row in self._rows
            if row.task_id == PLAN_TASK_ID and row.key.startswith(FILES_ROWS)
        }
        rows = planned.get("files_rows")
        if isinstance(rows, int):
            parts = {key: parts[key] for key in sorted(parts)[:rows]}
        files: list[tuple[str, int]] = []
        try:
            for key in sorted(parts):
                files += [(str(file), int(share)) for file, share in unpack(parts[key])]
        except (TypeError, ValueError):
            log.warning(
                "The planned files of the execution %s cannot be read.", self.run.run_id, exc_info=True
            )
            return []
        return files


def _entries(rows: list[StoredValue]) -> list[dict[str, Any]]:
    """The entries of all journals, in the order in which they were written."""
    found = []
    for row in rows:
        value = row.value if row.key.startswith(JOURNAL_ROWS) else None
        found += [
            entry
            for entry in (value if isinstance(value, list) else [])
            if isinstance(entry, dict) and isinstance(entry.get("kind"), str) and _time_of(entry) is not None
        ]
    return found


def _time_of(said: Mapping[str, Any]) -> float | None:
    at = said.get("at")
    return float(at) if isinstance(at, (int, float)) and 0 <= at <= _LATEST else None


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
