"""The client against a real Airflow: the documented examples, users and passwords, data frames, and interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import requests
from airflow_models import frame
from documents import ROOT, blocks
from s3_server import free_port
from terminal import Terminal
from waiting import wait_until

from airflow_batchexec.client import BatchInferenceClient, BatchJobManagerClient, ExecutionConfig
from airflow_batchexec.exceptions import ExecutionFailedError, NotAllowedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_deployment import Deployment

    from tools.airflow_client import AirflowClient

MOODS = {"a": "calm", "b": "calm", "c": "calm"}
# Used by this module only, so that the model's list of executions has no others.
MODEL = "scaler_of_clients"
TOKEN_SECONDS = 6
PASSWORDS = {"ada": "of-ada", "vera": "of-vera"}


@pytest.fixture(scope="module")
def on_postgresql() -> bool:
    return True


@pytest.fixture(scope="module")
def deployed(deployment: Deployment) -> Deployment:
    """The deployment with the models and buckets that the documentation uses."""
    for bucket in ("weather-in", "weather-out"):
        deployment.s3.make_bucket(bucket)
    for model in ("fahrenheit", "order_total"):
        deployment.add_example_model(model)
    deployment.publish(MODEL)
    return deployment


@pytest.fixture(autouse=True)
def as_admin(deployed: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of an admin with keys for the buckets."""
    for name, value in {
        "HOME": str(tmp_path),
        "BATCHEXEC_SERVER": deployed.airflow.url,
        "BATCHEXEC_TOKEN": deployed.airflow.token(),
        "AWS_ENDPOINT_URL": deployed.s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": deployed.s3.access_key_id,
        "AWS_SECRET_ACCESS_KEY": deployed.s3.secret_access_key,
        "AWS_DEFAULT_REGION": deployed.s3.region,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture
def client(as_admin: None) -> Iterator[BatchJobManagerClient]:
    with BatchJobManagerClient() as client:
        yield client


class GuardedServer:
    """An additional API server of the same Airflow, with its own users and short-lived tokens."""

    def __init__(self, airflow: AirflowClient, folder: Path) -> None:
        (folder / "passwords.json").write_text(json.dumps(PASSWORDS))
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = folder / "log"
        self._environment = {
            **airflow.address.environment,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "ada:user,vera:viewer",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
            "AIRFLOW__API_AUTH__JWT_EXPIRATION_TIME": str(TOKEN_SECONDS),
            "AIRFLOW__API_AUTH__JWT_LEEWAY": "0",
            "AIRFLOW__API__BASE_URL": self.url,
        }
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "airflow", "api-server", "--apps", "core", "--host", "127.0.0.1"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self._port)],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(lambda: _responds(f"{self.url}/api/v2/version"))

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def logins(self) -> int:
        return self._log.read_text().count("method=POST path=/auth/token")

    def requests(self) -> int:
        return self._log.read_text().count("/batchexec/api/v1/batch-job/")


