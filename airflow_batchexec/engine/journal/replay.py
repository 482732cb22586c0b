"""Replays the journal of an execution into file states and report lines. Pure.

Executions are audited by their ledger and manifest. The journal is for *monitoring* from hosts that cannot reach the
destination: it may lose its last second, and no decision depends on it. ``entries.py`` describes the entries.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.journal.entries import is_complete, is_entry, is_number
from airflow_batchexec.engine.journal.listed_files import MAX_LISTED_FAILURES
from airflow_batchexec.engine.journal.packing import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow_batchexec.engine.journal.entries import Entry

__all__ = ["MODEL_LINE", "FileState", "audited_statuses", "current_entries", "replay", "report_lines"]

MODEL_LINE = "[model] "
"""Prefix of report lines with model output."""
_END_STATUSES = {"finished": "FINISHED", "failed": "FAILED", "timeout": "TIMEOUT", "cancelled": "CANCELLED"}
_NOT_STARTED_STATUS = "NOT_STARTED"
_LOST = "It was started but did not end: its process was killed or lost."
_NOT_STARTED = "It was not started."
_AUDIT = "The audit found no valid result; see the manifest for the reason."
# Terminal escape sequences, and characters that databases cannot store.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")


# ---- file states


@dataclass(frozen=True, slots=True)
class FileState:
    """The state of one planned file, according to the journal.

    Attributes:
        file: Path of the file, relative to the source folder.
        shard: Index of its mapped task.
        status: ``COMMITTED`` (planned), ``PENDING_START`` (its pod has loaded the build), ``RUNNING``, ``FINISHED``,
            ``FAILED``, ``CANCELLED`` or ``TIMEOUT``. A failed file may be retried while the run continues. A file
            that was never started is ``CANCELLED`` once the run is over.
        started_at: When its last attempt started, in seconds since the epoch; ``None`` if not recorded.
        ended_at: When that attempt ended; ``None`` if not recorded.
        rows: Number of rows in its result.
        reason: Why the file has no result.
    """

    file: str
    shard: int
    status: str
    started_at: float | None = None
    ended_at: float | None = None
    rows: int = 0
    reason: str = ""


def replay(
    entries: Iterable[Entry],
    files: Iterable[tuple[str, int]],
    ended: Mapping[str, Any] | None,
    run_is_over: bool,  # noqa: FBT001  the last of four, and its meaning is plain
) -> list[FileState]:
    """Derive the state of every planned file, each exactly once, in plan order.

    Only a ``finished`` entry or the audit makes a file FINISHED; lost entries never make a file look more complete.

    Args:
        entries: Entries of all tasks and generations of the execution, in any order. Entries from before the last
            planning are ignored.
        files: The planned files, each with the index of its shard.
        ended: The row ``ended`` of this generation, with the audit's findings; it takes precedence over all entries.
        run_is_over: Whether the run has ended, so that no more entries follow.

    Raises:
        ValueError: ``ended["not_finished"]`` cannot be read.
    """
    starts, ends, loaded = _last_attempts(current_entries(entries))
    not_finished = audited_statuses(ended)
    states = []
    for file, shard in files:
        start, end = starts.get(file), ends.get(file)
        if start is not None and end is not None and _attempt(end) < _attempt(start):
            end = None
        status, reason = _recorded_status(
            start, end, run_is_over=run_is_over, is_loaded=f"pod-{shard}" in loaded
        )
        if not_finished is not None:
            audit_status = not_finished.get(file, "FINISHED")
            status = "CANCELLED" if audit_status == _NOT_STARTED_STATUS else audit_status
            reason = _audited_reason(audit_status, start, end)
        states.append(
            FileState(
                file=file,
                shard=shard,
                status=status,
                started_at=start["at"] if start else None,
                ended_at=end["at"] if end else None,
                rows=end.get("rows", 0) if end and status == "FINISHED" else 0,
                reason=reason,
            )
        )
    return states


def current_entries(entries: Iterable[Entry]) -> list[Entry]:
    """The complete entries, without those of files from before the last planning."""
    complete = [entry for entry in entries if is_complete(entry)]
    since = max((entry["generation"] for entry in complete if entry["kind"] == "planned"), default=0)
    return [
        entry
        for entry in complete
        if entry["kind"] not in {"started", *_END_STATUSES} or _attempt(entry)[0] >= since
    ]


def audited_statuses(ended: Mapping[str, Any] | None) -> dict[str, str] | None:
    """The status of each file without a result that the row ``ended`` names; ``None`` if there was no audit.

    Raises:
        ValueError: ``ended["not_finished"]`` cannot be read.
    """
    if ended is None or "not_finished" not in ended:
        return None
    statuses = unpack(ended["not_finished"])
    known = [*_END_STATUSES.values(), _NOT_STARTED_STATUS]
    if not isinstance(statuses, dict) or any(status not in known for status in statuses.values()):
        raise ValueError("not_finished contains an unknown file status.")
    return statuses


def _last_attempts(
    entries: Iterable[Entry],
) -> tuple[dict[str, Entry], dict[str, Entry], set[str]]:
    """The start and end of each file's last attempt, by file, and the pods that have loaded the build."""
    starts: dict[str, Entry] = {}
    ends: dict[str, Entry] = {}
    loaded = set()
    for entry in entries:
        kind = entry["kind"]
        if kind == "loaded":
            loaded.add(entry["pod"])
        if kind not in {"started", *_END_STATUSES}:
            continue
        latest = starts if kind == "started" else ends
        known = latest.get(entry["file"])
        if known is None or (_attempt(entry), entry["at"]) >= (_attempt(known), known["at"]):
            latest[entry["file"]] = entry
    return starts, ends, loaded


