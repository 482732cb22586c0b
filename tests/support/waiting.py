"""Wait for a condition that another process brings about."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["wait_until"]

_T = TypeVar("_T")
_MIN_PAUSE_SECONDS = 0.1
_PAUSE_FACTOR = 5.0


def wait_until(
    condition: Callable[[], _T],
    *,
    seconds: float = 300.0,
    what: str = "the condition",
    pause_factor: float = _PAUSE_FACTOR,
) -> _T:
    """Poll until a condition returns a true value, and return that value; fail on timeout.

    The pause between polls is several times the duration of a poll, so that polling does not slow down the process
    being waited for.

    Args:
        condition: The function to poll.
        seconds: The timeout. It only bounds failing tests; passing tests never wait it out.
        what: A name for the condition, for the failure message.
        pause_factor: The pause after a poll, as a multiple of its duration.
    """
    deadline = time.monotonic() + seconds
    while True:
        started = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        assert now < deadline, f"{what} did not come true within {seconds:g} s"
        time.sleep(max(_MIN_PAUSE_SECONDS, pause_factor * (now - started)))
