"""The way to Google Cloud Storage: which credentials, which connections, how long to wait, and how often to try."""

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
from airflow_batchexec.engine.storage.gcs.access import wrong_key
from airflow_batchexec.engine.storage.gcs.errors import is_transient

if TYPE_CHECKING:
    from airflow_batchexec.engine.storage.gcs.access import GcsAccess

__all__ = ["BYTES_PER_ATTEMPT", "TIMEOUT", "Attempts", "GcsConnection"]

TIMEOUT = (CONNECT_SECONDS, READ_SECONDS)
BYTES_PER_ATTEMPT = 64 * 1024 * 1024  # each so many of an object may cost one more
_SCOPES = ["https://www.googleapis.com/auth/devstorage.read_write"]
_ATTEMPTS = 5
_TOKEN_RETRIES = 3
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 8.0


class Attempts:
    """How often one operation is tried. Google takes one change of an object a second, and refuses more for a while.

    Args:
        more: Attempts beyond the usual ones, for an operation that takes long.
    """

    def __init__(self, *, more: int = 0) -> None:
        self._most = _ATTEMPTS + more
        self._failed = 0

    @property
    def policy(self) -> Retry:
        """What Google's libraries ask whether to go on; the pause before each attempt is up to twice the last."""
        return Retry(
            predicate=self._may_try_again,
            initial=_FIRST_PAUSE_SECONDS,
            maximum=_LONGEST_PAUSE_SECONDS,
            multiplier=2,
            timeout=None,
        )

    @property
    def retried(self) -> bool:
        """Whether an earlier attempt may have done what was asked, and only its answer is missing."""
        return self._failed > 0

    def restart(self) -> None:
        """Forget what failed: a part of the operation is done."""
        self._failed = 0

    def _may_try_again(self, error: Exception) -> bool:
        if not is_transient(error):
            return False
        self._failed += 1
        return self._failed < self._most


class GcsConnection:
    """A client and its HTTP session, made when first asked for; all threads share them.

    Args:
        access: Whom to act as, and where.

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
        """The client.

        Raises:
            GoogleAuthError: Google's default chain finds no credentials.
        """
        return self._open()[0]

    @property
    def session(self) -> AuthorizedSession:
        """The session that the client sends its requests through.

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
                    project=None,  # one is needed only to make buckets
                    credentials=credentials,
                    _http=session,
                    client_options=_options(credentials, self._endpoint),
                )
                # Release 3.17 otherwise asks for the bucket in a thread, on first use and after every 404: for traces
                # that nobody has switched on, with a permission that nothing else here needs.
                client._bucket_metadata_cache = None  # noqa: SLF001  it has no other switch but the environment
                self._opened = client, session
            return self._opened


class _TokenRequest(Request):
    """How a token is asked for.

    Google's library also shows each token to Google, to be told where it is good: no matter of another server's.

    Args:
        session: What to ask through.
        elsewhere: Whether the server is another than Google's.
    """

    def __init__(self, session: requests.Session, *, elsewhere: bool) -> None:
        super().__init__(session)
        self._elsewhere = elsewhere

    def __call__(self, url: str, *args: Any, **kwargs: Any) -> Any:
        if self._elsewhere and url.endswith("/allowedLocations"):
            raise TransportError("not asked for with another server")
        return super().__call__(url, *args, **kwargs)  # type: ignore[no-untyped-call]  # typed in part


def _sessions(credentials: Credentials, endpoint: str) -> tuple[AuthorizedSession, requests.Session]:
    """What requests go through, and what tokens are asked for through."""
    host = urlsplit(endpoint).hostname
    token_session = requests.Session()
    token_session.mount("https://", HTTPAdapter(max_retries=_TOKEN_RETRIES))
    session = AuthorizedSession(
        credentials,
        refresh_timeout=sum(TIMEOUT),
        auth_request=_TokenRequest(
            token_session, elsewhere=host is not None and not host.endswith(".googleapis.com")
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
    credentials = _credentials_of(parts)
    if credentials is None:
        raise wrong_key('has a "private_key" that cannot be read')
    return credentials


def _credentials_of(parts: dict[str, Any]) -> Credentials | None:
    """Those of a key; ``None`` where it cannot be read: the library's own error could quote it."""
    try:
        credentials: Credentials = service_account.Credentials.from_service_account_info(
            parts, scopes=_SCOPES
        )
    except (ValueError, TypeError, GoogleAuthError):
        return None
    return credentials


def _options(credentials: Credentials, endpoint: str) -> dict[str, Any]:
    """Where the client asks: the endpoint that was set, else that of the cloud that the credentials are for."""
    options = {"api_endpoint": endpoint} if endpoint else {}
    if credentials.universe_domain != DEFAULT_UNIVERSE_DOMAIN:
        options["universe_domain"] = credentials.universe_domain
    return options
