"""What shells are told, asked as they ask; and what starting the command costs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("batchexec")
HEAVY = (
    "pandas",
    "pyarrow",
    "boto3",
    "botocore",
    "airflow",
    "mlflow",
    "rich",
    "requests",
    "pydantic",
    "yaml",
)
START = ["models", "execution", "start"]


@pytest.fixture
def bash(monkeypatch):
    """Run lines of bash, with the command on its path."""
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}:{os.environ['PATH']}")

    def run(script):
        # bash replaces itself with the last command, and completion is installed for the shell that the command runs in.
        done = subprocess.run(
            ["bash", "-eu", "-c", f"{script}\n:"], capture_output=True, text=True, check=False, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


def completions_of_zsh(*words):
    variables = {
        "_BATCHEXEC_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": shlex.join(["batchexec", *words]),
    }
    done = subprocess.run(
        [PROGRAM], env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    return done.stdout


def completions_of_fish(*words):
    variables = {
        "_BATCHEXEC_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_ARGS": shlex.join(["batchexec", *words]),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        [PROGRAM], env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    return {line.partition("\t")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["models", "execution", "st"], {"start", "status"}),
        ([*START, "--input-file-type", "F"], {"FEATHER"}),
        ([*START, "--input-file-type", "Pa"], {"Parquet"}),
        ([*START, "--output-file-type", ""], {"csv", "parquet", "feather"}),
        ([*START, "--output", ""], {"text", "json"}),
        ([*START, "--purchase-option", "on"], {"on-demand"}),
        ([*START, "--instance", "gpu.t4."], {"gpu.t4.xl", "gpu.t4.2xl", "gpu.t4.4xl"}),
        ([*START, "--service"], {"--service-account-key-secret-name"}),
        (["models", "execution", "list", "--status", "f"], {"finished", "failed"}),
    ],
)
def test_the_tabulator_completes_commands_flags_and_values(bash, words, completions):
    line = shlex.join(["batchexec", *words]) if words[-1] else f"{shlex.join(['batchexec', *words[:-1]])} ''"
    completed = bash(
        'eval "$(_BATCHEXEC_COMPLETE=source_bash batchexec)"\n'
        f"COMP_WORDS=({line}) COMP_CWORD={len(words)}\n"
        "_batchexec_completion batchexec\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    assert set(completed.split()) == completions


def test_zsh_and_fish_are_answered_in_their_ways():
    assert "parquet" in completions_of_zsh(*START, "--input-file-type", "p")
    assert completions_of_fish(*START, "--input-file-type", "p") == {"parquet"}


def test_instances_of_this_machines_airflow_are_completed_and_a_broken_configuration_is_no_error(monkeypatch):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__INSTANCES", '{"mine": {"cpus": 1, "memory_gib": 3}}')
    assert completions_of_fish(*START, "--instance", "mi") == {"mine"}
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__INSTANCES", "{")
    assert completions_of_fish(*START, "--instance", "tin") == {"tiny"}


def test_completion_can_be_installed(bash, tmp_path):
    installed = bash("batchexec --install-completion")
    assert "bash completion installed" in installed
    scripts = list((tmp_path / ".bash_completions").iterdir())
    assert [script.name for script in scripts] == ["batchexec.sh"]
    assert str(scripts[0]) in (tmp_path / ".bashrc").read_text()


def test_the_command_and_its_help_start_without_heavy_libraries():
    code = (
        "import sys\n"
        "from airflow_batchexec.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_help_of_start_needs_the_configuration_and_nothing_more():
    heavy = tuple(name for name in HEAVY if name not in {"pydantic", "yaml"})
    code = (
        "import sys\n"
        "from airflow_batchexec.cli import main\n"
        "try: main(['models', 'execution', 'start', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert ended.stdout.splitlines()[-1] == "[]"
