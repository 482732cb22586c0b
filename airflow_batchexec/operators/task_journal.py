"""The journal of one task of an execution, in Airflow's task state store, where the API server can read it.

Rows of the task's state store, by key:

============================== ===================================================================================
journal-<generation>-<try>-<n> a list of entries, as ``engine/journal/entries.py`` describes them; packed if it is long
planned                        by plan: generation, total_files, shares, model_id, build_id, files_rows
files-<n>                      by plan: packed pairs of file and index of shard; ``files_rows`` says how many count.
                               There are none if ``engine/journal/listed_files.py`` says that files are not listed
progress                       by predict, if the plan has fewer shards than files: generation, finished
ended                          by finish: generation, status, reason; for a planned execution also total_files,
                               finished_files, rows, not_finished (packed: status by file; if files are not listed,
                               only of those that were started, and of a limited number)
cancelled                      of finish, written by the REST API when a user cancels the run: generation, by, at
============================== ===================================================================================
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_batchexec import internals
from airflow_batchexec.exceptions import (
    BatchExecError,
    ExecutionCancelledError,
    FileTimeoutError,
    JobTimeoutError,
)
from airflow_batchexec.names import JOURNAL_ROWS, PROGRESS_ROW
from airflow_batchexec.runs.handle import generation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context
    from airflow.sdk.types import Logger

    from airflow_batchexec.engine.execution.ledger import FileRecord

__all__ = ["TaskJournal"]

_TIMEOUTS = (FileTimeoutError, JobTimeoutError)


class TaskJournal:
    """Writes what a task of an execution does; :meth:`close` writes the rest.

    If the store fails, or there is none, the task continues without it; that is logged once.

    Args:
        context: The task's context.
        name: The task's name in the report: its pod, if it has one.
        log: The task's log.
    """

    def __init__(self, context: Context, *, name: str, log: Logger) -> None:
        from airflow_batchexec.engine.journal.writer import (  # noqa: PLC0415  not for parsing
            JournalWriter,
            ModelLines,
        )

        self._name = name
        self._log = log
        self._store = context.get("task_state_store")
        self._generation = generation(context)
        self._try = context["ti"].try_number
        self._has_failed = False
        self._omits_files = False
        self._progress: int | None = None
        self._written_progress: int | None = None
        self._writer = JournalWriter(
            self._write_row,
            after_batch=self._write_progress,
            # Only a supervisor in another process may be called from two threads.
            in_background=self._store is not None and internals.is_supervised(),
        )
        self._lines = ModelLines(self._writer.add)
        if self._store is None:
            log.info("No task state store is available; events will not be recorded.")
        if self._try > 1:
            self.add("try", number=self._try, task=name)

    def close(self) -> None:
        """Write the remaining entries."""
        self._lines.end()
        self._writer.close()

    @contextmanager
    def reporting(self, *, close: bool = True) -> Iterator[None]:
        """Add the failure that ends the block, then close the journal.

        Args:
            close: Whether to close it also if the block succeeds.
        """
        try:
            yield
        except BatchExecError as error:
            self.add_failure(error)
            self.close()
            raise
        except BaseException:
            self.close()
            raise
        if close:
            self.close()

    def omit_files(self) -> None:
        """From now on, add only failures of files, and the model's output only while it is loaded."""
        self._omits_files = True

    def add(self, kind: str, **values: Any) -> None:
        """Add an entry with the present time."""
        self._writer.add({"kind": kind, **values})

    def add_record(self, record: FileRecord) -> None:
        """Add the start or end of a file."""
        from airflow_batchexec.engine.execution.ledger import FileStatus  # noqa: PLC0415  not for parsing

        if self._omits_files and record.status in {FileStatus.STARTED, FileStatus.FINISHED}:
            return
        entry: dict[str, Any] = {
            "at": round(record.at, 3),
            "kind": record.status.value.lower(),
            "file": record.file,
            "pod": record.pod,
            "generation": record.generation,
            "attempt": record.attempt,
        }
        if record.status is not FileStatus.STARTED:
            self._lines.end(record.file)
            if record.output is not None:
                steps = {step: round(seconds, 3) for step, seconds in record.seconds.items()}
                entry |= {
                    "rows": record.output.rows,
                    "seconds": round(sum(record.seconds.values()), 3),
                    "steps": steps,
                }
            else:
                entry |= {"error": record.error, "reason": record.reason}
                if record.traceback:
                    entry["traceback"] = record.traceback
        self._writer.add(entry)

    def add_failure(self, error: BatchExecError) -> None:
        """Add the error that failed the task itself."""
        kind = "timeout" if isinstance(error, _TIMEOUTS) else "failed"
        entry = {
            "kind": "cancelled" if isinstance(error, ExecutionCancelledError) else kind,
            "file": "",
            "pod": self._name,
            "generation": self._generation,
            "attempt": self._try,
            "error": type(error).__name__,
            "reason": error.message,
        }
        if error.details.get("traceback"):
            entry["traceback"] = error.details["traceback"]
        self._lines.end()
        self._writer.add(entry)

    def add_line(self, file: str, stream: str, text: str) -> None:
        """Add a line that the model printed for a file or, if that is empty, while it was loaded."""
        if not (file and self._omits_files):
            self._lines.add(file=file, stream=stream, text=text)

    def set_progress(self, finished: int) -> None:
        """Set how many files of the task have finished; written with the next batch."""
        self._progress = finished
        self._writer.request_batch()

    def put(self, key: str, value: dict[str, Any] | str) -> bool:
        """Write a row now, from the task's own thread.

        Returns:
            Whether it was written.
        """
        try:
            self._set(key, value)
        except Exception as error:  # noqa: BLE001  no failure of the store may fail the task
            self._log_failure(error)
            return False
        return True

    def get(self, key: str) -> Any:
        """A row of the task; ``None`` if it does not exist or cannot be read."""
        if self._store is None:
            return None
        try:
            return self._store.get(key)
        except Exception as error:  # noqa: BLE001  as in put
            self._log_failure(error)
            return None

    def _write_row(self, number: str, entries: list[dict[str, Any]]) -> None:
        from airflow_batchexec.engine.journal.packing import pack_entries  # noqa: PLC0415  not for parsing

        self._set(f"{JOURNAL_ROWS}{self._generation}-{self._try}-{number}", pack_entries(entries))

    def _write_progress(self) -> None:
        finished = self._progress
        if finished is not None and finished != self._written_progress:
            self._set(PROGRESS_ROW, {"generation": self._generation, "finished": finished})
            self._written_progress = finished

    def _set(self, key: str, value: Any) -> None:
        if self._store is not None:
            self._store.set(key, value)

    def _log_failure(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._log.warning("Cannot write to the task state store: %s", error)
