"""The command line against a real Airflow: the documented commands, every exit code, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from airflow_deployment import PEOPLE
from airflow_models import expected, frame
from documents import ROOT, blocks, needs_server
from waiting import wait_until

from tools.airflow_server import free_port

if TYPE_CHECKING:
    from airflow_deployment import Deployment

BIN = Path(sys.executable).parent
PAGE = ROOT / "docs" / "cli.md"


@pytest.fixture(scope="module")
def on_postgresql():
    return True


@pytest.fixture(scope="module")
def airflow_users():
    return PEOPLE


@pytest.fixture(scope="module")
def documented(deployment: Deployment):
    """The deployment with the model, buckets and secrets that the documentation uses."""
    deployment.publish("arrival_delay")
    for bucket in ("flights", "delays"):
        deployment.s3.make_bucket(bucket)
    secrets = {"flights_key": deployment.s3.access_key_id, "flights_secret": deployment.s3.secret_access_key}
    for key, value in secrets.items():
        deployment.airflow.api("POST", "variables", json={"key": key, "value": value})
    return deployment


@dataclass
class Terminal:
    """A user's home folder and environment, and methods to run commands there."""

    deployment: Deployment
    home: Path
    environment: dict[str, str]

    def run(self, *arguments, code=0, **variables):
        """Run an execution command to completion, and check its exit code."""
        done = subprocess.run(
            [BIN / "batchexec", "models", "execution", *arguments],
            env={**self.environment, **variables},
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout
        return done

    def json(self, *arguments, code=0, **variables):
        """Run a command, and return its parsed JSON output."""
        return json.loads(self.run(*arguments, "--output", "json", code=code, **variables).stdout)

    def upload(self, folder, moods, *, bucket="flights"):
        """Upload one CSV file per mood to a folder of a bucket."""
        for name, mood in moods.items():
            content = frame(name, 4, mood=mood).to_csv(index=False)
            self.deployment.s3.client.put_object(
                Bucket=bucket, Key=f"{folder}/{name}.csv", Body=content.encode()
            )

    def result(self, bucket, key):
        """Read a result into a data frame."""
        return pd.read_csv(
            io.BytesIO(self.deployment.s3.client.get_object(Bucket=bucket, Key=key)["Body"].read())
        )

    def flags(self, name, **more):
        """The flags of an execution whose folders are below ``name``."""
        flags = {
            "model-id": "arrival_delay",
            "bucket": "flights",
            "source-folder": f"{name}/in",
            "destination-folder": f"{name}/out",
            "access-token-name": "flights_key",
            "access-secret-name": "flights_secret",
            "param-list": f"TEST_FOLDER={self.deployment.folder}",
            **more,
        }
        return [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]


@pytest.fixture
def terminal(documented, tmp_path):
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "BATCHEXEC_SERVER": documented.airflow.url,
        "BATCHEXEC_TOKEN": documented.airflow.token("ada"),
    }
    return Terminal(documented, tmp_path, environment)


@pytest.fixture
def viewer(documented):
    """The environment variables of a read-only user."""
    return {
        "BATCHEXEC_TOKEN": "",
        "BATCHEXEC_USERNAME": "vera",
        "BATCHEXEC_PASSWORD": documented.airflow.passwords["vera"],
    }


