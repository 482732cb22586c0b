"""Secrets and connections in Airflow's environment variables backend, isolated from the machine's AWS credentials."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from s3_server import Keys

NAMES = {"access_token_name": "key_of_flights", "access_secret_name": "secret_of_flights"}


@pytest.fixture(autouse=True)
def _isolate_from_machine_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide AWS and Google credentials of the user who runs the tests."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))


class Secrets:
    """Sets the variables and connections that Airflow returns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def variable(self, name: str, value: str) -> None:
        self._monkeypatch.setenv(f"AIRFLOW_VAR_{name.upper()}", value)

    def connection(self, conn_id: str = "batch_execution_default", **extra: Any) -> None:
        document = {"conn_type": "batch_execution", "extra": extra}
        self._monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(document))

    def aws_connection(self, conn_id: str, keys: Keys | None = None, **parts: Any) -> None:
        document = {"conn_type": "aws", **parts}
        if keys is not None:
            document |= {"login": keys.access_key_id, "password": keys.secret_access_key}
        self._monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(document))

    def keys(self, access: str, secret: str) -> None:
        """Set the two secrets of ``NAMES``."""
        self.variable(NAMES["access_token_name"], access)
        self.variable(NAMES["access_secret_name"], secret)

    def ambient(self, keys: Keys) -> None:
        """Set the keys that boto3's default chain finds."""
        self._monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key_id)
        self._monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_access_key)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    return Secrets(monkeypatch)


@pytest.fixture
def names() -> dict[str, str]:
    """The names of the two secrets that :meth:`Secrets.keys` sets."""
    return dict(NAMES)
