from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from scripted_server import ScriptedServer
from typer.testing import CliRunner

from airflow_batchexec.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

TOKEN = "a-token-that-must-stay-secret"
_SETTINGS = ("BATCHEXEC_", "AIRFLOW_CONFIG", "AIRFLOW__BATCHEXEC__", "XDG_CONFIG_HOME", "NO_COLOR", "COLUMNS")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the user's settings, configuration files, proxies and ~/.netrc."""
    for name in [n for n in os.environ if n.startswith(_SETTINGS) or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))


@pytest.fixture
def execution() -> Callable[..., Result]:
    """Run an execution command in this process; check its exit code, and that its output does not show the token."""

    def run(*arguments: str, code: int = 0, **options: object) -> Result:
        result = CliRunner().invoke(app, ["models", "execution", *map(str, arguments)], **options)
        assert result.exit_code == code, (result.stderr, result.exception)
        assert "Traceback" not in result.stderr
        assert TOKEN not in result.output
        return result

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A scripted server that the environment configures, with a token."""
    with ScriptedServer() as server:
        monkeypatch.setenv("BATCHEXEC_SERVER", server.url)
        monkeypatch.setenv("BATCHEXEC_TOKEN", TOKEN)
        yield server