def test_the_documented_commands_work(terminal):
    for month in ("2013/01", "2013/02"):
        terminal.upload(month, {"a": "calm", "b": "calm"})
    for block in blocks(PAGE):
        if block.file:
            (terminal.home / block.file).write_text(block.text)
    (terminal.home / "token").write_text(terminal.environment["BATCHEXEC_TOKEN"])
    scripts = [block.text for block in blocks(PAGE) if block.language == "sh"]
    *scripts, airflow, completion = scripts
    assert airflow.startswith("airflow batchexec")
    assert "--install-completion" in completion
    # Only the address differs.
    scripts[0] = scripts[0].replace("http://localhost:8080", terminal.environment["BATCHEXEC_SERVER"])
    environment = {name: value for name, value in terminal.environment.items() if "TOKEN" not in name}
    done = subprocess.run(
        ["bash", "-eux", "-o", "pipefail", "-c", "\n".join(scripts)],
        cwd=terminal.home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)

    (first,) = re.findall(r"^Started execution (\S+)\.$", done.stdout, re.MULTILINE)
    second, third = re.findall(r"^Started execution (\S+)\.$", done.stderr, re.MULTILINE)
    # The last commands are about the newest execution, which is the third.
    assert done.stdout.count(f"Execution  {third}") == 3
    report = re.findall(r"^\d{4}-\d\d-\d\dT\S+Z (.+)$", done.stdout, re.MULTILINE)
    assert report[0].startswith(f"Accepted as {third}")
    assert all(any(name in line for line in report) for name in ("a.csv", "b.csv"))
    assert terminal.json("wait", "--execution-id", first)["job_status"] == "BATCH_JOB_FINISHED_STATUS"
    assert terminal.json("status", "--execution-id", second)["finished_files"] == 2
    data = frame("a", 4)
    pd.testing.assert_frame_equal(terminal.result("delays", "2013/01/a.csv"), expected(data))
    pd.testing.assert_frame_equal(terminal.result("flights", "delays/2013/01/a.csv"), expected(data))
    pd.testing.assert_frame_equal(
        terminal.result("flights", "delays/2013/02/a.csv"), expected(data, factor=4)
    )
    assert (terminal.home / "february.yaml").read_text().count("2013/01") == 2


def test_the_readmes_curl_python_and_command_lines_work(terminal):
    for month in ("2013/03", "2013/04", "2013/05"):
        terminal.upload(month, {"a": "calm", "b": "calm"})
    curl, program, command = [block for block in blocks(ROOT / "README.md") if needs_server(block)]

    def run(*words):
        done = subprocess.run(
            words,
            cwd=terminal.home,
            env=terminal.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    started = json.loads(run("bash", "-eu", "-c", curl.text))
    assert (started["success"], started["failure_message"]) == (True, "")
    assert run(sys.executable, "-c", program.text) == "FINISHED\n"
    assert "FINISHED" in run("bash", "-eu", "-c", command.text)
    assert terminal.json("wait", "--execution-id", started["batch_id"])["finished_files"] == 2

    data = expected(frame("a", 4))
    body = terminal.deployment.s3.client.get_object(Bucket="delays", Key="2013/03/a.parquet")["Body"].read()
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(body)), data)
    for month in ("2013/04", "2013/05"):
        pd.testing.assert_frame_equal(terminal.result("flights", f"delays/{month}/a.csv"), data)


def test_a_failed_execution_exits_with_1(terminal):
    terminal.upload("failing/in", {"good": "calm", "bad": "fail"})
    failed = terminal.run(
        "start", *terminal.flags("failing"), "-P", f"BROKEN={terminal.home}", "--wait", code=1
    )
    assert "Status     FAILED" in failed.stdout.splitlines()
    assert "this file upsets me" in failed.stdout
    (execution_id,) = re.findall(r"^Started execution (\S+)\.$", failed.stderr, re.MULTILINE)
    assert terminal.run("wait", "--execution-id", execution_id, code=1).stdout == failed.stdout
    assert "Status     FAILED" in terminal.run("status", "--execution-id", execution_id).stdout
    assert "this file upsets me" in terminal.run("report", "--execution-id", execution_id).stdout
    listed = terminal.json("list", "--status", "failed", "--model-id", "arrival_delay")
    assert execution_id in {job["job_id"] for job in listed["batch_jobs"]}
    ended = terminal.run("cancel", "--execution-id", execution_id, code=2)
    assert execution_id in ended.stderr


def test_a_refused_request_exits_with_2(terminal):
    refused = terminal.run("start", *terminal.flags("refused", **{"model-id": "departure"}), code=2)
    assert refused.stderr.startswith("error: ")
    assert "departure" in refused.stderr
    assert (
        terminal.json("start", *terminal.flags("refused", **{"build-id": "b9"}), code=2)["success"] is False
    )
    refused = terminal.run("start", *terminal.flags("refused", instance="hugo"), code=2)
    assert refused.stderr.startswith("error: instance: unknown instance 'hugo'.")
    for command in ("status", "report", "cancel", "wait"):
        assert (
            "rest__unknown__1" in terminal.run(command, "--execution-id", "rest__unknown__1", code=2).stderr
        )


