"""The marks that end an execution early, and the watch that polls for them in every pod's task.

Two objects in the execution's folder: ``stop-<generation>``, set by the first pod that fails for good, after which no
more files are started; and ``cancel``, set when the execution is cancelled, after which the pods are terminated too.
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

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class StopMark:
    """An object whose existence ends an execution, and whose content is the reason.

    Args:
        storage: The destination's storage.
        location: The mark.
    """

    def __init__(self, *, storage: Storage, location: Location) -> None:
        self._storage = storage
        self._location = location

    def set(self, error: BatchExecError) -> bool:
        """Set the mark, with the error as the reason.

        Returns:
            Whether this call set it; ``False`` if it was already set.
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
        """The content of the mark: ``error``, ``reason`` and ``file``; ``None`` if it is not set."""
        try:
            mark: dict[str, Any] = json.loads(self._storage.read(self._location))
        except ObjectNotFoundError:
            return None
        return mark

    def remove(self) -> None:
        """Delete the mark, if it is set."""
        self._storage.delete(self._location)


class StopWatch:
    """Polls for an execution's marks: on entry, then every second from a background thread.

    Failed polls are retried, so that a transient storage error does not end an execution.

    Args:
        stop: The mark after which no more files are started.
        cancel: The mark after which the pods are terminated.
        on_cancel: Called once, from the background thread or on entry, when the execution has been cancelled.

    Attributes:
        cancelled: Why the execution was cancelled; ``None`` if it was not.
    """

    def __init__(
        self, *, stop: StopMark, cancel: StopMark, on_cancel: Callable[[ExecutionCancelledError], None]
    ) -> None:
        self._stop = stop
        self._cancel = cancel
        self._on_cancel = on_cancel
        self._stop_requested = threading.Event()
        self._exited = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stop-watch", daemon=True)
        self.cancelled: ExecutionCancelledError | None = None

    def __enter__(self) -> Self:
        self._poll()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._exited.set()
        # Do not wait for a poll of an unresponsive destination: its outcome no longer matters.
        self._thread.join(_POLL_SECONDS)

    def is_set(self) -> bool:
        """Whether to start no more files."""
        return self._stop_requested.is_set()

    def _watch(self) -> None:
        # Continue after a stop: a file that is still being predicted may have to be cancelled.
        while self.cancelled is None and not self._exited.wait(_POLL_SECONDS):
            try:
                self._poll()
            except (BatchExecError, ValueError) as error:
                log.warning(
                    "Cannot check whether the execution was stopped or cancelled; retrying: %s", error
                )

    def _poll(self) -> None:
        mark = self._cancel.read()
        if mark is not None:
            self.cancelled = ExecutionCancelledError(mark["reason"])
            self._stop_requested.set()
            self._on_cancel(self.cancelled)
        elif not self._stop_requested.is_set() and self._stop.read() is not None:
            self._stop_requested.set()
