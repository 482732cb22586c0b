"""The hook: whose credentials reach which bucket, and what is refused before any is tried."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from airflow.sdk._shared.secrets_masker import redact

from airflow_batchexec import BatchExecutionHook, ExecutionConfig
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage import LocalStorage
from airflow_batchexec.exceptions import AccessDeniedError, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from s3_server import S3Server

FOLDERS = {"source_folder": "s3://flights/in", "destination_folder": "s3://flights/out"}
NAMES = {"access_token_name": "key_of_flights", "access_secret_name": "secret_of_flights"}


def test_keys_come_from_the_secrets_that_are_named(secrets):
    secrets.keys("AKIA123", "the-secret-key")

    access = BatchExecutionHook(**NAMES).get_conn()

    assert access.access_key_id == "AKIA123"
    assert access.secret_access_key == "the-secret-key"


def test_white_space_around_a_secret_is_no_part_of_it(secrets):
    secrets.keys(" AKIA123\n", "the-secret-key\r\n")

    access = BatchExecutionHook(**NAMES).get_conn()

    assert (access.access_key_id, access.secret_access_key) == ("AKIA123", "the-secret-key")


def test_secrets_are_masked_in_logs_also_without_the_line_break_that_they_were_stored_with(secrets):
    secret = uuid.uuid4().hex
    secrets.keys("AKIA123", f"{secret}\n")
    assert redact(f"it is {secret}!") == f"it is {secret}!"

    BatchExecutionHook(**NAMES).get_conn()

    assert redact(f"it is {secret}!") == "it is ***!"


@pytest.mark.parametrize(
    ("missing", "field"),
    [("key_of_flights", "access_token_name"), ("secret_of_flights", "access_secret_name")],
)
def test_a_secret_that_is_not_there_is_an_error_that_names_field_and_secret(
    secrets, monkeypatch: pytest.MonkeyPatch, missing: str, field: str
):
    secrets.keys("AKIA123", "the-secret-key")
    monkeypatch.delenv(f"AIRFLOW_VAR_{missing.upper()}")

    with pytest.raises(ConfigurationError, match=f"^{field}: .*{missing!r}") as caught:
        BatchExecutionHook(**NAMES).get_conn()

    assert caught.value.details["field"] == field
    assert "the-secret-key" not in caught.value.message


@pytest.mark.parametrize("named", NAMES)
def test_half_a_pair_of_names_is_refused_and_the_missing_half_is_named(secrets, named: str):
    secrets.keys("AKIA123", "the-secret-key")
    (other,) = set(NAMES) - {named}

    with pytest.raises(ConfigurationError, match=f"^{other}: ") as caught:
        BatchExecutionHook(**{named: NAMES[named]}).get_conn()

    assert caught.value.details["field"] == other


def test_without_names_the_keys_are_left_to_boto3(secrets):
    secrets.keys("AKIA123", "the-secret-key")

    access = BatchExecutionHook().get_conn()

    assert access.access_key_id is None
    assert access.secret_access_key is None


def test_without_the_default_connection_s3_is_aws():
    access = BatchExecutionHook().get_conn()

    assert access.endpoint_url is None
    assert access.region_name is None


def test_a_connection_that_was_named_must_be_there():
    with pytest.raises(ConfigurationError, match="there is no connection 'flights_s3'") as caught:
        BatchExecutionHook("flights_s3").get_conn()

    assert caught.value.details["field"] == "batch_execution_conn_id"


@pytest.mark.parametrize("conn_id", ["batch_execution_default", "flights_s3"])
def test_the_connection_says_where_s3_is(secrets, conn_id: str):
    secrets.connection(conn_id, endpoint_url="http://127.0.0.1:9", region_name="eu-west-1")

    access = BatchExecutionHook(conn_id).get_conn()

    assert access.endpoint_url == "http://127.0.0.1:9"
    assert access.region_name == "eu-west-1"


def test_extras_that_are_empty_are_unset(secrets):
    secrets.connection(endpoint_url="", region_name="")

    access = BatchExecutionHook().get_conn()

    assert access.endpoint_url is None
    assert access.region_name is None


def test_a_bucket_is_written_and_read_with_the_named_secrets(secrets, s3_server: S3Server):
    bucket = s3_server.make_bucket()
    secrets.connection(endpoint_url=s3_server.endpoint_url, region_name=s3_server.region)
    secrets.keys(s3_server.access_key_id, s3_server.secret_access_key)
    config = ExecutionConfig.from_fields(model_id="delay", **FOLDERS, **NAMES)
    hook = BatchExecutionHook.for_execution(config, batch_execution_conn_id="batch_execution_default")
    place = Location.parse(f"s3://{bucket}/out/a.csv")

    storage = hook.open_storage(place)
    storage.write(place, b"x\n1\n")

    assert storage.read(place) == b"x\n1\n"
    assert s3_server.client.get_object(Bucket=bucket, Key="out/a.csv")["Body"].read() == b"x\n1\n"


def test_keys_without_the_permission_are_not_replaced_by_others(
    secrets, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
):
    bucket = s3_server.make_bucket()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_access_key)
    secrets.connection(endpoint_url=s3_server.endpoint_url, region_name=s3_server.region)
    secrets.keys(s3_server.denied.access_key_id, s3_server.denied.secret_access_key)
    place = Location.parse(f"s3://{bucket}/out/a.csv")

    with pytest.raises(AccessDeniedError):
        BatchExecutionHook(**NAMES).open_storage(place).write(place, b"")

    BatchExecutionHook().open_storage(place).write(place, b"")


def test_locations_of_a_scheme_share_one_storage(secrets, s3_server: S3Server):
    secrets.connection(endpoint_url=s3_server.endpoint_url, region_name=s3_server.region)
    hook = BatchExecutionHook()

    first = hook.open_storage(Location.parse("s3://one/in"))
    second = hook.open_storage(Location.parse("s3://two/out"))
    disk = hook.open_storage(Location.parse("file:///data"))

    assert first is second
    assert disk is not first


def test_a_folder_on_disk_needs_neither_connection_nor_secret(tmp_path: Path):
    place = Location.of_path(tmp_path / "a.csv")
    hook = BatchExecutionHook("no_such_connection", **NAMES)

    storage = hook.open_storage(place)
    storage.write(place, b"x\n")

    assert isinstance(storage, LocalStorage)
    assert (tmp_path / "a.csv").read_bytes() == b"x\n"
