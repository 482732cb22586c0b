"""Roles of AWS: what is known of one, and the temporary keys that assuming it gives.

The keys are replaced in good time before they expire, and at once where S3 has refused them although STS had said that
they live longer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.credentials import RefreshableCredentials

from airflow_batchexec.engine.storage.s3.sts_errors import TOKEN_FIELD, sts_errors
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mypy_boto3_sts import STSClient
    from mypy_boto3_sts.type_defs import AssumeRoleRequestTypeDef

__all__ = ["Role", "RoleCredentials"]

_ARN = re.compile(r"arn:(aws[a-z-]*):iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)
_SESSION_NAME = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}", re.ASCII)
_SHORTEST_SECONDS, _LONGEST_SECONDS = 900, 43_200

# Where each part of AWS always has an STS.
_HOME_REGIONS = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}

# New keys are asked for in the last quarter of the old ones' life, but not more than 15 minutes before its end; within
# the last eighth, or 10 minutes, every request waits for them. With botocore's own 15 and 10 minutes, keys that live 15
# minutes would be asked for before each request.
_SOON_SHARE, _SOON_SECONDS = 0.25, 900.0
_NOW_SHARE, _NOW_SECONDS = 0.125, 600.0


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role of AWS, and how it is assumed.

    Attributes:
        arn: The role.
        session_name: What AWS's own records call those who act as the role.
        external_id: What the role's trust policy may ask for.
        duration_seconds: How long its keys live, 900 to 43200; they are replaced before they expire. No longer than
            the role's own limit, nor than 3600 where it is assumed as another role.
        web_identity_token_file: A file that holds an OIDC token, read anew each time. With it the role is assumed by
            ``AssumeRoleWithWebIdentity`` and needs no other credentials, else by ``AssumeRole``.

    Raises:
        ConfigurationError: A value is malformed.
    """

    arn: str
    session_name: str = "airflow-batchexec"
    external_id: str | None = None
    duration_seconds: int = 3600
    web_identity_token_file: Path | None = None

    def __post_init__(self) -> None:
        if not _ARN.fullmatch(self.arn):
            raise _malformed("iam_role_arn", self.arn, "is not the ARN of an IAM role")
        if not _SESSION_NAME.fullmatch(self.session_name):
            raise _malformed(
                "role_session_name", self.session_name, "is not 2 to 64 letters, digits and any of _+=,.@-"
            )
        if self.external_id is not None and not _EXTERNAL_ID.fullmatch(self.external_id):
            raise _malformed(
                "external_id", self.external_id, "is not 2 to 1224 letters, digits and any of _+=,.@:/-"
            )
        if not _SHORTEST_SECONDS <= self.duration_seconds <= _LONGEST_SECONDS:
            raise _malformed(
                "role_duration_seconds",
                self.duration_seconds,
                f"is not between {_SHORTEST_SECONDS} and {_LONGEST_SECONDS} seconds",
            )

    @property
    def home_region(self) -> str:
        """Where its part of AWS always has an STS."""
        return _HOME_REGIONS.get(self.arn.split(":")[1], "us-east-1")


class RoleCredentials(RefreshableCredentials):
    """A role's keys, as botocore uses them. Threads share them: one replaces them, the others go on or wait."""

    _refused_key = ""

    @classmethod
    def assume(
        cls, role: Role, client: STSClient, *, source: str, on_secret: Callable[[str], None]
    ) -> RoleCredentials:
        """Assume a role, now and whenever its keys run out.

        Args:
            role: The role.
            client: Asks STS with the credentials that may assume the role.
            source: Where those come from, for messages.
            on_secret: Is told every secret and token before its first use.

        Raises:
            AccessDeniedError: The role may not be assumed, or STS does not accept the credentials.
            ConfigurationError: The role or its token's file cannot be used.
            StorageError: STS is out of reach.
        """
        assumption = _Assumption(role, client, source, on_secret)
        keys = assumption()
        life = datetime.fromisoformat(keys["expiry_time"]) - datetime.now(UTC)
        seconds = max(0.0, life.total_seconds())
        return cls.create_from_metadata(
            metadata=keys,
            refresh_using=assumption,
            method="assume-role",
            advisory_timeout=int(min(seconds * _SOON_SHARE, _SOON_SECONDS)),
            mandatory_timeout=int(min(seconds * _NOW_SHARE, _NOW_SECONDS)),
        )

    def refuse(self, access_key_id: str) -> None:
        """Let this key be replaced before the next request; nothing happens where it has been replaced already."""
        self._refused_key = access_key_id

    def refresh_needed(self, refresh_in: int | None = None) -> bool:
        """Whether the keys are to be replaced, as botocore asks."""
        # What requests are signed with. botocore's public properties would come back here.
        in_use: str = self._frozen_credentials.access_key  # type: ignore[attr-defined]  # the stubs lack it
        return in_use == self._refused_key or super().refresh_needed(refresh_in)


class _Assumption:
    """Assumes a role whenever it is called, and gives its keys as botocore wants them."""

    def __init__(self, role: Role, client: STSClient, source: str, on_secret: Callable[[str], None]) -> None:
        self._role = role
        self._client = client
        self._source = source
        self._on_secret = on_secret

    def __call__(self) -> dict[str, str]:
        role, token_file = self._role, self._role.web_identity_token_file
        with sts_errors(
            f"the role {role.arn} cannot be assumed",
            source=TOKEN_FIELD if token_file else self._source,
            by_token=token_file is not None,
        ):
            keys = self._ask_with_token(token_file) if token_file else self._ask()
        for secret in (keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]):
            self._on_secret(secret)
        return {
            "access_key": keys["AccessKeyId"],
            "secret_key": keys["SecretAccessKey"],
            "token": keys["SessionToken"],
            "expiry_time": keys["Expiration"].isoformat(),
        }

    def _ask(self) -> Any:
        request: AssumeRoleRequestTypeDef = {
            "RoleArn": self._role.arn,
            "RoleSessionName": self._role.session_name,
            "DurationSeconds": self._role.duration_seconds,
        }
        if self._role.external_id is not None:
            request["ExternalId"] = self._role.external_id
        return self._client.assume_role(**request)["Credentials"]

    def _ask_with_token(self, token_file: Path) -> Any:
        token = _read_token(token_file)
        self._on_secret(token)
        answer = self._client.assume_role_with_web_identity(
            RoleArn=self._role.arn,
            RoleSessionName=self._role.session_name,
            DurationSeconds=self._role.duration_seconds,
            WebIdentityToken=token,
        )
        return answer["Credentials"]


def _read_token(path: Path) -> str:
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it holds no text"
        raise ConfigurationError(
            f"{TOKEN_FIELD}: the token cannot be read from {path}: {reason}.", field=TOKEN_FIELD
        ) from None
    if not token:
        raise ConfigurationError(f"{TOKEN_FIELD}: {path} is empty.", field=TOKEN_FIELD)
    return token


def _malformed(name: str, value: object, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {value!r} {problem}.", field=name)
