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
def airflow(tmp_path):
    """Run Airflow's command line with an isolated configuration."""

    def run(*arguments, code=0, **variables):
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "BATCHEXEC"))
        }
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "batchexec", *arguments],
            env={**inherited, "HOME": str(tmp_path), "AIRFLOW_HOME": str(tmp_path / "airflow"), **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, done.stderr
        return done

    return run


def test_the_server_defaults_to_airflows_base_url(airflow):
    with ScriptedServer() as ours, ScriptedServer() as other:
        for server in (ours, other):
            server.on("GET /batchexec/api/v1/batch-job/rest__1/status", status_of("RUNNING", 1, 2))
        variables = {"AIRFLOW__API__BASE_URL": ours.url, "BATCHEXEC_TOKEN": "token"}
        assert json.loads(airflow(*STATUS, **variables).stdout)["finished_files"] == 1
        airflow(*STATUS, "--server", other.url, **variables)
        assert [len(server.received) for server in (ours, other)] == [1, 1]


def test_log_output_is_kept_out_of_the_result(airflow):
    with ScriptedServer() as server:
        server.on("GET /batchexec/api/v1/batch-job/rest__1/status", DROP, status_of("RUNNING", 1, 2))
        done = airflow(*STATUS, AIRFLOW__API__BASE_URL=server.url, BATCHEXEC_TOKEN="token")
    assert json.loads(done.stdout)["finished_files"] == 1
    assert "Retrying" in done.stderr


def test_help_and_exit_codes_match_batchexec(airflow):
    usage = airflow("models", "execution", "start", "--help").stdout
    assert "Usage: airflow batchexec models execution start [OPTIONS]" in usage
    assert "--service-account-key-secret-name" in usage
    assert "--install-completion" not in airflow("--help").stdout
    refused = airflow(*STATUS, code=2, AIRFLOW__API__BASE_URL="")
    assert "--server URL" in refused.stderr
