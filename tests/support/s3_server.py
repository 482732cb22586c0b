"""A real S3 server for tests: it checks signatures and policies, and runs for the duration of a ``with`` block.

Integration tests pass ``endpoint_url`` and the keys to other processes; other tests may use the client.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from tools.processes import until_parent_dies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

__all__ = ["EVERYTHING_IN_S3", "Keys", "S3Server", "free_port", "policy", "start_s3_server"]

REGION = "us-east-1"
READY_SECONDS = 120.0
STOP_SECONDS = 60.0

EVERYTHING_IN_S3 = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}

_numbers = count(1)


@dataclass(frozen=True)
class Keys:
    """A user's access key."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True)
class S3Server:
    """A running server, and a user with full access to it.

    Attributes:
        endpoint_url: The server's URL on loopback.
        access_key_id: The user's access key ID.
        secret_access_key: The user's secret.
        denied: The keys of a user without any permission.
        region: The region that buckets are created in.
        pid: The server's process ID.
    """

    endpoint_url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    denied: Keys
    region: str
    pid: int

    @property
    def root_iam(self) -> Any:
        """A new client with full access to users, roles and policies."""
        return _root_client("iam", self.endpoint_url)

    @property
    def account_id(self) -> str:
        """The account that owns buckets, users and roles."""
        with closing(_root_client("sts", self.endpoint_url)) as sts:
            account_id: str = sts.get_caller_identity()["Account"]
            return account_id

    @property
    def client(self) -> S3Client:
        """A new client with the user's keys."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
        )

    def make_bucket(self, name: str | None = None, *, region: str = "") -> str:
        """Create a bucket; without a name, under a unique one."""
        name = name or f"bucket-{os.getpid()}-{next(_numbers)}"
        options = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region else {}
        self.client.create_bucket(Bucket=name, **options)  # type: ignore[arg-type]  # a region is any string here
        return name

    def make_user(self, *statements: dict[str, Any]) -> Keys:
        """Create a user with the given policy statements, and return its keys."""
        with closing(self.root_iam) as iam:
            return _make_user(iam, f"user-{os.getpid()}-{next(_numbers)}", *statements)

    def make_role(self, trust: dict[str, Any], *statements: dict[str, Any], name: str | None = None) -> str:
        """Create a role and return its ARN.

        Args:
            trust: The role's trust policy.
            statements: The role's policy statements; full access to S3 by default.
            name: The role's name; a unique one by default.
        """
        name = name or f"role-{os.getpid()}-{next(_numbers)}"
        with closing(self.root_iam) as iam:
            role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
            iam.put_role_policy(
                RoleName=name,
                PolicyName="its-own",
                PolicyDocument=policy(*(statements or (EVERYTHING_IN_S3,))),
            )
        arn: str = role["Arn"]
        return arn


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def start_s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server with its files and its log in ``folder``; it is terminated and awaited on exit."""
    program = Path(sys.executable).with_name("ministack")
    command = str(program) if program.exists() else shutil.which("ministack")
    assert command, "ministack is missing; install the project's [test] extra"
    port = free_port()
    log = folder / "s3-server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*until_parent_dies(), command],
            env=_environment(folder, port),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        endpoint_url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, endpoint_url, log)
        user, denied = _make_users(endpoint_url)
        yield S3Server(
            endpoint_url=endpoint_url,
            access_key_id=user.access_key_id,
            secret_access_key=user.secret_access_key,
            denied=denied,
            region=REGION,
            pid=process.pid,
        )
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(folder: Path, port: int) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "S3_DATA_DIR": str(folder / "objects"),
        "STATE_DIR": str(folder / "state"),
        "AUTH": "true",
        "MINISTACK_HOST": "127.0.0.1",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "LOG_LEVEL": "WARNING",
        "SERVICES": "s3,sts,iam,secretsmanager",
    }


def _wait_until_ready(process: subprocess.Popen[bytes], endpoint_url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"The S3 server ended with {process.returncode}:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(f"{endpoint_url}/_ministack/health", timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"The S3 server is not ready:\n{log.read_text()}") from None
            time.sleep(0.02)  # between polls


def policy(*statements: dict[str, Any]) -> str:
    """Format a policy document."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def _root_client(service: str, endpoint_url: str) -> Any:
    return boto3.client(
        service,  # type: ignore[call-overload]  # the stubs want a literal
        endpoint_url=endpoint_url,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def _make_users(endpoint_url: str) -> tuple[Keys, Keys]:
    with closing(_root_client("iam", endpoint_url)) as iam:
        return _make_user(iam, "batchexec", EVERYTHING_IN_S3), _make_user(iam, "denied")


def _make_user(iam: Any, name: str, *statements: dict[str, Any]) -> Keys:
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    if statements:
        iam.put_user_policy(UserName=name, PolicyName="its-own", PolicyDocument=policy(*statements))
    return Keys(key["AccessKeyId"], key["SecretAccessKey"])
