"""The journal of executions in a real Airflow, read from its database during and after the executions."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow_models import frame
from journals import read_journal
from waiting import wait_until

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.journal.packing import unpack, unpack_entries
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.storage.local import LocalStorage

if TYPE_CHECKING:
    from airflow_deployment import Deployment
    from journals import Journal

# ``held_plan`` and ``held_finish`` are executions whose task starts once the file in the run's parameter GO exists.
HELD = """
import time
from pathlib import Path

from airflow_batchexec.dags.factory import create_execution_dag


def hold(context):
    while not Path(context["params"]["parameters"]["GO"]).exists():
        time.sleep(0.1)


for task_id in ("plan", "finish"):
    dag = create_execution_dag(f"held_{task_id}", retries=0)
    dag.get_task(task_id)._pre_execute_hook = hold
    globals()[dag.dag_id] = dag

narrow = create_execution_dag("narrow", retries=0, max_active_runs=1)
# DAG("held_plan") DAG("held_finish") DAG("narrow")
"""

# Prints lines for each file to both streams, and fails once for a flaky file.
TALKATIVE = """
import os
import sys
from pathlib import Path

print("loading it")


def predict(df):
    name, mood = df["name"].iloc[0], df["mood"].iloc[0]
    for number in range(2):
        print(f"{name} says {number}")
    print(f"{name} complains", file=sys.stderr)
    seen = Path(os.environ.get("SEEN", "/")) / name
    if mood == "flaky" and not seen.exists():
        seen.touch()
        raise ValueError("not at the first time")
    return df
