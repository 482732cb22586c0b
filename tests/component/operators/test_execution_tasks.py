"""The three operators in complete runs: how each task of an execution ends, and what it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from pandas.testing import assert_frame_equal

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from inline_executions import InlineExecutions


def test_every_file_gets_its_result_and_every_task_succeeds(executions: InlineExecutions, tmp_path: Path):
    outcome = executions.run(
        "plain", {"a": "calm", "b": "calm"}, model_id="moody", output_file_type="parquet"
    )

    assert outcome.state == "success"
    assert outcome.ends("predict") == [("success", 1)] * 2
    for name in "ab":
        result = pd.read_parquet(outcome.destination / f"{name}.parquet")
        assert_frame_equal(
            result, pd.DataFrame({"name": name, "x": [0.5, 1.5], "mood": "calm", "y": [1.0, 3.0]})
        )
    assert (outcome.destination / "_SUCCESS").exists()
    # Only the folder remains in which pods are counted.
    (machine,) = (tmp_path / "scratch").iterdir()
    assert not list((machine / "pods").iterdir())


def test_planning_and_the_end_use_the_configured_scratch_folder(
    executions: InlineExecutions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))

    outcome = executions.run("plain", {"a": "calm"}, model_id="moody")

    assert outcome.state == "success"


def test_tasks_pass_each_other_only_small_xcoms(executions: InlineExecutions):
    outcome = executions.run("plain", {"a": "calm", "b": "calm"}, model_id="moody")

    shares = outcome.xcom("plan")
    assert [files for _, _, files, _ in shares] == [1, 1]
    execution = outcome.xcom("plan", "execution")
    assert execution["execution_id"] == outcome.run.run_id
    assert execution["destination"] == f"file://{outcome.destination}"
    summary = outcome.xcom("finish")
    assert (summary["status"], summary["finished_files"], summary["rows"]) == ("FINISHED", 2, 4)
    assert not {"files", "skipped"} & set(summary)
    assert {ti.rendered_map_index for ti in outcome.instances("predict")} == {"a.csv", "b.csv"}


def test_a_pod_with_several_files_is_one_mapped_task(executions: InlineExecutions):
    outcome = executions.run("plain", dict.fromkeys("abc", "calm"), model_id="moody", pods=1)

    (pod,) = outcome.instances("predict")
    assert (str(pod.state), pod.rendered_map_index) == ("success", "pod 0: 3 files")
    assert outcome.manifest()["finished_files"] == 3


def test_only_the_failed_file_is_retried(executions: InlineExecutions, tmp_path: Path):
    seen = tmp_path / "seen"
    seen.mkdir()
    moods = {"a": "calm", "b": "flaky", "c": "calm"}

    outcome = executions.run("plain", moods, model_id="moody", pods=1, parameters={"SEEN": str(seen)})

    assert outcome.state == "success"
    assert outcome.ends("predict") == [("success", 2)]
    attempts = {record["file"]: record["attempt"] for record in outcome.manifest()["files"]}
    assert attempts["b.csv"] == 2
    assert min(attempts.values()) == 1 or attempts == dict.fromkeys(attempts, 2)
    assert outcome.manifest()["finished_files"] == 3


def test_a_file_that_fails_every_try_fails_the_execution(executions: InlineExecutions):
    outcome = executions.run("plain", {"bad": "fail"}, model_id="moody")

    assert outcome.state == "failed"
    assert outcome.ends("predict") == [("failed", 2)]
    assert outcome.ends("finish") == [("failed", 1)]
    manifest = outcome.manifest()
    assert (manifest["status"], manifest["failed_files"]) == ("FAILED", 1)
    assert "this file upsets me" in manifest["files"][0]["reason"]
    assert not (outcome.destination / "_SUCCESS").exists()


def test_a_permanent_failure_is_not_retried(executions: InlineExecutions):
    outcome = executions.run("plain", {"bad": "wrong"}, model_id="moody")

    assert outcome.ends("predict") == [("failed", 1)]
    assert outcome.manifest()["files"][0]["status"] == "FAILED"


def test_no_file_is_started_after_another_pod_failed_permanently(executions: InlineExecutions):
    outcome = executions.run(
        "halted",
        {"a": "calm", "b": "calm"},
        halted_by="PredictError",
        halted_at={"file": "c.csv"},
    )

    assert {state for state, _ in outcome.ends("predict")} == {"skipped"}
    assert outcome.ends("finish") == [("failed", 1)]
    manifest = outcome.manifest()
    assert manifest["not_started_files"] == 2
    assert [path.name for path in outcome.destination.iterdir()] == ["_batchexec"]


def test_an_execution_past_its_job_timeout_ends_as_timeout(executions: InlineExecutions):
    outcome = executions.run("halted", {"a": "calm"}, halted_by="JobTimeoutError")

    manifest = outcome.manifest()
    assert manifest["status"] == "TIMEOUT"
    assert manifest["reason"].startswith("The execution exceeded its job_timeout of 3600 s.")


def test_a_failure_without_a_file_is_the_reason_of_the_execution(executions: InlineExecutions):
    outcome = executions.run("halted", {"a": "calm"}, halted_by="ModelLoadError")

    manifest = outcome.manifest()
    assert manifest["status"] == "FAILED"
    assert manifest["reason"].startswith("Halted by the test.")


def test_a_refused_execution_fails_early_and_writes_nothing(executions: InlineExecutions):
    outcome = executions.run("plain", {"a": "calm"}, model_id="unknown")

    assert outcome.ends("plan") == [("failed", 1)]
    refused = outcome.xcom("plan", "refused")
    assert refused["error"] == "ModelNotFoundError"
    assert "unknown" in refused["reason"]
    assert outcome.xcom("plan", "execution") is None
    assert outcome.ends("predict") == [("upstream_failed", 0)]
    assert outcome.ends("finish") == [("failed", 1)]
    summary = outcome.xcom("finish", "summary")
    assert (summary["status"], summary["reason"]) == ("FAILED", refused["reason"])
    assert summary["execution_id"] == outcome.run.run_id
    assert not outcome.destination.exists()


def test_task_groups_of_one_run_are_separate_executions(executions: InlineExecutions):
    outcome = executions.run("grouped", {"a": "calm", "b": "calm"})

    assert outcome.state == "success"
    for name in ("first", "second"):
        summary = outcome.xcom(f"{name}.finish")
        assert summary["execution_id"] == f"grouped.{name}.{outcome.run.run_id}"
        assert summary["destination"] == f"file://{outcome.destination}-{name}"
        assert summary["finished_files"] == 2
