"""The journal of an execution: what its tasks say while they work, in small entries that can be read at any moment. Pure.

The ledger and the manifest are what an execution is audited by. The journal is what it is *watched* by, from where its
destination cannot be reached: it may lose its last second, and nothing is decided by it. What an entry is, says
``journal_entries.py``.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.journal.entries import is_entry, is_number, is_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from airflow_batchexec.engine.journal.entries import Entry

__all__ = ["MODEL_LINE", "FileAccount", "fold", "pack", "pack_in_rows", "report_lines", "unpack"]

MODEL_LINE = "[model] "
"""What a report's line begins with that the model has printed."""
_MOST_BYTES = 64 * 1024**2
_ENDS = {"finished": "FINISHED", "failed": "FAILED", "timeout": "TIMEOUT", "cancelled": "CANCELLED"}
_NEVER = "NOT_STARTED"
_LOST = "It was started and has no end: the process that had it was killed or lost."
_NOT_STARTED = "It was not started."
_AUDIT = "The audit did not find it finished; the manifest says why."
# What a terminal would obey, and what a database cannot hold.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")


# ---- lists of files, in little room


def pack(value: list[Any] | dict[str, Any]) -> str:
    """A JSON value as a short text: compressed, in base64."""
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


def unpack(text: str) -> Any:
    """The inverse of :func:`pack`.

    Raises:
        ValueError: This is no such text, or it holds more than 64 MiB.
    """
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"A packed value of the journal cannot be read: {error}.") from None
    if not inflater.eof:
        raise ValueError("A packed value of the journal is not whole, or too large.")
    return json.loads(data)


def pack_in_rows(items: Sequence[Any], *, most_bytes: int) -> list[str]:
    """A list in as many packed parts as it takes to keep each within a size.

    Args:
        items: JSON values.
        most_bytes: The size; a single item that is larger has a part of its own.
    """
    packed = pack(list(items))
    if len(packed) <= most_bytes or len(items) < 2:  # noqa: PLR2004  one cannot be cut in two
        return [packed]
    middle = len(items) // 2
    return [
        part
        for half in (items[:middle], items[middle:])
        for part in pack_in_rows(half, most_bytes=most_bytes)
    ]


# ---- the account of the files


@dataclass(frozen=True, slots=True)
class FileAccount:
    """What the journal knows of one planned file.

    Attributes:
        file: The file, by its path below the source folder.
        share: The index of its mapped task.
        status: ``COMMITTED`` (planned), ``PENDING_START`` (its pod has loaded the build), ``RUNNING``, ``FINISHED``,
            ``FAILED``, ``CANCELLED`` or ``TIMEOUT``. A failed file may be tried again while the run goes on. One that
            was never started is ``CANCELLED`` when the run is over.
        started_at: When its last attempt began, in seconds since the epoch; ``None`` where nobody has said.
        ended_at: When that ended; ``None`` likewise.
        rows: Rows of its result.
        reason: Why it has none.
    """

    file: str
    share: int
    status: str
    started_at: float | None = None
    ended_at: float | None = None
    rows: int = 0
    reason: str = ""


def fold(
    entries: Iterable[Entry],
    files: Iterable[tuple[str, int]],
    ended: Mapping[str, Any] | None,
    run_is_over: bool,  # noqa: FBT001  the last of four, and what it says is plain
) -> list[FileAccount]:
    """The account of every planned file, each exactly once, in the plan's order.

    Only an entry that says so, or the audit, makes a file FINISHED; entries that were lost make it less, never more.

    Args:
        entries: Of all the execution's tasks, of all its generations, in any order. What was before the last planning
            does not count.
        files: The planned files, with the index of each one's share.
        ended: The row ``ended`` of this generation, the audit's word; it goes before all entries.
        run_is_over: Whether nothing more will come.

    Raises:
        ValueError: ``ended["not_finished"]`` cannot be read.
    """
    entries = [entry for entry in entries if is_whole(entry)]
    since = max((entry["generation"] for entry in entries if entry["kind"] == "planned"), default=0)
    starts, ends, loaded = _last_words(entries, since)
    audited = ended is not None and "not_finished" in ended
    not_finished = _unpack_statuses(ended["not_finished"]) if ended is not None and audited else {}
    accounts = []
    for file, share in files:
        start, end = starts.get(file), ends.get(file)
        if start is not None and end is not None and _attempt(end) < _attempt(start):
            end = None
        status, reason = _word(start, end, run_is_over=run_is_over, is_loaded=f"pod-{share}" in loaded)
        if audited:
            said = _name_of(not_finished.get(file, "FINISHED"))
            status, reason = said, _reason_of(said, not_finished.get(file, ""), start, end)
        accounts.append(
            FileAccount(
                file=file,
                share=share,
                status=status,
                started_at=start["at"] if start else None,
                ended_at=end["at"] if end else None,
                rows=end.get("rows", 0) if end and status == "FINISHED" else 0,
                reason=reason,
            )
        )
    return accounts


def _unpack_statuses(text: str) -> dict[str, str]:
    statuses = unpack(text)
    known = [*_ENDS.values(), _NEVER]
    if not isinstance(statuses, dict) or any(status not in known for status in statuses.values()):
        raise ValueError("What is packed in not_finished is no file's status.")
    return statuses


