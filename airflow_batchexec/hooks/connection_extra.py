"""The extras of a ``batch_execution`` connection: what they are called, and what they may be."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_batchexec.engine.storage.s3.session import Role

__all__ = ["ConnectionExtra"]

_REGION = re.compile(r"(?![0-9]+\Z)(?!-)[A-Za-z0-9-]{1,63}(?<!-)", re.ASCII)
_CONN_ID = re.compile(r"[\w.:-]{1,250}", re.ASCII)
# Stands for the role where none is asked for, so that what is said of roles is checked nevertheless.
_SOME_ROLE = "arn:aws:iam::000000000000:role/any"


@dataclass(frozen=True, kw_only=True)
class ConnectionExtra:
    """What a connection says; an empty text is unset.

    Attributes:
        region_name: The region of the buckets that is tried first.
        endpoint_url: An S3 server other than AWS, and its STS.
        sts_endpoint_url: An STS other than that.
        aws_conn_id: An Airflow connection of type ``aws`` that credentials come from.
        iam_role_arn: The role that is assumed, unless a request names its own.
        external_id: What is told when a role is assumed.
        role_session_name: What AWS's records call the role's session.
        role_duration_seconds: How long a role's keys live, 900 to 43200 seconds.
        web_identity_token_file: An OIDC token's file, by which a role is assumed without other credentials.
        gcs_endpoint_url: A Google Cloud Storage server other than Google's.
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
            raise _wrong("region_name", f"{self.region_name!r} is not the name of a region")
        if self.aws_conn_id and not _CONN_ID.fullmatch(self.aws_conn_id):
            raise _wrong("aws_conn_id", f"{self.aws_conn_id!r} is not the id of a connection")

    @classmethod
    def parse(cls, extra: Any) -> ConnectionExtra:
        """The extras of a connection, from their JSON object; names that are not known are left out.

        Raises:
            ConfigurationError: A value is malformed; ``details["field"]`` names it.
        """
        if not isinstance(extra, dict):
            raise _wrong("extra", "it is no JSON object")
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
    def unknown(cls, extra: Mapping[str, Any]) -> list[str]:
        """The names in a connection that mean nothing here."""
        return sorted(set(extra) - set(cls.names()))

    def role(self, requested_arn: str) -> Role | None:
        """The role to assume: the one that is requested, else the connection's own.

        Raises:
            ConfigurationError: The ARN, or what is said of assuming roles, is malformed.
        """
        from airflow_batchexec.engine.storage.s3.session import Role  # noqa: PLC0415  boto3 takes its time

        arn = requested_arn or self.iam_role_arn
        named = {"session_name": self.role_session_name} if self.role_session_name else {}
        role = Role(
            arn=arn or _SOME_ROLE,
            external_id=self.external_id or None,
            duration_seconds=self.role_duration_seconds,
            web_identity_token_file=Path(self.web_identity_token_file)
            if self.web_identity_token_file
            else None,
            **named,
        )
        return role if arn else None


def _read_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, f"it must be a text, not {type(value).__name__}")
    return value.strip()


def _read_seconds(value: Any) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong("role_duration_seconds", f"{value!r} is no whole number of seconds")
    return value


def _check_url(name: str, text: str) -> None:
    if not text:
        return
    try:
        url = urlsplit(text)
        _ = url.port  # a port that is no number is found when it is asked for
    except ValueError:
        raise _wrong(name, f"{text!r} is not the URL of a server") from None
    if url.username is not None or url.password is not None:
        raise _wrong(name, "it must not hold a user or a password")
    if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment:
        raise _wrong(name, f"{text!r} is not the URL of a server, as https://s3.example.com is")


def _wrong(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {problem}.", field=name)