def test_a_twin_is_refused_with_the_id_of_the_first_and_ctrl_c_cancels_that(terminal, documented):
    terminal.upload("hanging/in", {"a": "calm", "b": "hang"})
    flags = terminal.flags("hanging", pods=1)
    screen_fd, command_fd = pty.openpty()
    waiting = subprocess.Popen(
        # The terminal becomes the command's controlling terminal, so that Ctrl-C sends it a signal.
        ["setsid", "--ctty", BIN / "batchexec", "models", "execution", "start", *flags, "--wait"],
        env={**terminal.environment, "TERM": "xterm", "COLUMNS": "120"},
        stdin=command_fd,
        stdout=command_fd,
        stderr=command_fd,
    )
    os.close(command_fd)
    shown = b""
    try:
        with os.fdopen(screen_fd, "r+b", buffering=0) as screen:
            while b"1/2" not in shown:
                shown += screen.read(4096)
            (execution_id,) = re.findall(rb"Started execution (\S+)\.", shown)
            twin = terminal.run("start", *flags, code=2)
            assert execution_id.decode() in twin.stderr
            screen.write(b"\x03")
            with suppress(OSError):
                # Linux reports the end of a terminal as an input/output error.
                while data := screen.read(4096):
                    shown += data
            assert waiting.wait(120) == 130
    finally:
        waiting.kill()
        waiting.wait()
    assert b"is cancelled." in shown
    ended = terminal.json("wait", "--execution-id", execution_id.decode(), code=1)
    assert ended["job_status"] == "BATCH_JOB_CANCELLED_STATUS"
    assert (ended["finished_files"], ended["total_files"]) == (1, 2)
    wait_until(lambda: not documented.pods())


def test_a_viewer_may_only_read(terminal, viewer):
    terminal.upload("looked-at/in", {"a": "calm"})
    started = terminal.json("start", *terminal.flags("looked-at"))
    refused = terminal.run("start", *terminal.flags("of-a-viewer"), code=4, **viewer)
    assert refused.stderr.startswith("error: ")
    refused = terminal.run("cancel", "--execution-id", started["batch_id"], code=4, **viewer)
    assert refused.stdout == ""
    terminal.run("status", "--execution-id", started["batch_id"], **viewer)
    terminal.run("wait", "--execution-id", started["batch_id"], **viewer)
    for variables in (
        {**viewer, "BATCHEXEC_PASSWORD": "guessed"},
        {"BATCHEXEC_TOKEN": "e30.e30.e30"},
    ):
        refused = terminal.run("list", code=4, **variables)
        assert "guessed" not in refused.stderr


def test_airflows_own_command_line_has_the_same_commands(terminal):
    def airflow(*arguments, code=0):
        done = subprocess.run(
            [BIN / "airflow", "batchexec", "models", "execution", *arguments],
            env={
                **{name: value for name, value in terminal.environment.items() if name != "BATCHEXEC_SERVER"},
                "AIRFLOW_HOME": str(terminal.home / "airflow"),
                "AIRFLOW__API__BASE_URL": terminal.environment["BATCHEXEC_SERVER"],
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == code, done.stderr
        return done

    terminal.upload("by-airflow/in", {"a": "calm"})
    started = json.loads(airflow("start", *terminal.flags("by-airflow"), "--output", "json").stdout)
    ended = airflow("wait", "--execution-id", started["batch_id"])
    assert "Files      1 of 1 finished" in ended.stdout.splitlines()
    assert started["batch_id"] in airflow("list", "--status", "finished").stdout
    assert "unknown" in airflow("status", "--execution-id", "unknown", code=2).stderr


def test_an_unreachable_server_exits_with_3(terminal):
    (terminal.home / "impatient.toml").write_text("[default]\nretries = 1\n")
    url = f"http://127.0.0.1:{free_port()}"
    variables = {"BATCHEXEC_CONFIG": str(terminal.home / "impatient.toml"), "BATCHEXEC_SERVER": url}
    failed = terminal.run("list", code=3, **variables)
    assert failed.stderr.startswith(f"error: {url} cannot be reached: ")
    assert failed.stdout == ""
