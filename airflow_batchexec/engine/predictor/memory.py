"""The memory use of a predictor: of all its processes together."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import psutil

__all__ = ["MemoryWatch", "process_tree"]

_TREE_REFRESH_SECONDS = 1.0


class MemoryWatch:
    """Watches the memory use of a process and its descendants; cheap enough to call often."""

    def __init__(self, *, pid: int, limit_bytes: int) -> None:
        self._pid = pid
        self._limit_bytes = limit_bytes
        self._tree: list[psutil.Process] = []
        self._tree_at = float("-inf")

    def excess_bytes(self) -> int:
        """Return the memory use in bytes if it exceeds the limit, else 0.

        Resident sizes are summed first; they count shared memory once per process. Only if the sum exceeds the limit,
        the exact but expensive proportional sizes are read.
        """
        import psutil  # noqa: PLC0415  never needed if all files are quick

        now = time.monotonic()
        # At first there is only the supervisor, which is about to fork the worker.
        if now - self._tree_at >= _TREE_REFRESH_SECONDS or len(self._tree) <= 1:
            self._tree, self._tree_at = process_tree(self._pid), now
        resident = _sum(self._tree, lambda process: process.memory_info().rss)
        if resident <= self._limit_bytes:
            return 0
        exact = _sum(self._tree, lambda process: getattr(process.memory_full_info(), "pss", 0))
        if psutil.LINUX and exact <= self._limit_bytes:
            return 0
        return exact or resident


def _sum(processes: list[psutil.Process], measure: Callable[[psutil.Process], int]) -> int:
    import psutil  # noqa: PLC0415  as above

    total = 0
    for process in processes:
        with suppress(psutil.Error):
            total += measure(process)
    return total


def process_tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants; an empty list if it has exited."""
    import psutil  # noqa: PLC0415  as above

    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []
