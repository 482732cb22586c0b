"""Roles: who may assume them, and how their credentials are refreshed; and buckets in other regions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import boto3
import pytest
from aws_policies import ISSUER, MAY_ASSUME, documented_policy, oidc_token, trust
from aws_proxy import Response, start_aws_proxy
from predictors import wait_until
from s3_server import free_port

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage.s3.role import Role
from airflow_batchexec.engine.storage.s3.session import S3Access
from airflow_batchexec.engine.storage.s3.storage import S3Storage, connect
from airflow_batchexec.engine.storage.s3.transfer import TransferLimits
from airflow_batchexec.exceptions import (
    AccessDeniedError,
    BatchExecError,
    ConfigurationError,
    ObjectChangedError,
    ObjectExistsError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aws_proxy import AwsProxy
    from mypy_boto3_s3 import S3Client
    from s3_server import Keys, S3Server

MIB = 1024 * 1024
SMALL_PARTS = TransferLimits(single_bytes=5 * MIB, part_bytes=5 * MIB, parallel=3)
ANY_ROLE = "arn:aws:iam::123456789012:role/any"


@pytest.fixture(autouse=True)
def _no_local_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


@pytest.fixture(scope="module")
def account(s3_server: S3Server) -> str:
    return s3_server.account_id


@pytest.fixture(scope="module")
def caller(s3_server: S3Server) -> Keys:
    """A user who may only assume roles."""
    return s3_server.make_user(MAY_ASSUME)


@pytest.fixture(scope="module")
def role(s3_server: S3Server, account: str) -> str:
    """A role with full access to S3 that every user of the account may assume."""
    return s3_server.make_role(trust(account))


@pytest.fixture
def location(s3_server: S3Server) -> Location:
    return Location.parse(f"s3://{s3_server.make_bucket()}/in/x")


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[AwsProxy]:
    with start_aws_proxy(s3_server.endpoint_url) as running:
        yield running


def user_access(keys: Keys, endpoint_url: str, **more: object) -> S3Access:
    return S3Access(keys.access_key_id, keys.secret_access_key, endpoint_url=endpoint_url, **more)  # type: ignore[arg-type]  # by name


def connect_error(access: S3Access) -> BatchExecError:
    with pytest.raises(BatchExecError) as refused:
        connect(access)
    assert str(refused.value).startswith(f"{refused.value.details['field']}: ")
    assert str(access.secret_access_key) not in repr(refused.value)
    return refused.value


# --- who may assume a role ---------------------------------------------------------------------------------------------


def test_role_has_permissions_that_the_caller_lacks(s3_server, caller, role, location):
    with pytest.raises(AccessDeniedError):
        connect(user_access(caller, s3_server.endpoint_url)).write(location, b"x")

    storage = connect(user_access(caller, s3_server.endpoint_url, role=Role(arn=role)))

    storage.write(location, b"x")
    assert storage.read(location) == b"x"
    assert [info.location for info in storage.list(location.parent)] == [location]


def test_role_that_trusts_another_user_is_rejected_by_name(s3_server, account, caller):
    role = s3_server.make_role(trust(account, "user/another-user"))

    error = connect_error(user_access(caller, s3_server.endpoint_url, role=Role(arn=role)))

    assert type(error) is AccessDeniedError
    assert error.details["field"] == "iam_role_arn"
    assert role in str(error)
    assert "trust policy" in str(error)
    assert "the given keys" in str(error)


def test_caller_without_permission_to_assume_roles_is_rejected(s3_server, role):
    unprivileged = s3_server.make_user()

    error = connect_error(user_access(unprivileged, s3_server.endpoint_url, role=Role(arn=role)))

    assert type(error) is AccessDeniedError
    assert "sts:AssumeRole" in str(error)


def test_missing_role_is_rejected(s3_server, account, caller):
    error = connect_error(
        user_access(caller, s3_server.endpoint_url, role=Role(arn=f"arn:aws:iam::{account}:role/missing"))
    )

    assert type(error) is AccessDeniedError
    assert f"arn:aws:iam::{account}:role/missing" in str(error)


@pytest.mark.parametrize("external_id", [None, "for-another-airflow", "for-this-airflow"])
def test_external_id_must_match_the_trust_policy(s3_server, account, caller, location, external_id):
    role = s3_server.make_role(
        trust(account, StringEquals={"sts:ExternalId": "for-this-airflow"}),
    )
    access = user_access(caller, s3_server.endpoint_url, role=Role(arn=role, external_id=external_id))

    if external_id == "for-this-airflow":
        connect(access).write(location, b"x")
    else:
        error = connect_error(access)
        assert type(error) is AccessDeniedError
        assert "external_id" in str(error)


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_invalid_keys_are_rejected_before_a_role_is_assumed(s3_server, caller, role, wrong):
    access = S3Access(
        "AKIA0000000000000000" if wrong == "key" else caller.access_key_id,
        "wrong" * 8 if wrong == "secret" else caller.secret_access_key,
        endpoint_url=s3_server.endpoint_url,
        role=Role(arn=role),
        source="the keys of a test",
    )

    error = connect_error(access)

    assert type(error) is AccessDeniedError
    assert "does not accept the keys of a test" in str(error)


def test_default_chain_assumes_the_role_without_keys(s3_server, caller, role, location, monkeypatch):
    access = S3Access(endpoint_url=s3_server.endpoint_url, role=Role(arn=role))
    error = connect_error(access)
    assert type(error) is AccessDeniedError
    assert "no usable credentials" in str(error)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", caller.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", caller.secret_access_key)

    connect(access).write(location, b"x")


def test_session_assumes_the_role(s3_server, caller, role, location):
    session = boto3.Session(caller.access_key_id, caller.secret_access_key, region_name=s3_server.region)

    connect(S3Access(session=session, endpoint_url=s3_server.endpoint_url, role=Role(arn=role))).write(
        location, b""
    )


@pytest.mark.parametrize(("base", "trusted"), [("airflow-worker-7", True), ("another-user", False)])
def test_documented_worker_trust_policy_admits_only_workers(
    s3_server, account, caller, location, base, trusted
):
    policy = documented_policy(
        "trust-workers.json",
        ACCOUNT_ID=account,
        WORKER_ROLE="airflow-worker",
        EXTERNAL_ID="for-this-airflow",
    )
    # AWS matches the role's ARN, but this server matches the ARN of the role's session.
    arns = policy["Statement"][0]["Condition"]["ArnLike"]
    assert arns["aws:PrincipalArn"] == f"arn:aws:iam::{account}:role/airflow-worker*"
    arns["aws:PrincipalArn"] = f"arn:aws:sts::{account}:assumed-role/airflow-worker*"
    target = s3_server.make_role(policy)
    worker = s3_server.make_role(trust(account), MAY_ASSUME, name=base)
    sts = boto3.client(
        "sts",
        endpoint_url=s3_server.endpoint_url,
        region_name=s3_server.region,
        aws_access_key_id=caller.access_key_id,
        aws_secret_access_key=caller.secret_access_key,
    )
    keys = sts.assume_role(RoleArn=worker, RoleSessionName="worker")["Credentials"]
    access = S3Access(
        keys["AccessKeyId"],
        keys["SecretAccessKey"],
        keys["SessionToken"],
        endpoint_url=s3_server.endpoint_url,
        role=Role(arn=target, external_id="for-this-airflow"),
    )

    if trusted:
        connect(access).write(location, b"x")
    else:
        error = connect_error(access)
        assert type(error) is AccessDeniedError
        assert f"assumed-role/{base}" in str(error)


# --- web identities ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service_account_role(s3_server: S3Server, account: str) -> str:
    """A role with the documented trust policy for a cluster's service account."""
    return s3_server.make_role(
        documented_policy(
            "trust-service-account.json",
            ACCOUNT_ID=account,
            ISSUER=ISSUER,
            NAMESPACE="jobs",
            SERVICE_ACCOUNT="worker",
        )
    )


def token_access(role: str, file: Path, endpoint_url: str) -> S3Access:
    return S3Access(endpoint_url=endpoint_url, role=Role(arn=role, web_identity_token_file=file))


def test_documented_service_account_needs_no_keys(s3_server, service_account_role, location, tmp_path):
    (tmp_path / "token").write_text(oidc_token() + "\n")

    connect(token_access(service_account_role, tmp_path / "token", s3_server.endpoint_url)).write(
        location, b"x"
    )


@pytest.mark.parametrize(
    "claims",
    [
        {"audience": "vault.example.com"},
        {"subject": "system:serviceaccount:jobs:another-user"},
        {"issuer": "https://oidc.example.com/id/ANOTHER"},
    ],
    ids=lambda claims: next(iter(claims)),
)
def test_another_audience_subject_or_issuer_is_rejected(s3_server, service_account_role, tmp_path, claims):
    token = oidc_token(**claims)
    (tmp_path / "token").write_text(token)

    error = connect_error(token_access(service_account_role, tmp_path / "token", s3_server.endpoint_url))

    assert type(error) is AccessDeniedError
    assert service_account_role in str(error)
    assert "audience" in str(error)
    assert "web_identity_token_file" in str(error)
    assert token not in repr(error)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe\x00"])
def test_token_file_without_a_token_is_named(tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)

    error = connect_error(token_access(ANY_ROLE, file, "http://127.0.0.1:9"))

    assert type(error) is ConfigurationError
    assert error.details["field"] == "web_identity_token_file"
    assert str(file) in str(error)


