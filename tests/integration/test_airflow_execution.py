"""Executions in a real Airflow (scheduler, LocalExecutor, API server), with results in a real S3 server and on disk."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from airflow_deployment import MAX_MAP_LENGTH
from airflow_models import expected, frame
from pandas.testing import assert_frame_equal
from waiting import wait_until

if TYPE_CHECKING:
    from airflow_deployment import Deployment

FILES = MAX_MAP_LENGTH

BY_HAND = """
from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_batchexec import PredictFileOperator, create_execution_dag

with DAG("by_hand", schedule=None):

    @task
    def arrived(dag_run=None):
        return dag_run.conf["files"]

    PredictFileOperator.partial(
        task_id="predict",
        destination_folder="{{ dag_run.conf['destination_folder'] }}",
        model_id="scaler",
        access_token_name="bucket_key",
        access_secret_name="bucket_secret",
        parameters={
            "CALLS": "{{ dag_run.conf['calls'] }}",
            "GATE": "{{ dag_run.conf.get('gate', '') }}",
            "TEST_FOLDER": "{{ dag_run.conf['destination_folder'] }}",
        },
        retries=1,
        retry_delay=timedelta(0),
    ).expand(file=arrived())

create_execution_dag("two_at_once", max_active_tasks=2)
# DAG("two_at_once")
"""


@pytest.fixture(scope="module")
def user_dags() -> str:
    return BY_HAND


def test_a_folder_in_a_bucket_goes_through_a_model_one_mapped_task_per_file(deployment: Deployment) -> None:
    client, bucket = deployment.s3.client, deployment.bucket
    inputs = {f"day-{i:02d}": frame(f"day-{i:02d}", 20 + i) for i in range(FILES - 1)}
    for name, data in inputs.items():
        client.put_object(Bucket=bucket, Key=f"in/{name}.csv", Body=data.to_csv(index=False).encode())
    inputs["nested/day-99"] = frame("day-99", 3)
    body = inputs["nested/day-99"].to_csv(index=False).encode()
    client.put_object(Bucket=bucket, Key="in/nested/day-99.csv", Body=body)
    client.put_object(Bucket=bucket, Key="in/notes.txt", Body=b"not an input")

    run, run_id = deployment.execute(
        bucket=bucket,
        source_folder="in",
        destination_folder="out",
        output_file_type="parquet",
        access_token_name="bucket_key",
        access_secret_name="bucket_secret",
        parameters={"FACTOR": "3"},
    )

    assert run["state"] == "success"
    for name, data in inputs.items():
        result = client.get_object(Bucket=bucket, Key=f"out/{name}.parquet")["Body"].read()
        assert_frame_equal(pd.read_parquet(io.BytesIO(result)), expected(data, factor=3))
    instances = deployment.instances(run_id, "predict")
    assert len(instances) == FILES
    assert {i["rendered_map_index"] for i in instances} == {f"{name}.csv" for name in inputs}
    summary = deployment.airflow.xcom("batch_execution", run_id, "finish")
    assert summary["status"] == "FINISHED"
    assert summary["total_files"] == summary["finished_files"] == FILES
    assert summary["skipped_files"] == 1
    assert summary["rows"] == sum(len(data) for data in inputs.values())
    assert client.get_object(Bucket=bucket, Key="out/_SUCCESS")["Body"].read()
    secret = deployment.s3.secret_access_key
    logs = "".join(p.read_text() for p in (deployment.airflow.home / "logs").rglob("*.log"))
    assert run_id in logs
    assert secret not in logs


def test_pods_of_a_run_share_the_files_and_load_the_model_at_most_once_each(deployment: Deployment) -> None:
    folders = deployment.write_files("shared", {f"f{i:02d}": "calm" for i in range(12)})

    run, run_id = deployment.execute(**folders, pods=2)

    assert run["state"] == "success"
    instances = deployment.instances(run_id, "predict")
    assert len(instances) == 2
    assert all(instance["rendered_map_index"].endswith(": 6 files") for instance in instances)
    logs = [
        deployment.airflow.task_log("batch_execution", run_id, "predict", map_index=instance["map_index"])
        for instance in instances
    ]
    # The second task may have taken the first one's pod.
    assert 1 <= "".join(logs).count("model is ready") <= 2
    manifest = deployment.manifest("shared", run_id)
    assert {record["pod"] for record in manifest["files"]} == {"pod-0", "pod-1"}


def test_more_files_than_mapped_tasks_are_packed(deployment: Deployment) -> None:
    count = MAX_MAP_LENGTH + 7
    folders = deployment.write_files("packed", {f"f{i:02d}": "calm" for i in range(count)}, rows=1)

    run, run_id = deployment.execute(**folders)

    assert run["state"] == "success"
    assert len(deployment.instances(run_id, "predict")) == MAX_MAP_LENGTH
    assert deployment.manifest("packed", run_id)["finished_files"] == count


def test_a_failing_file_fails_the_execution_and_a_clear_predicts_only_that_file_again(
    deployment: Deployment, tmp_path: Path
) -> None:
    broken, calls = tmp_path / "broken", tmp_path / "calls"
    broken.touch()
    folders = deployment.write_files("failing", {"good-a": "calm", "bad": "fail", "good-b": "calm"})
    parameters = {"BROKEN": str(broken), "CALLS": str(calls)}

    # One pod per file, so that the others are running when the bad one fails.
    run, run_id = deployment.execute(**folders, pods=3, parameters=parameters)

    assert run["state"] == "failed"
    manifest = deployment.manifest("failing", run_id)
    assert manifest["status"] == "FAILED"
    by_file = {record["file"]: record for record in manifest["files"]}
    assert by_file["bad.csv"]["status"] == "FAILED"
    assert "this file upsets me" in by_file["bad.csv"]["reason"]
    assert "upsets me" in deployment.airflow.task_log("batch_execution", run_id, "finish")
    out = Path(folders["destination_folder"].removeprefix("file://"))
    assert not (out / "bad.csv").exists()
    assert not (out / "_SUCCESS").exists()
    failed = [i for i in deployment.instances(run_id, "predict") if i["state"] == "failed"]
    assert [i["rendered_map_index"] for i in failed] == ["bad.csv"]

    broken.unlink()
    calls.write_text("")
    run = deployment.clear(run_id, task_ids=["predict", "finish"])

    # The failure may have kept another file from starting; files with a result are not predicted again.
    unfinished = {file for file, record in by_file.items() if record["status"] != "FINISHED"}
    assert run["state"] == "success"
    assert {f"{name}.csv" for name in calls.read_text().split()} == unfinished
    assert deployment.manifest("failing", run_id)["finished_files"] == 3
    assert (out / "_SUCCESS").exists()


def test_clearing_only_the_failed_task_predicts_only_its_file_and_a_later_clear_does_all_again(
    deployment: Deployment, tmp_path: Path
) -> None:
    broken, calls = tmp_path / "broken", tmp_path / "calls"
    broken.touch()
    folders = deployment.write_files("cleared", {"good": "calm", "bad": "fail"})
    # The bad file is the smaller one, so that the only pod finishes the other first.
    frame("good", 50).to_csv(deployment.folder / "cleared" / "in" / "good.csv", index=False)
    run, run_id = deployment.execute(
        **folders, pods=1, parameters={"BROKEN": str(broken), "CALLS": str(calls)}
    )
    assert run["state"] == "failed"
    broken.unlink()
    calls.write_text("")

    run = deployment.clear(run_id, only_failed=True)

    assert run["state"] == "success"
    assert calls.read_text().split() == ["bad"]
    calls.write_text("")
    assert deployment.clear(run_id, task_ids=["predict", "finish"])["state"] == "success"
    assert calls.read_text().split() == ["good", "bad"]


def test_files_not_started_when_one_fails_are_named(deployment: Deployment, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    moods = {"a-bad": "fail", **{f"later-{i}": "calm" for i in range(5)}}
    folders = deployment.write_files("unstarted", moods)
    # The largest file is predicted first.
    source = Path(folders["source_folder"].removeprefix("file://"))
    frame("a-bad", 50, mood="fail").to_csv(source / "a-bad.csv", index=False)

    run, run_id = deployment.execute(**folders, pods=1, parameters={"BROKEN": str(broken)})

    assert run["state"] == "failed"
    manifest = deployment.manifest("unstarted", run_id)
    assert manifest["failed_files"] == 1
    assert manifest["not_started_files"] == 5
    assert manifest["reason"].count("later-") == 3
    assert "5 files were not started" in manifest["reason"]


def test_a_file_that_hangs_is_ended_by_file_timeout(deployment: Deployment) -> None:
    folders = deployment.write_files("hanging", {"stuck": "hang"})

    run, run_id = deployment.execute(**folders, pods=1, file_timeout=2)

    assert run["state"] == "failed"
    record = deployment.manifest("hanging", run_id)["files"][0]
    assert record["status"] == "TIMEOUT"
    assert "file_timeout of 2 s" in record["reason"]
    assert [i["try_number"] for i in deployment.instances(run_id, "predict")] == [1]
    assert not deployment.pods("hanging")


def test_job_timeout_ends_the_execution_as_timeout(deployment: Deployment) -> None:
    folders = deployment.write_files("late", {f"f{i}": "hang" for i in range(4)})

    run, run_id = deployment.execute(**folders, pods=1, job_timeout=8)

    assert run["state"] == "failed"
    manifest = deployment.manifest("late", run_id)
    assert manifest["status"] == "TIMEOUT"
    assert "job_timeout of 8 s" in manifest["reason"]
    assert manifest["not_started_files"] >= 1


def test_job_timeout_covers_waiting_files_and_names_them(
    deployment: Deployment,
) -> None:
    # More files than the DAG's concurrency limit: two are not started when the timeout expires.
    folders = deployment.write_files("queued", {f"f{i}": "hang" for i in range(4)})

    run, run_id = deployment.execute(dag_id="two_at_once", **folders, job_timeout=10)

    assert run["state"] == "failed"
    manifest = deployment.manifest("queued", run_id)
    assert manifest["status"] == "TIMEOUT"
    assert manifest["finished_files"] == 0
    statuses = {record["status"] for record in manifest["files"]}
    assert "NOT_STARTED" in statuses
    assert statuses <= {"TIMEOUT", "NOT_STARTED"}
    assert "not started" in manifest["reason"]
    assert deployment.pods("queued") == []


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "model": ({"model_id": "nobody"}, "nobody"),
    "build": ({"build_id": "b9"}, "b9"),
    "location": ({"source_folder": "file:///etc"}, "source_folder"),
    "traversal": ({"source_folder": "file:///tmp/../etc"}, "source_folder"),
    "unknown": ({"modle": "x"}, "modle"),
    "secret": ({"access_token_name": "nope", "access_secret_name": "nope"}, "nope"),
}


@pytest.fixture(scope="module")
def refused(deployment: Deployment) -> dict[str, str]:
    """Start all executions that must be refused, at once; return their IDs by name."""
    started = {}
    for name, (conf, _) in REFUSED.items():
        folders = deployment.write_files(f"refused-{name}", {"f": "calm"})
        if name == "secret":
            folders = {"bucket": deployment.bucket, "source_folder": "in", "destination_folder": "refused"}
        started[name] = deployment.start(**{**folders, **conf})
    return started


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_conf_is_refused_before_any_file_is_touched(
    deployment: Deployment, refused: dict[str, str], name: str
) -> None:
    run_id = refused[name]
    run = deployment.airflow.wait_for_run("batch_execution", run_id)

    assert run["state"] == "failed"
    assert REFUSED[name][1] in deployment.airflow.task_log("batch_execution", run_id, "plan")
    assert "was refused: " in deployment.airflow.task_log("batch_execution", run_id, "finish")
    assert [i["try_number"] for i in deployment.instances(run_id, "plan")] == [1]
    assert not (deployment.folder / f"refused-{name}" / "out" / "f.csv").exists()


def test_keys_without_permission_name_the_bucket_they_cannot_read(deployment: Deployment) -> None:
    run, run_id = deployment.execute(
        bucket=deployment.bucket,
        source_folder="in",
        destination_folder="denied",
        access_token_name="denied_key",
        access_secret_name="denied_secret",
    )

    assert run["state"] == "failed"
    log = deployment.airflow.task_log("batch_execution", run_id, "plan")
    assert f"s3://{deployment.bucket}/" in log
    assert deployment.s3.denied.secret_access_key not in log


def test_a_twin_is_refused_with_the_id_of_the_running_one_and_may_run_after_it(
    deployment: Deployment, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    folders = deployment.write_files("twins", {"f": "gated"})
    open_gate = {"GATE": "/"}
    first = deployment.start(**folders, pods=1, parameters={"GATE": str(gate)})
    locks = Path(folders["destination_folder"].removeprefix("file://")) / "_batchexec" / "locks"
    wait_until(lambda: locks.is_dir() and any(locks.glob("*.json")))

    run, second = deployment.execute(**folders, pods=1, parameters=open_gate)
    other = {**folders, "destination_folder": f"{folders['destination_folder']}-other"}
    concurrent = deployment.start(**other, parameters=open_gate)
    local = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("batchexec")), "models", "execution", "start"),
            *("--model-repository", str(deployment.repository), "--model-id", "scaler"),
            *("--source-folder", folders["source_folder"], "--destination-folder"),
            *(folders["destination_folder"], "--input-file-type", "csv"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    gate.touch()

    assert run["state"] == "failed"
    assert first in deployment.airflow.task_log("batch_execution", second, "plan")
    assert local.returncode == 2
    assert first in "".join(local.stderr.split())
    assert deployment.airflow.wait_for_run("batch_execution", concurrent)["state"] == "success"
    assert deployment.airflow.wait_for_run("batch_execution", first)["state"] == "success"
    run, _ = deployment.execute(**folders, pods=1, parameters=open_gate)
    assert run["state"] == "success"


def test_a_killed_pod_is_retried_for_the_remaining_files_only(deployment: Deployment, tmp_path: Path) -> None:
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    folders = deployment.write_files("killed", {"a-slow": "gated", "b": "calm", "c": "calm"})
    run_id = deployment.start(**folders, pods=1, parameters={"GATE": str(gate), "CALLS": str(calls)})
    wait_until(lambda: calls.exists() and "a-slow" in calls.read_text())

    (pod,) = deployment.pods("killed")
    (worker,) = pod.children()
    worker.kill()
    gate.touch()
    run = deployment.airflow.wait_for_run("batch_execution", run_id)

    assert run["state"] == "success"
    called = calls.read_text().split()
    assert sorted(set(called)) == ["a-slow", "b", "c"]
    assert called.count("a-slow") == 2
    assert deployment.manifest("killed", run_id)["finished_files"] == 3


def test_a_killed_task_leaves_no_pod_and_its_retry_predicts_the_file(
    deployment: Deployment, tmp_path: Path
) -> None:
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    folders = deployment.write_files("orphaned", {"only": "gated"})
    run_id = deployment.start(**folders, pods=1, parameters={"GATE": str(gate), "CALLS": str(calls)})
    wait_until(calls.exists)
    (pod,) = deployment.pods("orphaned")
    scratch = deployment.scratch_of(pod)
    assert scratch.exists()

    deployment.kill_task("batch_execution", run_id, "predict")

    wait_until(lambda: not pod.is_running())
    gate.touch()
    run = deployment.airflow.wait_for_run("batch_execution", run_id)
    assert run["state"] == "success"
    assert calls.read_text().split() == ["only", "only"]
    assert deployment.manifest("orphaned", run_id)["files"][0]["attempt"] == 2
    assert not scratch.exists()
    assert not (deployment.folder / "orphaned" / "out" / "_batchexec" / run_id / "staging").exists()


def test_a_run_that_is_marked_failed_ends_its_pods(deployment: Deployment, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    folders = deployment.write_files("cancelled", {"only": "hang"})
    run_id = deployment.start(**folders, pods=1, parameters={"CALLS": str(calls)})
    wait_until(calls.exists)

    deployment.airflow.api("PATCH", f"dags/batch_execution/dagRuns/{run_id}", json={"state": "failed"})

    deployment.airflow.wait_for_run("batch_execution", run_id, timeout=600)
    assert deployment.pods("cancelled") == []
    out = Path(folders["destination_folder"].removeprefix("file://"))
    assert [p.name for p in out.iterdir()] == ["_batchexec"]
    assert not list((out / "_batchexec" / run_id).glob("staging"))
    assert not list((out / "_batchexec" / "locks").iterdir())
    manifest = deployment.manifest("cancelled", run_id)
    assert manifest["status"] == "CANCELLED"
    assert manifest["files"][0]["status"] == "CANCELLED"


def files_by_hand(deployment: Deployment, run_id: str) -> list[dict[str, Any]]:
    """The mapped instances of the hand-written task, in the order of the files."""
    instances = deployment.airflow.task_instances("by_hand", run_id)
    found = [instance for instance in instances if instance["task_id"] == "predict"]
    return sorted(found, key=lambda instance: instance["map_index"])


def test_single_files_need_no_plan_and_model_output_is_in_the_task_logs(
    deployment: Deployment, tmp_path: Path
) -> None:
    client, bucket = deployment.s3.client, deployment.bucket
    one, other = frame("one", 4), frame("other", 6)
    client.put_object(Bucket=bucket, Key="by-hand/a/one.csv", Body=one.to_csv(index=False).encode())
    client.put_object(Bucket=bucket, Key="by-hand/b/other.parquet", Body=other.to_parquet())
    run_id = deployment.airflow.trigger(
        "by_hand",
        {
            "files": [f"s3://{bucket}/by-hand/a/one.csv", f"s3://{bucket}/by-hand/b/other.parquet"],
            "destination_folder": f"s3://{bucket}/by-hand/out",
            "calls": str(tmp_path / "calls"),
        },
    )

    assert deployment.airflow.wait_for_run("by_hand", run_id)["state"] == "success"
    assert [i["rendered_map_index"] for i in files_by_hand(deployment, run_id)] == [
        "one.csv",
        "other.parquet",
    ]
    written = client.list_objects_v2(Bucket=bucket, Prefix="by-hand/out")["Contents"]
    assert [entry["Key"] for entry in written] == ["by-hand/out/one.csv", "by-hand/out/other.csv"]
    logs: list[str] = []
    for number, data in enumerate((one, other)):
        body = client.get_object(Bucket=bucket, Key=written[number]["Key"])["Body"]
        assert_frame_equal(pd.read_csv(body), expected(data))
        logs.append(deployment.airflow.task_log("by_hand", run_id, "predict", map_index=number))
        assert f"{len(data)} rows" in logs[-1]
    # The tasks may have shared a pod.
    assert 1 <= "".join(logs).count("[stdout] model is ready") <= 2


def test_a_terminated_or_killed_single_file_task_leaves_nothing_and_is_retried(
    deployment: Deployment, tmp_path: Path
) -> None:
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    source = Path(
        deployment.write_files("by-hand", {"ended": "hang", "killed": "gated"})["source_folder"][7:]
    )
    out = deployment.folder / "by-hand" / "out"
    run_id = deployment.airflow.trigger(
        "by_hand",
        {
            "files": [f"file://{source}/ended.csv", f"file://{source}/killed.csv"],
            "destination_folder": f"file://{out}",
            "calls": str(calls),
            "gate": str(gate),
        },
    )
    wait_until(lambda: calls.exists() and {*calls.read_text().split()} == {"ended", "killed"})
    pods = deployment.pods("by-hand")
    scratch = [deployment.scratch_of(pod) for pod in pods]
    assert len(pods) == 2
    assert all(folder.exists() for folder in scratch)
    assert not out.exists()

    # A user marks one failed; SIGKILL ends the other, as the kernel's OOM killer would.
    ended, killed = files_by_hand(deployment, run_id)
    os.kill(int(killed["pid"]), signal.SIGKILL)
    gate.touch()
    deployment.airflow.api(
        "PATCH",
        f"dags/by_hand/dagRuns/{run_id}/taskInstances/predict/{ended['map_index']}",
        json={"new_state": "failed"},
    )
    deployment.airflow.wait_for_run("by_hand", run_id)

    wait_until(lambda: not deployment.pods("by-hand"))
    ended, killed = files_by_hand(deployment, run_id)
    assert (ended["state"], ended["try_number"]) == ("failed", 1)
    log = deployment.airflow.task_log("by_hand", run_id, "predict", map_index=ended["map_index"])
    assert "Its task was terminated." in log
    assert (killed["state"], killed["try_number"]) == ("success", 2)
    assert sorted(calls.read_text().split()) == ["ended", "killed", "killed"]
    assert [path.name for path in out.rglob("*")] == ["killed.csv"]
    assert not any(folder.exists() for folder in scratch)
