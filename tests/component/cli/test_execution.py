"""``batchexec models execution …`` against a scripted server."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from scripted_server import DROP, START, STARTED, Reply, status_of

from airflow_batchexec.engine.config.sections import flat_fields

COMMAND = Path(sys.executable).with_name("batchexec")
BUCKETS = ("--model-id", "churn", "--bucket", "data", "--source-folder", "in", "--destination-folder", "out")
ID = ("--execution-id", "rest__1")
JOB = "/batchexec/api/v1/batch-job/rest__1"
STATUS, REPORT, CANCEL = f"GET {JOB}/status", f"GET {JOB}/report", f"POST {JOB}/cancel"
LIST = "GET /batchexec/api/v1/batch-jobs"
OK = {"success": True, "failure_message": ""}
ANSI = "\x1b["


# ---- start


def test_start_sends_every_flag_of_existing_command_lines(execution, server):
    server.on(f"POST {START}", STARTED)
    execution(
        *("start", "--model-id", "churn", "--build-id", "v2", "--bucket", "data"),
        *("--source-bucket", "from", "--source-folder", "in", "--destination-bucket", "to"),
        *("--destination-folder", "out", "--input-file-type", "Parquet", "--output-file-type", "fEATHER"),
        *("--access-token-name", "key", "--access-secret-name", "secret", "--job-timeout", "60"),
        *("--file-timeout", "6", "--replicas", "3", "--cpus", "0.5", "--memory", "512"),
        *("--gpu-type", "NVIDIA_T4", "--gpu-amount", "1", "-P", "A=b=c", "--param-list", "B="),
        *("--instance", "small", "--purchase-option", "ONDEMAND", "--branch", "dev"),
        *("--iam-role-arn", "arn:aws:iam::123456789012:role/r"),
    )
    (request,) = server.received
    assert request.document == {
        "batch_job_request": {
            "model_details": {"model_id": "churn", "branch_id": "dev", "build_id": "v2"},
            "data_details": {
                "source_path": {
                    "source_bucket": "from",
                    "source_folder": "in",
                    "input_file_type": "PARQUET_INPUT_FILE_TYPE",
                },
                "destination_path": {
                    "destination_bucket": "to",
                    "destination_folder": "out",
                    "output_file_type": "FEATHER_OUTPUT_FILE_TYPE",
                },
                "token_secret": "key",
                "secret_secret": "secret",
            },
            "execution_details": {
                "job_timeout": 60,
                "task_timeout": 6,
                "batch_job_deployment_size": {
                    "number_of_pods": 3,
                    "cpu": 0.5,
                    "memory_amount": 512,
                    "memory_units": "MIB",
                    "gpu_resources": {"gpu_type": "NVIDIA_T4", "gpu_amount": 1},
                    "client_pod_compute_resources": {"template_spec": {"template_id": "small"}},
                },
                "advanced_deployment_options": {
                    "custom_iam_role_arn": "arn:aws:iam::123456789012:role/r",
                    "purchase_option": "on-demand",
                },
                "parameters": [{"key": "A", "value": "b=c"}, {"key": "B", "value": ""}],
            },
        }
    }


def test_help_does_not_truncate_flags_on_a_narrow_terminal(execution):
    text = execution("start", "--help", env={"COLUMNS": "80"}).stdout
    assert max(map(len, text.splitlines())) <= 80
    flags = set(re.findall(r"(?<!\S)(--?[A-Za-z-]+)", text))
    assert flags >= {f"--{name.replace('_', '-')}" for name in flat_fields() if name != "parameters"}
    assert flags >= {"--replicas", "--custom-iam-role-arn", "-P", "--param-list", "-f", "--from-file"}
    assert flags >= {
        "--out-conf",
        "--wait",
        "--output",
        "--server",
        "--profile",
        "--username",
        "--token-file",
    }
    assert "--token" not in flags


def test_start_prints_the_execution_id_and_follow_up_commands(execution, server):
    server.on(f"POST {START}", STARTED)
    started = execution("start", *BUCKETS, "--server", f"{server.url}/batchexec")
    assert started.stdout.splitlines()[0] == "Started execution rest__1."
    follow_up = f"models execution status --execution-id rest__1 --server {server.url}/batchexec"
    assert follow_up in started.stdout
    assert started.stderr == ""


def test_start_json_output_is_the_servers_response(execution, server):
    server.on(f"POST {START}", STARTED)
    assert json.loads(execution("start", *BUCKETS, "--output", "json").stdout) == STARTED


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_a_refused_start_reports_the_reason(execution, server, status):
    answer = {"batch_id": "", "success": False, "failure_message": "model_id: model 'churn' not found."}
    server.on(f"POST {START}", Reply(status, answer))
    refused = execution("start", *BUCKETS, code=2)
    assert (refused.stdout, refused.stderr) == ("", "error: model_id: model 'churn' not found.\n")
    assert json.loads(execution("start", *BUCKETS, "--output=json", code=2).stdout) == answer


def test_a_refusal_names_the_parameter_not_the_request_path(execution, server):
    answer = {
        "batch_id": "",
        "success": False,
        "failure_message": "batch_job_request.data_details.source_path.source_folder: it may not be used here.",
    }
    server.on(f"POST {START}", Reply(400, answer))
    refused = execution("start", *BUCKETS, "--output", "json", code=2)
    assert refused.stderr == "error: source_folder: it may not be used here.\n"
    assert json.loads(refused.stdout) == answer


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (BUCKETS[2:], "model_id: it is required. Pass --model-id, or set it in the file of --from-file."),
        (BUCKETS[:-2], "destination_folder: it is required. Pass --destination-folder,"),
        (
            ("--model-id=m", "--source-folder=in", "--destination-folder=out"),
            "source_bucket: source_folder 'in' needs a bucket",
        ),
        ((*BUCKETS, "--input-file-type", "xlsx"), "input_file_type: 'xlsx' is not a supported file type"),
        ((*BUCKETS, "--purchase-option", "free"), "purchase_option: 'free'"),
        ((*BUCKETS, "-P", "A"), "parameters: 'A' is not NAME=VALUE."),
        ((*BUCKETS, "-P", "A=1", "-P", "A=2"), "parameters: 'A' is set twice."),
        ((*BUCKETS, "-P", "LD_PRELOAD=x"), "parameters: 'LD_PRELOAD' is reserved"),
        ((*BUCKETS, "--cpus", "-1"), "cpus: "),
        ((*BUCKETS, "--model-repository", "models"), "--model-repository: the server uses its own"),
        (
            ("--model-id=m", "--source-folder=file:///in", "--destination-folder=s3://b/out"),
            "destination_folder: 's3://b/out' is not a file:// folder, but source_folder is.",
        ),
        (
            ("--model-id=m", "--source-folder=in", "--source-bucket=b", "--destination-folder=file:///out"),
            "source_folder: 'in' is not a file:// folder, but destination_folder is.",
        ),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_sent(execution, server, flags, message):
    refused = execution("start", *flags, code=2)
    assert refused.stderr.startswith(f"error: {message}")
    assert refused.stderr.count("\n") == 1
    assert server.received == []


@pytest.mark.parametrize(
    "flags",
    [
        ("--bucket", "b"),
        ("--access-token-name", "a", "--access-secret-name", "b"),
        ("--iam-role-arn", "arn:aws:iam::123456789012:role/r"),
        ("--purchase-option", "spot"),
        ("--gpu-type", "NVIDIA_T4"),
        ("--server", "http://localhost:8080"),
        ("--username", "ada"),
    ],
)
def test_flags_that_do_not_apply_to_local_runs_are_refused(execution, tmp_path, flags):
    local = ("--source-folder", f"file://{tmp_path}/in", "--destination-folder", f"file://{tmp_path}/out")
    refused = execution("start", "--model-id=m", *local, "--input-file-type=csv", *flags, code=2)
    assert refused.stderr.startswith(f"error: {flags[0].removeprefix('--').replace('-', '_')}") or (
        refused.stderr.startswith(f"error: {flags[0]}: ")
    )
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_exit_with_2(execution):
    assert "--pods" in execution("start", *BUCKETS, "--pods", "many", code=2).stderr
    assert "--execution-id" in execution("status", code=2).stderr
    assert "--nonsense" in execution("list", "--nonsense", code=2).stderr


# ---- waiting


@pytest.mark.parametrize(
    ("status", "code"), [("FINISHED", 0), ("FAILED", 1), ("CANCELLED", 1), ("TIMEOUT", 1)]
)
def test_exit_code_of_wait_reflects_the_execution(execution, server, status, code):
    server.on(f"POST {START}", STARTED)
    server.on(
        STATUS, status_of("RUNNING", 1, 2), {**status_of(status, 2, 2), "failure_message": "So [it] is."}
    )
    waited = execution("start", *BUCKETS, "--wait", code=code)
    assert waited.stderr == "Started execution rest__1.\n"
    assert waited.stdout.split("\n") == [
        f"Status     {status}",
        "Reason     So [it] is.",
        "Execution  rest__1",
        "Files      2 of 2 finished",
        "",
    ]
    waited = execution("wait", *ID, "--output", "json", code=code)
    assert json.loads(waited.stdout)["job_status"] == f"BATCH_JOB_{status}_STATUS"
    assert json.loads(waited.stdout)["batch_id"] == "rest__1"


@contextlib.contextmanager
def on_a_terminal(*arguments):
    """Run a command on a terminal of 80 columns; yield the process and the other end of the terminal."""
    terminal, command_end = pty.openpty()
    process = subprocess.Popen(
        # Make it the controlling terminal of the command, so that Ctrl-C sends it a signal.
        ["setsid", "--ctty", COMMAND, "models", "execution", *arguments],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        stdin=command_end,
        stdout=command_end,
        stderr=command_end,
    )
    os.close(command_end)
    try:
        yield process, terminal
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def read_until_end(terminal):
    """Read the terminal until the process closes it."""
    drawn = b""
    deadline = time.monotonic() + 120
    with contextlib.suppress(OSError):
        # Linux reports the end of a terminal as an input/output error.
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 1)[0]:
                piece = os.read(terminal, 4096)
                if not piece:
                    break
                drawn += piece
    return drawn.decode()


def test_ctrl_c_while_waiting_cancels(server):
    server.on(f"POST {START}", STARTED)
    server.on(STATUS, status_of("RUNNING", 1, 4))
    server.on(CANCEL, OK)
    with on_a_terminal("start", *BUCKETS, "--wait") as (process, terminal):
        server.wait_for(STATUS, 2)
        os.write(terminal, b"\x03")
        drawn = read_until_end(terminal)
        assert process.wait(120) == 130
    assert "Started execution rest__1." in drawn
    assert "1/4" in drawn
    assert "Execution rest__1 is cancelled." in drawn
    assert "Traceback" not in drawn
    assert server.calls().count(CANCEL) == 1


def test_ctrl_c_does_not_cancel_with_no_cancel(server):
    server.on(STATUS, status_of("RUNNING", 1, 4))
    with on_a_terminal("wait", *ID, "--no-cancel") as (process, terminal):
        server.wait_for(STATUS, 2)
        os.write(terminal, b"\x03")
        drawn = read_until_end(terminal)
        assert process.wait(120) == 130
    assert "The execution continues: batchexec models execution status --execution-id rest__1" in drawn
    assert CANCEL not in server.calls()


def test_interrupted_commands_exit_with_130(server):
    gate = threading.Event()
    server.on(STATUS, Reply(gate=gate))
    process = subprocess.Popen(
        [COMMAND, "models", "execution", "status", *ID], stderr=subprocess.PIPE, text=True
    )
    with process:
        server.wait_for(STATUS)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "Traceback" not in stderr


# ---- inspecting


def test_status_exits_with_0_for_a_failed_execution(execution, server):
    answer = {**status_of("FAILED", 1, 4), "failure_message": "b.csv: ValueError: as requested."}
    server.on(STATUS, answer)
    assert "Reason     b.csv: ValueError: as requested." in execution("status", *ID).stdout.splitlines()
    assert json.loads(execution("status", *ID, "--output", "json").stdout) == {
        "batch_id": "rest__1",
        **answer,
    }


def test_status_does_not_print_zero_files_before_they_are_counted(execution, server):
    server.on(STATUS, status_of("PENDING"))
    assert "Files      not counted yet" in execution("status", *ID).stdout.splitlines()


def test_report_prints_lines_with_control_characters_escaped(execution, server):
    lines = [
        "2026-01-01T00:00:00.000Z accepted",
        "2026-01-01T00:00:01.000Z [model] a.csv: \x1b[31mred\x07\ttab é",
    ]
    answer = {"successful": True, "failure_message": "", "report_messages": lines}
    server.on(REPORT, answer)
    assert execution("report", *ID).stdout.splitlines() == [
        lines[0],
        r"2026-01-01T00:00:01.000Z [model] a.csv: \x1b[31mred\x07" + "\ttab é",
    ]
    assert json.loads(execution("report", *ID, "--output", "json").stdout) == answer


def test_cancel(execution, server):
    server.on(CANCEL, OK)
    assert execution("cancel", *ID).stdout.startswith("Execution rest__1 is being cancelled")
    assert json.loads(execution("cancel", *ID, "--output", "json").stdout) == OK
    server.on(CANCEL, Reply(409, {"success": False, "failure_message": "rest__1 has ended."}))
    assert execution("cancel", *ID, code=2).stderr == "error: rest__1 has ended.\n"


def job(number, status="FINISHED"):
    return {
        "build_id": "2013-01-01-build",
        "job_id": f"rest__0123456789abcdef__{number}",
        "job_status": f"BATCH_JOB_{status}_STATUS",
        "start_time": "2026-01-02T03:04:05.678Z",
        "end_time": None if status == "RUNNING" else "2026-01-02T03:05:00Z",
        "job_size": 3,
        "failure_message": "",
    }


def test_list_is_a_table_with_a_row_per_execution(execution, server):
    server.on(LIST, {"batch_jobs": [job(2, "RUNNING"), job(1)], "next_cursor": "", **OK})
    listed = execution(
        "list", "--model-id", "churn", "--build-id", "b", "--status", "running", "--limit", "7"
    )
    assert [re.split(r"\s{2,}", line.strip()) for line in listed.stdout.splitlines()] == [
        ["execution", "status", "build", "files", "started (UTC)", "took"],
        [job(2)["job_id"], "RUNNING", "2013-01-01-build", "3", "2026-01-02 03:04", "-"],
        [job(1)["job_id"], "FINISHED", "2013-01-01-build", "3", "2026-01-02 03:04", "0:00:54"],
    ]
    query = dict(pair.split("=") for pair in server.received[0].query.split("&"))
    assert query == {"model_id": "churn", "build_id": "b", "status": "BATCH_JOB_RUNNING_STATUS", "limit": "7"}


def test_list_truncates_nothing_on_a_narrow_terminal(server):
    server.on(LIST, {"batch_jobs": [job(1)], "next_cursor": "", **OK})
    with on_a_terminal("list") as (process, terminal):
        drawn = read_until_end(terminal)
        assert process.wait(120) == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", drawn)
    assert max(map(len, plain.splitlines())) <= 80
    assert f"{job(1)['job_id']}  FINISHED" in plain
    assert "2026-01-02 03:04" in plain
    (first_part,) = re.findall(r"FINISHED +(\S+)", plain)
    # Cells that do not fit are folded.
    assert first_part + plain.splitlines()[2].strip() == job(1)["build_id"]
    assert "\x1b[32m" in drawn


def test_colours_require_a_terminal_and_no_no_color(execution, server):
    server.on(STATUS, status_of("FINISHED", 1, 1))
    assert ANSI not in execution("status", *ID).output
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
            for name, value in variables.items():
                patch.setenv(name, value)
            _, terminal = stack.enter_context(on_a_terminal("status", *ID))
            drawn = read_until_end(terminal)
        assert "FINISHED" in drawn
        assert ("\x1b[32m" in drawn) == coloured


def test_list_can_be_empty_or_refused(execution, server):
    server.on(LIST, {"batch_jobs": [], "next_cursor": "", **OK})
    assert execution("list").stdout == "No executions found.\n"
    assert "'done' is not one of COMMITTED" in execution("list", "--status", "done", code=2).stderr
    assert "--limit" in execution("list", "--limit", "0", code=2).stderr


# ---- servers


def test_missing_server_error_lists_the_ways_to_set_it(execution):
    refused = execution("status", *ID, code=2)
    assert refused.stderr.startswith("error: server: ")
    assert "--server URL" in refused.stderr
    assert "BATCHEXEC_SERVER" in refused.stderr


def test_missing_credentials_error_lists_the_ways_to_set_them(execution, server, monkeypatch):
    monkeypatch.delenv("BATCHEXEC_TOKEN")
    refused = execution("status", *ID, code=2)
    for way in ("BATCHEXEC_TOKEN", "--token-file PATH", "--username NAME"):
        assert way in refused.stderr


def test_flags_override_the_environment_which_overrides_the_file(execution, server, monkeypatch, tmp_path):
    server.on(STATUS, status_of("RUNNING"))
    (tmp_path / "token").write_text("of-the-file\n")
    config = tmp_path / ".config" / "batchexec" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f'[default]\nserver = "http://unused.invalid"\n[mine]\nserver = "{server.url}"\ntoken_file = "token"\n'
    )
    (config.parent / "token").write_text("of-the-profile")
    execution("status", *ID, "--token-file", str(tmp_path / "token"))
    monkeypatch.delenv("BATCHEXEC_SERVER")
    monkeypatch.delenv("BATCHEXEC_TOKEN")
    execution("status", *ID, "--profile", "mine")
    sent = [request.headers["Authorization"] for request in server.received]
    assert sent == ["Bearer of-the-file", "Bearer of-the-profile"]


def test_the_password_is_prompted_for_on_a_terminal_and_not_echoed(server, monkeypatch):
    monkeypatch.delenv("BATCHEXEC_TOKEN")
    server.on("POST /auth/token", Reply(201, {"access_token": "made-for-ada"}))
    server.on(STATUS, status_of("RUNNING"))
    with on_a_terminal("status", *ID, "--username", "ada") as (process, terminal):
        prompt = b""
        while b"Password for ada: " not in prompt:
            prompt += os.read(terminal, 4096)
        os.write(terminal, b"open sesame\n")
        drawn = read_until_end(terminal)
        assert process.wait(120) == 0
    assert "sesame" not in drawn
    assert server.received[0].document == {"username": "ada", "password": "open sesame"}
    assert server.received[1].headers["Authorization"] == "Bearer made-for-ada"


@pytest.mark.parametrize("reply", [DROP, Reply(500, {"detail": "x"}), Reply(200, "<html>"), Reply(404, {})])
def test_missing_or_foreign_responses_exit_with_3(execution, server, monkeypatch, tmp_path, reply):
    config = tmp_path / "impatient.toml"
    config.write_text("[default]\nretries = 0\n")
    monkeypatch.setenv("BATCHEXEC_CONFIG", str(config))
    server.on(STATUS, reply)
    failed = execution("status", *ID, code=3)
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("status", [401, 403])
def test_missing_permissions_exit_with_4(execution, server, status):
    server.on(CANCEL, Reply(status, {"success": False, "failure_message": "You may not."}))
    refused = execution("cancel", *ID, code=4)
    assert "You may not." in refused.stderr
    assert refused.stderr.count("\n") == 1
