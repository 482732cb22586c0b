"""The documented bucket policy: a storage needs all of it, and no more.

``tests/integration/test_credentials.py`` runs a whole execution with it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from aws_policies import MAY_ASSUME, documented_policy, trust
from aws_proxy import Response, start_aws_proxy

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage.s3.role import Role
from airflow_batchexec.engine.storage.s3.session import S3Access
from airflow_batchexec.engine.storage.s3.storage import connect
from airflow_batchexec.engine.storage.s3.transfer import TransferLimits
from airflow_batchexec.exceptions import AccessDeniedError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aws_proxy import AwsProxy, Request
    from s3_server import Keys, S3Server

    from airflow_batchexec.engine.storage.s3.storage import S3Storage

MIB = 1024 * 1024
IN_PARTS = TransferLimits(single_bytes=5 * MIB, part_bytes=5 * MIB, parallel=1)


@pytest.fixture(scope="module")
def caller(s3_server: S3Server) -> Keys:
    return s3_server.make_user(MAY_ASSUME)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[AwsProxy]:
    with start_aws_proxy(s3_server.endpoint_url) as running:
        yield running


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    bucket = s3_server.make_bucket()
    s3_server.client.put_object(Bucket=bucket, Key="orders/today/a.csv", Body=b"x\n1\n")
    return bucket


@pytest.fixture
def storage(s3_server: S3Server, caller: Keys, proxy: AwsProxy, bucket: str) -> Callable[[str], S3Storage]:
    """Opens a storage with the documented policy, minus one action."""

    def open_storage(without: str) -> S3Storage:
        policy = documented_policy(
            "bucket-policy.json",
            SOURCE_BUCKET=bucket,
            DESTINATION_BUCKET=bucket,
            SOURCE_FOLDER="orders/today",
            DESTINATION_FOLDER="totals/today",
        )
        statements = [_without(statement, without) for statement in policy["Statement"]]
        role = s3_server.make_role(trust(s3_server.account_id), *[s for s in statements if s["Action"]])
        keys = S3Access(
            caller.access_key_id,
            caller.secret_access_key,
            endpoint_url=proxy.endpoint_url,
            role=Role(arn=role),
        )
        return connect(keys, limits=IN_PARTS)

    return open_storage


def _without(statement: dict[str, Any], action: str) -> dict[str, Any]:
    actions = json.loads(json.dumps(statement["Action"]))
    actions = [actions] if isinstance(actions, str) else actions
    return {**statement, "Action": [name for name in actions if f"{statement['Sid']} {name}" != action]}


OPERATIONS: dict[str, Callable[[S3Storage, Location, Location], object]] = {
    "ListBothFolders s3:ListBucket": lambda storage, source, _: list(storage.list(source)),
    "ReadInputs s3:GetObject": lambda storage, source, _: storage.read(source.join("a.csv")),
    "WriteResults s3:PutObject": lambda storage, _, out: storage.write(out.join("a.csv"), b"x"),
    "WriteResults s3:GetObject": lambda storage, _, out: storage.stat(out.join("earlier.csv")),
    "WriteResults s3:DeleteObject": lambda storage, _, out: storage.delete(out.join("earlier.csv")),
}


def test_operations_cover_all_actions_in_the_policy():
    policy = documented_policy("bucket-policy.json")
    actions = {
        f"{statement['Sid']} {action}"
        for statement in policy["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }

    assert actions == {*OPERATIONS, "WriteResults s3:AbortMultipartUpload"}


@pytest.mark.parametrize("action", OPERATIONS)
def test_each_action_in_the_policy_is_sufficient_and_necessary(s3_server, storage, bucket, action):
    source = Location.parse(f"s3://{bucket}/orders/today")
    out = Location.parse(f"s3://{bucket}/totals/today")
    s3_server.client.put_object(Bucket=bucket, Key="totals/today/earlier.csv", Body=b"x")

    with pytest.raises(AccessDeniedError):
        OPERATIONS[action](storage(action), source, out)

    OPERATIONS[action](storage(""), source, out)


def test_other_folders_are_inaccessible(storage, bucket):
    others = Location.parse(f"s3://{bucket}/orders/yesterday")
    opened = storage("")

    for operation in (
        lambda: list(opened.list(others)),
        lambda: list(opened.list(others.parent)),
        lambda: opened.read(others.join("a.csv")),
        lambda: opened.write(others.join("a.csv"), b""),
        lambda: opened.write(Location.parse(f"s3://{bucket}/orders/today/a.csv"), b""),
    ):
        with pytest.raises(AccessDeniedError):
            operation()


@pytest.mark.parametrize("allowed", [True, False])
def test_failed_multipart_upload_can_be_aborted(s3_server, storage, bucket, proxy, tmp_path: Path, allowed):
    def fail_part(request: Request, pass_on: Callable[[Request], Response]) -> Response:
        return (
            Response.of_s3(400, "EntityTooLarge", "", {})
            if "partNumber=3" in request.path
            else pass_on(request)
        )

    opened = storage("" if allowed else "WriteResults s3:AbortMultipartUpload")
    proxy.rules.append(fail_part)
    large = tmp_path / "large"
    large.write_bytes(bytes(12 * MIB))

    with pytest.raises(StorageError):
        opened.publish(large, Location.parse(f"s3://{bucket}/totals/today/large.csv"))

    assert ("Uploads" in s3_server.client.list_multipart_uploads(Bucket=bucket)) is not allowed