def test_token_file_is_read_again_for_each_refresh(service_account_role, location, tmp_path, proxy):
    proxy.session_life(3)
    (tmp_path / "token").write_text(oidc_token())
    storage = connect(token_access(service_account_role, tmp_path / "token", proxy.endpoint_url))
    rotated = oidc_token(audience="sts.amazonaws.com") + "2"
    (tmp_path / "token").write_text(rotated)

    wait_until(lambda: storage.write(location, b"x") and proxy.count("AssumeRoleWithWebIdentity") > 1)

    assert [request.form["WebIdentityToken"] for request in proxy.requests if request.action][1] == rotated


# --- expiring credentials ----------------------------------------------------------------------------------------------


def last_session_client(endpoint_url: str, reported: list[str]) -> S3Client:
    """A client with the keys that STS issued last, as reported for masking: ID, secret, token."""
    last = max(index for index, secret in enumerate(reported) if secret.startswith("ASIA"))
    key, secret, token = reported[last : last + 3]
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
    )


def has_expired(client: S3Client, bucket: str) -> bool:
    try:
        client.list_objects_v2(Bucket=bucket)
    except client.exceptions.ClientError as error:
        # The server forgets an expired session as soon as any other starts.
        return error.response["Error"]["Code"] in {"ExpiredToken", "InvalidAccessKeyId"}
    return False


def test_expiring_session_is_refreshed_between_operations(s3_server, caller, role, location, proxy):
    proxy.session_life(3, keys=caller)
    reported: list[str] = []
    access = user_access(caller, proxy.endpoint_url, role=Role(arn=role), on_secret=reported.append)
    storage = connect(access)
    first = storage.write(location, b"before")
    old, sessions = last_session_client(s3_server.endpoint_url, reported), proxy.count("AssumeRole")

    wait_until(lambda: has_expired(old, location.bucket))

    assert storage.read_with_etag(location) == (b"before", first.etag)
    assert proxy.count("AssumeRole") == sessions + 1
    storage.replace(location, b"after", etag=first.etag)
    assert storage.read(location) == b"after"


def test_shortest_session_is_not_refreshed_for_each_request(caller, role, location, proxy):
    storage = connect(user_access(caller, proxy.endpoint_url, role=Role(arn=role, duration_seconds=900)))

    for _ in range(5):
        storage.write(location, b"x")

    assert proxy.count("AssumeRole") == 1
    assert [r.form["DurationSeconds"] for r in proxy.requests if r.action] == ["900"]


@pytest.fixture
def early_expired_storage(s3_server, caller, role, location, proxy) -> S3Storage:
    """A storage whose first session S3 already rejects, although STS gave it a lifetime of an hour."""
    reported: list[str] = []
    proxy.session_life(2, reported_seconds=3600, keys=caller)
    access = user_access(caller, proxy.endpoint_url, role=Role(arn=role), on_secret=reported.append)
    storage = connect(access, limits=SMALL_PARTS)
    old = last_session_client(s3_server.endpoint_url, reported)
    wait_until(lambda: has_expired(old, location.bucket))
    proxy.rules.clear()
    return storage


