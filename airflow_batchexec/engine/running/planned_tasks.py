"""The file tasks of an execution whose pods take them one by one, in local mode."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.execution.stored_lines import stored_lines

if TYPE_CHECKING:
    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["PlannedTasks"]


class PlannedTasks:
    """An iterator over the file tasks that several threads share. The plan document is read as they are taken.

    Args:
        storage: The destination's storage.
        spec: An execution with one shard, so that its plan document has the largest file first.

    Attributes:
        left: The number of file tasks that have not been taken.
    """

    def __init__(self, *, storage: Storage, spec: ExecutionSpec) -> None:
        self.left = spec.total_files
        self._lines = stored_lines(storage, spec.folder.plan)
        self._lock = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FileTask:
        with self._lock:
            line = next(self._lines)
            self.left -= 1
        return FileTask.from_json(line)
