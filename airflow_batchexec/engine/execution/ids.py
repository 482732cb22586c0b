"""Generation of execution ids.

An id names a run of an execution DAG, a folder in the destination and the owner of a lock. Ids that must be found
again are derived from stable values rather than random.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["id_in_run", "local_id", "next_rest_id", "operator_id", "rest_prefix", "single_file_id"]

_UNSAFE = re.compile(r"[^A-Za-z0-9_.~:+-]")
_MAX_NAME = 200
_IDENTITY_DIGITS = 16
_TASK_DIGITS = 8


def local_id() -> str:
    """The id of an execution on this machine: ``local-<UTC time>-<random>``."""
    return f"local-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


def id_in_run(*, dag_id: str, run_id: str, name: str) -> str:
    """The id of an execution in an Airflow run.

    Args:
        dag_id: The DAG.
        run_id: Its run.
        name: Distinguishes several executions in one run; empty if the run is the execution.
    """
    return f"{dag_id}.{name}.{run_id}" if name else run_id


def operator_id(
    *, dag_id: str, task_id: str, run_id: str, map_index: int | None, max_tries: int, attempt: int
) -> str:
    """The id of an execution that a task starts.

    A retry of the task generates the same ids in the same order, so it finds the execution that an earlier try started.
    A clear leads to different ids: it increases ``max_tries``, and nothing else does.

    Args:
        dag_id: The task's DAG.
        task_id: The task.
        run_id: The task's run.
        map_index: The task's map index; ``None`` or -1 if it is not mapped.
        max_tries: The task instance's ``max_tries``.
        attempt: 1 for the task's first execution; one more after each one that ended without success.
    """
    parts = [dag_id, task_id, run_id]
    if map_index is not None and map_index >= 0:
        parts.append(str(map_index))
    digest = hashlib.sha256("\0".join([*parts, str(max_tries)]).encode()).hexdigest()[:_TASK_DIGITS]
    name = _UNSAFE.sub("_", ".".join(parts))[:_MAX_NAME]
    return f"{name}-{digest}" + (f"-{attempt}" if attempt > 1 else "")


def single_file_id(*, dag_id: str, task_id: str, run_id: str, map_index: int) -> str:
    """The id for a task that predicts a single file; nothing is stored under it.

    Args:
        dag_id: The task's DAG.
        task_id: The task.
        run_id: The task's run.
        map_index: The task's map index; -1 if it is not mapped.
    """
    return f"{dag_id}.{task_id}.{run_id}.{map_index}"


def rest_prefix(identity: str) -> str:
    """The common prefix of the ids of all executions with an identity.

    Args:
        identity: The digest of the execution's six values.
    """
    return f"rest__{identity[:_IDENTITY_DIGITS]}__"


def next_rest_id(prefix: str, taken: Iterable[str]) -> str:
    """The id of an execution that is started through the REST API.

    Two concurrent equal requests get the same id, and the database accepts only one of them.

    Args:
        prefix: The prefix from :func:`rest_prefix`.
        taken: The existing ids with this prefix.
    """
    numbers = [int(end) for run_id in taken if (end := run_id.removeprefix(prefix)).isdecimal()]
    return f"{prefix}{max(numbers, default=0) + 1}"
