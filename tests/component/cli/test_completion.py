"""Shell completion, requested the way shells do, and the imports at startup."""

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
    """Run a bash script, with the command on its PATH."""
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}:{os.environ['PATH']}")

    def run(script):
        # The final ":" keeps bash from exec-ing the last command: completion is installed for the parent shell.
        result = subprocess.run(
            ["bash", "-eu", "-c", f"{script}\n:"], capture_output=True, text=True, check=False, timeout=600
        )
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    return run


def zsh_completions(*words):
    variables = {
        "_BATCHEXEC_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": shlex.join(["batchexec", *words]),
    }
    result = subprocess.run(
        [PROGRAM], env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.stderr == ""
    return result.stdout


def fish_completions(*words):
    variables = {
        "_BATCHEXEC_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_ARGS": shlex.join(["batchexec", *words]),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    result = subprocess.run(
        [PROGRAM], env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.stderr == ""
    return {line.partition("\t")[0] for line in result.stdout.splitlines()}


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
def test_tab_completes_commands_flags_and_values(bash, words, completions):
    line = shlex.join(["batchexec", *words]) if words[-1] else f"{shlex.join(['batchexec', *words[:-1]])} ''"
    completed = bash(
        'eval "$(_BATCHEXEC_COMPLETE=source_bash batchexec)"\n'
        f"COMP_WORDS=({line}) COMP_CWORD={len(words)}\n"
        "_batchexec_completion batchexec\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    assert set(completed.split()) == completions


def test_zsh_and_fish_get_their_own_completion_formats():
    assert "parquet" in zsh_completions(*START, "--input-file-type", "p")
    assert fish_completions(*START, "--input-file-type", "p") == {"parquet"}


def test_instance_completion_includes_airflows_and_survives_a_broken_configuration(monkeypatch):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__INSTANCES", '{"mine": {"cpus": 1, "memory_gib": 3}}')
    assert fish_completions(*START, "--instance", "mi") == {"mine"}
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__INSTANCES", "{")
    assert fish_completions(*START, "--instance", "tin") == {"tiny"}


def test_completion_can_be_installed(bash, tmp_path):
    installed = bash("batchexec --install-completion")
    assert "bash completion installed" in installed
    scripts = list((tmp_path / ".bash_completions").iterdir())
    assert [script.name for script in scripts] == ["batchexec.sh"]
    assert str(scripts[0]) in (tmp_path / ".bashrc").read_text()


def test_help_does_not_import_heavy_libraries():
    code = (
        "import sys\n"
        "from airflow_batchexec.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_help_of_start_imports_only_the_configuration():
    heavy = tuple(name for name in HEAVY if name not in {"pydantic", "yaml"})
    code = (
        "import sys\n"
        "from airflow_batchexec.cli import main\n"
        "try: main(['models', 'execution', 'start', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    assert result.stdout.splitlines()[-1] == "[]"
