"""Which files of an execution its tasks name in Airflow, so that what they store there is bounded.

Up to ``MAX_LISTED_FILES`` files, the tasks report every file. Beyond, they report counts, and only the files that
failed by name; the plan and the manifest, in the destination, always list all files.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_batchexec.engine.journal.entries import Entry

__all__ = [
    "MAX_LISTED_FAILURES",
    "MAX_LISTED_FILES",
    "are_listed",
    "failed_files",
    "listed_unfinished",
]

MAX_LISTED_FILES = 10_000
"""The maximum number of files of an execution whose tasks report every file."""
MAX_LISTED_FAILURES = 1_000
"""The maximum number of failed files to name in an execution of more files."""

_FAILURES = ("failed", "timeout", "cancelled")
_NOT_STARTED = "NOT_STARTED"
_POD = re.compile(r"pod-(\d{1,9})")


def are_listed(total_files: int) -> bool:
    """Whether the tasks of an execution of this many files report every file."""
    return total_files <= MAX_LISTED_FILES


def listed_unfinished(unfinished: Mapping[str, str], *, total_files: int) -> dict[str, str]:
    """The files without a result to name at the end of an execution.

    Args:
        unfinished: The status of each file without a result.
        total_files: The number of files of the execution.
    """
    if are_listed(total_files):
        return dict(unfinished)
    started = ((file, status) for file, status in unfinished.items() if status != _NOT_STARTED)
    return dict(islice(started, MAX_LISTED_FAILURES))


def failed_files(entries: Iterable[Entry], audited: Iterable[str] | None) -> list[tuple[str, int]]:
    """The files to show of an execution whose files are not listed: those that failed, each with its shard.

    Args:
        entries: Complete entries of all tasks since the last planning.
        audited: The files without a result according to the audit; ``None`` before it.

    Returns:
        At most ``MAX_LISTED_FAILURES`` files. The shard is -1 if it is not known.
    """
    shards = {
        entry["file"]: _shard(entry) for entry in entries if entry["kind"] in _FAILURES and entry["file"]
    }
    files = shards if audited is None else audited
    return [(file, shards.get(file, -1)) for file in islice(files, MAX_LISTED_FAILURES)]


def _shard(entry: Mapping[str, Any]) -> int:
    pod = _POD.fullmatch(entry["pod"])
    return int(pod[1]) if pod else -1
