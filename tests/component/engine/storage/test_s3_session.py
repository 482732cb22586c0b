"""Roles: who may assume them, how their keys are kept good; and buckets in other regions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import boto3
import pytest
from aws_policies import ISSUER, MAY_ASSUME, documented_policy, oidc_token, trust
from aws_proxy import Answer, start_aws_proxy
from pods import wait_until
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
IN_PARTS = TransferLimits(single_bytes=5 * MIB, part_bytes=5 * MIB, parallel=3)
ANY_ROLE = "arn:aws:iam::123456789012:role/any"


@pytest.fixture(autouse=True)
def _no_keys_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    """A user who may assume roles, and nothing else."""
    return s3_server.make_user(MAY_ASSUME)


@pytest.fixture(scope="module")
def role(s3_server: S3Server, account: str) -> str:
    """A role that everybody of the account may assume, and that may do everything in S3."""
    return s3_server.make_role(trust(account))


@pytest.fixture
def place(s3_server: S3Server) -> Location:
    return Location.parse(f"s3://{s3_server.make_bucket()}/in/x")


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[AwsProxy]:
    with start_aws_proxy(s3_server.endpoint_url) as running:
        yield running


def of_user(keys: Keys, endpoint_url: str, **more: object) -> S3Access:
    return S3Access(keys.access_key_id, keys.secret_access_key, endpoint_url=endpoint_url, **more)  # type: ignore[arg-type]  # by name


def refusal(access: S3Access) -> BatchExecError:
    with pytest.raises(BatchExecError) as refused:
        connect(access)
    assert str(refused.value).startswith(f"{refused.value.details['field']}: ")
    assert str(access.secret_access_key) not in repr(refused.value)
    return refused.value


# --- who may assume a role ---------------------------------------------------------------------------------------------


def test_what_the_caller_may_not_do_the_role_may(s3_server, caller, role, place):
    with pytest.raises(AccessDeniedError):
        connect(of_user(caller, s3_server.endpoint_url)).write(place, b"x")

    storage = connect(of_user(caller, s3_server.endpoint_url, role=Role(arn=role)))

    storage.write(place, b"x")
    assert storage.read(place) == b"x"
    assert [info.location for info in storage.list(place.parent)] == [place]


def test_a_role_that_trusts_somebody_else_is_refused_by_name(s3_server, account, caller):
    role = s3_server.make_role(trust(account, "user/somebody-else"))

    error = refusal(of_user(caller, s3_server.endpoint_url, role=Role(arn=role)))

    assert type(error) is AccessDeniedError
    assert error.details["field"] == "iam_role_arn"
    assert role in str(error)
    assert "trust policy" in str(error)
    assert "the given keys" in str(error)


def test_a_caller_whose_own_policy_does_not_allow_it_is_refused(s3_server, role):
    nobody = s3_server.make_user()

    error = refusal(of_user(nobody, s3_server.endpoint_url, role=Role(arn=role)))

    assert type(error) is AccessDeniedError
    assert "sts:AssumeRole" in str(error)


def test_a_role_that_does_not_exist_is_refused(s3_server, account, caller):
    error = refusal(
        of_user(caller, s3_server.endpoint_url, role=Role(arn=f"arn:aws:iam::{account}:role/nobody"))
    )

    assert type(error) is AccessDeniedError
    assert f"arn:aws:iam::{account}:role/nobody" in str(error)


@pytest.mark.parametrize("told", [None, "somebody-elses", "for-this-airflow"])
def test_an_external_id_must_be_the_one_that_is_asked_for(s3_server, account, caller, place, told):
    role = s3_server.make_role(
        trust(account, StringEquals={"sts:ExternalId": "for-this-airflow"}),
    )
    access = of_user(caller, s3_server.endpoint_url, role=Role(arn=role, external_id=told))

    if told == "for-this-airflow":
        connect(access).write(place, b"x")
    else:
        error = refusal(access)
        assert type(error) is AccessDeniedError
        assert "external_id" in str(error)


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_keys_are_refused_before_a_role_is_assumed(s3_server, caller, role, wrong):
    access = S3Access(
        "AKIA0000000000000000" if wrong == "key" else caller.access_key_id,
        "wrong" * 8 if wrong == "secret" else caller.secret_access_key,
        endpoint_url=s3_server.endpoint_url,
        role=Role(arn=role),
        source="the keys of a test",
    )

    error = refusal(access)

    assert type(error) is AccessDeniedError
    assert "does not accept the keys of a test" in str(error)


def test_without_keys_the_default_chain_assumes_the_role(s3_server, caller, role, place, monkeypatch):
    access = S3Access(endpoint_url=s3_server.endpoint_url, role=Role(arn=role))
    error = refusal(access)
    assert type(error) is AccessDeniedError
    assert "no usable credentials" in str(error)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", caller.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", caller.secret_access_key)

    connect(access).write(place, b"x")


def test_a_session_assumes_the_role(s3_server, caller, role, place):
    session = boto3.Session(caller.access_key_id, caller.secret_access_key, region_name=s3_server.region)

    connect(S3Access(session=session, endpoint_url=s3_server.endpoint_url, role=Role(arn=role))).write(
        place, b""
    )


@pytest.mark.parametrize(("base", "trusted"), [("airflow-worker-7", True), ("somebody-else", False)])
def test_the_documented_trust_in_workers_lets_them_in_and_no_others(
    s3_server, account, caller, place, base, trusted
):
    policy = documented_policy(
        "trust-workers.json",
        ACCOUNT_ID=account,
        WORKER_ROLE="airflow-worker",
        EXTERNAL_ID="for-this-airflow",
    )
    # Where AWS compares the role, this server compares the role's session.
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
        connect(access).write(place, b"x")
    else:
        error = refusal(access)
        assert type(error) is AccessDeniedError
        assert f"assumed-role/{base}" in str(error)


# --- by a web identity -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trusting_role(s3_server: S3Server, account: str) -> str:
    """A role with the documented trust in a cluster's service account."""
    return s3_server.make_role(
        documented_policy(
            "trust-service-account.json",
            ACCOUNT_ID=account,
            ISSUER=ISSUER,
            NAMESPACE="jobs",
            SERVICE_ACCOUNT="worker",
        )
    )


