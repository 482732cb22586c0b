"""Turns termination signals into ``KeyboardInterrupt``, like Ctrl-C."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    _Handler = Callable[[int, FrameType | None], object] | int | None

__all__ = ["signals_as_interrupts"]

_TERMINATION_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_as_interrupts(*, first_only: bool = False) -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise ``KeyboardInterrupt``, as SIGINT does, so that work in progress is cleaned up.

    Only the main thread can handle signals; in other threads this does nothing. Ignored signals, as under ``nohup``,
    stay ignored.

    Args:
        first_only: Ignore all signals after the first, SIGINT included, so that a second Ctrl-C does not interrupt the
            cleanup. This also replaces handlers that the caller installed; otherwise they are left alone.
    """
    previous = _handlers_to_replace(first_only=first_only)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if first_only:
            for number in previous:
                signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        for number in previous:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _handlers_to_replace(*, first_only: bool) -> dict[signal.Signals, _Handler]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    if not first_only:
        return {
            number: signal.SIG_DFL
            for number in _TERMINATION_SIGNALS
            if signal.getsignal(number) is signal.SIG_DFL
        }
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *_TERMINATION_SIGNALS)}
    # None: a handler that was not installed from Python, and cannot be restored.
    return {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
