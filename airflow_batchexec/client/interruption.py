"""Ctrl-C, and the ends that a system asks for, as one exception; a second one always gets through."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["ends_as_interrupts"]


@contextmanager
def ends_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and the end of the terminal raise ``KeyboardInterrupt`` meanwhile, so that what is begun is ended well.

    Only where nobody has a handler of their own, and in the main thread: elsewhere Python allows none.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        numbers = [
            number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL
        ]
    try:
        for number in numbers:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
