"""What a pod prints, line by line and within bounds, so that a chatty model can neither block nor bury a log."""

from __future__ import annotations

import os
import threading
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LineForwarder"]

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
        self._thread = threading.Thread(target=self._run, name=f"pod-{name}", daemon=True)
        self._thread.start()

    def renew_budget(self) -> None:
        """Begin the next file's budget, and say what the last one left out."""
        with self._lock:
            dropped, self._dropped_bytes = self._dropped_bytes, 0
            self._bytes_left, self._lines_left = _BUDGET_BYTES, _BUDGET_LINES
        if dropped:
            self._on_line(self._name, f"… {dropped:,} more bytes of output were left out of the log")

    def join(self, timeout: float) -> None:
        """Wait until the stream has ended and all of it has been passed on."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        rest = b""
        skipping = False
        with self._stream:
            while piece := os.read(self._stream.fileno(), _READ_BYTES):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if not skipping:
                        self._pass_on(line)
                    else:
                        self._drop(len(line))
                    skipping = False
                if len(rest) > _LINE_BYTES:
                    if not skipping:
                        self._pass_on(rest)
                    else:
                        self._drop(len(rest))
                    rest, skipping = b"", True
        if rest and not skipping:
            self._pass_on(rest)
        self.renew_budget()

    def _drop(self, size: int) -> None:
        with self._lock:
            self._dropped_bytes += size

    def _pass_on(self, line: bytes) -> None:
        kept = line[:_LINE_BYTES]
        with self._lock:
            self._dropped_bytes += len(line) - len(kept)
            if self._lines_left <= 0 or self._bytes_left < len(kept):
                self._dropped_bytes += len(kept)
                return
            self._lines_left -= 1
            self._bytes_left -= len(kept)
        self._on_line(self._name, kept.decode("utf-8", errors="replace").rstrip("\r"))
