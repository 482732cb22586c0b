"""Credentials for S3: given keys, a given session or boto3's default chain, and optionally a role assumed with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver
from botocore.exceptions import BotoCoreError

from airflow_batchexec.engine.storage.s3.role import Role, RoleCredentials
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.awsrequest import AWSRequest
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sts import STSClient

__all__ = ["S3Access", "ignore_secret", "open_session", "refresh_rejected_keys", "sts_client"]

_STS_CONNECT_SECONDS = 5
_STS_READ_SECONDS = 20
_STS_ATTEMPTS = 3
_STS_REGION = "us-east-1"

# STS has issued the key, so a server that does not know it has forgotten the expired session.
_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"}
_SENT = "batchexec_sent"
_REFRESHED = "batchexec_renewed"


def ignore_secret(_secret: str) -> None:
    """Default callback: ignore secrets."""


@dataclass(frozen=True)
class S3Access:
    """Credentials and endpoints for S3.

    Attributes:
        access_key_id: The access key ID; if unset, boto3's default chain finds the credentials.
        secret_access_key: The secret of the access key.
        session_token: The session token of temporary keys.
        endpoint_url: A server other than AWS.
        region_name: The buckets' region. If unset or wrong, a bucket's own region is detected.
        session: A session to take the credentials from, instead of keys or the default chain.
        role: A role to assume with these credentials; S3 is then accessed as the role.
        sts_endpoint_url: The STS that assumes the role; defaults to ``endpoint_url``, then AWS.
        source: Where the credentials come from, for messages.
        on_secret: Called with every secret and token before its first use, so that it can be masked.

    Raises:
        ConfigurationError: An access key is set without its secret, or vice versa.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint_url: str | None = None
    region_name: str | None = None
    session: boto3.Session | None = field(default=None, repr=False)
    role: Role | None = None
    sts_endpoint_url: str | None = None
    source: str = ""
    on_secret: Callable[[str], None] = field(default=ignore_secret, repr=False)

    def __post_init__(self) -> None:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            missing = "secret_access_key" if self.access_key_id else "access_key_id"
            raise ConfigurationError(
                f"{missing}: an access key requires its secret and vice versa; set both, or neither.",
                field=missing,
            )

    @property
    def credentials_source(self) -> str:
        """Where the credentials come from, as text for messages."""
        return self.source or ("the given keys" if self.access_key_id else "boto3's default chain")


def open_session(access: S3Access) -> boto3.Session:
    """Open a session with the credentials for S3. A role is assumed immediately, with one request.

    Raises:
        AccessDeniedError: The caller may not assume the role, or STS rejects the credentials.
        ConfigurationError: The role, its token file or the machine's AWS configuration cannot be used.
        StorageError: STS is unreachable.
    """
    session = access.session or _source_session(access)
    if access.role is None:
        return session
    credentials = RoleCredentials.assume(
        access.role,
        sts_client(access, session, unsigned=access.role.web_identity_token_file is not None),
        source=access.credentials_source,
        on_secret=access.on_secret,
    )
    assumed = botocore.session.get_session()
    assumed.register_component("credential_provider", CredentialResolver([_StaticProvider(credentials)]))
    return boto3.Session(
        botocore_session=assumed, region_name=access.region_name or session.region_name or None
    )


def sts_client(access: S3Access, session: boto3.Session, *, unsigned: bool = False) -> STSClient:
    """Create an STS client with a session's credentials.

    Args:
        access: The endpoint and region of STS.
        session: The session with the credentials.
        unsigned: Send requests without credentials.

    Raises:
        ConfigurationError: The endpoint, the region or the machine's AWS configuration is malformed.
    """
    home_region = access.role.home_region if access.role else _STS_REGION
    try:
        client: STSClient = session.client(
            "sts",
            endpoint_url=access.sts_endpoint_url or access.endpoint_url or None,
            region_name=access.region_name or session.region_name or home_region,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": _STS_ATTEMPTS},
                connect_timeout=_STS_CONNECT_SECONDS,
                read_timeout=_STS_READ_SECONDS,
                signature_version=UNSIGNED if unsigned else None,
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            f"sts_endpoint_url, region_name: cannot create an STS client: {error}", field="sts_endpoint_url"
        ) from error
    if not unsigned:
        _report_secrets(client, session, access.on_secret)
    return client