def _last_words(entries: Iterable[Entry], since: int) -> tuple[dict[str, Entry], dict[str, Entry], set[str]]:
    """Of each file the start and the end of its last attempt; and the pods that have loaded the build."""
    starts: dict[str, Entry] = {}
    ends: dict[str, Entry] = {}
    loaded = set()
    for entry in entries:
        kind = entry["kind"]
        if kind == "loaded":
            loaded.add(entry["pod"])
        if kind not in {"started", *_ENDS} or _attempt(entry)[0] < since:
            continue
        of_kind = starts if kind == "started" else ends
        known = of_kind.get(entry["file"])
        if known is None or (_attempt(entry), entry["at"]) >= (_attempt(known), known["at"]):
            of_kind[entry["file"]] = entry
    return starts, ends, loaded


def _attempt(entry: Entry) -> tuple[int, int]:
    """Attempts are told apart by their number and not by time: the clocks of two workers may differ."""
    return entry["generation"], entry["attempt"]


def _word(start: Entry | None, end: Entry | None, *, run_is_over: bool, is_loaded: bool) -> tuple[str, str]:
    """Status and reason of a file, by its entries alone."""
    if end is not None:
        return _ENDS[end["kind"]], _inline(end)
    if start is not None:
        return ("FAILED", _LOST) if run_is_over else ("RUNNING", "")
    if run_is_over:
        return "CANCELLED", _NOT_STARTED
    return ("PENDING_START" if is_loaded else "COMMITTED"), ""


def _name_of(status: str) -> str:
    return "CANCELLED" if status == _NEVER else status


def _reason_of(status: str, audited: str, start: Entry | None, end: Entry | None) -> str:
    """Why the audit found a file not finished."""
    if status == "FINISHED":
        return ""
    if audited == _NEVER:
        return _NOT_STARTED
    if end is not None and end["kind"] != "finished":
        return _inline(end)
    return _LOST if start is not None and end is None else _AUDIT


# ---- the report


def report_lines(entries: Iterable[Entry]) -> list[tuple[float, str]]:
    """The entries as sentences, in the order of their times; what a model printed is ``[model] <file>: <text>``.

    Args:
        entries: Of all the execution's tasks. Of two of one time the one that is given first comes first.

    Returns:
        Times, in seconds since the epoch, with single lines of printable text.
    """
    ordered = sorted(filter(is_entry, entries), key=lambda entry: entry["at"])
    return [(entry["at"], _printable(line)) for entry in ordered for line in _lines(entry)]


def _lines(entry: Entry) -> list[str]:
    kind = entry["kind"]
    if kind == "line" and is_whole(entry):
        return [f"{MODEL_LINE}{entry['file']}: {entry['text']}"]
    sentence = _SENTENCES.get(kind)
    if sentence is None or not is_whole(entry):
        # Of a later version, or written by somebody else.
        said = {name: value for name, value in entry.items() if name not in {"at", "kind"}}
        return [f"{kind}: {json.dumps(said, ensure_ascii=False)}"]
    first, *more = sentence(entry).splitlines() or [""]
    trace = str(entry.get("traceback", "")).rstrip().splitlines()
    return [first, *(f"  {line}" for line in [*more, *trace])]


def _printable(line: str) -> str:
    return _CONTROL.sub("\ufffd", _ESCAPES.sub("", line.rstrip("\r")))


def _planned(entry: Entry) -> str:
    shares, pods = entry["shares"], entry["pods"]
    return (
        f"Planned {_count(entry['files'], 'file')}, {entry['bytes']:,} bytes, from {entry['source']} to "
        f"{entry['destination']}: model {entry['model_id']}, build {entry['build_id']}, instance {entry['instance']}"
        f"{', ' + entry['purchase_option'] if entry['purchase_option'] else ''}, {_count(shares, 'task')}"
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


def _not_finished(what: str) -> Callable[[Entry], str]:
    def sentence(entry: Entry) -> str:
        who = entry["file"] or entry["pod"] or "The execution"
        return f"{who} {what}: {_inline(entry)}"

    return sentence


def _ended(entry: Entry) -> str:
    see = f"See {entry['manifest']}." if entry["manifest"] else ""
    said = [f"The execution ended as {entry['status']} after {entry['seconds']:.1f} s.", entry["reason"], see]
    return " ".join(filter(None, said))


def _inline(entry: Entry) -> str:
    """A reason within a sentence that names the file already."""
    return str(entry.get("reason", "")).removeprefix(f"{entry['file']}: ")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


_SENTENCES: dict[str, Callable[[Entry], str]] = {
    "planned": _planned,
    "skipped": lambda entry: f"Skipped {entry['file']}: it {entry['reason']}.",
    "skipped_more": lambda entry: f"Skipped {_count(entry['count'], 'more file')}.",
    "refused": lambda entry: f"Refused: {entry['reason']}",
    "try": lambda entry: f"Try {entry['number']} of {entry['task']} begins.",
    "loaded": lambda entry: f"{entry['pod']} loaded the build in {entry['seconds']:.2f} s.",
    "started": lambda entry: f"{entry['file']} started in {entry['pod']}.",
    "finished": _finished,
    "failed": _not_finished("failed"),
    "timeout": _not_finished("took too long"),
    "cancelled": _not_finished("was cancelled"),
    "lines_dropped": lambda entry: (
        f"The task's log alone has {_count(entry['count'], 'more line')} that the model printed"
        f"{' for ' + entry['file'] if entry['file'] else ' while it was loaded'}."
    ),
    "audited": lambda entry: (
        f"Audited: {entry['finished']:,} finished, {entry['failed']:,} failed, {entry['not_started']:,} not started; "
        f"{_count(entry['rows'], 'row')}."
    ),
    "ended": _ended,
}
