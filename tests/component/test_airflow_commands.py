"""``airflow batchexec …`` passes every argument on to the ``batchexec`` command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from airflow.cli.cli_parser import get_parser
from scripted_server import DROP, ScriptedServer, status_of

from airflow_batchexec.airflow_commands import get_commands

STATUS = ("models", "execution", "status", "--execution-id", "rest__1", "--output", "json")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["-h"],
        ["--version"],
        ["models", "list"],
        ["models", "execution", "start", "--help"],
        ["models", "execution", "start", "--model-id", "m", "-P", "A=b=c", "--", "x"],
        ["--output", "json", "models"],
    ],
)
def test_airflows_parser_passes_all_arguments_through(arguments):
    assert get_parser().parse_args(["batchexec", *arguments]).arguments == arguments


def test_airflows_other_commands_keep_their_options(capsys):
    with pytest.raises(SystemExit):
        get_parser().parse_args(["dags", "--help"])
    assert "airflow dags" in capsys.readouterr().out


def test_the_provider_adds_a_single_command():
    (command,) = get_commands()
    assert command.name == "batchexec"
    assert command.help


@pytest.fixture
def environment(tmp_path):
    """The environment without the settings of Airflow and of the command line."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "BATCHEXEC"))
    }
    return {**inherited, "HOME": str(tmp_path), "AIRFLOW_HOME": str(tmp_path / "airflow")}


def run_airflow(environment, *arguments):
    """Run Airflow's command line as a process."""
    return subprocess.run(
        [sys.executable, "-m", "airflow", "batchexec", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture
def airflow(environment, monkeypatch, capsys):
    """Run a command of Airflow's command line in this process; return its exit code and output."""
    for name in os.environ:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments):
        parsed = get_parser().parse_args(["batchexec", *arguments])
        with pytest.raises(SystemExit) as ended:
            parsed.func(parsed)
        return ended.value.code, capsys.readouterr()

    return run


def test_the_process_takes_airflows_base_url_and_keeps_log_output_out_of_the_result(environment):
    with ScriptedServer() as server:
        server.on("GET /batchexec/api/v1/batch-job/rest__1/status", DROP, status_of("RUNNING", 1, 2))
        variables = {"AIRFLOW__API__BASE_URL": server.url, "BATCHEXEC_TOKEN": "token"}
        done = run_airflow({**environment, **variables}, *STATUS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished_files"] == 1
    assert "Retrying" in done.stderr


def test_a_server_on_the_command_line_overrides_airflows_base_url(airflow, monkeypatch):
    with ScriptedServer() as ours, ScriptedServer() as other:
        other.on("GET /batchexec/api/v1/batch-job/rest__1/status", status_of("RUNNING", 1, 2))
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", ours.url)
        monkeypatch.setenv("BATCHEXEC_TOKEN", "token")
        code, (stdout, _) = airflow(*STATUS, "--server", other.url)
        assert [len(server.received) for server in (ours, other)] == [0, 1]
    assert code == 0
    assert json.loads(stdout)["finished_files"] == 1


def test_help_and_exit_codes_match_batchexec(airflow, monkeypatch):
    code, (usage, _) = airflow("models", "execution", "start", "--help")
    assert code == 0
    assert "Usage: airflow batchexec models execution start [OPTIONS]" in usage
    assert "--service-account-key-secret-name" in usage
    assert "--install-completion" not in airflow("--help")[1].out
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "")
    code, (_, refusal) = airflow(*STATUS)
    assert code == 2
    assert "--server URL" in refusal