@pytest.fixture(scope="module")
def guarded(deployed: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    server = GuardedServer(deployed.airflow, tmp_path_factory.mktemp("guarded"))
    yield server
    server.kill()


def _responds(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture
def weather(deployed: Deployment) -> Iterator[None]:
    """Two days of weather data in the documented bucket."""
    s3 = deployed.s3.client
    for day, celsius in (("1", "0\n100"), ("2", "37")):
        s3.put_object(
            Bucket="weather-in", Key=f"celsius/2026/{day}.csv", Body=f"celsius\n{celsius}\n".encode()
        )
    yield
    for bucket in ("weather-in", "weather-out"):
        for key in keys(deployed, bucket):
            s3.delete_object(Bucket=bucket, Key=key)


def keys(deployed: Deployment, bucket: str, prefix: str = "") -> list[str]:
    listed = deployed.s3.client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    return [entry["Key"] for entry in listed.get("Contents", [])]


def config_of(folders: dict[str, str], **parameters: str) -> ExecutionConfig:
    return ExecutionConfig(
        execution=ExecutionConfig.Execution(model_id=MODEL, parameters=parameters, **folders)
    )


def python_blocks() -> list[str]:
    return [block.text for block in blocks(ROOT / "docs" / "client.md") if block.language == "python"]


def test_every_documented_example_runs(deployed, weather, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "celsius").mkdir()
    (tmp_path / "celsius" / "today.csv").write_text("celsius\n20\n")
    examples = python_blocks()
    assert len(examples) == 5
    for example in examples:
        exec(compile(example, "docs/client.md", "exec"), {"__name__": "__main__"})
    shown = capsys.readouterr().out
    assert shown.startswith("FINISHED\n")
    assert [key for key in keys(deployed, "weather-out") if key.endswith(".parquet")] == [
        "fahrenheit/2026/1.parquet",
        "fahrenheit/2026/2.parquet",
    ]
    assert "converted/2026/1.csv" in keys(deployed, "weather-in")
    assert pd.read_parquet(tmp_path / "fahrenheit" / "today.parquet")["fahrenheit"].to_list() == [68.0]
    assert shown.count("mon     21.5        70.7") == 2
    assert keys(deployed, "weather-in", "staging/") == []


def test_the_life_of_an_execution(deployed, client):
    folders = deployed.write_files("life", MOODS)
    started = client.start_execution(config_of(folders, FACTOR="3"))
    assert (started.success, started.failure_message, started.status_code) == (True, "", 200)
    twin = client.start_execution(config_of(folders))
    assert (twin.success, twin.status_code) == (False, 409)
    assert started.execution_id in twin.failure_message
    ended = client.wait_for_execution(started.execution_id, 180)
    assert (ended.status.short, ended.finished_files, ended.total_files) == ("FINISHED", 3, 3)
    report = client.get_execution_report(started.execution_id)
    assert report.success
    assert any("[model] " in line and "model is ready" in line for line in report.model_logs)
    assert len(report.records) > len(report.model_logs) > 0
    job = client.get_batch_job_details(started.execution_id).batch_job
    assert (job.model_id, job.build_id, job.job_size, job.total_records) == (MODEL, "b1", 3, 15)
    assert job.start_time < job.end_time
    assert sorted(
        (task.filename, task.status.short, task.num_of_records) for task in job.task_executions
    ) == [(f"{name}.csv", "FINISHED", 5) for name in MOODS]
    listed = client.list_batch_jobs(MODEL, "b1", status="FINISHED")
    assert started.execution_id in [summary.job_id for summary in listed.batch_jobs]
    assert client.list_batch_jobs("nothing-of-that-name").batch_jobs == []
    late = client.cancel_execution(started.execution_id)
    assert (late.success, late.status_code) == (False, 409)


def test_a_refusal_is_a_result_with_the_reason(deployed, client):
    folders = deployed.write_files("refused", MOODS)
    config = ExecutionConfig(execution=ExecutionConfig.Execution(model_id="nobody", **folders))
    result = client.start_execution(config)
    assert (result.success, result.execution_id, result.status_code) == (False, "", 404)
    assert "nobody" in result.failure_message
    unknown = client.get_execution_status("rest__0__0")
    assert (unknown.success, unknown.status_code) == (False, 404)


def test_a_failed_execution_reports_its_reason(deployed, client, tmp_path):
    broken = tmp_path / "broken"
    broken.touch()
    folders = deployed.write_files("fails", {"a": "fail"})
    started, ended = client.run_execution(config_of(folders, BROKEN=str(broken)), 180)
    assert ended.status.short == "FAILED"
    assert "this file upsets me" in "\n".join(client.get_execution_report(started.execution_id).records)


def test_a_long_list_is_read_page_by_page(deployed, client, monkeypatch):
    place = f"file://{deployed.folder}/nothing"
    for number in range(2):
        folders = {"source_folder": f"{place}/{number}", "destination_folder": f"{place}-out/{number}"}
        assert client.start_execution(config_of(folders)).success
    monkeypatch.setattr("airflow_batchexec.client.manager._PAGE", 1)
    jobs = [job.job_id for job in client.list_batch_jobs(MODEL).batch_jobs]
    monkeypatch.undo()
    assert len(jobs) >= 2
    assert jobs == [job.job_id for job in client.list_batch_jobs(MODEL).batch_jobs]


def test_ctrl_c_cancels_the_execution(deployed):
    folders = deployed.write_files("interrupted", {"a": "hang"})
    program = (
        "from airflow_batchexec.client import BatchJobManagerClient, ExecutionConfig\n"
        f"more = dict(parameters={deployed.parameters()!r}, **{folders!r})\n"
        f"execution = ExecutionConfig.Execution(model_id={MODEL!r}, **more)\n"
        "def print_id(started):\n    print('id:', started.execution_id, flush=True)\n"
        "BatchJobManagerClient().run_execution(ExecutionConfig(execution=execution), on_started=print_id)\n"
    )
    with Terminal(program) as terminal:
        terminal.wait_for_text("id: ")
        wait_until(deployed.used_pods)
        terminal.wait_for_text("running")
        terminal.press_ctrl_c()
        code, shown = terminal.end()
    assert code != 0
    execution_id = shown.partition("id: ")[2].split()[0]
    assert f"Execution {execution_id} is cancelled." in shown
    deployed.airflow.wait_for_run("batch_execution", execution_id)
    wait_until(lambda: not deployed.pods())
    assert deployed.manifest("interrupted", execution_id)["status"] == "CANCELLED"
    with BatchJobManagerClient() as client:
        assert client.get_execution_status(execution_id).status.short == "CANCELLED"


def test_a_wait_survives_a_restart_of_the_server(deployed, guarded, monkeypatch, tmp_path):
    monkeypatch.delenv("BATCHEXEC_TOKEN")
    gate = tmp_path / "gate"
    config = config_of(deployed.write_files("outlived", {"a": "gated"}), GATE=str(gate))
    with (
        BatchJobManagerClient(guarded.url, username="ada", password="of-ada") as client,
        ThreadPoolExecutor(1) as waiting,
    ):
        started = client.start_execution(config)
        ended = waiting.submit(client.wait_for_execution, started.execution_id, 180)
        requests_before = guarded.requests()
        wait_until(lambda: guarded.requests() > requests_before, what="a waiting client")
        guarded.kill()
        gate.touch()
        deployed.airflow.wait_for_run("batch_execution", started.execution_id)
        guarded.start()
        assert ended.result().status.short == "FINISHED"


def test_a_user_with_a_password_survives_expired_tokens(deployed, guarded, monkeypatch, tmp_path):
    monkeypatch.delenv("BATCHEXEC_TOKEN")
    gate, before = tmp_path / "gate", guarded.logins()
    config = config_of(deployed.write_files("tokens", {"a": "gated"}), GATE=str(gate))
    with (
        BatchJobManagerClient(f"{guarded.url}/batchexec", username="ada", password="of-ada") as client,
        ThreadPoolExecutor(1) as waiting,
    ):
        result = waiting.submit(client.run_execution, config, 180)
        # Let the execution end once the client has got a third token.
        wait_until(lambda: result.done() or guarded.logins() >= before + 3)
        gate.touch()
        started, ended = result.result()
    assert started.success
    assert ended.status.short == "FINISHED"
    assert guarded.logins() >= before + 3


def test_a_reader_may_neither_start_nor_cancel(deployed, guarded, client, monkeypatch):
    monkeypatch.delenv("BATCHEXEC_TOKEN")
    folders = deployed.write_files("viewed", {"a": "calm"})
    started, _ = client.run_execution(config_of(folders), 180)
    with BatchJobManagerClient(guarded.url, username="vera", password="of-vera") as viewer:
        assert viewer.get_execution_status(started.execution_id).status.short == "FINISHED"
        assert viewer.list_batch_jobs().batch_jobs
        with pytest.raises(NotAllowedError) as caught:
            viewer.start_execution(config_of(folders))
        assert caught.value.details["status_code"] == 403
        with pytest.raises(NotAllowedError):
            viewer.cancel_execution(started.execution_id)


def test_a_wrong_password_or_token_is_an_error(guarded, monkeypatch):
    monkeypatch.delenv("BATCHEXEC_TOKEN")
    for login in ({"username": "ada", "password": "of-vera"}, {"token": "e30.e30.e30"}):
        with BatchJobManagerClient(guarded.url, **login) as client, pytest.raises(NotAllowedError) as caught:
            client.list_batch_jobs()
        assert caught.value.details["status_code"] == 401


# ---- data frames through a bucket


@pytest.fixture
def staging(deployed: Deployment) -> Iterator[str]:
    yield "s3://weather-in/staging"
    assert keys(deployed, "weather-in", "staging/") == []


SECRETS = {"access_token_name": "bucket_key", "access_secret_name": "bucket_secret"}


def test_a_frame_goes_through_a_bucket_and_comes_back(staging):
    df = pd.concat([frame(name, 3) for name in "abcd"])
    df.index = pd.Index(range(100, 112), name="row")
    scaled = BatchInferenceClient("scaler").run(df, 5, staging=staging, parameters={"FACTOR": "7"}, **SECRETS)
    pd.testing.assert_frame_equal(scaled, df.assign(y=df["x"] * 7))


def test_a_frame_that_fails_leaves_nothing_in_the_bucket(staging, tmp_path):
    (tmp_path / "broken").touch()
    with pytest.raises(ExecutionFailedError, match="is FAILED") as caught:
        BatchInferenceClient("scaler").run(
            frame("a", 2, mood="fail"),
            1,
            staging=staging,
            parameters={"BROKEN": str(tmp_path / "broken")},
            **SECRETS,
        )
    assert "this file upsets me" in "\n".join(caught.value.details["report"])


def test_an_interrupted_frame_leaves_nothing_in_the_bucket(deployed, staging):
    program = (
        "from airflow_models import frame\n"
        "from airflow_batchexec.client import BatchInferenceClient\n"
        f"more = dict(parameters={deployed.parameters()!r}, staging={staging!r}, **{SECRETS!r})\n"
        "BatchInferenceClient('scaler').run(frame('a', 2, mood='hang'), 1, **more)\n"
    )
    with Terminal(program, PYTHONPATH=f"{ROOT}/tests/support{os.pathsep}{ROOT}") as terminal:
        wait_until(deployed.used_pods)
        terminal.wait_for_text("running")
        terminal.press_ctrl_c()
        code, shown = terminal.end()
    assert code != 0
    assert "is cancelled." in shown
    assert deployed.pods() == []
