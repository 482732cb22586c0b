from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from scripted_server import ScriptedServer

from airflow_batchexec.client import BatchJobManagerClient, ExecutionConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOKEN = "a-token-that-must-stay-secret"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the user's settings, configuration files, proxies and ~/.netrc."""
    for name in [n for n in os.environ if n.startswith("BATCHEXEC_") or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def make_client(server: ScriptedServer) -> Iterator[Callable[..., BatchJobManagerClient]]:
    clients = []

    def make(address: str | None = None, **arguments: Any) -> BatchJobManagerClient:
        credentials = {} if {"username", "token_file"} & set(arguments) else {"token": TOKEN}
        clients.append(BatchJobManagerClient(address or server.url, **{**credentials, **arguments}))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: Callable[..., BatchJobManagerClient]) -> BatchJobManagerClient:
    return make_client()


@pytest.fixture
def config() -> ExecutionConfig:
    return ExecutionConfig(
        execution=ExecutionConfig.Execution(
            model_id="churn", bucket="data", source_folder="in", destination_folder="out"
        )
    )


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the pauses between attempts instead of sleeping."""
    recorded: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=recorded.append))
    return recorded


@pytest.fixture
def closed_port() -> int:
    """A port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