def by_token(role: str, file: Path, endpoint_url: str) -> S3Access:
    return S3Access(endpoint_url=endpoint_url, role=Role(arn=role, web_identity_token_file=file))


def test_the_documented_service_account_is_let_in_without_any_keys(s3_server, trusting_role, place, tmp_path):
    (tmp_path / "token").write_text(oidc_token() + "\n")

    connect(by_token(trusting_role, tmp_path / "token", s3_server.endpoint_url)).write(place, b"x")


@pytest.mark.parametrize(
    "claims",
    [
        {"audience": "vault.example.com"},
        {"subject": "system:serviceaccount:jobs:somebody-else"},
        {"issuer": "https://oidc.example.com/id/ANOTHER"},
    ],
    ids=lambda claims: next(iter(claims)),
)
def test_another_audience_subject_or_issuer_is_refused(s3_server, trusting_role, tmp_path, claims):
    token = oidc_token(**claims)
    (tmp_path / "token").write_text(token)

    error = refusal(by_token(trusting_role, tmp_path / "token", s3_server.endpoint_url))

    assert type(error) is AccessDeniedError
    assert trusting_role in str(error)
    assert "audience" in str(error)
    assert "web_identity_token_file" in str(error)
    assert token not in repr(error)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe\x00"])
def test_a_token_file_that_gives_no_token_is_named(tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)

    error = refusal(by_token(ANY_ROLE, file, "http://127.0.0.1:9"))

    assert type(error) is ConfigurationError
    assert error.details["field"] == "web_identity_token_file"
    assert str(file) in str(error)


def test_the_token_is_read_anew_for_each_renewal(trusting_role, place, tmp_path, proxy):
    proxy.session_life(3)
    (tmp_path / "token").write_text(oidc_token())
    storage = connect(by_token(trusting_role, tmp_path / "token", proxy.endpoint_url))
    rotated = oidc_token(audience="sts.amazonaws.com") + "2"
    (tmp_path / "token").write_text(rotated)

    wait_until(lambda: storage.write(place, b"x") and proxy.count("AssumeRoleWithWebIdentity") > 1)

    assert [request.form["WebIdentityToken"] for request in proxy.requests if request.action][1] == rotated


# --- keys that do not live for ever ------------------------------------------------------------------------------------


def client_of_last_session(endpoint_url: str, told: list[str]) -> S3Client:
    """A client with the keys that STS gave last, as they were told to be masked: id, secret, token."""
    last = max(index for index, secret in enumerate(told) if secret.startswith("ASIA"))
    key, secret, token = told[last : last + 3]
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
        return error.response["Error"]["Code"] == "ExpiredToken"
    return False


