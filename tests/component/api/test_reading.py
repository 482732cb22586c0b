"""Status, list, report and details, derived from what an execution's tasks left in Airflow's database."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_service import parse_response

from airflow_batchexec.engine.journal.packing import pack
from airflow_batchexec.wire.values import JobStatus
from tools.seeded_execution import (
    BUILD_ID,
    map_predict,
    say,
    seed_end,
    seed_execution,
    seed_file,
    seed_plan,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

FILES = [("a.csv", 0), ("b.csv", 1), ("c.csv", 2)]


def call(api: Any, name: str, path: str, **arguments: Any) -> dict[str, Any]:
    """A successful call, validated against the wire format."""
    response = api.get(path, **arguments)
    assert response.status_code == 200, response.text
    body = response.json()
    parse_response(name, body)
    return body


def status(api: Any, run_id: str = "run") -> tuple[str, int, int]:
    """Status, finished and total files; status, details and list must agree."""
    body = call(api, "status", f"/batch-job/{run_id}/status")
    details = call(api, "details", f"/batch-job/{run_id}")
    job = details["batch_job"]
    (listed,) = [j for j in call(api, "list", "/batch-jobs")["batch_jobs"] if j["job_id"] == run_id]
    files = job["execution_file_details"]
    assert job["job_status"] == listed["job_status"] == body["job_status"]
    assert files["finished_files"] == body["finished_files"]
    assert files["total_files"] == job["job_size"] == listed["job_size"] == body["total_files"]
    assert job["build_id"] == listed["build_id"]
    assert details["failure_message"] == listed["failure_message"] == body["failure_message"]
    return JobStatus.parse(body["job_status"]).short, body["finished_files"], body["total_files"]


def reason(api: Any, run_id: str = "run") -> str:
    message: str = api.get(f"/batch-job/{run_id}/status").json()["failure_message"]
    return message


# ---- the life of an execution


def test_a_queued_run_is_committed(api: Any, seed: Callable[..., None]):
    seed("run")

    assert status(api) == ("COMMITTED", 0, 0)


def test_a_running_run_without_a_plan_is_pending(api: Any, seed: Callable[..., None]):
    seed("run", state="running")

    assert status(api) == ("PENDING", 0, 0)


def test_a_running_run_with_a_plan_is_running(api: Any, seed: Callable[..., None]):
    def write(session: Session, run: DagRun) -> None:
        seed_plan(session, run, FILES)
        map_predict(session, run, {0: "success", 1: "running", 2: None})
        seed_file(session, run, "a.csv", 0)
        seed_file(session, run, "b.csv", 1, rows=None)

    seed("run", write, state="running")

    assert status(api) == ("RUNNING", 1, 3)
    job = api.get("/batch-job/run").json()["batch_job"]
    assert [
        (t["task_id"], t["filename"], t["status"], t["num_of_records"]) for t in job["task_executions"]
    ] == [
        ("predict[0]", "a.csv", "BATCH_TASK_FINISHED_STATUS", 100),
        ("predict[1]", "b.csv", "BATCH_TASK_RUNNING_STATUS", 0),
        ("predict[2]", "c.csv", "BATCH_TASK_COMMITTED_STATUS", 0),
    ]
    assert job["build_id"] == BUILD_ID
    assert job["total_records"] == 100


def test_shards_of_several_files_report_their_progress(api: Any, seed: Callable[..., None]):
    def write(session: Session, run: DagRun) -> None:
        seed_plan(session, run, [("a.csv", 0), ("b.csv", 1), ("c.csv", 0), ("d.csv", 0)])
        map_predict(session, run, {0: "running", 1: "success"})
        say(session, run, "predict", "progress", {"generation": 0, "finished": 2}, map_index=0)
        say(session, run, "predict", "progress", {"generation": 0, "finished": 1}, map_index=1)

    seed("run", write, state="running")

    assert status(api) == ("RUNNING", 3, 4)
    tasks = api.get("/batch-job/run").json()["batch_job"]["task_executions"]
    assert [(t["task_id"], t["filename"], t["filenames"]) for t in tasks] == [
        ("predict[0].0", "a.csv", ["a.csv"]),
        ("predict[1]", "b.csv", ["b.csv"]),
        ("predict[0].1", "c.csv", ["c.csv"]),
        ("predict[0].2", "d.csv", ["d.csv"]),
    ]


@pytest.mark.parametrize("end", ["FINISHED", "FAILED", "CANCELLED", "TIMEOUT"])
@pytest.mark.parametrize("state", ["success", "failed"])
def test_an_ended_execution_has_the_status_of_its_finish_task(
    api: Any, seed: Callable[..., None], end: str, state: str
):
    def write(session: Session, run: DagRun) -> None:
        seed_plan(session, run, FILES)
        map_predict(session, run, {0: "success", 1: "success", 2: "failed"})
        seed_end(
            session,
            run,
            end,
            reason="Said so.",
            total_files=3,
            finished_files=2,
            rows=70,
            not_finished=pack({"c.csv": "FAILED"}),
        )

    seed("run", write, state=state)

    assert status(api) == (end, 2, 3)
    assert reason(api) == ("" if end == "FINISHED" else "Said so.")
    assert api.get("/batch-job/run").json()["batch_job"]["total_records"] == 70


@pytest.mark.parametrize(("state", "end"), [("success", "FINISHED"), ("failed", "FAILED")])
def test_an_ended_execution_without_an_end_row_has_the_status_of_its_run(
    api: Any, seed: Callable[..., None], state: str, end: str
):
    seed("run", state=state)

    assert status(api) == (end, 0, 0)
    assert bool(reason(api)) == (end == "FAILED")


def test_a_cancelled_execution_without_an_end_row_is_cancelled(api: Any, seed: Callable[..., None]):
    def write(session: Session, run: DagRun) -> None:
        say(session, run, "finish", "cancelled", {"generation": 0, "by": "ann", "at": 1.5})

    seed("run", write, state="failed")

    assert status(api) == ("CANCELLED", 0, 0)
    assert reason(api) == "It was cancelled by ann."


# ---- executions of too many files to name


def seed_many(session: Session, run: DagRun) -> None:
    """An execution of 20,000 files in two shards, in one of which files failed."""
    entries = [
        {"at": 1_719_792_000.0, "kind": "unlisted", "files": 20_000, "plan": "s3://b/out/plan.jsonl"},
        {
            "at": 1_719_792_001.0,
            "kind": "failed",
            "file": "b.csv",
            "pod": "pod-1",
            "generation": 0,
            "attempt": 1,
            "reason": "It is broken.",
        },
    ]
    say(session, run, "plan", "journal-0-1-0000", entries[:1])
    say(
        session,
        run,
        "plan",
        "planned",
        {
            "generation": 0,
            "total_files": 20_000,
            "shares": 2,
            "model_id": "m",
            "build_id": BUILD_ID,
            "files_rows": 0,
        },
    )
    map_predict(session, run, {0: "running", 1: "failed"})
    say(session, run, "predict", "journal-0-1-0000", pack(entries[1:]), map_index=1)
    say(session, run, "predict", "progress", {"generation": 0, "finished": 9_000}, map_index=0)
    say(session, run, "predict", "progress", {"generation": 0, "finished": 400}, map_index=1)


def test_an_execution_of_too_many_files_has_counts_and_its_failures(api: Any, seed: Callable[..., None]):
    seed("run", seed_many, state="running")

    assert status(api) == ("RUNNING", 9_400, 20_000)
    job = api.get("/batch-job/run").json()["batch_job"]
    assert [(t["task_id"], t["filename"], t["status"]) for t in job["task_executions"]] == [
        ("predict[1]", "b.csv", "BATCH_TASK_FAILED_STATUS")
    ]
    report = "\n".join(call(api, "report", "/batch-job/run/report")["report_messages"])
    assert "20,000 files are too many to list here: only files that fail are, up to 1,000." in report
    assert "All files are in s3://b/out/plan.jsonl" in report
    assert "b.csv failed: It is broken." in report


def test_the_audit_decides_which_of_too_many_files_failed(api: Any, seed: Callable[..., None]):
    def write(session: Session, run: DagRun) -> None:
        seed_many(session, run)
        seed_end(
            session,
            run,
            "FAILED",
            total_files=20_000,
            finished_files=15_000,
            rows=70,
            not_finished=pack({"b.csv": "TIMEOUT", "c.csv": "FAILED"}),
        )

    seed("run", write, state="failed")

    assert status(api) == ("FAILED", 15_000, 20_000)
    job = api.get("/batch-job/run").json()["batch_job"]
    assert [(t["task_id"], t["filename"], t["status"]) for t in job["task_executions"]] == [
        ("predict[1]", "b.csv", "BATCH_TASK_TIMEOUT_STATUS"),
        ("predict", "c.csv", "BATCH_TASK_FAILED_STATUS"),
    ]


@pytest.mark.parametrize("damaged", ["nonsense", pack(["b.csv"])])
def test_damaged_rows_of_too_many_files_show_none(api: Any, seed: Callable[..., None], damaged: str):
    def write(session: Session, run: DagRun) -> None:
        seed_many(session, run)
        seed_end(session, run, "FAILED", total_files=20_000, finished_files=1, not_finished=damaged)

    seed("run", write, state="failed")

    assert status(api) == ("FAILED", 1, 20_000)
    assert api.get("/batch-job/run").json()["batch_job"]["task_executions"] == []


# ---- clears


def test_clearing_all_tasks_starts_over(api: Any, seed: Callable[..., None]):
    def write(session: Session, run: DagRun) -> None:
        seed_plan(session, run, FILES)
        seed_end(session, run, total_files=3, finished_files=3, rows=30)
        say(session, run, "finish", "cancelled", {"generation": 0, "by": "ann", "at": 1.5})
        # As the clear leaves it.
        run.get_task_instance("plan", session=session).state = "running"

    seed("run", write, state="running", generation=1)

    assert status(api) == ("PENDING", 0, 0)


def test_clearing_later_tasks_keeps_the_plan(api: Any, seed: Callable[..., None]):
    def write(session: Session, run: DagRun) -> None:
        seed_plan(session, run, FILES)
        seed_end(session, run, "FAILED", total_files=3, finished_files=2, rows=30)
        map_predict(session, run, {0: "success", 1: "success", 2: "running"})

    seed("run", write, state="running", generation=1)

    assert status(api) == ("RUNNING", 2, 3)


def test_the_end_of_an_earlier_generation_does_not_count(api: Any, seed: Callable[..., None]):
    def write(session: Session, run: DagRun) -> None:
        seed_plan(session, run, FILES)
        seed_end(session, run, "TIMEOUT", total_files=3, finished_files=2, rows=30)
        map_predict(session, run, {0: "success", 1: "success", 2: "success"})

    seed("run", write, state="success", generation=1)

    assert status(api) == ("FINISHED", 3, 3)


# ---- arbitrary content of the task state store


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(
            [
                ("plan", "planned"),
                ("finish", "ended"),
                ("finish", "cancelled"),
                ("predict", "progress"),
                ("plan", "files-000"),
                ("plan", "journal-0-1-0000"),
                ("predict", "planned"),
            ]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "generation",
                            "total_files",
                            "shares",
                            "finished",
                            "status",
                            "reason",
                            "kind",
                            "at",
                            "by",
                            "rows",
                        ]
                    )
                    | st.text(max_size=3),
                    st.sampled_from([0, 1, -1, "started", "finished", "planned", 1e300]) | inner,
                    max_size=8,
                )
            ),
            max_leaves=12,
        ),
        max_size=5,
    ),
    st.sampled_from(["running", "success", "failed"]),
)
def test_arbitrary_stored_values_do_not_break_responses(
    api: Any, seed: Callable[..., None], stored: dict[tuple[str, str], Any], state: str
):
    number = len(api.get("/batch-jobs?limit=1000").json()["batch_jobs"])
    run_id = f"run-{number}"

    def write(session: Session, run: DagRun) -> None:
        for (task_id, key), value in stored.items():
            say(session, run, task_id, key, value)

    seed(run_id, write, state=state)

    for name, path in (("status", "/status"), ("report", "/report"), ("details", "")):
        call(api, name, f"/batch-job/{run_id}{path}")
    call(api, "list", "/batch-jobs?limit=1000")


# ---- the report


def test_a_report_is_sorted_by_time(api: Any, seed: Callable[..., None]):
    def write(session: Session, run: DagRun) -> None:
        # Written out of order.
        seed_end(session, run, total_files=3, finished_files=3, rows=300)
        for file, share in FILES:
            seed_file(session, run, file, share)
        seed_plan(session, run, FILES)

    seed("run", write, state="success", conf={"client": {"warnings": ["The field foo was ignored."]}})

    lines = call(api, "report", "/batch-job/run/report")["report_messages"]

    times = [line.split(" ", 1)[0] for line in lines]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in times)
    assert times == sorted(times)
    texts = [line.split(" ", 1)[1] for line in lines]
    events = [text for text in texts if not text.startswith(("Accepted", "Warning"))]
    assert events[0].startswith("Planned 3 files")
    for file, _ in FILES:
        start, line, finish = [index for index, text in enumerate(events) if file in text]
        assert events[line] == f"[model] {file}: predicting {file}"
        assert start < line < finish
        assert "100 rows" in events[finish]
    assert events[-1].startswith("The execution ended as FINISHED")
    assert "Warning: The field foo was ignored." in texts
    details = call(api, "details", "/batch-job/run")["batch_job"]["report_messages"]
    assert [message["line"] for message in details] == texts


# ---- the list


def test_a_list_is_paginated_newest_first(api: Any, seed: Callable[..., None]):
    names = [f"run-{number}" for number in range(7)]
    for name in names:
        seed(name)

    found: list[str] = []
    query, pages = "", 0
    while True:
        body = call(api, "list", f"/batch-jobs?limit=3{query}")
        assert len(body["batch_jobs"]) <= 3
        found += [job["job_id"] for job in body["batch_jobs"]]
        pages += 1
        if not body["next_cursor"]:
            break
        # Executions started meanwhile must not shift later pages.
        seed(f"late-{pages}")
        query = f"&cursor={body['next_cursor']}"

    assert found == names[::-1]
    assert pages == 3


@pytest.fixture
def executions(api: Any, seed: Callable[..., None]) -> None:
    def write_plan(end: str = "") -> Callable[[Session, DagRun], None]:
        def write(session: Session, run: DagRun) -> None:
            seed_plan(session, run, FILES)
            if end:
                seed_end(session, run, end, total_files=3, finished_files=1, rows=3)

        return write

    seed("queued", conf={"model_id": "m1", "build_id": "wanted"})
    seed("pending", state="running", conf={"model_id": "m1"})
    seed("running", write_plan(), state="running", conf={"model_id": "m1"})
    seed("finished", write_plan("FINISHED"), state="success", conf={"model_id": "m2"})
    seed("failed", write_plan("FAILED"), state="failed", conf={"model_id": "m2", "build_id": "wanted"})
    seed("cancelled", write_plan("CANCELLED"), state="failed", conf={"model_id": "m1_"})
    seed("timeout", write_plan("TIMEOUT"), state="failed", conf={"model_id": "m1-"})
    seed("elsewhere", state="failed", dag_id="batch_execution_gpu", conf={"model_id": "m1"})


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("model_id=m1", {"queued", "pending", "running", "elsewhere"}),
        ("model_id=m2", {"finished", "failed"}),
        ("model_id=m1_", {"cancelled"}),
        ("model_id=m3", set()),
        (f"build_id={BUILD_ID}", {"running", "finished", "failed", "cancelled", "timeout"}),
        ("build_id=wanted", {"queued"}),
        (f"build_id={BUILD_ID}&model_id=m2&status=FAILED", {"failed"}),
        ("status=COMMITTED", {"queued"}),
        ("status=batch_job_pending_status", {"pending"}),
        ("status=3", {"running"}),
        ("status=FINISHED", {"finished"}),
        ("status=BATCH_JOB_FAILED_STATUS", {"failed", "elsewhere"}),
        ("status=cancelled", {"cancelled"}),
        ("status=7", {"timeout"}),
        ("status=0&model_id=m2", {"finished", "failed"}),
        ("model_id=&build_id=&status=&model_id=m2", {"finished", "failed"}),
    ],
)
def test_a_list_can_be_filtered(api: Any, executions: None, query: str, found: set[str]):
    body = call(api, "list", f"/batch-jobs?{query}")

    assert {job["job_id"] for job in body["batch_jobs"]} == found
    assert body["next_cursor"] is None


def test_a_filtered_list_is_paginated(api: Any, executions: None):
    found: list[str] = []
    cursor = ""
    for _ in range(8):
        body = call(api, "list", f"/batch-jobs?build_id={BUILD_ID}&limit=1&cursor={cursor}")
        found += [job["job_id"] for job in body["batch_jobs"]]
        cursor = body["next_cursor"] or ""
        if not cursor:
            break

    assert found == ["timeout", "cancelled", "failed", "finished", "running"]


def test_rare_matches_are_found_across_pages_with_limited_scans(
    api: Any, executions: None, monkeypatch: pytest.MonkeyPatch
):
    for bound in ("_MAX_SCANNED_RUNS", "_SCAN_BATCH_SIZE"):
        monkeypatch.setattr(f"airflow_batchexec.api.reading.{bound}", 2)
    pages, cursor = [], ""
    while True:
        body = call(api, "list", f"/batch-jobs?status=FINISHED&limit=1&cursor={cursor}")
        pages.append([job["job_id"] for job in body["batch_jobs"]])
        cursor = body["next_cursor"] or ""
        if not cursor:
            break

    assert [job for page in pages for job in page] == ["finished"]
    assert pages[0] == [], "a page may be empty without being the last"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("status=busy", "status"),
        ("status=8", "status"),
        ("model_id=a%20b", "model_id"),
        ("model_id=a%00", "model_id"),
        ("build_id=../x", "build_id"),
        ("cursor=x", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=" + "A" * 101, "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b'{"before": -1}').decode(), "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b'{"before": true}').decode(), "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b"[1]").decode(), "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b'{"before":99999999999}').decode(), "cursor"),
    ],
)
def test_an_invalid_query_parameter_is_refused_and_named(api: Any, query: str, named: str):
    response = api.get(f"/batch-jobs?{query}")

    assert response.status_code == 400, response.text
    body = response.json()
    parse_response("list", body)
    assert body["failure_message"].startswith(f"{named}: ")


def test_runs_of_other_dags_are_not_executions(
    api: Any, seed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    seed("mine")
    seed("other", dag_id="batch_execution_gpu")
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__EXECUTION_DAGS", "batch_execution")

    assert [job["job_id"] for job in call(api, "list", "/batch-jobs")["batch_jobs"]] == ["mine"]
    assert api.get("/batch-job/other/status").status_code == 404
    assert api.post("/batch-job/other/cancel").status_code == 404


# ---- number of queries


@pytest.fixture
def many_files(api: Any) -> str:
    from airflow.utils.session import create_session  # noqa: PLC0415  only needed here

    with create_session() as session:
        seed_execution(session, run_id="many", files=300, conf=api.job())
    return "many"


@pytest.mark.parametrize(
    ("path", "limit"),
    # Besides one query per execution DAG for its team, and occasional checks for changed DAGs.
    [("/status", 3), ("/report", 2), ("", 5)],
)
def test_the_number_of_queries_does_not_grow_with_the_files(
    api: Any, many_files: str, statements: Callable[[], Any], path: str, limit: int
):
    call(api, "status", f"/batch-job/{many_files}/status")

    with statements() as sent:
        response = api.get(f"/batch-job/{many_files}{path}")

    assert response.status_code == 200
    airflow_queries = (" team", "revoked_token", "dag_version", "serialized_dag")
    queries = [text for text in sent if not any(name in text for name in airflow_queries)]
    assert len(queries) <= limit, queries
    assert sum("GROUP BY" in text for text in queries) == (0 if path == "/report" else 1)


def test_the_number_of_queries_does_not_grow_with_the_list(
    api: Any, seed: Callable[..., None], statements: Callable[[], Any]
):
    def count_queries() -> int:
        with statements() as sent:
            call(api, "list", "/batch-jobs")
        return len(sent)

    counts = []
    for number in range(6):
        seed(f"run-{number}", state="running")
        # The minimum of two, since Airflow occasionally checks whether its cached DAGs have changed.
        counts.append(min(count_queries(), count_queries()))

    assert len(set(counts)) == 1
