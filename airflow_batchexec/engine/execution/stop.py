"""The marks that end an execution early, and the watch that every pod keeps for them.

Two objects in the execution's folder: ``stop-<generation>``, left by the first pod that fails for good, after which no
further file is begun; and ``cancel``, left by whoever ends the execution from outside, after which the pods end too.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

from airflow_batchexec.exceptions import (
    BatchExecError,
    ExecutionCancelledError,
    ObjectExistsError,
    ObjectNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["StopMark", "StopWatch"]

_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class StopMark:
    """An object whose being there ends an execution, and which says why.

    Args:
        storage: The destination's storage.
        location: Where the mark lies.
    """

    def __init__(self, *, storage: Storage, location: Location) -> None:
        self._storage = storage
        self._location = location

    def set(self, error: BatchExecError) -> bool:
        """Leave the mark, with the reason.

        Returns:
            Whether it was this call that left it.
        """
        reason = {
            "error": type(error).__name__,
            "reason": error.message,
            "file": error.details.get("file", ""),
        }
        try:
            self._storage.create(self._location, json.dumps(reason, ensure_ascii=False).encode())
        except ObjectExistsError:
            return False
        return True

    def read(self) -> dict[str, Any] | None:
        """What was left first: ``error``, ``reason``, ``file``; ``None`` where there is no mark."""
        try:
            mark: dict[str, Any] = json.loads(self._storage.read(self._location))
        except ObjectNotFoundError:
            return None
        return mark

    def remove(self) -> None:
        """Take the mark away; none is no error."""
        self._storage.delete(self._location)


class StopWatch:
    """Looks for an execution's marks, at once and then every second, from a thread of its own.

    A look that fails is repeated: an execution does not end because its destination could not be read for a moment.

    Args:
        stop: The mark after which no further file is begun.
        cancel: The mark after which nothing goes on.
        on_cancel: Is called once, from the watching thread, when the execution has been cancelled.

    Attributes:
        cancelled: Why the execution was cancelled; ``None`` while it is not.
    """

    def __init__(
        self, *, stop: StopMark, cancel: StopMark, on_cancel: Callable[[ExecutionCancelledError], None]
    ) -> None:
        self._stop = stop
        self._cancel = cancel
        self._on_cancel = on_cancel
        self._found = threading.Event()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stop-watch", daemon=True)
        self.cancelled: ExecutionCancelledError | None = None

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        # A look at a destination that does not answer takes long, and nobody waits for what it sees any more.
        self._thread.join(_LOOK_SECONDS)

    def is_set(self) -> bool:
        """Whether no further file is to be begun."""
        return self._found.is_set()

    def _watch(self) -> None:
        # Also after a stop: a file that another pod still works on may have to be cancelled.
        while self.cancelled is None and not self._left.wait(_LOOK_SECONDS):
            try:
                self._look()
            except (BatchExecError, ValueError) as error:
                _log.warning("Whether the execution has been ended could not be seen: %s", error)

    def _look(self) -> None:
        mark = self._cancel.read()
        if mark is not None:
            self.cancelled = ExecutionCancelledError(mark["reason"])
            self._found.set()
            self._on_cancel(self.cancelled)
        elif not self._found.is_set() and self._stop.read() is not None:
            self._found.set()
