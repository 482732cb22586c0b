"""Where the hook's credentials come from, and that nothing replaces the requested ones."""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk._shared.secrets_masker import redact
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ErrorResponse
from aws_policies import ISSUER, MAY_ASSUME, documented_policy, oidc_token, trust
from aws_proxy import Response, start_aws_proxy
from s3_server import Keys, free_port

from airflow_batchexec import BatchExecutionHook, ExecutionConfig
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.exceptions import (
    AccessDeniedError,
    BatchExecError,
    ConfigurationError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aws_proxy import AwsProxy
    from gcs_server import GcsServer
    from s3_server import S3Server

OTHER_ROLE = "arn:aws:iam::123456789012:role/other"


@pytest.fixture(scope="module")
def caller(s3_server: S3Server) -> Keys:
    """A user who may only assume roles."""
    return s3_server.make_user(MAY_ASSUME)


@pytest.fixture(scope="module")
def role(s3_server: S3Server) -> str:
    """A role that anyone in the account may assume, with full access to S3."""
    return s3_server.make_role(trust(s3_server.account_id))


@pytest.fixture
def location(s3_server: S3Server) -> Location:
    return Location.parse(f"s3://{s3_server.make_bucket()}/out/a.csv")


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[AwsProxy]:
    with start_aws_proxy(s3_server.endpoint_url) as running:
        yield running


@pytest.fixture
def owner(s3_server: S3Server) -> Keys:
    """Keys with full access to S3."""
    return Keys(s3_server.access_key_id, s3_server.secret_access_key)


def write(hook: BatchExecutionHook, location: Location) -> None:
    hook.open_storage(location).write(location, b"x")


def refusal(hook: BatchExecutionHook, location: Location) -> BatchExecError:
    with pytest.raises(BatchExecError) as refused:
        write(hook, location)
    return refused.value


def configured(**fields: Any) -> BatchExecutionHook:
    folders = {"source_folder": "s3://flights/in", "destination_folder": "s3://flights/out"}
    config = ExecutionConfig.from_fields(model_id="delay", **{**folders, **fields})
    return BatchExecutionHook.for_execution(config, batch_execution_conn_id="batch_execution_default")


# --- roles -------------------------------------------------------------------------------------------------------------


def test_an_executions_role_is_assumed_with_its_keys(secrets, names, s3_server, caller, role, location):
    secrets.connection(endpoint_url=s3_server.endpoint_url)
    secrets.keys(caller.access_key_id, caller.secret_access_key)
    assert type(refusal(configured(**names), location)) is AccessDeniedError

    write(configured(**names, iam_role_arn=role), location)


def test_the_connections_role_is_assumed_unless_the_execution_names_its_own(
    secrets, s3_server, caller, role, location
):
    secrets.connection(endpoint_url=s3_server.endpoint_url, iam_role_arn=role)
    secrets.ambient(caller)

    write(configured(), location)
    error = refusal(configured(iam_role_arn=OTHER_ROLE), location)

    assert type(error) is AccessDeniedError
    assert OTHER_ROLE in str(error)


def test_a_denied_role_does_not_fall_back_to_the_underlying_credentials(secrets, s3_server, owner, location):
    secrets.connection(endpoint_url=s3_server.endpoint_url)
    secrets.ambient(owner)
    write(configured(), location)

    error = refusal(configured(iam_role_arn=OTHER_ROLE), location)

    assert type(error) is AccessDeniedError
    assert error.details["field"] == "iam_role_arn"


def test_the_connections_role_settings_are_sent_to_sts(secrets, s3_server, caller, proxy, location):
    role = s3_server.make_role(
        trust(s3_server.account_id, StringEquals={"sts:ExternalId": "for-this-airflow"})
    )
    secrets.ambient(caller)
    secrets.connection(
        endpoint_url=s3_server.endpoint_url,
        sts_endpoint_url=proxy.endpoint_url,
        external_id="for-this-airflow",
        role_session_name="nightly",
        role_duration_seconds="1800",
    )

    write(configured(iam_role_arn=role), location)

    (request,) = proxy.requests
    assert request.form["ExternalId"] == "for-this-airflow"
    assert request.form["RoleSessionName"] == "nightly"
    assert request.form["DurationSeconds"] == "1800"


def test_a_web_identity_neither_needs_nor_uses_keys(
    secrets, names, s3_server, owner, location, tmp_path, proxy
):
    role = s3_server.make_role(
        documented_policy(
            "trust-service-account.json",
            ACCOUNT_ID=s3_server.account_id,
            ISSUER=ISSUER,
            NAMESPACE="jobs",
            SERVICE_ACCOUNT="worker",
        )
    )
    (tmp_path / "token").write_text(oidc_token())
    secrets.connection(
        endpoint_url=proxy.endpoint_url,
        web_identity_token_file=str(tmp_path / "token"),
        aws_conn_id="there_is_none",
    )
    secrets.ambient(owner)

    write(configured(iam_role_arn=role), location)

    assert [request.action for request in proxy.requests] == ["AssumeRoleWithWebIdentity", ""]
    assert owner.access_key_id not in {request.access_key_id for request in proxy.requests}
    secrets.keys(owner.access_key_id, owner.secret_access_key)
    error = refusal(configured(**names, iam_role_arn=role), location)
    assert type(error) is ConfigurationError
    assert error.details["field"] == "access_token_name"
    assert "web_identity_token_file" in str(error)
    # Without a role, the token is not used.
    write(configured(**names), location)


def test_a_missing_token_file_is_named(secrets, role, location, tmp_path):
    secrets.connection(web_identity_token_file=str(tmp_path / "none"), iam_role_arn=role)

    error = refusal(configured(), location)

    assert type(error) is ConfigurationError
    assert error.details["field"] == "web_identity_token_file"


# --- a connection of type aws ------------------------------------------------------------------------------------------


def test_the_aws_connection_takes_precedence_over_the_default_chain(secrets, s3_server, owner, location):
    secrets.connection(endpoint_url=s3_server.endpoint_url, aws_conn_id="of_flights")
    secrets.aws_connection("of_flights", owner)
    secrets.ambient(s3_server.denied)

    write(BatchExecutionHook(), location)


def test_an_executions_keys_take_precedence_over_the_aws_connection(
    secrets, names, s3_server, owner, location
):
    secrets.connection(endpoint_url=s3_server.endpoint_url, aws_conn_id="there_is_none")
    secrets.keys(owner.access_key_id, owner.secret_access_key)

    write(configured(**names), location)


def test_the_argument_takes_precedence_over_the_connections_extra(secrets, s3_server, owner, location):
    secrets.connection(endpoint_url=s3_server.endpoint_url, aws_conn_id="there_is_none")
    secrets.aws_connection("of_flights", owner)

    write(BatchExecutionHook(aws_conn_id="of_flights"), location)


def test_a_missing_aws_connection_does_not_fall_back_to_the_default_chain(
    secrets, s3_server, owner, location
):
    secrets.connection(endpoint_url=s3_server.endpoint_url, aws_conn_id="of_flights")
    secrets.ambient(owner)

    error = refusal(BatchExecutionHook(), location)

    assert type(error) is ConfigurationError
    assert str(error).startswith("aws_conn_id: ")
    assert "'of_flights'" in str(error)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"conn_type": "http"}, "of type 'http'"),
        ({"login": "AKIA123"}, "half of a key pair"),
        ({"password": "the-secret-key"}, "half of a key pair"),
        ({"extra": {"aws_access_key_id": "AKIA123"}}, "half of a key pair"),
        ({"extra": {"profile_name": "nobody"}}, "nobody"),
        ({"extra": {"role_arn": OTHER_ROLE, "assume_role_method": "magic"}}, "magic"),
    ],
)
def test_an_unusable_aws_connection_does_not_fall_back_to_the_default_chain(
    secrets, s3_server, owner, location, parts, expected
):
    secrets.connection(endpoint_url=s3_server.endpoint_url, aws_conn_id="of_flights")
    secrets.aws_connection("of_flights", **parts)
    secrets.ambient(owner)

    error = refusal(BatchExecutionHook(), location)

    assert type(error) is ConfigurationError
    assert error.details["field"] == "aws_conn_id"
    assert expected in str(error)
    assert "the-secret-key" not in str(error)


