"""Verifies credentials early by looking up the identity they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from airflow_batchexec.engine.storage.s3.errors import error_code
from airflow_batchexec.engine.storage.s3.session import open_session, sts_client
from airflow_batchexec.engine.storage.s3.sts_errors import sts_errors
from airflow_batchexec.exceptions import AccessDeniedError, ConfigurationError, StorageError

if TYPE_CHECKING:
    import boto3

    from airflow_batchexec.engine.storage.s3.session import S3Access

__all__ = ["Identity", "identify"]

_SECONDS = 10


@dataclass(frozen=True)
class Identity:
    """The caller's identity.

    Attributes:
        arn: The ARN of the user or role session; empty if a server without an STS accepts the credentials.
        region: The region that is tried first.
    """

    arn: str
    region: str


def identify(access: S3Access, *, field: str) -> Identity:
    """Assume the role, if any, and look up the caller's identity.

    For a server other than AWS that has no STS, list its buckets instead, which shows whether it knows the keys.

    Args:
        access: Credentials and endpoints for S3.
        field: The field that sets the credentials, for messages.

    Raises:
        AccessDeniedError: The credentials are rejected, or the role cannot be assumed with them.
        ConfigurationError: The role, an endpoint or the machine's AWS configuration cannot be used.
        StorageError: STS or S3 is unreachable.
    """
    session = open_session(access)
    client = sts_client(access, session)
    region = client.meta.region_name
    try:
        with sts_errors(
            "cannot look up the caller's identity", source=access.credentials_source, field=field
        ):
            return Identity(client.get_caller_identity()["Arn"], region)
    except (AccessDeniedError, ConfigurationError) as error:
        responded = "code" in error.details
        if not responded or access.sts_endpoint_url or not access.endpoint_url:
            raise
    _check_keys(access, session, field)
    return Identity("", region)


def _check_keys(access: S3Access, session: boto3.Session, field: str) -> None:
    config = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"total_max_attempts": 2})
    client = session.client("s3", endpoint_url=access.endpoint_url, config=config)
    try:
        client.list_buckets()
    except ClientError as error:
        code = error_code(error)
        if code != "AccessDenied":  # AccessDenied means that the keys are known
            raise AccessDeniedError(
                f"{field}: {access.endpoint_url} does not accept {access.credentials_source}: {code}.",
                field=field,
                code=code,
            ) from error
    except BotoCoreError as error:
        raise StorageError(f"endpoint_url: S3 is unreachable. {error}", field="endpoint_url") from error
