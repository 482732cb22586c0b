"""The mark that an execution has failed: whoever finds it begins no further file."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from airflow_batchexec.exceptions import ObjectExistsError, ObjectNotFoundError

if TYPE_CHECKING:
    from airflow_batchexec.engine.locations import Location
    from airflow_batchexec.engine.storage import Storage
    from airflow_batchexec.exceptions import BatchExecError

__all__ = ["StopMark"]

_LOOK_SECONDS = 1.0


class StopMark:
    """An object that the first failing pod creates, and that all pods look for, at most once a second.

    Args:
        storage: The destination's storage.
        location: Where the mark lies.
    """

    def __init__(self, *, storage: Storage, location: Location) -> None:
        self._storage = storage
        self._location = location
        self._looked_at = float("-inf")
        self._found = False

    def is_set(self) -> bool:
        """Whether some pod has failed for good."""
        moment = time.monotonic()
        if not self._found and moment - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = moment
            self._found = self.read() is not None
        return self._found

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
        """The first failure: ``error``, ``reason``, ``file``; ``None`` where there is none."""
        try:
            mark: dict[str, Any] = json.loads(self._storage.read(self._location))
        except ObjectNotFoundError:
            return None
        return mark