def test_role_region_and_endpoints_of_an_aws_connection_are_used(
    secrets, s3_server, caller, role, proxy, location
):
    services = {"s3": {"endpoint_url": proxy.endpoint_url}, "sts": {"endpoint_url": s3_server.endpoint_url}}
    secrets.aws_connection(
        "of_flights",
        caller,
        extra={"role_arn": role, "region_name": "us-east-1", "service_config": services},
    )

    write(BatchExecutionHook(aws_conn_id="of_flights"), location)

    (request,) = proxy.requests
    assert request.access_key_id.startswith("ASIA")
    assert request.region == "us-east-1"


def test_a_role_is_assumed_on_top_of_the_aws_connection(secrets, s3_server, caller, role, location):
    secrets.connection(endpoint_url=s3_server.endpoint_url, aws_conn_id="of_flights")
    secrets.aws_connection("of_flights", caller)

    write(configured(iam_role_arn=role), location)

    error = refusal(configured(iam_role_arn=OTHER_ROLE), location)
    assert "the credentials of aws_conn_id 'of_flights'" in str(error)


def test_a_denied_role_of_the_aws_connection_is_named(secrets, s3_server, caller, location):
    sts = {"sts": {"endpoint_url": s3_server.endpoint_url}}
    secrets.aws_connection(
        "of_flights",
        caller,
        extra={"role_arn": OTHER_ROLE, "region_name": "us-east-1", "service_config": sts},
    )

    error = refusal(BatchExecutionHook(aws_conn_id="of_flights"), location)

    assert type(error) is AccessDeniedError
    assert error.details["field"] == "aws_conn_id"
    assert OTHER_ROLE in str(error)
    assert caller.secret_access_key not in str(error)


