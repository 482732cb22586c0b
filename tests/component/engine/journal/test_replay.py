"""Replaying a journal: file states that never claim more than is known, and a sorted report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.journal.packing import pack
from airflow_batchexec.engine.journal.replay import MODEL_LINE, FileState, replay, report_lines

NAMES = [f"f{number}.csv" for number in range(6)]
KINDS = {"finished": "FINISHED", "failed": "FAILED", "timeout": "TIMEOUT", "cancelled": "CANCELLED"}


def planned(at=0.0, *, generation=0, **values):
    return {
        "at": at,
        "kind": "planned",
        "generation": generation,
        "files": 2,
        "bytes": 1234,
        "model_id": "m",
        "build_id": "b1",
        "instance": "tiny",
        "purchase_option": "",
        "shares": 2,
        "pods": 0,
        "source": "s3://b/in",
        "destination": "s3://b/out",
        **values,
    }


def started(file, at=1.0, *, attempt=1, generation=0, pod="pod-0"):
    return {
        "at": at,
        "kind": "started",
        "file": file,
        "pod": pod,
        "generation": generation,
        "attempt": attempt,
    }


def finished(file, at=2.0, *, rows=5, **values):
    steps = {"fetch": 0.25, "predict": 0.5}
    return {**started(file, at, **values), "kind": "finished", "rows": rows, "seconds": 0.75, "steps": steps}


def failed(file, at=2.0, *, kind="failed", reason="it broke", **values):
    return {**started(file, at, **values), "kind": kind, "error": "PredictError", "reason": reason}


def line(file, at, text):
    return {"at": at, "kind": "line", "file": file, "stream": "stdout", "text": text}


def replay_one(*entries, files=(("a.csv", 0),), ended=None, over=False):
    (only,) = replay(entries, files, ended, over)
    return only


# ---- file states


def test_a_file_progresses_from_planned_to_finished():
    entries = [planned()]
    assert replay_one(*entries).status == "COMMITTED"
    entries.append({"at": 0.5, "kind": "loaded", "pod": "pod-0", "seconds": 0.5})
    assert replay_one(*entries).status == "PENDING_START"
    assert replay_one(*entries, files=[("a.csv", 1)]).status == "COMMITTED"
    entries.append(started("a.csv"))
    assert replay_one(*entries) == FileState("a.csv", 0, "RUNNING", started_at=1.0)
    entries.append(finished("a.csv"))
    assert replay_one(*entries) == FileState("a.csv", 0, "FINISHED", 1.0, 2.0, 5)


@pytest.mark.parametrize(("kind", "status"), KINDS.items())
def test_a_file_without_a_result_has_a_reason(kind, status):
    if kind == "finished":
        return
    found = replay_one(planned(), started("a.csv"), failed("a.csv", kind=kind, reason="a.csv: it broke"))
    assert (found.status, found.reason, found.rows) == (status, "it broke", 0)


def test_a_retried_file_is_running_regardless_of_clock_skew():
    entries = [planned(), started("a.csv", 10.0), failed("a.csv", 11.0), started("a.csv", 5.0, attempt=2)]
    found = replay_one(*entries)
    assert (found.status, found.started_at, found.ended_at, found.reason) == ("RUNNING", 5.0, None, "")
    found = replay_one(*entries, finished("a.csv", 6.0, attempt=2))
    assert (found.status, found.started_at, found.ended_at) == ("FINISHED", 5.0, 6.0)


def test_replanning_discards_earlier_entries():
    entries = [planned(), started("a.csv"), finished("a.csv")]
    assert replay_one(*entries, planned(9.0, generation=1)).status == "COMMITTED"
    # Clearing only the mapped tasks keeps the plan.
    assert replay_one(*entries, started("b.csv", generation=1)).status == "FINISHED"


def test_no_file_stays_open_once_the_run_is_over():
    assert replay_one(planned(), started("a.csv"), over=True).status == "FAILED"
    assert "killed or lost" in replay_one(planned(), started("a.csv"), over=True).reason
    assert replay_one(planned(), over=True).status == "CANCELLED"


def test_the_audit_overrides_the_entries():
    entries = [planned(), started("a.csv"), finished("a.csv")]
    ended = {"not_finished": pack({"a.csv": "FAILED"})}
    found = replay_one(*entries, ended=ended, over=True)
    assert (found.status, found.rows) == ("FAILED", 0)
    assert found.reason.startswith("The audit")
    # The journal may lack the last second of a pod.
    assert (
        replay_one(planned(), started("a.csv"), ended={"not_finished": pack({})}, over=True).status
        == "FINISHED"
    )
    left = replay_one(planned(), ended={"not_finished": pack({"a.csv": "NOT_STARTED"})}, over=True)
    assert (left.status, left.reason) == ("CANCELLED", "It was not started.")
    why = replay_one(planned(), failed("a.csv"), ended={"not_finished": pack({"a.csv": "FAILED"})}, over=True)
    assert why.reason == "it broke"


@st.composite
def histories(draw):
    """Entries of possible attempts at some files, over generations and tries, and the resulting statuses."""
    entries = []
    truth = {}
    for file in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        for generation, attempt in draw(
            st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), unique=True, max_size=4).map(sorted)
        ):
            numbers = {"generation": generation, "attempt": attempt}
            at = draw(st.floats(0, 100))
            entries.append(started(file, at, **numbers))
            end = draw(st.sampled_from([*KINDS, None]))
            if end == "finished":
                entries.append(finished(file, at, **numbers))
            elif end is not None:
                entries.append(failed(file, at, kind=end, **numbers))
            truth[file] = KINDS.get(end, "RUNNING")
    return entries, truth


@given(histories(), st.randoms(use_true_random=False), st.data())
def test_every_planned_file_is_reported_once_in_plan_order_despite_lost_or_shuffled_entries(
    history, random, data
):
    entries, truth = history
    random.shuffle(entries)
    files = [(name, index) for index, name in enumerate(NAMES)]
    states = replay(entries, files, None, False)
    assert [(found.file, found.shard) for found in states] == files
    assert {found.file: found.status for found in states} == dict.fromkeys(NAMES, "COMMITTED") | truth

    kept = [entry for entry in entries if data.draw(st.booleans())]
    for over in (False, True):
        seen = replay(kept, files, None, over)
        assert [(found.file, found.shard) for found in seen] == files
        recorded = {entry["file"] for entry in kept if entry["kind"] == "finished"}
        assert {found.file for found in seen if found.status == "FINISHED"} <= recorded
        if over:
            assert not {found.status for found in seen} & {"COMMITTED", "PENDING_START", "RUNNING"}


@given(
    histories(),
    st.dictionaries(
        st.sampled_from(NAMES), st.sampled_from(["FAILED", "TIMEOUT", "CANCELLED", "NOT_STARTED"])
    ),
)
def test_with_an_audit_exactly_the_files_it_names_are_not_finished(history, not_finished):
    files = [(name, 0) for name in NAMES]
    states = replay(history[0], files, {"not_finished": pack(not_finished)}, True)
    assert {found.file for found in states if found.status != "FINISHED"} == set(not_finished)
    assert all(found.reason for found in states if found.status != "FINISHED")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
arbitrary_entries = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([*KINDS, "planned", "started", "line", "ended", "audited", "else"])
        | json_values
    },
    optional=dict.fromkeys(
        ("at", "file", "pod", "generation", "attempt", "rows", "reason", "text", "status", "steps"),
        json_values,
    ),
)


@given(st.lists(arbitrary_entries | json_values))
def test_arbitrary_entries_break_nothing(entries):
    states = replay([*entries, started("a.csv")], [("a.csv", 0)], None, False)
    assert len(states) == 1
    for at, text in report_lines([*entries, started("a.csv")]):
        assert isinstance(at, (int, float))
        assert "\n" not in text


# ---- the report


def test_a_report_covers_an_execution_from_plan_to_end():
    entries = [
        planned(purchase_option="spot", pods=2),
        {"at": 0.1, "kind": "skipped", "file": "notes.txt", "reason": "is not a CSV file"},
        {"at": 0.2, "kind": "skipped_more", "count": 1200},
        {"at": 0.3, "kind": "loaded", "pod": "pod-0", "seconds": 0.25},
        line("", 0.25, "model is ready"),
        started("a.csv"),
        line("a.csv", 1.5, "step 1"),
        {"at": 1.75, "kind": "lines_dropped", "file": "a.csv", "count": 1},
        {**failed("a.csv", reason="a.csv: it broke"), "traceback": "Traceback:\n  File x\nValueError\n"},
        {"at": 3.0, "kind": "try", "number": 2, "task": "pod-0"},
        finished("a.csv", 4.0, attempt=2, rows=1000),
        {"at": 5.0, "kind": "audited", "finished": 1, "failed": 0, "not_started": 1, "rows": 1000},
        {
            "at": 6.0,
            "kind": "ended",
            "status": "FAILED",
            "reason": "So.",
            "manifest": "s3://b/m",
            "seconds": 6.0,
        },
    ]
    assert report_lines(reversed(entries)) == [
        (
            0.0,
            "Planned 2 files, 1,234 bytes, from s3://b/in to s3://b/out: model m, build b1, instance tiny, spot, 2 tasks, 2 pods at once.",
        ),
        (0.1, "Skipped notes.txt: it is not a CSV file."),
        (0.2, "Skipped 1,200 more files."),
        (0.25, "[model] : model is ready"),
        (0.3, "pod-0 loaded the build in 0.25 s."),
        (1.0, "a.csv started in pod-0."),
        (1.5, "[model] a.csv: step 1"),
        (1.75, "Omitted 1 line of model output for a.csv; see the task's log."),
        (2.0, "a.csv failed: it broke"),
        (2.0, "  Traceback:"),
        (2.0, "    File x"),
        (2.0, "  ValueError"),
        (3.0, "Try 2 of pod-0 started."),
        (4.0, "a.csv finished in pod-0: 1,000 rows in 0.750 s (fetch 0.250, predict 0.500)."),
        (5.0, "Audited: 1 finished, 0 failed, 1 not started; 1,000 rows."),
        (6.0, "The execution ended as FAILED after 6.0 s. So. See s3://b/m."),
    ]


def test_refusals_and_pod_failures_are_reported():
    refused = {
        "at": 1.0,
        "kind": "refused",
        "error": "ModelNotFoundError",
        "reason": "Model m does not exist.",
    }
    loading = failed("", 2.0, reason="The build failed to load: no.")
    assert [text for _, text in report_lines([refused, loading])] == [
        "Refused: Model m does not exist.",
        "pod-0 failed: The build failed to load: no.",
    ]


@given(st.lists(st.tuples(st.floats(0, 9), st.text()), max_size=20))
def test_a_report_is_sorted_and_its_lines_are_printable(output):
    lines = report_lines([line("a.csv", at, text) for at, text in output])
    assert [at for at, _ in lines] == sorted(at for at, _ in output)
    assert len(lines) == len(output)
    for _, text in lines:
        assert text.startswith(f"{MODEL_LINE}a.csv: ")
        assert not any(letter < " " and letter != "\t" for letter in text)
        text.encode()


def test_terminal_escapes_are_removed():
    (reported,) = report_lines([line("a.csv", 1.0, "\x1b[31mred\x1b[0m \x07bell\r")])
    assert reported == (1.0, "[model] a.csv: red \ufffdbell")


# ---- the row of the audit


@pytest.mark.parametrize("value", [["a.csv"], {"a.csv": 1}, {"a.csv": ["FAILED"]}, {"a.csv": "DONE"}])
def test_unknown_file_statuses_are_refused(value):
    with pytest.raises(ValueError, match="not_finished"):
        replay([], [("a.csv", 0)], {"not_finished": pack(value)}, True)
