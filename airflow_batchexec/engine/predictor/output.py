"""What a pod prints, line by line and within bounds, so that a chatty model can neither block nor bury a log."""

from __future__ import annotations

import logging
import os
import threading
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LineForwarder"]

_log = logging.getLogger(__name__)

_READ_BYTES = 1 << 20
_LINE_BYTES = 8 << 10
_BUDGET_BYTES = 1 << 20
_BUDGET_LINES = 10_000


class LineForwarder:
    """Reads one stream of a pod to its end in a thread of its own.

    Everything is read; of each file's output the first mebibyte or 10,000 lines are passed on, and a long line in its
    first 8 KiB. What is left out is counted and said.

    Args:
        stream: The pipe to read.
        name: ``stdout`` or ``stderr``.
        on_line: Is given (name, line).
    """

    def __init__(self, *, stream: IO[bytes], name: str, on_line: Callable[[str, str], None]) -> None:
        self._stream = stream
        self._name = name
        self._on_line = on_line
        self._lock = threading.Lock()
        self._bytes_left = _BUDGET_BYTES
        self._lines_left = _BUDGET_LINES
        self._dropped_bytes = 0
        self._broken = False
        self._thread = threading.Thread(target=self._run, name=f"pod-{name}", daemon=True)
        self._thread.start()

    def renew_budget(self) -> None:
        """Begin the next file's budget, and say what the last one left out."""
        with self._lock:
            dropped, self._dropped_bytes = self._dropped_bytes, 0
            self._bytes_left, self._lines_left = _BUDGET_BYTES, _BUDGET_LINES
        if dropped:
            self._say(f"… {dropped:,} more bytes of output were left out of the log")

    def join(self, timeout: float) -> None:
        """Wait until the stream has ended and all of it has been passed on."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        rest = b""
        skipping = False
        with self._stream:
            while piece := os.read(self._stream.fileno(), _READ_BYTES):
                if self._is_spent():
                    # Not worth splitting: a model may print faster than its lines could be looked at.
                    self._drop(len(rest) + len(piece))
                    rest, skipping = b"", not piece.endswith(b"\n")
                    continue
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._take(line, skipping=skipping)
                    skipping = False
                if len(rest) > _LINE_BYTES:
                    self._take(rest, skipping=skipping)
                    rest, skipping = b"", True
        if rest:
            self._take(rest, skipping=skipping)
        self.renew_budget()

    def _is_spent(self) -> bool:
        with self._lock:
            return self._bytes_left <= 0 or self._lines_left <= 0

    def _drop(self, size: int) -> None:
        with self._lock:
            self._dropped_bytes += size

    def _take(self, line: bytes, *, skipping: bool) -> None:
        """Pass a line on, or leave it out where the budget is spent or its beginning has been passed on already."""
        if skipping:
            self._drop(len(line))
            return
        kept = line[:_LINE_BYTES]
        with self._lock:
            self._dropped_bytes += len(line) - len(kept)
            if self._lines_left <= 0 or self._bytes_left < len(kept):
                self._bytes_left = 0
                self._dropped_bytes += len(kept) + 1
                return
            self._lines_left -= 1
            self._bytes_left -= len(kept)
        self._say(kept.decode("utf-8", errors="replace").rstrip("\r"))

    def _say(self, line: str) -> None:
        """A log that cannot be written must not block the model: its pipe is read on, and the error shown once."""
        if self._broken:
            return
        try:
            self._on_line(self._name, line)
        except Exception:  # noqa: BLE001  whatever it is, the stream is read to its end
            self._broken = True
            _log.exception("What the pod prints on %s cannot be passed on any more.", self._name)