def test_an_unreachable_sts_of_the_aws_connection_is_retryable(secrets, caller, location):
    sts = {"sts": {"endpoint_url": f"http://127.0.0.1:{free_port()}"}}
    quick = {"retries": {"total_max_attempts": 1}}
    secrets.aws_connection(
        "of_flights",
        caller,
        extra={
            "role_arn": OTHER_ROLE,
            "region_name": "us-east-1",
            "service_config": sts,
            "config_kwargs": quick,
        },
    )

    error = refusal(BatchExecutionHook(aws_conn_id="of_flights"), location)

    assert type(error) is StorageError
    assert error.retryable
    assert error.details["field"] == "aws_conn_id"


# --- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["key_of_flights", "secret_of_flights"])
def test_a_missing_secret_does_not_fall_back_to_other_credentials(
    secrets, names, s3_server, owner, location, monkeypatch, missing
):
    secrets.connection(endpoint_url=s3_server.endpoint_url, aws_conn_id="of_flights")
    secrets.aws_connection("of_flights", owner)
    secrets.ambient(owner)
    secrets.keys(owner.access_key_id, owner.secret_access_key)
    monkeypatch.delenv(f"AIRFLOW_VAR_{missing.upper()}")

    error = refusal(configured(**names), location)

    assert type(error) is ConfigurationError
    assert missing in str(error)


@pytest.mark.parametrize(("field", "secret"), [("access_secret_name", "1234"), ("access_secret_name", "")])
def test_a_secret_too_short_to_be_masked_is_rejected(secrets, names, field, secret):
    secrets.keys("AKIA123", secret)

    with pytest.raises(ConfigurationError, match=f"^{field}: .*'secret_of_flights'") as refused:
        BatchExecutionHook(**names).get_conn()

    assert refused.value.details["field"] == field


def test_an_access_key_id_is_not_secret_and_may_be_short(secrets, names):
    secrets.keys("abc", "the-secret-key")

    assert BatchExecutionHook(**names).get_conn().access_key_id == "abc"


@dataclass
class Supervisor:
    """Stands in for the process that a task requests connections and variables from."""

    respond: Callable[[], Any]

    def send(self, _message: Any) -> Any:
        return self.respond()


def raise_server_error() -> Any:
    raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 500}))


