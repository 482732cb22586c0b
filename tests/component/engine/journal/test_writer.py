"""Writing a journal: complete, ordered, in small rows, and without affecting its task."""

from __future__ import annotations

import json
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from predictors import wait_until

from airflow_batchexec.engine.journal.writer import JournalWriter, ModelLines


class Store:
    """Stores rows after failing a given number of times."""

    def __init__(self, failures=0):
        self.rows = {}
        self.failures = failures

    def write(self, number, entries):
        if self.failures:
            self.failures -= 1
            raise OSError("no response")
        self.rows[number] = entries

    def entries(self):
        return [entry for number in sorted(self.rows) for entry in self.rows[number]]


def note(number, text=""):
    return {"at": float(number), "kind": "note", "text": text}


@given(st.lists(st.text(max_size=30_000), max_size=30), st.booleans())
def test_all_entries_are_written_in_order_and_in_small_rows(texts, in_background):
    store = Store()
    writer = JournalWriter(store.write, in_background=in_background)
    for number, text in enumerate(texts):
        writer.add(note(number, text))
    writer.close()
    assert [entry["at"] for entry in store.entries()] == [float(number) for number in range(len(texts))]
    assert all(len(json.dumps(row)) < 48 * 1024 for row in store.rows.values())
    for entry, text in zip(store.entries(), texts, strict=True):
        if len(json.dumps(text)) < 40_000:
            assert entry["text"] == text.encode("utf-8", "replace").decode()
        else:
            assert len(entry["text"]) < len(text)


def test_entries_are_written_soon_and_in_batches():
    store = Store()
    writer = JournalWriter(store.write)
    before = time.monotonic()
    for number in range(500):
        writer.add(note(number))
    elapsed = time.monotonic() - before
    # Without further entries, and before close.
    wait_until(lambda: len(store.entries()) == 500, seconds=30)
    # One row every two seconds while entries arrived, and one for the rest.
    assert len(store.rows) <= 1 + int(elapsed / 2)
    writer.add(note(500))
    writer.close()
    assert [entry["at"] for entry in store.entries()] == [float(number) for number in range(501)]


def test_entries_added_during_a_write_wait_for_the_next_batch():
    """However fast entries arrive, a task writes only about every two seconds."""

    class Busy(Store):
        def write(self, number, entries):
            super().write(number, entries)
            if len(self.rows) < 3:
                for more in range(20):
                    writer.add(note(len(self.rows) * 100 + more))

    store, before = Busy(), time.monotonic()
    writer = JournalWriter(store.write)
    writer.add(note(0))
    wait_until(lambda: len(store.rows) == 3)
    assert time.monotonic() - before >= 5.9
    writer.close()
    assert [len(row) for row in store.rows.values()] == [1, 20, 20]


def test_an_entry_without_a_time_gets_the_current_time():
    store, before = Store(), time.time()
    writer = JournalWriter(store.write, in_background=False)
    writer.add({"kind": "note"})
    writer.close()
    assert before - 0.001 <= store.entries()[0]["at"] <= time.time() + 0.001


def test_a_temporary_store_failure_loses_nothing_and_is_logged_once(caplog):
    store = Store(failures=2)
    writer = JournalWriter(store.write)
    writer.add(note(1))
    wait_until(lambda: store.failures == 0)
    writer.add(note(2))
    writer.close()
    assert [entry["at"] for entry in store.entries()] == [1.0, 2.0]
    (record,) = caplog.records
    assert "no response" in record.message


@pytest.mark.parametrize("in_background", [True, False])
def test_a_failing_store_does_not_affect_the_task(caplog, in_background):
    writer = JournalWriter(Store(failures=10**9).write, in_background=in_background)
    for number in range(100):
        writer.add(note(number))
    writer.close()
    assert len(caplog.records) == 1


def test_an_unresponsive_store_does_not_block_the_task(monkeypatch, caplog):
    monkeypatch.setattr("airflow_batchexec.engine.journal.writer._CLOSE_SECONDS", 0.1)
    unblock = threading.Event()
    writer = JournalWriter(lambda *_: unblock.wait())
    before = time.monotonic()
    for number in range(100_000):
        writer.add({"at": float(number), "kind": "line", "file": "a.csv", "text": "x" * 100})
    writer.close()
    assert time.monotonic() - before < 120
    assert len(caplog.records) == 1
    unblock.set()


def test_lines_beyond_the_buffer_are_counted_and_no_other_entries_are_lost():
    store = Store()
    writer = JournalWriter(store.write, in_background=False)
    for number in range(10_000):
        writer.add({"at": float(number), "kind": "line", "file": "a.csv", "text": "x" * 100})
    writer.add(note(10_000))
    writer.close()
    kinds = [entry["kind"] for entry in store.entries()]
    (dropped,) = [entry for entry in store.entries() if entry["kind"] == "lines_dropped"]
    assert (dropped["file"], dropped["at"]) == ("a.csv", 9_999.0)
    assert kinds.count("line") + dropped["count"] == 10_000
    assert kinds.count("note") == 1
    assert sum(len(json.dumps(row)) for row in store.rows.values()) < 320 * 1024


def test_after_batch_runs_in_the_writer_thread():
    seen = []
    writer = JournalWriter(lambda *_: None, after_batch=lambda: seen.append(threading.current_thread().name))
    writer.add(note(1))
    writer.close()
    assert seen == ["journal"]


@pytest.mark.parametrize("in_background", [True, False])
def test_a_batch_can_be_requested_without_entries(in_background):
    batches = []
    writer = JournalWriter(
        lambda *_: None, after_batch=lambda: batches.append(1), in_background=in_background
    )
    writer.request_batch()
    if in_background:
        wait_until(lambda: batches)
    writer.close()
    assert batches


# ---- model output


def emit_lines(*groups):
    emitted = []
    lines = ModelLines(emitted.append)
    for file, count in groups:
        for number in range(count):
            lines.add(file=file, stream="stdout", text=f"{file} {number}")
    return emitted, lines


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 450)), max_size=5))
def test_the_first_and_last_lines_of_each_file_are_kept_and_the_others_counted(groups):
    merged = []
    for file, count in groups:
        if count and merged and merged[-1][0] == file:
            merged[-1] = (file, merged[-1][1] + count)
        elif count:
            merged.append((file, count))
    emitted, lines = emit_lines(*merged)
    lines.end()
    expected = []
    for file, count in merged:
        kept = range(count) if count <= 200 else [*range(100), *range(count - 100, count)]
        expected += [f"{file} {number}" for number in kept]
    assert [entry["text"] for entry in emitted if entry["kind"] == "line"] == expected
    dropped = [(entry["file"], entry["count"]) for entry in emitted if entry["kind"] == "lines_dropped"]
    assert dropped == [(file, count - 200) for file, count in merged if count > 200]
    assert [entry["at"] for entry in emitted] == sorted(entry["at"] for entry in emitted)


def test_first_lines_are_emitted_at_once_and_last_lines_at_the_end_of_the_file():
    emitted, lines = emit_lines(("a", 150))
    assert len(emitted) == 100
    lines.end("b")
    assert len(emitted) == 100
    lines.end("a")
    assert len(emitted) == 150


def test_a_long_line_is_truncated():
    emitted = []
    ModelLines(emitted.append).add(file="a", stream="stderr", text="x" * 10_000)
    assert emitted[0]["text"] == "x" * 499 + "…"
    assert emitted[0]["stream"] == "stderr"