def refresh_rejected_keys(client: S3Client, session: boto3.Session, on_secret: Callable[[str], None]) -> None:
    """Have a role's credentials refreshed, and the request repeated once, if S3 rejects them as expired or unknown.

    The response to a HEAD has no body, so an unknown key looks like a missing permission. Such a response refreshes
    the credentials, too, but never twice in a row: with new ones, it is a missing permission.

    Args:
        client: The S3 client.
        session: The session with the client's credentials.
        on_secret: Called with every secret and token before its first use.
    """
    _report_secrets(client, session, on_secret)
    credentials = session.get_credentials()
    if not isinstance(credentials, RoleCredentials):
        return

    denied_key = ""  # the last key with which a repeated HEAD was denied

    def record(request: AWSRequest, **_: Any) -> None:
        request.context[_SENT] = _SentRequest(
            credentials.get_frozen_credentials().access_key or "", redirected=_is_redirected(request.context)
        )

    def refresh(response: Any, request_dict: dict[str, Any], operation: Any, **_: Any) -> int | None:
        nonlocal denied_key
        context = request_dict["context"]
        if response is None:
            return None
        code = str(response[1].get("Error", {}).get("Code", ""))
        sent: _SentRequest = context[_SENT]
        if _REFRESHED in context:
            denied_key = sent.access_key_id if code == "403" else denied_key
            return None
        if operation.name.startswith("Head"):
            # Without a body, botocore takes the status as the code. A bucket in another region returns the same as an
            # expired session, but then botocore has just detected that and redirects the request.
            expired = (code == "400" and _is_redirected(context) == sent.redirected) or (
                code == "403" and sent.access_key_id != denied_key
            )
        else:
            expired = code in _EXPIRED
        if not expired:
            return None
        context[_REFRESHED] = True
        credentials.invalidate(sent.access_key_id)
        return 0  # seconds to wait before the request is signed and sent again

    client.meta.events.register("before-sign.s3", record)
    client.meta.events.register("needs-retry.s3", refresh)  # type: ignore[arg-type]  # the stubs omit the return value


class _SentRequest(NamedTuple):
    """Recorded for each request when it is signed."""

    access_key_id: str
    redirected: bool


def _is_redirected(context: dict[str, Any]) -> bool:
    return bool(context.get("s3_redirect", {}).get("redirected"))


class _StaticProvider(CredentialProvider):
    """Provides a session with existing credentials."""

    METHOD = "assume-role"

    def __init__(self, credentials: RoleCredentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> RoleCredentials:
        return self._credentials


def _source_session(access: S3Access) -> boto3.Session:
    try:
        return boto3.Session(
            aws_access_key_id=access.access_key_id or None,
            aws_secret_access_key=access.secret_access_key or None,
            aws_session_token=access.session_token or None,
            region_name=access.region_name or None,
        )
    except BotoCoreError as error:
        raise ConfigurationError(f"Cannot use this machine's AWS configuration: {error}") from error


def _report_secrets(client: Any, session: boto3.Session, on_secret: Callable[[str], None]) -> None:
    """Report the secret and token of each key before the first request that is signed with it."""
    credentials, last_secret = session.get_credentials(), ""
    if credentials is None:
        return  # the request itself will fail

    def report(**_: Any) -> None:
        nonlocal last_secret
        keys = credentials.get_frozen_credentials()
        if keys.secret_key and keys.secret_key != last_secret:
            last_secret = keys.secret_key
            for secret in filter(None, (keys.secret_key, keys.token)):
                on_secret(secret)

    client.meta.events.register("before-sign", report)
