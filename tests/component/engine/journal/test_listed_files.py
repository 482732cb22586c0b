"""Which files the tasks of an execution name in Airflow, however many it has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.journal.listed_files import (
    MAX_LISTED_FAILURES,
    MAX_LISTED_FILES,
    failed_files,
    listed_unfinished,
)

NAMES = [f"{number}.csv" for number in range(MAX_LISTED_FAILURES + 500)]


def failed(file, pod, kind="failed"):
    return {"at": 1.0, "kind": kind, "file": file, "pod": pod, "generation": 0, "attempt": 1, "reason": ""}


@given(
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["FAILED", "NOT_STARTED"]), max_size=20),
    st.integers(1, MAX_LISTED_FILES),
)
def test_up_to_a_limit_all_files_without_a_result_are_named(unfinished, total_files):
    assert listed_unfinished(unfinished, total_files=total_files) == unfinished


def test_beyond_it_only_files_that_were_started_are_named_and_not_too_many():
    unfinished = {file: "NOT_STARTED" if number % 3 == 0 else "FAILED" for number, file in enumerate(NAMES)}

    named = listed_unfinished(unfinished, total_files=MAX_LISTED_FILES + 1)

    expected = [file for number, file in enumerate(NAMES) if number % 3][:MAX_LISTED_FAILURES]
    assert named == dict.fromkeys(expected, "FAILED")


def test_the_files_to_show_are_those_that_failed_until_the_audit_decides():
    entries = [
        {**failed("a.csv", "pod-3"), "kind": "finished"},
        failed("b.csv", "pod-7"),
        failed("", "pod-8"),
        failed("c.csv", "elsewhere", "timeout"),
    ]

    assert failed_files(entries, None) == [("b.csv", 7), ("c.csv", -1)]
    assert failed_files(entries, ["b.csv", "d.csv"]) == [("b.csv", 7), ("d.csv", -1)]
    assert failed_files(entries, []) == []


def test_the_number_of_files_to_show_is_limited():
    entries = [failed(file, "pod-0") for file in NAMES]

    for audited in (None, NAMES):
        assert [file for file, _ in failed_files(entries, audited)] == NAMES[:MAX_LISTED_FAILURES]
