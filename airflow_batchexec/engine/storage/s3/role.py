"""AWS roles, and the temporary credentials from assuming them.

Credentials are refreshed well before they expire, and immediately if S3 rejects them earlier than the expiry that STS
gave.
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
_MIN_SECONDS, _MAX_SECONDS = 900, 43_200

# A region of each AWS partition that always has an STS.
_HOME_REGIONS = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}

# Credentials are refreshed in the last quarter of their lifetime, at most 15 minutes before they expire; in the last
# eighth, at most 10 minutes before, every request waits for the refresh. With botocore's own 15 and 10 minutes,
# credentials that live 15 minutes would be refreshed before each request.
_ADVISORY_FRACTION, _ADVISORY_SECONDS = 0.25, 900.0
_MANDATORY_FRACTION, _MANDATORY_SECONDS = 0.125, 600.0


@dataclass(frozen=True, kw_only=True)
class Role:
    """An AWS role, and how to assume it.

    Attributes:
        arn: The role's ARN.
        session_name: The name of the role session, as shown in AWS's logs.
        external_id: The external ID, if the role's trust policy requires one.
        duration_seconds: The lifetime of the temporary credentials, 900 to 43200; they are refreshed before they
            expire. At most the role's own limit, and at most 3600 if it is assumed from another role.
        web_identity_token_file: A file with an OIDC token, read again for each request. With it, the role is assumed by
            ``AssumeRoleWithWebIdentity`` and needs no other credentials; otherwise by ``AssumeRole``.

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
                "role_session_name",
                self.session_name,
                "is not 2 to 64 letters, digits or characters of _+=,.@-",
            )
        if self.external_id is not None and not _EXTERNAL_ID.fullmatch(self.external_id):
            raise _malformed(
                "external_id", self.external_id, "is not 2 to 1224 letters, digits or characters of _+=,.@:/-"
            )
        if not _MIN_SECONDS <= self.duration_seconds <= _MAX_SECONDS:
            raise _malformed(
                "role_duration_seconds",
                self.duration_seconds,
                f"is not between {_MIN_SECONDS} and {_MAX_SECONDS} seconds",
            )

    @property
    def home_region(self) -> str:
        """A region of the role's AWS partition that always has an STS."""
        return _HOME_REGIONS.get(self.arn.split(":")[1], "us-east-1")


class RoleCredentials(RefreshableCredentials):
    """A role's temporary credentials. Threads share them: one refreshes, the others continue or wait."""

    _rejected_key = ""

    @classmethod
    def assume(
        cls, role: Role, client: STSClient, *, source: str, on_secret: Callable[[str], None]
    ) -> RoleCredentials:
        """Assume a role now, and again whenever its credentials are about to expire.

        Args:
            role: The role.
            client: An STS client with the credentials that may assume the role.
            source: Where those credentials come from, for messages.
            on_secret: Called with every secret and token before its first use.

        Raises:
            AccessDeniedError: The caller may not assume the role, or STS rejects the credentials.
            ConfigurationError: The role or its token file cannot be used.
            StorageError: STS is unreachable.
        """
        assumption = _Assumption(role, client, source, on_secret)
        keys = assumption()
        lifetime = datetime.fromisoformat(keys["expiry_time"]) - datetime.now(UTC)
        seconds = max(0.0, lifetime.total_seconds())
        return cls.create_from_metadata(
            metadata=keys,
            refresh_using=assumption,
            method="assume-role",
            advisory_timeout=int(min(seconds * _ADVISORY_FRACTION, _ADVISORY_SECONDS)),
            mandatory_timeout=int(min(seconds * _MANDATORY_FRACTION, _MANDATORY_SECONDS)),
        )

    def invalidate(self, access_key_id: str) -> None:
        """Have the credentials refreshed before the next request, unless this key has been replaced already."""
        self._rejected_key = access_key_id

    def refresh_needed(self, refresh_in: int | None = None) -> bool:
        """Whether the credentials need a refresh; called by botocore."""
        # The key that signs requests. botocore's public properties would call this method again.
        in_use: str = self._frozen_credentials.access_key  # type: ignore[attr-defined]  # the stubs lack it
        return in_use == self._rejected_key or super().refresh_needed(refresh_in)


class _Assumption:
    """Assumes a role on each call, and returns the credentials as botocore's refresh metadata."""

    def __init__(self, role: Role, client: STSClient, source: str, on_secret: Callable[[str], None]) -> None:
        self._role = role
        self._client = client
        self._source = source
        self._on_secret = on_secret

    def __call__(self) -> dict[str, str]:
        role, token_file = self._role, self._role.web_identity_token_file
        with sts_errors(
            f"cannot assume the role {role.arn}",
            source=TOKEN_FIELD if token_file else self._source,
            by_token=token_file is not None,
        ):
            keys = self._assume_with_token(token_file) if token_file else self._assume()
        for secret in (keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]):
            self._on_secret(secret)
        return {
            "access_key": keys["AccessKeyId"],
            "secret_key": keys["SecretAccessKey"],
            "token": keys["SessionToken"],
            "expiry_time": keys["Expiration"].isoformat(),
        }

    def _assume(self) -> Any:
        request: AssumeRoleRequestTypeDef = {
            "RoleArn": self._role.arn,
            "RoleSessionName": self._role.session_name,
            "DurationSeconds": self._role.duration_seconds,
        }
        if self._role.external_id is not None:
            request["ExternalId"] = self._role.external_id
        return self._client.assume_role(**request)["Credentials"]

    def _assume_with_token(self, token_file: Path) -> Any:
        token = _read_token(token_file)
        self._on_secret(token)
        response = self._client.assume_role_with_web_identity(
            RoleArn=self._role.arn,
            RoleSessionName=self._role.session_name,
            DurationSeconds=self._role.duration_seconds,
            WebIdentityToken=token,
        )
        return response["Credentials"]


def _read_token(path: Path) -> str:
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(
            f"{TOKEN_FIELD}: cannot read the token from {path}: {reason}.", field=TOKEN_FIELD
        ) from None
    if not token:
        raise ConfigurationError(f"{TOKEN_FIELD}: {path} is empty.", field=TOKEN_FIELD)
    return token


def _malformed(name: str, value: object, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {value!r} {problem}.", field=name)