def operations(storage: S3Storage, location: Location, tmp_path: Path) -> dict[str, Callable[[], object]]:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"y")
    large.write_bytes(bytes(12 * MIB))
    return {
        "publish": lambda: storage.publish(small, location),
        "list": lambda: list(storage.list(location.parent)),
        "stat": lambda: storage.stat(location),
        "read": lambda: storage.read(location),
        "write": lambda: storage.write(location, b"y"),
        "create": lambda: storage.create(location.parent.join("new"), b"y"),
        "publish in parts": lambda: storage.publish(large, location),
        "fetch in parts": lambda: storage.fetch(storage.stat(location), tmp_path / "fetched"),
        "delete": lambda: storage.delete(location),
    }


@pytest.mark.parametrize("operation", ["stat", "publish in parts"])
def test_session_that_s3_rejects_early_is_refreshed_and_the_request_succeeds(
    s3_server, early_expired_storage, location, proxy, tmp_path, operation
):
    s3_server.client.put_object(Bucket=location.bucket, Key=location.key, Body=b"x")

    operations(early_expired_storage, location, tmp_path)[operation]()

    assert proxy.count("AssumeRole") == 2


@pytest.mark.parametrize("rejected_as", ["expired", "unknown"])
def test_each_rejected_operation_refreshes_the_session_once(
    caller, role, location, proxy, tmp_path, rejected_as
):
    access = user_access(caller, proxy.endpoint_url, role=Role(arn=role))
    storage = connect(access, limits=SMALL_PARTS)
    proxy.refuse_as_expired() if rejected_as == "expired" else proxy.refuse_as_unknown()

    for number, operation in enumerate(operations(storage, location, tmp_path).values()):
        assert proxy.count("AssumeRole") == 1 + number
        proxy.expire_all()
        operation()

    assert (tmp_path / "fetched").stat().st_size == 12 * MIB


def test_denied_head_request_refreshes_the_session_once(caller, role, location, proxy):
    storage = connect(user_access(caller, proxy.endpoint_url, role=Role(arn=role)))
    proxy.deny_heads()

    for _ in range(3):
        with pytest.raises(AccessDeniedError):
            storage.stat(location)

    assert proxy.count("AssumeRole") == 2


def test_failed_refresh_is_reported_and_leaves_nothing_behind(
    s3_server, early_expired_storage, location, proxy, tmp_path, role
):
    proxy.respond_as_sts(Response.of_sts(403, "AccessDenied", "not any more"))
    source = tmp_path / "source"
    source.write_bytes(b"x")

    with pytest.raises(AccessDeniedError, match="not any more") as refused:
        early_expired_storage.publish(source, location)

    assert role in str(refused.value)
    assert refused.value.details["field"] == "iam_role_arn"
    assert source.read_bytes() == b"x"
    assert s3_server.client.list_objects_v2(Bucket=location.bucket)["KeyCount"] == 0


def test_multipart_upload_reports_a_failed_refresh(caller, role, location, proxy, tmp_path, caplog):
    storage = connect(user_access(caller, proxy.endpoint_url, role=Role(arn=role)), limits=SMALL_PARTS)
    proxy.refuse_as_expired()
    proxy.respond_as_sts(Response.of_sts(403, "AccessDenied", "not any more"), after=1)
    large = tmp_path / "large"
    large.write_bytes(bytes(11 * MIB))

    def expire_session_after_start(request, pass_on):
        response = pass_on(request)
        if "uploads" in request.path:
            proxy.expire_all()
        return response

    proxy.rules.insert(0, expire_session_after_start)

    with pytest.raises(AccessDeniedError, match="not any more"):
        storage.publish(large, location)

    assert large.stat().st_size == 11 * MIB
    assert "Could not abort the multipart upload" in caplog.text


def test_session_rejected_after_a_refresh_is_retryable(caller, role, location, proxy):
    storage = connect(user_access(caller, proxy.endpoint_url, role=Role(arn=role)))
    expired = Response.of_s3(400, "ExpiredToken", "The provided token has expired.", {})
    proxy.rules.append(lambda request, pass_on: pass_on(request) if request.action else expired)

    with pytest.raises(StorageError, match="ExpiredToken") as refused:
        storage.read(location)

    assert refused.value.retryable
    assert proxy.count("AssumeRole") == 2


