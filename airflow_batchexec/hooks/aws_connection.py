"""AWS sessions from Airflow connections of type ``aws``, created by the Amazon provider but without its fallback.

If a connection is missing or has only half of a key pair, the provider falls back to boto3's default chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.hooks.lookup import find_connection

if TYPE_CHECKING:
    import boto3

__all__ = ["AwsConnection", "open_aws_connection"]

_FIELD = "aws_conn_id"
_TYPE = "aws"


@dataclass(frozen=True)
class AwsConnection:
    """The settings of an ``aws`` connection.

    Attributes:
        session: Holds the credentials. If the connection names a role, it has been assumed and is renewed as needed.
        endpoint_url: The S3 endpoint; empty if not set.
        sts_endpoint_url: The STS endpoint; empty if not set.
    """

    session: boto3.Session
    endpoint_url: str
    sts_endpoint_url: str


def open_aws_connection(conn_id: str, *, region_name: str = "") -> AwsConnection:
    """Create a session from an ``aws`` connection.

    Args:
        conn_id: The connection.
        region_name: The session's region; overrides the connection's.

    Raises:
        AccessDeniedError: Access to the connection, or assuming its role, is denied.
        ConfigurationError: The connection does not exist, has another type, or cannot be used.
        StorageError: Airflow or the connection's STS is unreachable.
    """
    from airflow.sdk.exceptions import AirflowException  # noqa: PLC0415  not for parsing

    from airflow_batchexec.engine.storage.s3.sts_errors import sts_errors  # noqa: PLC0415  slow: imports boto3

    connection = find_connection(conn_id, field=_FIELD)
    if connection is None:
        raise ConfigurationError(f"{_FIELD}: connection {conn_id!r} does not exist.", field=_FIELD)
    _check(connection)
    problem, source = f"connection {conn_id!r} cannot be used", "the connection's credentials"
    try:
        with sts_errors(problem, source=source, field=_FIELD, endpoint_field=_FIELD):
            return _open(conn_id, region_name)
    except (AirflowException, NotImplementedError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{_FIELD}: {problem}: {error}", field=_FIELD) from error


def _open(conn_id: str, region_name: str) -> AwsConnection:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook  # noqa: PLC0415  takes two seconds

    hook = AwsBaseHook(aws_conn_id=conn_id, region_name=region_name or None)
    config = hook.conn_config
    return AwsConnection(
        session=hook.get_session(region_name=region_name or None),
        endpoint_url=config.get_service_endpoint_url("s3") or "",
        sts_endpoint_url=config.get_service_endpoint_url("sts", sts_connection_assume=True) or "",
    )


def _check(connection: Any) -> None:
    if connection.conn_type != _TYPE:
        raise ConfigurationError(
            f"{_FIELD}: connection {connection.conn_id!r} is of type {connection.conn_type!r}, not {_TYPE!r}.",
            field=_FIELD,
        )
    extra = connection.extra_dejson
    for names, key, secret in (
        ("login and password", connection.login, connection.password),
        (
            "aws_access_key_id and aws_secret_access_key",
            extra.get("aws_access_key_id"),
            extra.get("aws_secret_access_key"),
        ),
    ):
        if bool(key) != bool(secret):
            raise ConfigurationError(
                f"{_FIELD}: connection {connection.conn_id!r} has only half of a key pair. Set both {names}, or "
                f"neither.",
                field=_FIELD,
            )
