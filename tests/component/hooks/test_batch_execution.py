"""The hook: which credentials access which bucket, and what is rejected before any is used."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from airflow.sdk._shared.secrets_masker import redact

from airflow_batchexec import BatchExecutionHook, ExecutionConfig
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import AccessDeniedError, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from s3_server import S3Server

FOLDERS = {"source_folder": "s3://flights/in", "destination_folder": "s3://flights/out"}
NAMES = {"access_token_name": "key_of_flights", "access_secret_name": "secret_of_flights"}


def test_keys_come_from_the_named_secrets(secrets):
    secrets.keys("AKIA123", "the-secret-key")

    access = BatchExecutionHook(**NAMES).get_conn()

    assert access.access_key_id == "AKIA123"
    assert access.secret_access_key == "the-secret-key"


def test_whitespace_around_a_secret_is_stripped(secrets):
    secrets.keys(" AKIA123\n", "the-secret-key\r\n")

    access = BatchExecutionHook(**NAMES).get_conn()

    assert (access.access_key_id, access.secret_access_key) == ("AKIA123", "the-secret-key")


def test_secrets_are_masked_in_logs_without_their_trailing_line_break(secrets):
    secret = uuid.uuid4().hex
    secrets.keys("AKIA123", f"{secret}\n")
    assert redact(f"it is {secret}!") == f"it is {secret}!"

    BatchExecutionHook(**NAMES).get_conn()

    assert redact(f"it is {secret}!") == "it is ***!"


@pytest.mark.parametrize(
    ("missing", "field"),
    [("key_of_flights", "access_token_name"), ("secret_of_flights", "access_secret_name")],
)
def test_a_missing_secret_raises_an_error_that_names_field_and_secret(
    secrets, monkeypatch: pytest.MonkeyPatch, missing: str, field: str
):
    secrets.keys("AKIA123", "the-secret-key")
    monkeypatch.delenv(f"AIRFLOW_VAR_{missing.upper()}")

    with pytest.raises(ConfigurationError, match=f"^{field}: .*{missing!r}") as caught:
        BatchExecutionHook(**NAMES).get_conn()

    assert caught.value.details["field"] == field
    assert "the-secret-key" not in caught.value.message


@pytest.mark.parametrize("named", NAMES)
def test_naming_only_one_secret_is_rejected_and_the_missing_one_named(secrets, named: str):
    secrets.keys("AKIA123", "the-secret-key")
    (other,) = set(NAMES) - {named}

    with pytest.raises(ConfigurationError, match=f"^{other}: ") as caught:
        BatchExecutionHook(**{named: NAMES[named]}).get_conn()

    assert caught.value.details["field"] == other


def test_without_secret_names_boto3_finds_the_keys(secrets):
    secrets.keys("AKIA123", "the-secret-key")

    access = BatchExecutionHook().get_conn()

    assert access.access_key_id is None
    assert access.secret_access_key is None


def test_without_the_default_connection_s3_means_aws():
    access = BatchExecutionHook().get_conn()

    assert access.endpoint_url is None
    assert access.region_name is None


def test_an_explicitly_named_connection_must_exist():
    with pytest.raises(ConfigurationError, match="connection 'flights_s3' does not exist") as caught:
        BatchExecutionHook("flights_s3").get_conn()

    assert caught.value.details["field"] == "batch_execution_conn_id"


@pytest.mark.parametrize("conn_id", ["batch_execution_default", "flights_s3"])
def test_the_connection_sets_endpoint_and_region(secrets, conn_id: str):
    secrets.connection(conn_id, endpoint_url="http://127.0.0.1:9", region_name="eu-west-1")

    access = BatchExecutionHook(conn_id).get_conn()

    assert access.endpoint_url == "http://127.0.0.1:9"
    assert access.region_name == "eu-west-1"


def test_empty_extras_are_treated_as_unset(secrets):
    secrets.connection(endpoint_url="", region_name="")

    access = BatchExecutionHook().get_conn()

    assert access.endpoint_url is None
    assert access.region_name is None


def test_named_secrets_give_read_and_write_access_to_a_bucket(secrets, s3_server: S3Server):
    bucket = s3_server.make_bucket()
    secrets.connection(endpoint_url=s3_server.endpoint_url, region_name=s3_server.region)
    secrets.keys(s3_server.access_key_id, s3_server.secret_access_key)
    config = ExecutionConfig.from_fields(model_id="delay", **FOLDERS, **NAMES)
    hook = BatchExecutionHook.for_execution(config, batch_execution_conn_id="batch_execution_default")
    location = Location.parse(f"s3://{bucket}/out/a.csv")

    storage = hook.open_storage(location)
    storage.write(location, b"x\n1\n")

    assert storage.read(location) == b"x\n1\n"
    assert s3_server.client.get_object(Bucket=bucket, Key="out/a.csv")["Body"].read() == b"x\n1\n"


def test_keys_without_permission_do_not_fall_back_to_others(
    secrets, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
):
    bucket = s3_server.make_bucket()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_access_key)
    secrets.connection(endpoint_url=s3_server.endpoint_url, region_name=s3_server.region)
    secrets.keys(s3_server.denied.access_key_id, s3_server.denied.secret_access_key)
    location = Location.parse(f"s3://{bucket}/out/a.csv")

    with pytest.raises(AccessDeniedError):
        BatchExecutionHook(**NAMES).open_storage(location).write(location, b"")

    BatchExecutionHook().open_storage(location).write(location, b"")


def test_locations_of_one_scheme_share_a_storage(secrets, s3_server: S3Server):
    secrets.connection(endpoint_url=s3_server.endpoint_url, region_name=s3_server.region)
    hook = BatchExecutionHook()

    first = hook.open_storage(Location.parse("s3://one/in"))
    second = hook.open_storage(Location.parse("s3://two/out"))
    disk = hook.open_storage(Location.parse("file:///data"))

    assert first is second
    assert disk is not first


def test_a_local_folder_needs_neither_connection_nor_secrets(tmp_path: Path):
    location = Location.of_path(tmp_path / "a.csv")
    hook = BatchExecutionHook("no_such_connection", **NAMES)

    storage = hook.open_storage(location)
    storage.write(location, b"x\n")

    assert isinstance(storage, LocalStorage)
    assert (tmp_path / "a.csv").read_bytes() == b"x\n"