def test_denied_request_does_not_refresh_the_session(s3_server, account, caller, location, proxy):
    role = s3_server.make_role(trust(account), MAY_ASSUME)
    storage = connect(user_access(caller, proxy.endpoint_url, role=Role(arn=role)))

    for operation in (storage.read, lambda place: storage.write(place, b"x")):
        with pytest.raises(AccessDeniedError):
            operation(location)

    assert proxy.count("AssumeRole") == 1


# --- STS errors --------------------------------------------------------------------------------------------------------


def test_unreachable_sts_fails_fast_and_is_retryable(s3_server, caller, role):
    access = user_access(
        caller,
        s3_server.endpoint_url,
        role=Role(arn=role),
        sts_endpoint_url=f"http://127.0.0.1:{free_port()}",
    )

    error = connect_error(access)

    assert type(error) is StorageError
    assert error.retryable
    assert error.details["field"] == "sts_endpoint_url"
    assert role in str(error)


def test_sts_endpoint_is_used_only_to_assume_roles(s3_server, caller, role, location, proxy):
    access = user_access(
        caller, s3_server.endpoint_url, role=Role(arn=role), sts_endpoint_url=proxy.endpoint_url
    )

    connect(access).write(location, b"x")

    assert [request.action for request in proxy.requests] == ["AssumeRole"]


@pytest.mark.parametrize(
    ("answer", "kind", "field"),
    [
        (Response.of_sts(400, "MalformedPolicyDocument", ""), ConfigurationError, "sts_endpoint_url"),
        (Response(405), ConfigurationError, "sts_endpoint_url"),
        (Response(200, {}, b"<html>welcome"), ConfigurationError, "sts_endpoint_url"),
        (
            Response(404, {"content-type": "text/html"}, b"<p>not here</p>"),
            ConfigurationError,
            "sts_endpoint_url",
        ),
        (
            Response.of_sts(
                400,
                "ValidationError",
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            ),
            ConfigurationError,
            "role_duration_seconds",
        ),
        (
            Response.of_sts(400, "ValidationError", "Request ARN is invalid"),
            ConfigurationError,
            "iam_role_arn",
        ),
        (
            Response.of_sts(403, "RegionDisabledException", "STS is not activated in this region"),
            ConfigurationError,
            "region_name",
        ),
        (
            Response.of_sts(403, "ExpiredToken", "The security token is expired"),
            AccessDeniedError,
            "iam_role_arn",
        ),
        (Response.of_sts(403, "SomethingNew", "no"), AccessDeniedError, "iam_role_arn"),
        (Response.of_sts(503, "ServiceUnavailable", "busy"), StorageError, "iam_role_arn"),
        (Response.of_sts(400, "Throttling", "Rate exceeded"), StorageError, "iam_role_arn"),
    ],
    ids=lambda value: value.body.decode()[-90:] or str(value.status) if isinstance(value, Response) else "",
)
def test_sts_error_names_the_field(caller, role, proxy, answer, kind, field):
    proxy.respond_as_sts(answer)

    error = connect_error(user_access(caller, proxy.endpoint_url, role=Role(arn=role)))

    assert type(error) is kind
    assert error.details["field"] == field
    assert role in str(error)


@pytest.mark.parametrize(
    ("code", "kind", "field"),
    [
        ("ExpiredTokenException", AccessDeniedError, "web_identity_token_file"),
        ("InvalidIdentityToken", AccessDeniedError, "web_identity_token_file"),
        ("IDPRejectedClaim", AccessDeniedError, "web_identity_token_file"),
        ("IDPCommunicationError", StorageError, "iam_role_arn"),
        ("ValidationError", ConfigurationError, "iam_role_arn"),
    ],
)
def test_sts_error_never_quotes_the_token(proxy, tmp_path, code, kind, field):
    token = oidc_token()
    (tmp_path / "token").write_text(token)
    proxy.respond_as_sts(Response.of_sts(400, code, f"Value '{token}' at 'webIdentityToken' failed"))

    error = connect_error(token_access(ANY_ROLE, tmp_path / "token", proxy.endpoint_url))

    assert type(error) is kind
    assert error.details["field"] == field
    assert token not in repr(error)


# --- secrets -----------------------------------------------------------------------------------------------------------


