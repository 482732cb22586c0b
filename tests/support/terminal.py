"""Run programs on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Terminal"]

_END_SECONDS = 120.0
# Ctrl-C reaches the terminal's foreground processes, and a new session has no controlling terminal until it takes one.
_TAKE_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"


class Terminal:
    """A Python program on its own terminal, which delivers keys and signals as a user's would.

    Args:
        program: Its source.
        environment: Additional environment variables.
    """

    def __init__(self, program: str, **environment: str) -> None:
        self._screen, inner = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL + program],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
            start_new_session=True,
        )
        os.close(inner)
        self._shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def press_ctrl_c(self) -> None:
        """Press Ctrl-C on the terminal, which interrupts the program."""
        os.write(self._screen, b"\x03")

    def wait_for_text(self, text: str, *, timeout: float = 120.0) -> None:
        """Wait until the program has printed a text."""
        deadline = time.monotonic() + timeout
        while text not in self._shown.decode(errors="replace"):
            assert time.monotonic() < deadline, self._shown
            self._read()

    def end(self) -> tuple[int, str]:
        """Wait for the program to exit; return its exit code and all its output."""
        while self._read():
            pass
        return self.process.wait(_END_SECONDS), self._shown.decode(errors="replace")

    def close(self) -> None:
        """Kill the program, unless it has exited."""
        self.process.kill()
        self.process.wait()
        os.close(self._screen)

    def _read(self) -> bool:
        if not select.select([self._screen], [], [], 0.1)[0]:
            return self.process.poll() is None
        try:
            block = os.read(self._screen, 4096)
        except OSError:  # the other end is closed
            return False
        self._shown += block
        return bool(block)
