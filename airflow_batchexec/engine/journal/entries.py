"""The entries of a journal: JSON objects, each of a kind, and of a time.

============= =====================================================================================================
kind          its keys, beside ``kind`` and ``at``, in seconds since the epoch
============= =====================================================================================================
planned       files, bytes, model_id, build_id, instance, purchase_option, shares, pods, source, destination, generation
skipped       file, reason
skipped_more  count
refused       error, reason
try           number, task: that task begins for the second time, or a later one
loaded        pod, seconds
started       file, pod, generation, attempt
finished      file, pod, rows, seconds, steps (seconds by step), generation, attempt
failed        file (empty: the pod itself), pod, error, reason, traceback, generation, attempt; also timeout, cancelled
line          file (empty: while the build was loaded), stream, text: what the model printed
lines_dropped file, count
audited       finished, failed, not_started, rows
ended         status, reason, manifest, seconds
============= =====================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Entry", "is_entry", "is_number", "is_whole"]

Entry = Mapping[str, Any]
"""What an entry is read as."""
# What is read of each kind. Whoever may write a task's state may write anything there.
_TEXT, _WHOLE, _NUMBER = (str,), (int,), (int, float)
_OUTCOME: dict[str, tuple[type, ...]] = {"file": _TEXT, "generation": _WHOLE, "attempt": _WHOLE}
_KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "planned": {
        **dict.fromkeys(("files", "bytes", "shares", "pods", "generation"), _WHOLE),
        **dict.fromkeys(
            ("model_id", "build_id", "instance", "purchase_option", "source", "destination"), _TEXT
        ),
    },
    "skipped": {"file": _TEXT, "reason": _TEXT},
    "skipped_more": {"count": _WHOLE},
    "refused": {"error": _TEXT, "reason": _TEXT},
    "try": {"number": _WHOLE, "task": _TEXT},
    "loaded": {"pod": _TEXT, "seconds": _NUMBER},
    "started": {**_OUTCOME, "pod": _TEXT},
    "finished": {**_OUTCOME, "pod": _TEXT, "rows": _WHOLE, "seconds": _NUMBER, "steps": (dict,)},
    **{kind: {**_OUTCOME, "pod": _TEXT, "reason": _TEXT} for kind in ("failed", "timeout", "cancelled")},
    "line": {"file": _TEXT, "text": _TEXT},
    "lines_dropped": {"file": _TEXT, "count": _WHOLE},
    "audited": dict.fromkeys(("finished", "failed", "not_started", "rows"), _WHOLE),
    "ended": {"status": _TEXT, "reason": _TEXT, "manifest": _TEXT, "seconds": _NUMBER},
}


def is_number(value: object) -> bool:
    """Whether a value can be read as one."""
    return isinstance(value, _NUMBER)


def is_entry(entry: object) -> bool:
    """Whether it says of what kind it is, and when it was."""
    return (
        isinstance(entry, Mapping)
        and isinstance(entry.get("kind"), str)
        and isinstance(entry.get("at"), _NUMBER)
        and math.isfinite(entry["at"])
    )


def is_whole(entry: object) -> bool:
    """Whether it holds what an entry of its kind does."""
    return (
        is_entry(entry)
        and isinstance(entry, Mapping)
        and entry["kind"] in _KEYS
        and all(isinstance(entry.get(name), types) for name, types in _KEYS[entry["kind"]].items())
    )
