"""AWS sessions from Airflow connections of type ``aws``, as the Amazon provider makes them, but without its fallback.

Where a connection is missing or holds half a pair of keys, the provider would go on with boto3's default chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.hooks.lookup import find_connection

if TYPE_CHECKING:
    import boto3

__all__ = ["AwsSource", "aws_source"]

_FIELD = "aws_conn_id"
_TYPE = "aws"


@dataclass(frozen=True)
class AwsSource:
    """What an ``aws`` connection gives.

    Attributes:
        session: Has its credentials; a role of the connection's own has been assumed, and is again when it must be.
        endpoint_url: The S3 server that it names, or an empty text.
        sts_endpoint_url: The STS that it names, or an empty text.
    """

    session: boto3.Session
    endpoint_url: str
    sts_endpoint_url: str


def aws_source(conn_id: str, *, region_name: str = "") -> AwsSource:
    """The session of an ``aws`` connection.

    Args:
        conn_id: The connection.
        region_name: The session's region in place of the connection's.

    Raises:
        AccessDeniedError: The role of the connection may not be assumed.
        ConfigurationError: There is no such connection, it is of another type, or cannot be used.
        StorageError: Its STS is out of reach.
    """
    from airflow.sdk.exceptions import AirflowException  # noqa: PLC0415  not for parsing

    from airflow_batchexec.engine.storage.s3.sts_errors import sts_errors  # noqa: PLC0415  boto3 takes its time

    connection = find_connection(conn_id, field=_FIELD)
    if connection is None:
        raise ConfigurationError(f"{_FIELD}: there is no connection {conn_id!r}.", field=_FIELD)
    _check(connection)
    problem, source = f"the connection {conn_id!r} gives no session", "what it holds"
    try:
        with sts_errors(problem, source=source, field=_FIELD, endpoint_field=_FIELD):
            return _source(conn_id, region_name)
    except (AirflowException, NotImplementedError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{_FIELD}: {problem}: {error}", field=_FIELD) from error


def _source(conn_id: str, region_name: str) -> AwsSource:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook  # noqa: PLC0415  two seconds

    hook = AwsBaseHook(aws_conn_id=conn_id, region_name=region_name or None)
    config = hook.conn_config
    return AwsSource(
        session=hook.get_session(region_name=region_name or None),
        endpoint_url=config.get_service_endpoint_url("s3") or "",
        sts_endpoint_url=config.get_service_endpoint_url("sts", sts_connection_assume=True) or "",
    )


def _check(connection: Any) -> None:
    if connection.conn_type != _TYPE:
        raise ConfigurationError(
            f"{_FIELD}: the connection {connection.conn_id!r} is of type {connection.conn_type!r}, not {_TYPE!r}.",
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
                f"{_FIELD}: the connection {connection.conn_id!r} holds half a pair of keys: set both of {names}, or "
                f"neither.",
                field=_FIELD,
            )