def test_a_session_that_runs_out_is_renewed_in_the_middle_of_the_work(s3_server, caller, role, place, proxy):
    proxy.session_life(3, keys=caller)
    told: list[str] = []
    access = of_user(caller, proxy.endpoint_url, role=Role(arn=role), on_secret=told.append)
    storage = connect(access)
    first = storage.write(place, b"before")
    old, sessions = client_of_last_session(s3_server.endpoint_url, told), proxy.count("AssumeRole")

    wait_until(lambda: has_expired(old, place.bucket))

    assert storage.read_with_etag(place) == (b"before", first.etag)
    assert proxy.count("AssumeRole") == sessions + 1
    storage.replace(place, b"after", etag=first.etag)
    assert storage.read(place) == b"after"


def test_a_session_of_the_shortest_length_is_not_renewed_for_each_request(caller, role, place, proxy):
    storage = connect(of_user(caller, proxy.endpoint_url, role=Role(arn=role, duration_seconds=900)))

    for _ in range(5):
        storage.write(place, b"x")

    assert proxy.count("AssumeRole") == 1
    assert [r.form["DurationSeconds"] for r in proxy.requests if r.action] == ["900"]


@pytest.fixture
def refused_early(s3_server, caller, role, place, proxy) -> S3Storage:
    """A storage whose first session S3 refuses already, while STS had said that it lives for an hour."""
    told: list[str] = []
    proxy.session_life(2, told_seconds=3600, keys=caller)
    access = of_user(caller, proxy.endpoint_url, role=Role(arn=role), on_secret=told.append)
    storage = connect(access, limits=IN_PARTS)
    old = client_of_last_session(s3_server.endpoint_url, told)
    wait_until(lambda: has_expired(old, place.bucket))
    proxy.rules.clear()
    return storage


def operations(storage: S3Storage, place: Location, tmp_path: Path) -> dict[str, Callable[[], object]]:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"y")
    large.write_bytes(bytes(12 * MIB))
    return {
        "publish": lambda: storage.publish(small, place),
        "list": lambda: list(storage.list(place.parent)),
        "stat": lambda: storage.stat(place),
        "read": lambda: storage.read(place),
        "write": lambda: storage.write(place, b"y"),
        "create": lambda: storage.create(place.parent.join("new"), b"y"),
        "publish in parts": lambda: storage.publish(large, place),
        "fetch in parts": lambda: storage.fetch(storage.stat(place), tmp_path / "fetched"),
        "delete": lambda: storage.delete(place),
    }


@pytest.mark.parametrize("operation", ["stat", "publish in parts"])
def test_a_session_that_s3_refuses_early_is_renewed_and_the_request_goes_through(
    s3_server, refused_early, place, proxy, tmp_path, operation
):
    s3_server.client.put_object(Bucket=place.bucket, Key=place.key, Body=b"x")

    operations(refused_early, place, tmp_path)[operation]()

    assert proxy.count("AssumeRole") == 2


def test_whatever_is_refused_renews_the_session_once_however_many_requests_there_are(
    caller, role, place, proxy, tmp_path
):
    access = of_user(caller, proxy.endpoint_url, role=Role(arn=role))
    storage = connect(access, limits=IN_PARTS)
    proxy.refuse_as_expired()

    for number, operation in enumerate(operations(storage, place, tmp_path).values()):
        assert proxy.count("AssumeRole") == 1 + number
        proxy.expire_all()
        operation()

    assert (tmp_path / "fetched").stat().st_size == 12 * MIB


def test_a_session_that_cannot_be_renewed_says_so_and_leaves_nothing_behind(
    s3_server, refused_early, place, proxy, tmp_path, role
):
    proxy.answer_sts(Answer.of_sts(403, "AccessDenied", "not any more"))
    source = tmp_path / "source"
    source.write_bytes(b"x")

    with pytest.raises(AccessDeniedError, match="not any more") as refused:
        refused_early.publish(source, place)

    assert role in str(refused.value)
    assert refused.value.details["field"] == "iam_role_arn"
    assert source.read_bytes() == b"x"
    assert s3_server.client.list_objects_v2(Bucket=place.bucket)["KeyCount"] == 0