def _attempt(entry: Entry) -> tuple[int, int]:
    """Attempts are ordered by number, not by time: the clocks of two workers may differ."""
    return entry["generation"], entry["attempt"]


def _recorded_status(
    start: Entry | None, end: Entry | None, *, run_is_over: bool, is_loaded: bool
) -> tuple[str, str]:
    """Status and reason of a file, from its entries alone."""
    if end is not None:
        return _END_STATUSES[end["kind"]], _inline(end)
    if start is not None:
        return ("FAILED", _LOST) if run_is_over else ("RUNNING", "")
    if run_is_over:
        return "CANCELLED", _NOT_STARTED
    return ("PENDING_START" if is_loaded else "COMMITTED"), ""


def _audited_reason(audit_status: str, start: Entry | None, end: Entry | None) -> str:
    """Why a file is not finished according to the audit; empty if it is."""
    if audit_status == "FINISHED":
        return ""
    if audit_status == _NOT_STARTED_STATUS:
        return _NOT_STARTED
    if end is not None and end["kind"] != "finished":
        return _inline(end)
    return _LOST if start is not None and end is None else _AUDIT


# ---- the report


def report_lines(entries: Iterable[Entry]) -> list[tuple[float, str]]:
    """Format the entries as sentences, sorted by time. Model output becomes ``[model] <file>: <text>``.

    Args:
        entries: Entries of all tasks of the execution. Entries with the same time keep their order.

    Returns:
        Times, in seconds since the epoch, each with a single line of printable text.
    """
    ordered = sorted(filter(is_entry, entries), key=lambda entry: entry["at"])
    return [(entry["at"], _printable(line)) for entry in ordered for line in _lines(entry)]


def _lines(entry: Entry) -> list[str]:
    kind = entry["kind"]
    if kind == "line" and is_complete(entry):
        return [f"{MODEL_LINE}{entry['file']}: {entry['text']}"]
    sentence = _SENTENCES.get(kind)
    if sentence is None or not is_complete(entry):
        # From a later version, or not written by a task.
        values = {name: value for name, value in entry.items() if name not in {"at", "kind"}}
        return [f"{kind}: {json.dumps(values, ensure_ascii=False)}"]
    first, *more = sentence(entry).splitlines() or [""]
    trace = str(entry.get("traceback", "")).rstrip().splitlines()
    return [first, *(f"  {line}" for line in [*more, *trace])]


def _printable(line: str) -> str:
    return _CONTROL.sub("\ufffd", _ESCAPES.sub("", line.rstrip("\r")))


def _planned(entry: Entry) -> str:
    tasks, pods = entry["shares"], entry["pods"]
    return (
        f"Planned {_count(entry['files'], 'file')}, {entry['bytes']:,} bytes, from {entry['source']} to "
        f"{entry['destination']}: model {entry['model_id']}, build {entry['build_id']}, instance {entry['instance']}"
        f"{', ' + entry['purchase_option'] if entry['purchase_option'] else ''}, {_count(tasks, 'task')}"
        f"{', ' + _count(pods, 'pod') + ' at once' if pods else ''}."
    )


def _finished(entry: Entry) -> str:
    steps = ", ".join(
        f"{name} {seconds:.3f}" for name, seconds in entry["steps"].items() if is_number(seconds)
    )
    return (
        f"{entry['file']} finished in {entry['pod']}: {_count(entry['rows'], 'row')} in {entry['seconds']:.3f} s"
        f"{f' ({steps})' if steps else ''}."
    )


def _not_finished(outcome: str) -> Callable[[Entry], str]:
    def sentence(entry: Entry) -> str:
        subject = entry["file"] or entry["pod"] or "The execution"
        return f"{subject} {outcome}: {_inline(entry)}"

    return sentence


def _ended(entry: Entry) -> str:
    see = f"See {entry['manifest']}." if entry["manifest"] else ""
    sentences = [
        f"The execution ended as {entry['status']} after {entry['seconds']:.1f} s.",
        entry["reason"],
        see,
    ]
    return " ".join(filter(None, sentences))


def _inline(entry: Entry) -> str:
    """The reason, without the file name that the sentence already contains."""
    return str(entry.get("reason", "")).removeprefix(f"{entry['file']}: ")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


_SENTENCES: dict[str, Callable[[Entry], str]] = {
    "planned": _planned,
    "unlisted": lambda entry: (
        f"{_count(entry['files'], 'file')} are too many to list here: only files that fail are, up to "
        f"{MAX_LISTED_FAILURES:,}. All files are in {entry['plan']} and, at the end, in the manifest."
    ),
    "skipped": lambda entry: f"Skipped {entry['file']}: it {entry['reason']}.",
    "skipped_more": lambda entry: f"Skipped {_count(entry['count'], 'more file')}.",
    "refused": lambda entry: f"Refused: {entry['reason']}",
    "try": lambda entry: f"Try {entry['number']} of {entry['task']} started.",
    "loaded": lambda entry: f"{entry['pod']} loaded the build in {entry['seconds']:.2f} s.",
    "started": lambda entry: f"{entry['file']} started in {entry['pod']}.",
    "finished": _finished,
    "failed": _not_finished("failed"),
    "timeout": _not_finished("timed out"),
    "cancelled": _not_finished("was cancelled"),
    "lines_dropped": lambda entry: (
        f"Omitted {_count(entry['count'], 'line')} of model output"
        f"{' for ' + entry['file'] if entry['file'] else ' while loading the build'}; see the task's log."
    ),
    "audited": lambda entry: (
        f"Audited: {entry['finished']:,} finished, {entry['failed']:,} failed, {entry['not_started']:,} not started; "
        f"{_count(entry['rows'], 'row')}."
    ),
    "ended": _ended,
}
