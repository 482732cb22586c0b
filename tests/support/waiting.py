"""Waiting for what another process does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["wait_until"]

_T = TypeVar("_T")
_PAUSE_SECONDS = 0.1
_PAUSE_LOOKS = 5.0


def wait_until(
    condition: Callable[[], _T],
    *,
    seconds: float = 300.0,
    what: str = "what is waited for",
    pause_looks: float = _PAUSE_LOOKS,
) -> _T:
    """Return what a condition gives as soon as it holds; fail where it does not come to hold.

    Between two looks there is a pause of several times what a look takes, so that looking takes no time from what is
    waited for.

    Args:
        condition: Looks.
        seconds: How long at most: an end for what has failed, with no bearing on what succeeds.
        what: What it is, for the failure.
        pause_looks: How many times as long as a look the pause after it is.
    """
    deadline = time.monotonic() + seconds
    while True:
        begun = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        assert now < deadline, f"{what} did not come true within {seconds:g} s"
        time.sleep(max(_PAUSE_SECONDS, pause_looks * (now - begun)))