def test_an_upload_in_parts_whose_session_cannot_be_renewed_fails_with_that_reason(
    caller, role, place, proxy, tmp_path, caplog
):
    storage = connect(of_user(caller, proxy.endpoint_url, role=Role(arn=role)), limits=IN_PARTS)
    proxy.refuse_as_expired()
    proxy.answer_sts(Answer.of_sts(403, "AccessDenied", "not any more"), after=1)
    large = tmp_path / "large"
    large.write_bytes(bytes(11 * MIB))

    def lets_the_session_run_out(request, pass_on):
        answer = pass_on(request)
        if "uploads" in request.path:
            proxy.expire_all()
        return answer

    proxy.rules.insert(0, lets_the_session_run_out)

    with pytest.raises(AccessDeniedError, match="not any more"):
        storage.publish(large, place)

    assert large.stat().st_size == 11 * MIB
    assert "could not be aborted" in caplog.text


def test_a_session_that_is_refused_even_after_a_renewal_may_be_tried_again(caller, role, place, proxy):
    storage = connect(of_user(caller, proxy.endpoint_url, role=Role(arn=role)))
    expired = Answer.of_s3(400, "ExpiredToken", "The provided token has expired.", {})
    proxy.rules.append(lambda request, pass_on: pass_on(request) if request.action else expired)

    with pytest.raises(StorageError, match="ExpiredToken") as refused:
        storage.read(place)

    assert refused.value.retryable
    assert proxy.count("AssumeRole") == 2


def test_a_denied_request_renews_no_session(s3_server, account, caller, place, proxy):
    role = s3_server.make_role(trust(account), MAY_ASSUME)
    storage = connect(of_user(caller, proxy.endpoint_url, role=Role(arn=role)))

    for operation in (storage.stat, storage.read):
        with pytest.raises(AccessDeniedError):
            operation(place)

    assert proxy.count("AssumeRole") == 1


# --- an STS that cannot be used ----------------------------------------------------------------------------------------


def test_an_sts_that_nobody_listens_on_fails_soon_and_may_be_tried_again(s3_server, caller, role):
    access = of_user(
        caller,
        s3_server.endpoint_url,
        role=Role(arn=role),
        sts_endpoint_url=f"http://127.0.0.1:{free_port()}",
    )

    error = refusal(access)

    assert type(error) is StorageError
    assert error.retryable
    assert error.details["field"] == "sts_endpoint_url"
    assert role in str(error)


def test_roles_are_assumed_at_the_sts_endpoint_and_buckets_reached_at_the_other(
    s3_server, caller, role, place, proxy
):
    access = of_user(caller, s3_server.endpoint_url, role=Role(arn=role), sts_endpoint_url=proxy.endpoint_url)

    connect(access).write(place, b"x")

    assert [request.action for request in proxy.requests] == ["AssumeRole"]


@pytest.mark.parametrize(
    ("answer", "kind", "field"),
    [
        (Answer.of_sts(400, "MalformedPolicyDocument", ""), ConfigurationError, "sts_endpoint_url"),
        (Answer(405), ConfigurationError, "sts_endpoint_url"),
        (Answer(200, {}, b"<html>welcome"), ConfigurationError, "sts_endpoint_url"),
        (
            Answer(404, {"content-type": "text/html"}, b"<p>not here</p>"),
            ConfigurationError,
            "sts_endpoint_url",
        ),
        (
            Answer.of_sts(
                400,
                "ValidationError",
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            ),
            ConfigurationError,
            "role_duration_seconds",
        ),
        (
            Answer.of_sts(400, "ValidationError", "Request ARN is invalid"),
            ConfigurationError,
            "iam_role_arn",
        ),
        (
            Answer.of_sts(403, "RegionDisabledException", "STS is not activated in this region"),
            ConfigurationError,
            "region_name",
        ),
        (
            Answer.of_sts(403, "ExpiredToken", "The security token is expired"),
            AccessDeniedError,
            "iam_role_arn",
        ),
        (Answer.of_sts(403, "SomethingNew", "no"), AccessDeniedError, "iam_role_arn"),
        (Answer.of_sts(503, "ServiceUnavailable", "busy"), StorageError, "iam_role_arn"),
        (Answer.of_sts(400, "Throttling", "Rate exceeded"), StorageError, "iam_role_arn"),
    ],
    ids=lambda value: value.body.decode()[-90:] or str(value.status) if isinstance(value, Answer) else "",
)
def test_what_sts_answers_becomes_an_error_that_names_the_field(caller, role, proxy, answer, kind, field):
    proxy.answer_sts(answer)

    error = refusal(of_user(caller, proxy.endpoint_url, role=Role(arn=role)))

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
def test_what_sts_answers_to_a_token_never_quotes_it(proxy, tmp_path, code, kind, field):
    token = oidc_token()
    (tmp_path / "token").write_text(token)
    proxy.answer_sts(Answer.of_sts(400, code, f"Value '{token}' at 'webIdentityToken' failed"))

    error = refusal(by_token(ANY_ROLE, tmp_path / "token", proxy.endpoint_url))

    assert type(error) is kind
    assert error.details["field"] == field
    assert token not in repr(error)


