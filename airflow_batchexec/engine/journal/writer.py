"""Writes a task's journal: in batches, from a background thread, within limits. ``entries.py`` describes the entries."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["JournalWriter", "ModelLines"]

log = logging.getLogger(__name__)

# Each row passes through the task's supervisor and the API server, which costs about 10 ms of CPU time.
_BATCH_SECONDS = 2.0
# Airflow warns of values above 64 KiB.
_MAX_ROW_BYTES = 47 * 1024
_MAX_PENDING_LINE_BYTES = 256 * 1024
_CLOSE_SECONDS = 10.0
_TRUNCATED_CHARACTERS = 1000
_FIRST_LINES = 100
_LAST_LINES = 100
_MAX_LINE_CHARACTERS = 500


class JournalWriter:
    """Collects entries and writes them in rows after about two seconds; :meth:`close` writes the rest.

    The writer never fails or blocks its task: failed writes are retried with the next batch and given up on close;
    only the first failure is logged. Thread-safe, but not usable in a signal handler.

    Args:
        write: Called with a row's number (four digits) and its entries, less than 48 KB as JSON. Called from the
            writer's background thread.
        after_batch: Called after each batch, from the same thread.
        in_background: Whether to use a background thread; without one, ``close`` writes everything.
    """

    def __init__(
        self,
        write: Callable[[str, list[dict[str, Any]]], None],
        *,
        after_batch: Callable[[], None] = lambda: None,
        in_background: bool = True,
    ) -> None:
        self._write = write
        self._after_batch = after_batch
        self._pending: deque[tuple[dict[str, Any], int]] = deque()
        self._line_bytes = 0
        self._dropped: dict[str, tuple[float, int]] = {}
        self._rows = 0
        self._failed = False
        self._closing = False
        self._batch_requested = False
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        if in_background:
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry; ``at`` defaults to the current time.

        If a model prints faster than lines can be written, lines are dropped and counted.
        """
        entry = {
            "at": round(time.time(), 3),
            **{name: _replace_surrogates(value) for name, value in entry.items()},
        }
        size = _size(entry)
        if size > _MAX_ROW_BYTES - 2:
            entry = {name: _truncate(value) for name, value in entry.items()}
            size = _size(entry)
        is_line = entry["kind"] == "line"
        with self._condition:
            if is_line and self._line_bytes + size > _MAX_PENDING_LINE_BYTES:
                _, count = self._dropped.get(entry["file"], (0.0, 0))
                self._dropped[entry["file"]] = entry["at"], count + 1
            else:
                self._line_bytes += size if is_line else 0
                self._pending.append((entry, size))
            self._condition.notify()

    def request_batch(self) -> None:
        """Have ``after_batch`` called within about two seconds, even without entries."""
        with self._condition:
            self._batch_requested = True
            self._condition.notify()

    def close(self) -> None:
        """Write all pending entries; give up after ten seconds."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread is None:
            self._write_batch()
            return
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._warn_once(f"not written within {_CLOSE_SECONDS:g} s")

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._condition:
                self._condition.wait_for(lambda: self._pending or self._batch_requested or self._closing)
                closing = self._condition.wait_for(lambda: self._closing, timeout=_BATCH_SECONDS)
            self._write_batch()

    def _write_batch(self) -> None:
        """Write all pending entries; entries that fail stay pending."""
        with self._condition:
            for file, (at, count) in self._dropped.items():
                entry = {"at": at, "kind": "lines_dropped", "file": file, "count": count}
                self._pending.append((entry, _size(entry)))
            self._dropped.clear()
            self._batch_requested = False
            # Entries added during the write wait for the next batch; otherwise each would soon get its own row.
            remaining = len(self._pending)
        try:
            while row := self._next_row(remaining):
                self._write(f"{self._rows:04d}", row)
                self._rows += 1
                remaining -= len(row)
                with self._condition:
                    for _ in row:
                        entry, size = self._pending.popleft()
                        self._line_bytes -= size if entry["kind"] == "line" else 0
            self._after_batch()
        except Exception as error:  # noqa: BLE001  the journal must not fail the task
            self._warn_once(str(error) or type(error).__name__)

    def _next_row(self, limit: int) -> list[dict[str, Any]]:
        """The oldest entries that fit into a row; they stay pending until they are written.

        Args:
            limit: Maximum number of entries.
        """
        row: list[dict[str, Any]] = []
        used = 2
        with self._condition:
            for entry, size in islice(self._pending, limit):
                used += size + 2
                if row and used > _MAX_ROW_BYTES:
                    break
                row.append(entry)
        return row

    def _warn_once(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            log.warning(
                "Cannot write this task's journal; the report of its execution will be incomplete: %s", reason
            )


class ModelLines:
    """Turns a model's output, file by file, into entries: the first and last hundred lines of each file.

    Called from the threads that read a pod's output, and from those that record the outcome of its files.

    Args:
        add: Receives the entries.
    """

    def __init__(self, add: Callable[[dict[str, Any]], None]) -> None:
        self._add = add
        self._file: str | None = None
        self._line_count = 0
        self._dropped = 0
        self._dropped_at = 0.0
        self._last: deque[dict[str, Any]] = deque()
        self._lock = threading.Lock()

    def add(self, *, file: str, stream: str, text: str) -> None:
        """Add a line; the first line of another file ends the current file."""
        entry = {
            "at": round(time.time(), 3),
            "kind": "line",
            "file": file,
            "stream": stream,
            "text": text if len(text) <= _MAX_LINE_CHARACTERS else text[: _MAX_LINE_CHARACTERS - 1] + "…",
        }
        with self._lock:
            if file != self._file:
                self._end()
                self._file = file
            self._line_count += 1
            if self._line_count <= _FIRST_LINES:
                self._add(entry)
                return
            self._last.append(entry)
            if len(self._last) > _LAST_LINES:
                self._dropped_at = self._last.popleft()["at"]
                self._dropped += 1

    def end(self, file: str | None = None) -> None:
        """Emit the last lines of a file after all its output was added; ``None`` for the current file."""
        with self._lock:
            if file is None or file == self._file:
                self._end()

    def _end(self) -> None:
        if self._dropped:
            self._add(
                {"at": self._dropped_at, "kind": "lines_dropped", "file": self._file, "count": self._dropped}
            )
        for entry in self._last:
            self._add(entry)
        self._file, self._line_count, self._dropped = None, 0, 0
        self._last.clear()


def _size(entry: dict[str, Any]) -> int:
    return len(json.dumps(entry))


def _replace_surrogates(value: Any) -> Any:
    """Replace lone surrogates, which file names may contain but messages cannot."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()
    return value


def _truncate(value: Any) -> Any:
    """Keep only the start and end of long text."""
    if not isinstance(value, str) or len(value) <= _TRUNCATED_CHARACTERS:
        return value
    return f"{value[: _TRUNCATED_CHARACTERS // 2]} … {value[-_TRUNCATED_CHARACTERS // 2 :]}"
