"""How a task keeps its journal: in batches, from a thread of its own, within bounds. What an entry is, ``journal_entries.py`` says."""

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

_log = logging.getLogger(__name__)

# Each row passes through the task's supervisor and the API server, which costs some 10 ms of a CPU.
_BATCH_SECONDS = 2.0
# Airflow warns of values above 64 KiB.
_ROW_BYTES = 47 * 1024
_PENDING_LINE_BYTES = 256 * 1024
_CLOSE_SECONDS = 10.0
_SHORT_TEXT = 1000
_FIRST_LINES = 100
_LAST_LINES = 100
_LINE_CHARACTERS = 500


class JournalWriter:
    """Collects entries, and writes them in rows, about two seconds after they came; :meth:`close` writes what is left.

    Nothing of it ever fails or holds up its task: what cannot be written is tried again with the next batch, and is
    given up at the end; the first failure is logged. Usable from several threads, but not from a signal handler.

    Args:
        write: Is given the number of a row, four digits, and the entries of it: less than 48 KB as JSON. Is called from
            a thread of the writer's own.
        after_batch: Is called after each batch, from there too.
        in_background: Whether there is such a thread; without one, everything is written by ``close``.
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
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        if in_background:
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()

    def add(self, entry: dict[str, Any]) -> None:
        """Take an entry; where it does not say when it was (``at``), it is now.

        Of a model that prints faster than this is written, lines are left out, and counted.
        """
        entry = {"at": round(time.time(), 3), **{name: _as_text(value) for name, value in entry.items()}}
        size = _size(entry)
        if size > _ROW_BYTES - 2:
            entry = {name: _cut(value) for name, value in entry.items()}
            size = _size(entry)
        is_line = entry["kind"] == "line"
        with self._condition:
            if is_line and self._line_bytes + size > _PENDING_LINE_BYTES:
                _, count = self._dropped.get(entry["file"], (0.0, 0))
                self._dropped[entry["file"]] = entry["at"], count + 1
            else:
                self._line_bytes += size if is_line else 0
                self._pending.append((entry, size))
            self._condition.notify()

    def close(self) -> None:
        """Write everything that was added; give up where that takes longer than ten seconds."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread is None:
            self._write_batch()
            return
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._say_failed("it takes too long")

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._condition:
                self._condition.wait_for(lambda: self._pending or self._closing)
                closing = self._condition.wait_for(lambda: self._closing, timeout=_BATCH_SECONDS)
            self._write_batch()

    def _write_batch(self) -> None:
        """Write all that has come up by now; what fails stays."""
        with self._condition:
            for file, (at, count) in self._dropped.items():
                entry = {"at": at, "kind": "lines_dropped", "file": file, "count": count}
                self._pending.append((entry, _size(entry)))
            self._dropped.clear()
            # What comes while this is written waits for the next batch, or each entry would soon have a row of its own.
            left = len(self._pending)
        try:
            while row := self._next_row(left):
                self._write(f"{self._rows:04d}", row)
                self._rows += 1
                left -= len(row)
                with self._condition:
                    for _ in row:
                        entry, size = self._pending.popleft()
                        self._line_bytes -= size if entry["kind"] == "line" else 0
            self._after_batch()
        except Exception as error:  # noqa: BLE001  whatever it is, the task goes on
            self._say_failed(str(error) or type(error).__name__)

    def _next_row(self, most: int) -> list[dict[str, Any]]:
        """As many of the oldest entries as there is room for in a row; they stay until they are written.

        Args:
            most: How many at most.
        """
        row: list[dict[str, Any]] = []
        used = 2
        with self._condition:
            for entry, size in islice(self._pending, most):
                used += size + 2
                if row and used > _ROW_BYTES:
                    break
                row.append(entry)
        return row

    def _say_failed(self, why: str) -> None:
        if not self._failed:
            self._failed = True
            _log.warning("What this task does cannot be shown in the report of its execution: %s", why)


class ModelLines:
    """What a model prints, file after file, as entries: of each file the first and the last hundred lines.

    Called from the threads that read what a pod prints, and from those that record what became of its files.

    Args:
        add: Takes the entries.
    """

    def __init__(self, add: Callable[[dict[str, Any]], None]) -> None:
        self._add = add
        self._file: str | None = None
        self._taken = 0
        self._dropped = 0
        self._dropped_at = 0.0
        self._last: deque[dict[str, Any]] = deque()
        self._lock = threading.Lock()

    def add(self, *, file: str, stream: str, text: str) -> None:
        """Take a line; the first one of another file ends the last file's."""
        entry = {
            "at": round(time.time(), 3),
            "kind": "line",
            "file": file,
            "stream": stream,
            "text": text if len(text) <= _LINE_CHARACTERS else text[: _LINE_CHARACTERS - 1] + "…",
        }
        with self._lock:
            if file != self._file:
                self._end()
                self._file = file
            self._taken += 1
            if self._taken <= _FIRST_LINES:
                self._add(entry)
                return
            self._last.append(entry)
            if len(self._last) > _LAST_LINES:
                self._dropped_at = self._last.popleft()["at"]
                self._dropped += 1

    def end(self, file: str | None = None) -> None:
        """Give the last lines of a file, when all of them are in; of none in particular where ``None``."""
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
        self._file, self._taken, self._dropped = None, 0, 0
        self._last.clear()


def _size(entry: dict[str, Any]) -> int:
    return len(json.dumps(entry))


def _as_text(value: Any) -> Any:
    """Without halves of surrogate pairs, which a file's name may hold and no message can."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()
    return value


def _cut(value: Any) -> Any:
    """The two ends of a text that is too long for a row."""
    if not isinstance(value, str) or len(value) <= _SHORT_TEXT:
        return value
    return f"{value[: _SHORT_TEXT // 2]} … {value[-_SHORT_TEXT // 2 :]}"