@pytest.mark.parametrize(
    "respond",
    [raise_server_error, lambda: ErrorResponse(error=ErrorType.GENERIC_ERROR)],
    ids=["api-server-error", "unknown-error"],
)
@pytest.mark.parametrize(
    ("hook", "field"),
    [
        (BatchExecutionHook(), "batch_execution_conn_id"),
        (BatchExecutionHook("of_flights"), "batch_execution_conn_id"),
        (BatchExecutionHook("known", aws_conn_id="of_flights"), "aws_conn_id"),
        (BatchExecutionHook("known", access_token_name="k", access_secret_name="s"), "access_token_name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failed_lookup_is_not_mistaken_for_not_found(
    secrets, owner, location, monkeypatch, respond, hook, field
):
    secrets.connection("known")
    secrets.ambient(owner)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(respond), raising=False)

    error = refusal(hook, location)

    assert type(error) is StorageError
    assert error.retryable
    assert error.details["field"] == field


def test_the_default_connection_is_optional(monkeypatch):
    absent = Supervisor(lambda: ErrorResponse(error=ErrorType.CONNECTION_NOT_FOUND))
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", absent, raising=False)

    assert BatchExecutionHook().get_conn().endpoint_url is None


def test_denied_access_is_not_mistaken_for_not_found(monkeypatch, location):
    denied = Supervisor(lambda: ErrorResponse(error=ErrorType.PERMISSION_DENIED))
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", denied, raising=False)

    assert type(refusal(BatchExecutionHook(), location)) is AccessDeniedError


def test_a_roles_keys_and_tokens_are_masked(secrets, s3_server, caller, role, proxy, location):
    secrets.connection(endpoint_url=proxy.endpoint_url, iam_role_arn=role)
    secrets.ambient(caller)

    write(BatchExecutionHook(), location)

    token = proxy.requests[-1].headers["x-amz-security-token"]
    for secret in (caller.secret_access_key, token):
        assert redact(f"it is {secret}!") == "it is ***!"


def test_reprs_of_the_hook_and_its_access_show_no_secret(secrets, names, owner):
    secret = f"secret-{uuid.uuid4().hex}"
    secrets.keys(owner.access_key_id, secret)
    hook = BatchExecutionHook(**names)

    shown = repr(hook.get_conn()) + str(hook.get_conn()) + repr(hook) + repr(vars(hook))

    assert secret not in shown


def test_hooks_can_be_used_from_other_threads(secrets, names, s3_server, owner, location):
    secrets.connection(endpoint_url=s3_server.endpoint_url)
    secrets.keys(owner.access_key_id, owner.secret_access_key)
    failures: list[BaseException] = []

    def write_one() -> None:
        try:
            write(configured(**names), location)
        except BaseException as error:  # noqa: BLE001  asserted below
            failures.append(error)

    threads = [threading.Thread(target=write_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures


# --- Google Cloud ------------------------------------------------------------------------------------------------------


def on_google(**fields: Any) -> BatchExecutionHook:
    return configured(source_folder="gs://flights/in", destination_folder="gs://flights/out", **fields)


def test_a_gcs_bucket_is_written_with_the_named_key(secrets, gcs_server: GcsServer):
    secrets.connection(gcs_endpoint_url=gcs_server.endpoint_url)
    secrets.variable("key_of_google", gcs_server.account.key)
    location = Location.parse(f"gs://{gcs_server.make_bucket()}/out/a.csv")

    hook = on_google(service_account_key_secret_name="key_of_google")
    write(hook, location)

    assert hook.open_storage(location).read(location) == b"x"
    assert hook.open_storage(location) is hook.open_storage(location.parent)


def test_a_google_private_key_is_masked_as_a_whole_and_line_by_line(secrets, gcs_server: GcsServer):
    secrets.connection(gcs_endpoint_url=gcs_server.endpoint_url)
    secrets.variable("key_of_google", gcs_server.account.key)

    on_google(service_account_key_secret_name="key_of_google").open_storage(Location.parse("gs://b/x"))

    parts = json.loads(gcs_server.account.key)
    for line in parts["private_key"].splitlines()[1:-1]:
        assert redact(f"it is {line}!") == "it is ***!"
    assert redact(gcs_server.account.key) == "***"
    assert redact(json.dumps(parts["private_key"])) == '"***"'


@pytest.mark.parametrize("value", [None, "1", "no key", '{"type": "authorized_user"}', "[1, 2, 3]"])
def test_a_missing_or_invalid_google_key_is_named(secrets, value):
    if value is not None:
        secrets.variable("key_of_google", value)

    error = refusal(on_google(service_account_key_secret_name="key_of_google"), Location.parse("gs://b/x"))

    assert type(error) is ConfigurationError
    assert error.details["field"] == "service_account_key_secret_name"


# --- test_connection ---------------------------------------------------------------------------------------------------


def test_the_connection_test_reports_the_identity(secrets, s3_server, owner):
    secrets.connection(endpoint_url=s3_server.endpoint_url, region_name="eu-west-3", aws_conn_id="of_flights")
    secrets.aws_connection("of_flights", owner)

    status, message = BatchExecutionHook().test_connection()

    assert status, message
    assert f"arn:aws:iam::{s3_server.account_id}:user/batchexec" in message
    assert "eu-west-3" in message
    assert "of_flights" in message


def test_the_connection_test_assumes_the_role(secrets, s3_server, caller, role):
    secrets.connection(endpoint_url=s3_server.endpoint_url, iam_role_arn=role)
    secrets.ambient(caller)

    status, message = BatchExecutionHook().test_connection()

    assert status, message
    assert f":assumed-role/{role.rpartition('/')[2]}/airflow-batchexec" in message
    assert "us-east-1" in message


def wrong_secret(caller: Keys) -> Keys:
    return Keys(caller.access_key_id, "not-the-secret-at-all")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"iam_role_arn": OTHER_ROLE}, OTHER_ROLE),
        ({"aws_conn_id": "nobody"}, "'nobody'"),
        ({"aws_conn_id": "wrong"}, "SignatureDoesNotMatch"),
        ({"endpoint_url": "nowhere"}, "endpoint_url"),
        ({"region_name": 5}, "region_name"),
        ({"web_identity_token_file": "/nowhere", "iam_role_arn": OTHER_ROLE}, "/nowhere"),
    ],
)
def test_the_connection_test_reports_the_problem_without_secrets(secrets, s3_server, caller, extra, expected):
    secrets.connection(**{"endpoint_url": s3_server.endpoint_url, **extra})
    secrets.aws_connection("wrong", wrong_secret(caller))
    secrets.ambient(caller)

    status, message = BatchExecutionHook().test_connection()

    assert not status
    assert expected in message
    assert caller.secret_access_key not in message
    assert "not-the-secret-at-all" not in message


