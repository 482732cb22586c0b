"""How a journal is kept: whole, in order, in small rows, and never at its task's expense."""

from __future__ import annotations

import json
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pods import wait_until

from airflow_batchexec.engine.journal.writer import JournalWriter, ModelLines


class Store:
    """Keeps rows, or fails as often as it is told to."""

    def __init__(self, failures=0):
        self.rows = {}
        self.failures = failures

    def write(self, number, entries):
        if self.failures:
            self.failures -= 1
            raise OSError("no answer")
        self.rows[number] = entries

    def entries(self):
        return [entry for number in sorted(self.rows) for entry in self.rows[number]]


def note(number, text=""):
    return {"at": float(number), "kind": "note", "text": text}


@given(st.lists(st.text(max_size=30_000), max_size=30), st.booleans())
def test_all_that_was_added_is_written_in_order_and_in_small_rows(texts, in_background):
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


def test_entries_are_written_soon_and_many_at_once():
    store = Store()
    writer = JournalWriter(store.write)
    before = time.monotonic()
    for number in range(500):
        writer.add(note(number))
    took = time.monotonic() - before
    # By itself: nothing more comes, and nobody closes it.
    wait_until(lambda: len(store.entries()) == 500, seconds=30)
    # One each two seconds while they came, and one for all that was left.
    assert len(store.rows) <= 1 + int(took / 2)
    writer.add(note(500))
    writer.close()
    assert [entry["at"] for entry in store.entries()] == [float(number) for number in range(501)]


def test_what_comes_while_a_batch_is_written_waits_for_the_next():
    """However fast entries come, a task writes about every two seconds."""

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


def test_an_entry_without_a_time_is_of_now():
    store, before = Store(), time.time()
    writer = JournalWriter(store.write, in_background=False)
    writer.add({"kind": "note"})
    writer.close()
    assert before - 0.001 <= store.entries()[0]["at"] <= time.time() + 0.001


def test_a_store_that_fails_for_a_while_loses_nothing_and_is_complained_of_once(caplog):
    store = Store(failures=2)
    writer = JournalWriter(store.write)
    writer.add(note(1))
    wait_until(lambda: store.failures == 0)
    writer.add(note(2))
    writer.close()
    assert [entry["at"] for entry in store.entries()] == [1.0, 2.0]
    (record,) = caplog.records
    assert "no answer" in record.message


@pytest.mark.parametrize("in_background", [True, False])
def test_a_store_that_always_fails_harms_nobody(caplog, in_background):
    writer = JournalWriter(Store(failures=10**9).write, in_background=in_background)
    for number in range(100):
        writer.add(note(number))
    writer.close()
    assert len(caplog.records) == 1


def test_a_store_that_does_not_answer_holds_nothing_up(monkeypatch, caplog):
    monkeypatch.setattr("airflow_batchexec.engine.journal.writer._CLOSE_SECONDS", 0.1)
    answers = threading.Event()
    writer = JournalWriter(lambda *_: answers.wait())
    before = time.monotonic()
    for number in range(100_000):
        writer.add({"at": float(number), "kind": "line", "file": "a.csv", "text": "x" * 100})
    writer.close()
    assert time.monotonic() - before < 120
    assert len(caplog.records) == 1
    answers.set()


def test_lines_that_come_faster_than_they_are_written_are_counted_and_nothing_else_is_lost():
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


def test_what_is_said_after_a_batch_is_said_from_where_the_batch_is_written():
    seen = []
    writer = JournalWriter(lambda *_: None, after_batch=lambda: seen.append(threading.current_thread().name))
    writer.add(note(1))
    writer.close()
    assert seen == ["journal"]


# ---- the model's lines


def lines_of(*groups):
    said = []
    lines = ModelLines(said.append)
    for file, count in groups:
        for number in range(count):
            lines.add(file=file, stream="stdout", text=f"{file} {number}")
    return said, lines


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 450)), max_size=5))
def test_of_each_file_the_first_and_last_lines_are_kept_and_the_others_counted(groups):
    merged = []
    for file, count in groups:
        if count and merged and merged[-1][0] == file:
            merged[-1] = (file, merged[-1][1] + count)
        elif count:
            merged.append((file, count))
    said, lines = lines_of(*merged)
    lines.end()
    expected = []
    for file, count in merged:
        kept = range(count) if count <= 200 else [*range(100), *range(count - 100, count)]
        expected += [f"{file} {number}" for number in kept]
    assert [entry["text"] for entry in said if entry["kind"] == "line"] == expected
    dropped = [(entry["file"], entry["count"]) for entry in said if entry["kind"] == "lines_dropped"]
    assert dropped == [(file, count - 200) for file, count in merged if count > 200]
    assert [entry["at"] for entry in said] == sorted(entry["at"] for entry in said)


def test_the_first_lines_are_given_at_once_and_the_last_at_the_files_end():
    said, lines = lines_of(("a", 150))
    assert len(said) == 100
    lines.end("b")
    assert len(said) == 100
    lines.end("a")
    assert len(said) == 150


def test_a_long_line_is_cut():
    said = []
    ModelLines(said.append).add(file="a", stream="stderr", text="x" * 10_000)
    assert said[0]["text"] == "x" * 499 + "…"
    assert said[0]["stream"] == "stderr"