"""


@pytest.fixture(scope="module")
def on_postgresql() -> bool:
    return True


@pytest.fixture(scope="module")
def user_dags() -> str:
    return HELD


@pytest.fixture(scope="module", autouse=True)
def _models(deployment: Deployment) -> None:
    for model_id, source in {"talkative": TALKATIVE, "broken": "raise RuntimeError('no weights')"}.items():
        folder = deployment.folder / f"source-{model_id}"
        folder.mkdir()
        (folder / "model.py").write_text(source)
        (folder / "model.toml").write_text('entrypoint = "model:predict"\n')
        repository = ModelRepository(
            root=Location.of_path(deployment.repository),
            storage=LocalStorage(),
            cache=deployment.home / "cache",
        )
        repository.publish(folder, model_id=model_id, build_id="b1")
        repository.deploy(model_id, "b1", instance="tiny")


def journal_of(deployment: Deployment, run_id: str) -> Journal:
    return read_journal(deployment.database_url, run_id)


def assert_small_rows(journal: Journal) -> None:
    assert max(len(json.dumps(value)) for value in journal.rows.values()) < 48 * 1024


# ---- executions that finish


def test_the_journal_of_one_task_per_file(deployment: Deployment) -> None:
    folders = deployment.write_files("each", dict.fromkeys("abc", "calm"), rows=4)
    (Path(folders["source_folder"].removeprefix("file://")) / "notes.txt").write_text("no input")

    run, run_id = deployment.execute(**folders)

    assert run["state"] == "success"
    journal = journal_of(deployment, run_id)
    assert {share for _, share in journal.files()} == {0, 1, 2}
    for account in journal.accounts():
        assert (account.status, account.rows) == ("FINISHED", 4)
        assert account.started_at is not None
        assert account.ended_at is not None
        assert account.started_at <= account.ended_at
    assert not [key for _, _, key in journal.rows if key == "progress"]
    assert {task for task, _, key in journal.rows if key.startswith("journal-0-1-")} == {
        "plan",
        "predict",
        "finish",
    }
    report = journal.report()
    assert report[0].startswith("Planned 3 files, ")
    assert "notes.txt" in report[1]
    assert 1 <= report.count("[model] : model is ready") <= 3
    assert report[-2:][0] == "Audited: 3 finished, 0 failed, 0 not started; 12 rows."
    assert report[-1].startswith("The execution ended as FINISHED after ")
    assert journal.row("finish", "ended")["finished_files"] == 3


def test_many_quick_files_in_two_pods_each_keep_their_own_lines(deployment: Deployment) -> None:
    names = [f"f{number:03d}" for number in range(120)]
    folders = deployment.write_files("many", dict.fromkeys(names, "calm"), rows=1)

    run, run_id = deployment.execute(**folders, model_id="talkative", pods=2)

    assert run["state"] == "success"
    journal = journal_of(deployment, run_id)
    assert_small_rows(journal)
    assert set(journal.statuses().values()) == {"FINISHED"}
    counts = [journal.row("predict", "progress", map_index=index)["finished"] for index in (0, 1)]
    assert sum(counts) == len(names)
    for name in names:
        lines = [e["text"] for e in journal.entries("line") if e["file"] == f"{name}.csv"]
        assert sorted(lines) == [f"{name} complains", f"{name} says 0", f"{name} says 1"]
    report = journal.report()
    for name in names:
        first, *_, last = [index for index, line in enumerate(report) if f"{name}.csv" in line]
        assert report[first].startswith(f"{name}.csv started in pod-")
        assert report[last].startswith(f"{name}.csv finished in pod-")
    # At most one row per second, and one at the end.
    for index in (0, 1):
        rows = {key: row for (task, at, key), row in journal.rows.items() if (task, at) == ("predict", index)}
        times = [
            entry["at"]
            for key, row in rows.items()
            if key.startswith("journal-")
            for entry in unpack_entries(row)
        ]
        assert len(rows) - 1 <= max(times) - min(times) + 2


def test_a_running_file_can_be_observed(deployment: Deployment, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    folders = deployment.write_files("watched", {"a": "calm", "hang": "hang"})
    # The largest file is predicted first, so that the other's timeout starts after this one has finished.
    frame("a", 50).to_csv(deployment.folder / "watched" / "in" / "a.csv", index=False)
    run_id = deployment.start(**folders, pods=1, parameters={"CALLS": str(calls)}, file_timeout=15)

    def statuses() -> dict[str, str]:
        journal = journal_of(deployment, run_id)
        return journal.statuses(over=False) if journal.row("plan", "planned") else {}

    wait_until(lambda: statuses() == {"a.csv": "FINISHED", "hang.csv": "RUNNING"})
    assert journal_of(deployment, run_id).row("finish", "ended") is None

    deployment.airflow.wait_for_run("batch_execution", run_id)
    journal = journal_of(deployment, run_id)
    assert statuses()["hang.csv"] == journal.statuses()["hang.csv"] == "TIMEOUT"
    assert unpack(journal.row("finish", "ended")["not_finished"]) == {"hang.csv": "TIMEOUT"}
    assert any(line.startswith("hang.csv timed out: ") for line in journal.report())


# ---- failures


def test_a_retried_file_is_reported_in_order(deployment: Deployment, tmp_path: Path) -> None:
    folders = deployment.write_files("flaky", {"a": "calm", "b": "flaky"})

    run, run_id = deployment.execute(
        **folders, model_id="talkative", pods=1, parameters={"SEEN": str(tmp_path)}
    )

    assert run["state"] == "success"
    journal = journal_of(deployment, run_id)
    assert set(journal.statuses().values()) == {"FINISHED"}
    assert journal.row("predict", "progress", map_index=0) == {"generation": 0, "finished": 2}
    report = journal.report()
    order = [
        report.index("b.csv started in pod-0."),
        report.index("[model] b.csv: b says 0"),
        report.index("b.csv failed: ValueError: not at the first time."),
        report.index("  ValueError: not at the first time"),
        report.index("Try 2 of pod-0 started."),
        report.index("b.csv started in pod-0.", report.index("Try 2 of pod-0 started.")),
        next(index for index, line in enumerate(report) if line.startswith("b.csv finished in pod-0: ")),
    ]
    assert order == sorted(order)


def test_a_refusal_is_reported(deployment: Deployment) -> None:
    folders = deployment.write_files("refused", {"a": "calm"})
    run, run_id = deployment.execute(**folders, build_id="b99")

    assert run["state"] == "failed"
    journal = journal_of(deployment, run_id)
    (refused,) = journal.entries("refused")
    assert "b99" in refused["reason"]
    ended = journal.row("finish", "ended")
    assert (ended["status"], ended["reason"]) == ("FAILED", refused["reason"])
    assert journal.row("plan", "planned") is None


def test_a_build_that_fails_to_load_is_reported_with_its_traceback(deployment: Deployment) -> None:
    folders = deployment.write_files("broken", {"a": "calm", "b": "calm"})
    run, run_id = deployment.execute(**folders, model_id="broken", pods=1)

    assert run["state"] == "failed"
    journal = journal_of(deployment, run_id)
    report = journal.report()
    failure = report.index("pod-0 failed: The build failed to load: RuntimeError: no weights.")
    assert "  RuntimeError: no weights" in report[failure:]
    assert set(journal.statuses().values()) == {"CANCELLED"}
    assert journal.row("finish", "ended")["status"] == "FAILED"


def test_the_retry_and_the_audit_report_what_a_killed_task_did_not(
    deployment: Deployment, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    folders = deployment.write_files("killed", {"only": "gated"})
    run_id = deployment.start(**folders, parameters={"GATE": str(gate)})
    wait_until(lambda: journal_of(deployment, run_id).entries("started"))

    deployment.kill_task("batch_execution", run_id, "predict")
    gate.touch()

    assert deployment.airflow.wait_for_run("batch_execution", run_id)["state"] == "success"
    journal = journal_of(deployment, run_id)
    (account,) = journal.accounts()
    assert (account.status, account.rows) == ("FINISHED", 5)
    report = journal.report()
    assert report.count("only.csv started in pod-0.") == 2
    assert "Try 2 of pod-0 started." in report
    assert report[-2] == "Audited: 1 finished, 0 failed, 0 not started; 5 rows."


def test_a_clear_continues_the_journal(deployment: Deployment, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    folders = deployment.write_files("cleared", {"a": "calm", "b": "fail"})
    run, run_id = deployment.execute(**folders, pods=2, parameters={"BROKEN": str(broken)})
    assert run["state"] == "failed"
    assert journal_of(deployment, run_id).statuses() == {"a.csv": "FINISHED", "b.csv": "FAILED"}

    broken.unlink()
    assert deployment.clear(run_id)["state"] == "success"

    journal = journal_of(deployment, run_id)
    assert set(journal.statuses().values()) == {"FINISHED"}
    assert journal.row("finish", "ended")["generation"] == 1
    assert journal.row("plan", "planned")["generation"] == 1
    # The report keeps the earlier generation.
    ends = [line for line in journal.report() if line.startswith("The execution ended as ")]
    assert [line.split()[4] for line in ends] == ["FAILED", "FINISHED"]


# ---- cancelled executions


def cancel(deployment: Deployment, dag_id: str, run_id: str) -> None:
    """Cancel an execution as the REST API does."""
    run = f"dags/{dag_id}/dagRuns/{run_id}"
    value = {"generation": 0, "by": "maria", "at": time.time()}
    deployment.airflow.api("PUT", f"{run}/taskInstances/finish/state-store/cancelled", json={"value": value})
    deployment.airflow.api("PATCH", run, json={"state": "failed"})


def start(deployment: Deployment, dag_id: str, name: str, **conf: Any) -> str:
    return deployment.start(dag_id=dag_id, **deployment.write_files(name, conf.pop("moods")), **conf)


def assert_cancelled(deployment: Deployment, dag_id: str, name: str, run_id: str) -> Journal:
    run = deployment.airflow.wait_for_run(dag_id, run_id)
    assert run["state"] == "failed"
    summary = deployment.airflow.xcom(dag_id, run_id, "finish", key="summary")
    assert summary["status"] == "CANCELLED"
    assert summary["reason"].startswith("It was cancelled by maria.")
    journal = journal_of(deployment, run_id)
    ended = journal.row("finish", "ended")
    assert (ended["status"], ended["reason"]) == ("CANCELLED", summary["reason"])
    assert journal.report()[-1].startswith("The execution ended as CANCELLED after ")
    out = deployment.folder / name / "out"
    assert list((out / "_batchexec" / "locks").glob("*")) == []
    assert list((out / "_batchexec" / run_id).glob("cancel")) == []
    assert [path.name for path in out.glob("*") if path.name != "_batchexec"] == []
    assert deployment.pods(name) == []
    return journal


def test_a_queued_execution_is_cancelled(deployment: Deployment, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    first = start(deployment, "narrow", "first", moods={"hang": "hang"}, parameters={"CALLS": str(calls)})
    wait_until(calls.exists)
    second = start(deployment, "narrow", "second", moods={"a": "calm"})

    cancel(deployment, "narrow", second)
    cancel(deployment, "narrow", first)

    assert_cancelled(deployment, "narrow", "first", first)
    journal = assert_cancelled(deployment, "narrow", "second", second)
    assert journal.row("finish", "ended")["reason"] == "It was cancelled by maria."
    assert journal.row("plan", "planned") is None
    assert not (deployment.folder / "second" / "out").exists()


@pytest.mark.parametrize("continues", [True, False], ids=["plan continues", "plan is killed"])
def test_an_execution_is_cancelled_during_planning(
    deployment: Deployment, tmp_path: Path, *, continues: bool
) -> None:
    go, name = tmp_path / "go", f"planned-{continues}"
    run_id = start(deployment, "held_plan", name, moods={"a": "calm"}, parameters={"GO": str(go)})
    wait_until(
        lambda: [
            instance
            for instance in deployment.airflow.task_instances("held_plan", run_id)
            if (instance["task_id"], instance["state"]) == ("plan", "running")
        ]
    )

    cancel(deployment, "held_plan", run_id)
    if continues:
        # The plan's process learns of the cancel only at its next heartbeat.
        mark = deployment.folder / name / "out" / "_batchexec" / run_id / "cancel"
        wait_until(mark.exists)
        go.touch()

    journal = assert_cancelled(deployment, "held_plan", name, run_id)
    assert journal.row("finish", "ended")["reason"] == "It was cancelled by maria."
    assert not list((deployment.folder / name / "out").rglob("execution.json"))


def test_an_execution_is_cancelled_while_predicting(deployment: Deployment, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    moods = dict.fromkeys(("hang-1", "hang-2", "hang-3"), "hang")
    run_id = deployment.start(
        **deployment.write_files("predicting", moods), pods=2, parameters={"CALLS": str(calls)}
    )
    wait_until(lambda: calls.exists() and len(calls.read_text().split()) == 2)

    cancel(deployment, "batch_execution", run_id)

    journal = assert_cancelled(deployment, "batch_execution", "predicting", run_id)
    manifest = deployment.manifest("predicting", run_id)
    assert [record["status"] for record in manifest["files"]].count("CANCELLED") == 2
    assert set(journal.statuses().values()) == {"CANCELLED"}


def test_cancelling_after_all_files_finished_changes_nothing(deployment: Deployment, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run_id = start(deployment, "held_finish", "complete", moods={"a": "calm"}, parameters={"GO": str(go)})
    wait_until(lambda: journal_of(deployment, run_id).entries("finished"))
    wait_until(
        lambda: (
            {
                (instance["task_id"], instance["state"])
                for instance in deployment.airflow.task_instances("held_finish", run_id)
            }
            >= {("predict", "success"), ("finish", "running")}
        )
    )

    cancel(deployment, "held_finish", run_id)
    go.touch()

    assert deployment.airflow.wait_for_run("held_finish", run_id)["state"] == "success"
    assert deployment.airflow.xcom("held_finish", run_id, "finish")["status"] == "FINISHED"
    assert journal_of(deployment, run_id).row("finish", "ended")["status"] == "FINISHED"


def test_a_cancel_of_an_earlier_generation_does_not_count(deployment: Deployment, tmp_path: Path) -> None:
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    folders = deployment.write_files("again", {"gated": "gated"})
    parameters = {"CALLS": str(calls), "GATE": str(gate)}
    run_id = deployment.start(**folders, parameters=parameters)
    wait_until(calls.exists)
    cancel(deployment, "batch_execution", run_id)
    deployment.airflow.wait_for_run("batch_execution", run_id)
    gate.touch()

    assert deployment.clear(run_id)["state"] == "success"

    journal = journal_of(deployment, run_id)
    assert journal.statuses() == {"gated.csv": "FINISHED"}
    assert journal.row("finish", "ended")["status"] == "FINISHED"


def test_no_row_contains_a_secret(deployment: Deployment) -> None:
    client, bucket = deployment.s3.client, deployment.bucket
    client.put_object(Bucket=bucket, Key="j/in/a.csv", Body=frame("a", 2).to_csv(index=False).encode())

    run, run_id = deployment.execute(
        bucket=bucket,
        source_folder="j/in",
        destination_folder="j/out",
        access_token_name="bucket_key",
        access_secret_name="bucket_secret",
    )

    assert run["state"] == "success"
    text = json.dumps(list(journal_of(deployment, run_id).rows.values()))
    assert deployment.s3.secret_access_key not in text
    assert deployment.s3.access_key_id not in text