def test_the_connection_test_reports_missing_credentials(secrets, s3_server):
    secrets.connection(endpoint_url=s3_server.endpoint_url)

    status, message = BatchExecutionHook().test_connection()

    assert not status
    assert "no usable credentials" in message


def test_the_connection_test_reports_an_unreachable_server(secrets, caller):
    secrets.connection(endpoint_url=f"http://127.0.0.1:{free_port()}")
    secrets.ambient(caller)

    status, message = BatchExecutionHook().test_connection()

    assert not status
    assert "unreachable" in message


def test_on_a_server_without_sts_the_connection_test_lists_buckets(secrets, s3_server, owner, caller, proxy):
    proxy.respond_as_sts(Response(405))
    secrets.connection(endpoint_url=proxy.endpoint_url, aws_conn_id="of_flights")
    for keys, accepted in ((owner, True), (s3_server.denied, True), (wrong_secret(caller), False)):
        secrets.aws_connection("of_flights", keys)

        status, message = BatchExecutionHook().test_connection()

        assert status is accepted, message
        assert proxy.endpoint_url in message
        assert keys.secret_access_key not in message


@pytest.mark.parametrize(
    "response",
    [Response.of_sts(403, "AccessDenied", "no"), Response.of_sts(400, "InvalidParameterValue", "no")],
)
def test_a_server_that_cannot_report_the_identity_counts_as_without_sts(secrets, owner, proxy, response):
    proxy.respond_as_sts(response)
    secrets.connection(endpoint_url=proxy.endpoint_url)
    secrets.ambient(owner)

    status, message = BatchExecutionHook().test_connection()

    assert status, message
    assert "no STS" in message
