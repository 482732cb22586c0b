"""What this package needs of Airflow beyond its public interface, all of it, read in Airflow 3.3.2 (task SDK 1.3.2).

Each function fails soft: without it an execution is slower or says less, never wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["skip_mapped_tasks"]


def skip_mapped_tasks(task_id: str, map_indexes: Iterable[int]) -> bool:
    """Skip those mapped siblings of the running task that have not been queued yet.

    The message is the one behind ``SkipMixin`` (``airflow/sdk/execution_time/comms.py``); sent by itself, it leaves
    the running task's own state alone.

    Returns:
        Whether the message could be sent.
    """
    try:
        from airflow.sdk.execution_time.comms import SkipDownstreamTasks  # noqa: PLC0415  internal, may move
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS  # noqa: PLC0415  as above
    except ImportError:
        return False
    SUPERVISOR_COMMS.send(SkipDownstreamTasks(tasks=[(task_id, index) for index in map_indexes]))
    return True
