"""Journal entries: JSON objects with a kind and a time.

============= =====================================================================================================
kind          keys, besides ``kind`` and ``at`` (seconds since the epoch)
============= =====================================================================================================
planned       files, bytes, model_id, build_id, instance, purchase_option, shares, pods, source, destination, generation
unlisted      files, plan: the files are too many to be named, except failed ones; the document that names them
skipped       file, reason
skipped_more  count
refused       error, reason
try           number, task: the second or a later try of the task starts
loaded        pod, seconds
started       file, pod, generation, attempt
finished      file, pod, rows, seconds, steps (seconds by step), generation, attempt
failed        file (empty: the pod itself), pod, error, reason, traceback, generation, attempt; also timeout, cancelled
line          file (empty: while the build was loading), stream, text: a line of model output
lines_dropped file, count
audited       finished, failed, not_started, rows
ended         status, reason, manifest, seconds
============= =====================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Entry", "is_complete", "is_entry", "is_number"]

Entry = Mapping[str, Any]
"""A journal entry."""
# The keys that each kind requires. Entries are checked since anyone who may edit task state can write anything there.
_TEXT, _INTEGER, _NUMBER = (str,), (int,), (int, float)
_FILE_EVENT: dict[str, tuple[type, ...]] = {"file": _TEXT, "generation": _INTEGER, "attempt": _INTEGER}
_REQUIRED_KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "planned": {
        **dict.fromkeys(("files", "bytes", "shares", "pods", "generation"), _INTEGER),
        **dict.fromkeys(
            ("model_id", "build_id", "instance", "purchase_option", "source", "destination"), _TEXT
        ),
    },
    "unlisted": {"files": _INTEGER, "plan": _TEXT},
    "skipped": {"file": _TEXT, "reason": _TEXT},
    "skipped_more": {"count": _INTEGER},
    "refused": {"error": _TEXT, "reason": _TEXT},
    "try": {"number": _INTEGER, "task": _TEXT},
    "loaded": {"pod": _TEXT, "seconds": _NUMBER},
    "started": {**_FILE_EVENT, "pod": _TEXT},
    "finished": {**_FILE_EVENT, "pod": _TEXT, "rows": _INTEGER, "seconds": _NUMBER, "steps": (dict,)},
    **{kind: {**_FILE_EVENT, "pod": _TEXT, "reason": _TEXT} for kind in ("failed", "timeout", "cancelled")},
    "line": {"file": _TEXT, "text": _TEXT},
    "lines_dropped": {"file": _TEXT, "count": _INTEGER},
    "audited": dict.fromkeys(("finished", "failed", "not_started", "rows"), _INTEGER),
    "ended": {"status": _TEXT, "reason": _TEXT, "manifest": _TEXT, "seconds": _NUMBER},
}


def is_number(value: object) -> bool:
    """Whether a value is a number."""
    return isinstance(value, _NUMBER)


def is_entry(entry: object) -> bool:
    """Whether a value is an entry: a mapping with a kind and a finite time."""
    return (
        isinstance(entry, Mapping)
        and isinstance(entry.get("kind"), str)
        and isinstance(entry.get("at"), _NUMBER)
        and math.isfinite(entry["at"])
    )


def is_complete(entry: object) -> bool:
    """Whether a value is an entry of a known kind with all keys of that kind."""
    return (
        is_entry(entry)
        and isinstance(entry, Mapping)
        and entry["kind"] in _REQUIRED_KEYS
        and all(isinstance(entry.get(name), types) for name, types in _REQUIRED_KEYS[entry["kind"]].items())
    )
