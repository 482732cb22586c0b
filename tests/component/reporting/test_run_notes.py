"""The text of notes, and that text by others is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import make_manifest

from airflow_batchexec.engine.execution.manifest import ExecutionStatus, Summary
from airflow_batchexec.reporting.run_notes import note_text, update_note

FINISHED = make_manifest(total_files=1022, finished_files=1022, rows=4500, seconds=12.345).summary(
    generation=0
)


def failed(reason: str) -> Summary:
    return Summary(execution_id="e", status=ExecutionStatus.FAILED, reason=reason)


def test_the_note_says_how_much_was_done():
    assert note_text(FINISHED) == "Execution FINISHED: 1,022 of 1,022 files, 4,500 rows in 12.3 s"


def test_the_note_says_why_it_did_not_finish():
    reason = "1 of 3 files failed: bad.csv: it is empty."

    assert note_text(failed(reason)) == f"Execution FAILED: {reason}"


def test_the_note_names_the_task_group():
    assert note_text(failed("no."), group="shop.totals") == "Execution shop.totals FAILED: no."


def test_a_reason_becomes_one_line_that_any_database_accepts():
    assert note_text(failed("a\x00b\n\tc\ud800d")) == "Execution FAILED: a b c d"
    assert len(note_text(failed("x" * 5000))) == 400


def test_lines_go_below_a_users_text_and_above_a_programs():
    note, lines = "asked for by Ada\n\nsee the ticket", ["Execution FAILED: no."]

    assert update_note(note, lines, by_user=True) == f"{note}\n\nExecution FAILED: no."
    assert update_note(note, lines, by_user=False) == f"Execution FAILED: no.\n\n{note}"


def test_lines_of_an_earlier_end_are_replaced():
    before = update_note("mine", ["Execution a FAILED: no.", "Execution b FINISHED: yes"], by_user=True)

    assert update_note(before, [note_text(FINISHED)], by_user=True) == f"mine\n\n{note_text(FINISHED)}"


def test_a_users_text_is_never_shortened():
    theirs = "x" * 990

    assert update_note(theirs, ["Execution FAILED: no."], by_user=True) == theirs
    both = ["Execution FAILED: no.", "Execution FAILED: again no."]
    assert update_note("x" * 960, both, by_user=True).count("FAILED") == 1


def test_a_note_is_unchanged_if_there_is_nothing_to_add():
    assert update_note("mine", [], by_user=True) == "mine"


def test_a_line_that_does_not_fit_still_replaces_an_outdated_one():
    theirs = "x" * 900
    before = update_note(theirs, ["Execution FINISHED: all"], by_user=True)

    assert update_note(before, [note_text(failed("y" * 300))], by_user=True) == theirs


def test_text_below_a_line_like_ours_is_not_removed_with_it():
    theirs = "Execution FAILED: no.\nAda: the disk was full."

    assert update_note(theirs, ["Execution FAILED: no."], by_user=True).startswith(theirs)


# Any text, and short ones of the characters that a note is taken apart at.
notes = st.text(st.characters(codec="utf-8"), max_size=1000) | st.text("a \n", max_size=12)
ends = st.lists(
    st.sampled_from([note_text(FINISHED), note_text(failed("y" * 300), group="a.b")]), min_size=1, max_size=6
)


@given(theirs=notes, before=ends, lines=ends, by_user=st.booleans())
def test_existing_text_stays_and_an_earlier_end_leaves_no_trace(
    theirs: str, before: list[str], lines: list[str], *, by_user: bool
):
    note = update_note(theirs, lines, by_user=by_user)

    assert len(note) <= 1000
    assert theirs in note or not theirs.strip()
    assert update_note(note, lines, by_user=by_user) == note
    if theirs.strip():
        assert update_note(update_note(theirs, before, by_user=by_user), lines, by_user=by_user) == note


@pytest.mark.parametrize("theirs", ["FAILED: I know why", "Execution of the plan", "Executions FAILED: all"])
def test_only_our_own_lines_are_recognized(theirs: str):
    assert update_note(theirs, ["Execution FAILED: no."], by_user=True).startswith(theirs)
