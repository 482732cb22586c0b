"""Who S3 is reached as: given keys, a given session or boto3's default chain, and a role assumed on top of it."""

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

__all__ = ["S3Access", "keep_usable", "open_session", "sts_client", "untold"]

_STS_CONNECT_SECONDS = 5
_STS_READ_SECONDS = 20
_STS_ATTEMPTS = 3
_STS_REGION = "us-east-1"

_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_SENT = "batchexec_sent"
_RENEWED = "batchexec_renewed"


def untold(_secret: str) -> None:
    """Nobody wants to know of secrets."""


@dataclass(frozen=True)
class S3Access:
    """How to reach S3, and as whom.

    Attributes:
        access_key_id: The key; without one, boto3's default chain finds the credentials.
        secret_access_key: Its secret.
        session_token: What temporary keys come with.
        endpoint_url: A server other than AWS.
        region_name: The buckets' region. A bucket's own is found where this is left out or another one.
        session: Finds the credentials in place of keys and default chain.
        role: Is assumed with these credentials; S3 is then reached as the role.
        sts_endpoint_url: Where it is assumed; without it ``endpoint_url``, else AWS.
        source: Where the credentials come from, for messages.
        on_secret: Is told every secret and token before its first use, so that it can be masked.

    Raises:
        ConfigurationError: There is a key without its secret, or the other way round.
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
    on_secret: Callable[[str], None] = field(default=untold, repr=False)

    def __post_init__(self) -> None:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            missing = "secret_access_key" if self.access_key_id else "access_key_id"
            raise ConfigurationError(
                f"{missing}: an access key and its secret belong together; set both, or neither.",
                field=missing,
            )

    @property
    def told_source(self) -> str:
        """Where the credentials come from, in words."""
        return self.source or ("the given keys" if self.access_key_id else "boto3's default chain")


def open_session(access: S3Access) -> boto3.Session:
    """A session with the credentials that S3 is reached with. A role is assumed at once, by one request.

    Raises:
        AccessDeniedError: The role may not be assumed, or STS does not accept the credentials.
        ConfigurationError: The role, its token's file or the machine's AWS configuration cannot be used.
        StorageError: STS is out of reach.
    """
    session = access.session or _source_session(access)
    if access.role is None:
        return session
    credentials = RoleCredentials.assume(
        access.role,
        sts_client(access, session, unsigned=access.role.web_identity_token_file is not None),
        source=access.told_source,
        on_secret=access.on_secret,
    )
    assumed = botocore.session.get_session()
    assumed.register_component("credential_provider", CredentialResolver([_Given(credentials)]))
    return boto3.Session(
        botocore_session=assumed, region_name=access.region_name or session.region_name or None
    )


def sts_client(access: S3Access, session: boto3.Session, *, unsigned: bool = False) -> STSClient:
    """A client that asks STS with a session's credentials.

    Args:
        access: Says where STS is.
        session: Whose credentials are used.
        unsigned: Ask without any.

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
            f"sts_endpoint_url, region_name: no STS client can be made: {error}", field="sts_endpoint_url"
        ) from error
    if not unsigned:
        _tell_secrets(client, session, access.on_secret)
    return client


def keep_usable(client: S3Client, session: boto3.Session, on_secret: Callable[[str], None]) -> None:
    """Let a role's keys be replaced where S3 refuses them as expired, and the request be sent once more.

    Args:
        client: Talks to S3.
        session: Whose credentials it uses.
        on_secret: Is told every secret and token before its first use.
    """
    _tell_secrets(client, session, on_secret)
    credentials = session.get_credentials()
    if not isinstance(credentials, RoleCredentials):
        return

    def note(request: AWSRequest, **_: Any) -> None:
        request.context[_SENT] = _Sent(
            credentials.get_frozen_credentials().access_key or "", redirected=_is_redirected(request.context)
        )

    def renew(response: Any, request_dict: dict[str, Any], operation: Any, **_: Any) -> int | None:
        context = request_dict["context"]
        if response is None or _RENEWED in context:
            return None
        code = str(response[1].get("Error", {}).get("Code", ""))
        sent: _Sent = context[_SENT]
        if operation.name.startswith("Head"):
            # A HEAD's answer has no body to give a code in. It is the same for a bucket of another region, where botocore
            # has just found that out and sends the request there.
            expired = code == "400" and _is_redirected(context) == sent.redirected
        else:
            expired = code in _EXPIRED
        if not expired:
            return None
        context[_RENEWED] = True
        credentials.refuse(sent.access_key_id)
        return 0  # seconds to wait before the request is signed and sent again

    client.meta.events.register("before-sign.s3", note)
    client.meta.events.register("needs-retry.s3", renew)  # type: ignore[arg-type]  # the stubs forget the answer


class _Sent(NamedTuple):
    """What is noted of a request when it is signed."""

    access_key_id: str
    redirected: bool


def _is_redirected(context: dict[str, Any]) -> bool:
    return bool(context.get("s3_redirect", {}).get("redirected"))


class _Given(CredentialProvider):
    """Hands credentials that exist already to a session."""

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
        raise ConfigurationError(f"The AWS configuration of this machine cannot be used: {error}") from error


def _tell_secrets(client: Any, session: boto3.Session, on_secret: Callable[[str], None]) -> None:
    """Tell the secret and the token of each key before the first request that is signed with it."""
    credentials, told = session.get_credentials(), ""
    if credentials is None:
        return  # the request will say so

    def tell(**_: Any) -> None:
        nonlocal told
        keys = credentials.get_frozen_credentials()
        if keys.secret_key and keys.secret_key != told:
            told = keys.secret_key
            for secret in filter(None, (keys.secret_key, keys.token)):
                on_secret(secret)

    client.meta.events.register("before-sign", tell)
