"""The connection to Google Cloud Storage: credentials, connection pool, timeouts and retries."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import google.auth
import requests
from google.api_core.retry import Retry
from google.auth.credentials import DEFAULT_UNIVERSE_DOMAIN, Credentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud.storage import Client
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter

from airflow_batchexec.engine.storage.buckets import CONNECT_SECONDS, CONNECTIONS, READ_SECONDS
from airflow_batchexec.engine.storage.gcs.access import invalid_key
from airflow_batchexec.engine.storage.gcs.errors import is_transient

if TYPE_CHECKING:
    from airflow_batchexec.engine.storage.gcs.access import GcsAccess

__all__ = ["BYTES_PER_ATTEMPT", "TIMEOUT", "Attempts", "GcsConnection"]

TIMEOUT = (CONNECT_SECONDS, READ_SECONDS)
BYTES_PER_ATTEMPT = 64 * 1024 * 1024  # an object gets one extra attempt per this many bytes
_SCOPES = ["https://www.googleapis.com/auth/devstorage.read_write"]
_ATTEMPTS = 5
_TOKEN_RETRIES = 3
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 8.0


class Attempts:
    """The retries of one operation. Google limits writes to an object to one per second, and rejects more for a while.

    Args:
        extra: Additional attempts, for a long operation.
    """

    def __init__(self, *, extra: int = 0) -> None:
        self._max_attempts = _ATTEMPTS + extra
        self._failed = 0

    @property
    def policy(self) -> Retry:
        """The retry policy for Google's libraries; each pause is up to twice the previous one."""
        return Retry(
            predicate=self._may_retry,
            initial=_FIRST_PAUSE_SECONDS,
            maximum=_MAX_PAUSE_SECONDS,
            multiplier=2,
            timeout=None,
        )

    @property
    def retried(self) -> bool:
        """Whether an earlier attempt may have succeeded although its response was lost."""
        return self._failed > 0

    def restart(self) -> None:
        """Reset the failure count after part of the operation has succeeded."""
        self._failed = 0

    def _may_retry(self, error: Exception) -> bool:
        if not is_transient(error):
            return False
        self._failed += 1
        return self._failed < self._max_attempts


class GcsConnection:
    """A client and its HTTP session, created on first use and shared by all threads.

    Args:
        access: The credentials and endpoint.

    Raises:
        ConfigurationError: The key cannot be read.
    """

    def __init__(self, access: GcsAccess) -> None:
        self._endpoint = (access.endpoint_url or "").rstrip("/")
        self._credentials = _key_credentials(access)
        self._lock = threading.Lock()
        self._opened: tuple[Client, AuthorizedSession] | None = None

    @property
    def client(self) -> Client:
        """The Google Cloud Storage client.

        Raises:
            GoogleAuthError: Google's default chain finds no credentials.
        """
        return self._open()[0]

    @property
    def session(self) -> AuthorizedSession:
        """The session through which the client sends its requests.

        Raises:
            GoogleAuthError: As for ``client``.
        """
        return self._open()[1]

    def _open(self) -> tuple[Client, AuthorizedSession]:
        with self._lock:
            if self._opened is None:
                credentials = self._credentials or google.auth.default(scopes=_SCOPES)[0]
                session, token_session = _sessions(credentials, self._endpoint)
                for opened in (session, token_session):
                    weakref.finalize(self, opened.close)
                client = Client(
                    project=None,  # only needed to create buckets
                    credentials=credentials,
                    _http=session,
                    client_options=_options(credentials, self._endpoint),
                )
                # Release 3.17 otherwise requests the bucket in a thread, on first use and after every 404: for traces
                # that are not enabled, with a permission that is not needed otherwise.
                client._bucket_metadata_cache = None  # noqa: SLF001  the only other switch is the environment
                self._opened = client, session
            return self._opened


class _TokenRequest(Request):
    """The transport for token requests.

    Google's library also sends each token to Google to look up its allowed locations; a token for another server must
    not be sent there.

    Args:
        session: The session for the requests.
        custom_server: Whether the storage server is not Google's.
    """

    def __init__(self, session: requests.Session, *, custom_server: bool) -> None:
        super().__init__(session)
        self._custom_server = custom_server

    def __call__(self, url: str, *args: Any, **kwargs: Any) -> Any:
        if self._custom_server and url.endswith("/allowedLocations"):
            raise TransportError("skipped for a custom endpoint")
        return super().__call__(url, *args, **kwargs)  # type: ignore[no-untyped-call]  # typed in part


def _sessions(credentials: Credentials, endpoint: str) -> tuple[AuthorizedSession, requests.Session]:
    """Create the session for storage requests and the one for token requests."""
    host = urlsplit(endpoint).hostname
    token_session = requests.Session()
    token_session.mount("https://", HTTPAdapter(max_retries=_TOKEN_RETRIES))
    session = AuthorizedSession(
        credentials,
        refresh_timeout=sum(TIMEOUT),
        auth_request=_TokenRequest(
            token_session, custom_server=host is not None and not host.endswith(".googleapis.com")
        ),
    )
    adapter = HTTPAdapter(pool_maxsize=CONNECTIONS)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session, token_session


def _key_credentials(access: GcsAccess) -> Credentials | None:
    parts = access.key_parts()
    if parts is None:
        return None
    credentials = _load_credentials(parts)
    if credentials is None:
        raise invalid_key('has a "private_key" that cannot be read')
    return credentials


def _load_credentials(parts: dict[str, Any]) -> Credentials | None:
    """Load a key's credentials; ``None`` if it cannot be read: the library's own error could quote it."""
    try:
        credentials: Credentials = service_account.Credentials.from_service_account_info(
            parts, scopes=_SCOPES
        )
    except (ValueError, TypeError, GoogleAuthError):
        return None
    return credentials


def _options(credentials: Credentials, endpoint: str) -> dict[str, Any]:
    """Set the client's endpoint: the configured one, else that of the credentials' universe domain."""
    options = {"api_endpoint": endpoint} if endpoint else {}
    if credentials.universe_domain != DEFAULT_UNIVERSE_DOMAIN:
        options["universe_domain"] = credentials.universe_domain
    return options