# --- what is told, and what is not -------------------------------------------------------------------------------------


def test_every_secret_is_told_before_it_is_used_and_shown_nowhere(caller, role, place, proxy):
    told: list[str] = []
    seen: list[tuple[bool, ...]] = []

    def check(request, pass_on):
        token = request.headers.get("x-amz-security-token", "")
        seen.append((caller.secret_access_key in told, not token or token in told))
        return pass_on(request)

    proxy.rules.append(check)
    access = of_user(caller, proxy.endpoint_url, role=Role(arn=role), on_secret=told.append)
    storage = connect(access)
    storage.write(place, b"x")

    assert seen == [(True, True)] * 2
    assert len(set(told)) == 4
    shown = repr(access) + repr(storage) + repr(vars(storage))
    assert not [secret for secret in told if secret in shown]


def test_secrets_of_the_default_chain_are_told_too(s3_server, caller, place, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_access_key)
    told: list[str] = []

    connect(S3Access(endpoint_url=s3_server.endpoint_url, on_secret=told.append)).write(place, b"x")

    assert told == [s3_server.secret_access_key]


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
def test_a_role_that_cannot_be_is_refused_by_its_field(wrong, field):
    with pytest.raises(ConfigurationError, match=f"^{field}: ") as refused:
        Role(**{"arn": ANY_ROLE, **wrong})
    assert refused.value.details["field"] == field


# --- regions -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["", "ap-south-1"], ids=["no-region", "a-wrong-region"])
def region_name(request) -> str:
    return request.param


@pytest.fixture(params=[False, True], ids=["301", "400"])
def far_away(s3_server, proxy, request) -> Location:
    """A bucket in another region, which says so by a redirect, or by refusing the signature."""
    bucket = s3_server.make_bucket(region="eu-central-1")
    if request.param:
        proxy.refuse_other_regions(bucket, "eu-central-1")
    return Location.parse(f"s3://{bucket}/in/x")


def test_a_bucket_of_another_region_is_found_by_whatever_comes_first(s3_server, proxy, far_away, tmp_path):
    access = of_user(s3_server, proxy.endpoint_url)
    for name in operations(connect(access), far_away, tmp_path):
        operations(connect(access, limits=IN_PARTS), far_away, tmp_path)[name]()


def test_once_it_is_found_no_request_goes_astray(s3_server, proxy, far_away, region_name, tmp_path):
    storage = connect(of_user(s3_server, proxy.endpoint_url, region_name=region_name), limits=IN_PARTS)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(12 * MIB))
    content = source.read_bytes()

    made = storage.create(far_away.parent.join("lock"), b"1")
    with pytest.raises(ObjectExistsError):
        storage.create(made.location, b"2")
    replaced = storage.replace(made.location, b"3", etag=made.etag)
    with pytest.raises(ObjectChangedError):
        storage.replace(made.location, b"4", etag=made.etag)
    info = storage.publish(source, far_away)
    assert storage.fetch(info, tmp_path / "fetched").read_bytes() == content
    assert storage.list(far_away.parent)
    storage.delete(made.location, etag=replaced.etag)

    assert [request.region != "eu-central-1" for request in proxy.requests].count(True) == 1


def test_a_role_reaches_a_bucket_of_another_region_without_being_assumed_again(caller, role, proxy, far_away):
    storage = connect(of_user(caller, proxy.endpoint_url, role=Role(arn=role)))

    with pytest.raises(StorageError, match="no such object"):
        storage.stat(far_away)
    storage.write(far_away, b"x")

    assert storage.stat(far_away).size_bytes == 1
    assert proxy.count("AssumeRole") == 1
