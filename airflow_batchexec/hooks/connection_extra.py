"""The extras of a ``batch_execution`` connection: their names and valid values."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_batchexec.engine.storage.s3.role import Role

__all__ = ["ConnectionExtra"]

_REGION = re.compile(r"(?![0-9]+\Z)(?!-)[A-Za-z0-9-]{1,63}(?<!-)", re.ASCII)
_CONN_ID = re.compile(r"[\w.:-]{1,250}", re.ASCII)
# Stands in if no role is requested, so that the other role settings are validated anyway.
_PLACEHOLDER_ROLE = "arn:aws:iam::000000000000:role/any"


@dataclass(frozen=True, kw_only=True)
class ConnectionExtra:
    """The extras of a connection; an empty string means not set.

    Attributes:
        region_name: The region to try first for each bucket.
        endpoint_url: The URL of an S3 server other than AWS, also used for STS.
        sts_endpoint_url: The URL of a separate STS server.
        aws_conn_id: An Airflow connection of type ``aws`` that provides the credentials.
        iam_role_arn: The role to assume, unless a request names another.
        external_id: The external id to pass when assuming a role.
        role_session_name: The session name to pass when assuming a role; it appears in CloudTrail.
        role_duration_seconds: The lifetime of a role's keys, 900 to 43200 seconds.
        web_identity_token_file: A file with an OIDC token to assume roles with, in place of other credentials.
        gcs_endpoint_url: The URL of a Google Cloud Storage server other than Google's.
    """

    region_name: str = ""
    endpoint_url: str = ""
    sts_endpoint_url: str = ""
    aws_conn_id: str = ""
    iam_role_arn: str = ""
    external_id: str = ""
    role_session_name: str = ""
    role_duration_seconds: int = 3600
    web_identity_token_file: str = ""
    gcs_endpoint_url: str = ""

    def __post_init__(self) -> None:
        for name in ("endpoint_url", "sts_endpoint_url", "gcs_endpoint_url"):
            _check_url(name, getattr(self, name))
        if self.region_name and not _REGION.fullmatch(self.region_name):
            raise _invalid("region_name", f"{self.region_name!r} is not a valid region name")
        if self.aws_conn_id and not _CONN_ID.fullmatch(self.aws_conn_id):
            raise _invalid("aws_conn_id", f"{self.aws_conn_id!r} is not a valid connection id")

    @classmethod
    def parse(cls, extra: Any) -> ConnectionExtra:
        """Parse the extras from a connection's JSON object; unknown names are ignored.

        Raises:
            ConfigurationError: A value is malformed; ``details["field"]`` names it.
        """
        if not isinstance(extra, dict):
            raise _invalid("extra", "not a JSON object")
        values = {name: extra[name] for name in cls.names() if name in extra}
        values = {name: value for name, value in values.items() if value is not None and value != ""}
        seconds = values.pop("role_duration_seconds", cls.role_duration_seconds)
        return cls(
            role_duration_seconds=_read_seconds(seconds),
            **{name: _read_text(name, value) for name, value in values.items()},
        )

    @classmethod
    def names(cls) -> list[str]:
        """The names of all extras."""
        return [field.name for field in fields(cls)]

    @classmethod
    def unknown_names(cls, extra: Mapping[str, Any]) -> list[str]:
        """The names in a connection's extras that are not supported."""
        return sorted(set(extra) - set(cls.names()))

    def role(self, requested_arn: str) -> Role | None:
        """The role to assume: the requested one, else the connection's.

        Raises:
            ConfigurationError: The ARN or another role setting is malformed.
        """
        from airflow_batchexec.engine.storage.s3.role import Role  # noqa: PLC0415  slow: imports boto3

        arn = requested_arn or self.iam_role_arn
        session_name = {"session_name": self.role_session_name} if self.role_session_name else {}
        role = Role(
            arn=arn or _PLACEHOLDER_ROLE,
            external_id=self.external_id or None,
            duration_seconds=self.role_duration_seconds,
            web_identity_token_file=Path(self.web_identity_token_file)
            if self.web_identity_token_file
            else None,
            **session_name,
        )
        return role if arn else None


def _read_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _invalid(name, f"must be a string, not {type(value).__name__}")
    return value.strip()


def _read_seconds(value: Any) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid("role_duration_seconds", f"{value!r} is not a whole number of seconds")
    return value


def _check_url(name: str, text: str) -> None:
    if not text:
        return
    try:
        url = urlsplit(text)
        _ = url.port  # validated on access
    except ValueError:
        raise _invalid(name, f"{text!r} is not a valid server URL") from None
    if url.username is not None or url.password is not None:
        raise _invalid(name, "must not contain a user name or a password")
    if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment:
        raise _invalid(name, f"{text!r} is not a valid server URL, such as https://s3.example.com")


def _invalid(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {problem}.", field=name)
