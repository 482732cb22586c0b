"""Forward what a model prints, line by line and within limits, so that it can neither block nor flood a log."""

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

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 20
_MAX_LINE_BYTES = 8 << 10
_BUDGET_BYTES = 1 << 20
_BUDGET_LINES = 10_000
_POLL_SECONDS = 0.5


class LineForwarder:
    """Reads one output stream of a predictor to its end, in a separate thread.

    Everything is read, but only the first MiB or 10,000 lines of each file's output are passed on, and only the first
    8 KiB of each line. The number of omitted bytes is reported.

    Args:
        stream: The pipe to read.
        name: ``stdout`` or ``stderr``.
        on_line: Receives (name, line), from one thread at a time, mostly the forwarder's.
    """

    def __init__(self, *, stream: IO[bytes], name: str, on_line: Callable[[str, str], None]) -> None:
        self._stream = stream
        self._name = name
        self._on_line = on_line
        # Held while reading and passing on what was read.
        self._lock = threading.Lock()
        self._partial_line = b""
        self._skipping = False
        self._bytes_left = _BUDGET_BYTES
        self._lines_left = _BUDGET_LINES
        self._dropped_bytes = 0
        self._broken = False
        self._abandoned = False
        # Another thread may read what poll() has reported to this one.
        os.set_blocking(stream.fileno(), False)
        self._woken, self._wakeup = os.pipe()
        self._thread = threading.Thread(target=self._run, name=f"pod-{name}", daemon=True)
        self._thread.start()

    def end_file(self) -> None:
        """Pass on everything in the pipe now; later output belongs to the next file, and has its own budget."""
        with self._lock:
            unread = _unread_bytes(self._stream)
            while unread > 0 and (piece := self._read(min(unread, _READ_BYTES))):
                unread -= len(piece)
            self._end_line()
            self._renew_budget()

    def stop(self) -> None:
        """Leave the rest of the stream to another reader. Only before :meth:`join`."""
        with self._lock:
            self._abandoned = True
            # The thread closes both at once.
            if not self._stream.closed:
                os.write(self._wakeup, b"\0")

    def join(self, timeout: float) -> None:
        """Wait until the stream has ended and has been passed on completely.

        A process that outlives the predictor may keep the stream open; it is closed after ``timeout`` seconds anyway.
        """
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
            self._abandoned = True
            self._thread.join(2 * _POLL_SECONDS)

    def _run(self) -> None:
        # Not select, which cannot handle descriptors above 1023.
        poll = select.poll()
        poll.register(self._stream, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            readable = poll.poll(_POLL_SECONDS * 1000)
            with self._lock:
                if self._abandoned or (readable and self._read(_READ_BYTES) == b""):
                    self._end_line()
                    self._renew_budget()
                    self._stream.close()
                    os.close(self._woken)
                    os.close(self._wakeup)
                    return

    def _read(self, size: int) -> bytes | None:
        """Read once, and pass on the complete lines.

        Returns:
            The bytes read; empty at the end of the stream, ``None`` if nothing is available yet.
        """
        try:
            piece = os.read(self._stream.fileno(), size)
        except BlockingIOError:
            return None
        if piece and self._is_spent():
            # Do not split: a model may print faster than its lines can be examined.
            self._dropped_bytes += len(self._partial_line) + len(piece)
            self._partial_line, self._skipping = b"", not piece.endswith(b"\n")
            return piece
        *lines, self._partial_line = (self._partial_line + piece).split(b"\n")
        for line in lines:
            self._handle_line(line)
            self._skipping = False
        if len(self._partial_line) > _MAX_LINE_BYTES:
            self._handle_line(self._partial_line)
            self._partial_line, self._skipping = b"", True
        return piece

    def _end_line(self) -> None:
        """Pass on a line without a line end."""
        if self._partial_line:
            self._handle_line(self._partial_line)
        self._partial_line, self._skipping = b"", False

    def _renew_budget(self) -> None:
        """Start the next file's budget, and report how many bytes of the last file were omitted."""
        dropped, self._dropped_bytes = self._dropped_bytes, 0
        self._bytes_left, self._lines_left = _BUDGET_BYTES, _BUDGET_LINES
        if dropped:
            self._emit(f"… {dropped:,} more bytes of output were omitted from the log")

    def _is_spent(self) -> bool:
        return self._bytes_left <= 0 or self._lines_left <= 0

    def _handle_line(self, line: bytes) -> None:
        """Pass on a line, or drop it if the budget is spent or the start of the line has already been handled."""
        if self._skipping:
            self._dropped_bytes += len(line)
            return
        kept = line[:_MAX_LINE_BYTES]
        self._dropped_bytes += len(line) - len(kept)
        if self._lines_left <= 0 or self._bytes_left < len(kept):
            self._bytes_left = 0
            self._dropped_bytes += len(kept) + 1
            return
        self._lines_left -= 1
        self._bytes_left -= len(kept)
        self._emit(kept.decode("utf-8", errors="replace").rstrip("\r"))

    def _emit(self, line: str) -> None:
        """Call ``on_line``. After an error, log it once and only drain the pipe, so that the model is not blocked."""
        if self._broken:
            return
        try:
            self._on_line(self._name, line)
        except Exception:
            self._broken = True
            log.exception("Cannot forward the pod's %s any longer; further output is discarded.", self._name)


def _unread_bytes(stream: IO[bytes]) -> int:
    """Return how many bytes can be read without blocking; 0 if the stream has ended."""
    if stream.closed:
        return 0
    size: int = struct.unpack("i", fcntl.ioctl(stream, termios.FIONREAD, b"\0" * 4))[0]
    return size
