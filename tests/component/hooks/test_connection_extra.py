"""The extras of a connection: valid values, and errors for invalid ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from airflow_batchexec import BatchExecutionHook
from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.hooks.connection_extra import ConnectionExtra

ROLE = "arn:aws:iam::123456789012:role/batch"
ALL = {
    "region_name": "eu-central-1",
    "endpoint_url": "http://127.0.0.1:9000",
    "sts_endpoint_url": "https://sts.example.com",
    "aws_conn_id": "aws_default",
    "iam_role_arn": ROLE,
    "external_id": "for-this-airflow",
    "role_session_name": "nightly",
    "role_duration_seconds": 7200,
    "web_identity_token_file": "/var/run/token",
    "gcs_endpoint_url": "http://localhost:4443",
}


def test_every_extra_is_read():
    extra = ConnectionExtra.parse(ALL)

    assert dataclasses.asdict(extra) == ALL
    role = extra.role("")
    assert (role.arn, role.external_id, role.session_name) == (ROLE, "for-this-airflow", "nightly")
    assert (role.duration_seconds, role.web_identity_token_file) == (7200, Path("/var/run/token"))


@pytest.mark.parametrize("unset", [None, ""])
def test_empty_extras_are_treated_as_unset(unset):
    extra = ConnectionExtra.parse(dict.fromkeys(ALL, unset))

    assert extra == ConnectionExtra()
    assert extra.role("") is None


def test_a_role_defaults_to_one_hour_and_a_session_named_after_this_package():
    role = ConnectionExtra().role(ROLE)

    assert role.duration_seconds == 3600
    assert role.session_name == "airflow-batchexec"
    assert role.external_id is None
    assert role.web_identity_token_file is None


def test_a_requested_role_overrides_the_connections_and_is_assumed_with_its_settings():
    other = "arn:aws:iam::123456789012:role/other"

    role = ConnectionExtra.parse(ALL).role(other)

    assert role.arn == other
    assert role.external_id == "for-this-airflow"


@pytest.mark.parametrize("seconds", [3600, "3600", " 3600 "])
def test_seconds_may_be_a_number_or_a_string(seconds):
    assert ConnectionExtra.parse({"role_duration_seconds": seconds}).role_duration_seconds == 3600


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 5) for name in ALL if name != "role_duration_seconds"),
        *((name, ["x"]) for name in ALL),
        ("role_duration_seconds", True),
        ("role_duration_seconds", 3600.5),
        ("role_duration_seconds", "an hour"),
        ("role_duration_seconds", 899),
        ("role_duration_seconds", "43201"),
        ("region_name", "eu central"),
        ("region_name", "eu-central-1.amazonaws.com"),
        ("region_name", "-"),
        ("endpoint_url", "minio:9000"),
        ("endpoint_url", "s3://bucket"),
        ("endpoint_url", "http://"),
        ("endpoint_url", "http://host:port"),
        ("endpoint_url", "http://host/?x=1"),
        ("sts_endpoint_url", "http://[::1"),
        ("gcs_endpoint_url", "storage.googleapis.com"),
        ("aws_conn_id", "my aws"),
        ("iam_role_arn", "batch"),
        ("iam_role_arn", "arn:aws:iam::123456789012:user/batch"),
        ("external_id", "x"),
        ("role_session_name", "two words"),
    ],
)
def test_malformed_extras_are_rejected_by_field(field, value):
    with pytest.raises(ConfigurationError, match=f"^{field}: ") as refused:
        ConnectionExtra.parse({field: value}).role("")

    assert refused.value.details["field"] == field


def test_a_password_in_a_url_is_rejected_and_not_shown():
    with pytest.raises(ConfigurationError, match=r"^endpoint_url: ") as refused:
        ConnectionExtra.parse({"endpoint_url": "https://user:a-password@s3.example.com"})

    assert "a-password" not in str(refused.value)


@pytest.mark.parametrize("extra", [[], "text", 5, None])
def test_extras_must_be_a_json_object(extra):
    with pytest.raises(ConfigurationError, match=r"^extra: "):
        ConnectionExtra.parse(extra)


def test_unknown_extras_are_named_in_one_warning(secrets, capsys):
    secrets.connection(region_name="eu-central-1", role_arn="a value", retries="3")
    hook = BatchExecutionHook()

    assert hook.get_conn().region_name == "eu-central-1"
    hook.get_conn()

    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "batch_execution_default" in line]
    assert "warning" in warning
    assert "retries, role_arn" in warning
    assert "iam_role_arn" in warning
    assert "a value" not in warning


def test_known_extras_cause_no_warning(secrets, capsys):
    secrets.connection(**{**ALL, "aws_conn_id": ""})

    BatchExecutionHook().get_conn()

    assert "batch_execution_default" not in capsys.readouterr().out
