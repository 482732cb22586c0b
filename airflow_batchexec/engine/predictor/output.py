"""What a pod prints, line by line and within bounds, so that a chatty model can neither block nor bury a log."""

from __future__ import annotations

import fcntl
import logging
import os
import select
import struct
import termios
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
_POLL_SECONDS = 0.5


class LineForwarder:
    """Reads one stream of a pod to its end in a thread of its own.

    Everything is read; of each file's output the first mebibyte or 10,000 lines are passed on, and a long line in its
    first 8 KiB. What is left out is counted and said.

    Args:
        stream: The pipe to read.
        name: ``stdout`` or ``stderr``.
        on_line: Is given (name, line); from one thread at a time, mostly the forwarder's own.
    """

    def __init__(self, *, stream: IO[bytes], name: str, on_line: Callable[[str, str], None]) -> None:
        self._stream = stream
        self._name = name
        self._on_line = on_line
        # Whoever holds it reads, and passes on what was read.
        self._lock = threading.Lock()
        self._rest = b""
        self._skipping = False
        self._bytes_left = _BUDGET_BYTES
        self._lines_left = _BUDGET_LINES
        self._dropped_bytes = 0
        self._broken = False
        self._abandoned = False
        # Another thread may have read what this one was told of.
        os.set_blocking(stream.fileno(), False)
        self._thread = threading.Thread(target=self._run, name=f"pod-{name}", daemon=True)
        self._thread.start()

    def end_file(self) -> None:
        """Pass on all that is in the pipe by now; what comes later is the next file's, and has a budget of its own."""
        with self._lock:
            left = _unread_bytes(self._stream)
            while left > 0 and (piece := self._read(min(left, _READ_BYTES))):
                left -= len(piece)
            self._end_line()
            self._renew_budget()

    def join(self, timeout: float) -> None:
        """Wait until the stream has ended and all of it has been passed on.

        A process that outlives the pod may hold the stream open; after ``timeout`` seconds it is closed all the same.
        """
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
            self._abandoned = True
            self._thread.join(2 * _POLL_SECONDS)

    def _run(self) -> None:
        # Not select: it takes no descriptor above 1023.
        poll = select.poll()
        poll.register(self._stream, select.POLLIN)
        while True:
            readable = poll.poll(_POLL_SECONDS * 1000)
            with self._lock:
                if self._abandoned or (readable and self._read(_READ_BYTES) == b""):
                    self._end_line()
                    self._renew_budget()
                    self._stream.close()
                    return

    def _read(self, size: int) -> bytes | None:
        """Read once, and pass on the lines of it.

        Returns:
            What was read; empty at the stream's end, ``None`` where there is nothing yet.
        """
        try:
            piece = os.read(self._stream.fileno(), size)
        except BlockingIOError:
            return None
        if piece and self._is_spent():
            # Not worth splitting: a model may print faster than its lines could be looked at.
            self._dropped_bytes += len(self._rest) + len(piece)
            self._rest, self._skipping = b"", not piece.endswith(b"\n")
            return piece
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._take(line)
            self._skipping = False
        if len(self._rest) > _LINE_BYTES:
            self._take(self._rest)
            self._rest, self._skipping = b"", True
        return piece

    def _end_line(self) -> None:
        """Pass on a line that has no end."""
        if self._rest:
            self._take(self._rest)
        self._rest, self._skipping = b"", False

    def _renew_budget(self) -> None:
        """Begin the next file's budget, and say what the last one left out."""
        dropped, self._dropped_bytes = self._dropped_bytes, 0
        self._bytes_left, self._lines_left = _BUDGET_BYTES, _BUDGET_LINES
        if dropped:
            self._say(f"… {dropped:,} more bytes of output were left out of the log")

    def _is_spent(self) -> bool:
        return self._bytes_left <= 0 or self._lines_left <= 0

    def _take(self, line: bytes) -> None:
        """Pass a line on, or leave it out where the budget is spent or its beginning has been passed on already."""
        if self._skipping:
            self._dropped_bytes += len(line)
            return
        kept = line[:_LINE_BYTES]
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


def _unread_bytes(stream: IO[bytes]) -> int:
    """How much there is to read at once; nothing where the stream has ended."""
    if stream.closed:
        return 0
    size: int = struct.unpack("i", fcntl.ioctl(stream, termios.FIONREAD, b"\0" * 4))[0]
    return size