def test_every_secret_is_reported_before_its_first_use_and_never_shown(caller, role, location, proxy):
    reported: list[str] = []
    seen: list[tuple[bool, ...]] = []

    def check(request, pass_on):
        token = request.headers.get("x-amz-security-token", "")
        seen.append((caller.secret_access_key in reported, not token or token in reported))
        return pass_on(request)

    proxy.rules.append(check)
    access = user_access(caller, proxy.endpoint_url, role=Role(arn=role), on_secret=reported.append)
    storage = connect(access)
    storage.write(location, b"x")

    assert seen == [(True, True)] * 2
    assert len(set(reported)) == 4
    shown = repr(access) + repr(storage) + repr(vars(storage))
    assert not [secret for secret in reported if secret in shown]


def test_secrets_of_the_default_chain_are_reported(s3_server, caller, location, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_access_key)
    reported: list[str] = []

    connect(S3Access(endpoint_url=s3_server.endpoint_url, on_secret=reported.append)).write(location, b"x")

    assert reported == [s3_server.secret_access_key]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"arn": ""}, "iam_role_arn"),
        ({"arn": "arn:aws:iam::12:role/x"}, "iam_role_arn"),
        ({"arn": "arn:aws:iam::123456789012:user/x"}, "iam_role_arn"),
        ({"arn": f"{ANY_ROLE}\n"}, "iam_role_arn"),
        ({"session_name": "x"}, "role_session_name"),
        ({"session_name": "a name"}, "role_session_name"),
        ({"external_id": "x"}, "external_id"),
        ({"external_id": "über"}, "external_id"),
        ({"duration_seconds": 899}, "role_duration_seconds"),
        ({"duration_seconds": 43_201}, "role_duration_seconds"),
    ],
)
def test_malformed_role_is_rejected_by_field(wrong, field):
    with pytest.raises(ConfigurationError, match=f"^{field}: ") as refused:
        Role(**{"arn": ANY_ROLE, **wrong})
    assert refused.value.details["field"] == field


# --- regions -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["", "ap-south-1"], ids=["no-region", "a-wrong-region"])
def region_name(request) -> str:
    return request.param


@pytest.fixture(params=[False, True], ids=["301", "400"])
def other_region_location(s3_server, proxy, request) -> Location:
    """A bucket in another region, which responds with a redirect or rejects the signature."""
    bucket = s3_server.make_bucket(region="eu-central-1")
    if request.param:
        proxy.refuse_other_regions(bucket, "eu-central-1")
    return Location.parse(f"s3://{bucket}/in/x")


def test_bucket_in_another_region_is_detected_by_any_first_operation(
    s3_server, proxy, other_region_location, tmp_path
):
    access = user_access(s3_server, proxy.endpoint_url)
    for name in operations(connect(access), other_region_location, tmp_path):
        operations(connect(access, limits=SMALL_PARTS), other_region_location, tmp_path)[name]()


def test_requests_go_to_the_detected_region(s3_server, proxy, other_region_location, region_name, tmp_path):
    storage = connect(user_access(s3_server, proxy.endpoint_url, region_name=region_name), limits=SMALL_PARTS)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(12 * MIB))
    content = source.read_bytes()

    made = storage.create(other_region_location.parent.join("lock"), b"1")
    with pytest.raises(ObjectExistsError):
        storage.create(made.location, b"2")
    replaced = storage.replace(made.location, b"3", etag=made.etag)
    with pytest.raises(ObjectChangedError):
        storage.replace(made.location, b"4", etag=made.etag)
    info = storage.publish(source, other_region_location)
    assert storage.fetch(info, tmp_path / "fetched").read_bytes() == content
    assert storage.list(other_region_location.parent)
    storage.delete(made.location, etag=replaced.etag)

    assert [request.region != "eu-central-1" for request in proxy.requests].count(True) == 1


def test_role_accesses_a_bucket_in_another_region_without_being_assumed_again(
    caller, role, proxy, other_region_location
):
    storage = connect(user_access(caller, proxy.endpoint_url, role=Role(arn=role)))

    with pytest.raises(StorageError, match="does not exist"):
        storage.stat(other_region_location)
    storage.write(other_region_location, b"x")

    assert storage.stat(other_region_location).size_bytes == 1
    assert proxy.count("AssumeRole") == 1
