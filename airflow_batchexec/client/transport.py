"""One call of the REST API: sent, repeated where nothing came back, and its answer told apart from anybody else's.

Every call may be repeated: reading changes nothing, a start carries a key by which the server knows it again, and
what is cancelled stays so. A try lasts until the answer's last byte has been read. That is why the tries are
tenacity's, and not those of urllib3's adapter, which knows of a try only until the headers are there.
"""

from __future__ import annotations

import json
import logging
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from airflow_batchexec._version import __version__
from airflow_batchexec.client.credentials import open_credentials
from airflow_batchexec.client.network_errors import network_error
from airflow_batchexec.exceptions import (
    BatchExecError,
    NotAllowedError,
    ServerError,
    ServerUnreachableError,
    UnexpectedAnswerError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_batchexec.client.settings import ClientSettings

__all__ = ["Response", "Transport"]

_API = "/batchexec/api/v1/"
_LOGIN = "/auth/token"
_NOT_NOW = frozenset({429, 502, 503, 504})
_NOT_ALLOWED = frozenset({401, 403})
_MOST_REDIRECTS = 5
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_LONGEST_WISH_SECONDS = 60.0
_LONGEST_QUOTE = 500

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Response:
    """The API's response to a call, whether the call succeeded or was refused.

    Attributes:
        status_code: The HTTP status.
        body: The response message, as JSON.
        tries: How often the call was sent.
    """

    status_code: int
    body: dict[str, Any] = field(repr=False)
    tries: int = 1


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    url: str
    document: Any = field(default=None, repr=False)
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    with_token: bool = True


class _Bearer(requests.auth.AuthBase):
    """Sets the token. A header alone would give way to a password that ~/.netrc has for the server."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """A connection to one server as one user.

    Args:
        settings: The server and the user.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.server = settings.server
        self._settings = settings
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"batchexec/{__version__}"
        self._session.headers["Accept"] = "application/json"
        self._credentials = open_credentials(settings, self._log_in)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        document: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Make a call and return the API's own response.

        Args:
            method: The HTTP method.
            path: The path below the API's own.
            document: The JSON to send.
            params: The query.
            headers: More headers.

        Raises:
            NotAllowedError: The server does not know the user, or the user lacks the right.
            ServerUnreachableError: There was no answer, however often it was tried.
            UntrustedServerError: The server's certificate is not trusted.
            UnexpectedAnswerError: The server failed, or what answered is not the API.
        """
        call = _Call(method, self.server + _API + path, document, params, headers)
        status_code, body, tries = self._exchange(call)
        if status_code in _NOT_ALLOWED:
            raise NotAllowedError(
                f"{self.server} does not allow this: {_reason(status_code, body)}",
                server=self.server,
                status_code=status_code,
            )
        if isinstance(body, dict) and isinstance(body.get("failure_message"), str) and status_code < 500:  # noqa: PLR2004  beyond, the server failed
            return Response(status_code, body, tries)
        raise self._unexpected(status_code, body)

    def _log_in(self, username: str, password: str) -> str:
        call = _Call(
            "POST",
            self.server + _LOGIN,
            {"username": username, "password": password},
            with_token=False,
        )
        # Once: whatever needs the token tries again as a whole.
        status_code, body = self._try(call)
        if status_code in _NOT_ALLOWED:
            raise NotAllowedError(
                f"{self.server} does not let {username!r} in with this password: {_reason(status_code, body)}",
                server=self.server,
                status_code=status_code,
            )
        token = body.get("access_token") if isinstance(body, dict) else None
        if not isinstance(token, str):
            raise UnexpectedAnswerError(
                f"{self.server}{_LOGIN} gave no token: {_reason(status_code, body)} Where Airflow's auth manager has "
                f"no login by password, give a token.",
                server=self.server,
                status_code=status_code,
            )
        return token

    def _exchange(self, call: _Call) -> tuple[int, Any, int]:
        """The status, the JSON (or the text) and the number of tries of a call that was answered."""
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ServerError) and error.retryable),
            stop=stop_after_attempt(int(self._settings.retries) + 1),
            wait=_pause,
            before_sleep=_tell,
            reraise=True,
        )
        status_code, body = retrying(self._try, call)
        return status_code, body, retrying.statistics["attempt_number"]

    def _try(self, call: _Call) -> tuple[int, Any]:
        token = self._credentials.token() if call.with_token else ""
        response = self._send(call, token)
        if response.status_code == requests.codes.unauthorized and token and self._credentials.renew(token):
            response = self._send(call, self._credentials.token())
        body = _json(response)
        if response.status_code in _NOT_NOW:
            raise ServerUnreachableError(
                f"{self.server} cannot answer now: {_reason(response.status_code, body)}",
                server=self.server,
                status_code=response.status_code,
                retry_after=_seconds(response.headers.get("Retry-After", "")),
            )
        return response.status_code, body

    def _send(self, call: _Call, token: str) -> requests.Response:
        """Send a request once; only redirects within the server are followed, with all that the request holds."""
        url = call.url
        for _ in range(_MOST_REDIRECTS):
            response = self._request(call, url, token)
            location = response.headers.get("Location")
            if not 300 <= response.status_code < 400 or not location:  # noqa: PLR2004  the redirects
                return response
            url = urljoin(url, location)
            if urlsplit(url)[:2] != urlsplit(call.url)[:2]:
                other = urlsplit(url)
                raise UnexpectedAnswerError(
                    f"{self.server} redirects to {other.scheme}://{other.hostname}, where the token is not sent. If "
                    f"that is the right place, give its address as the server; if it is a login page, the server lets "
                    f"no programs in there.",
                    server=self.server,
                    status_code=response.status_code,
                )
        raise UnexpectedAnswerError(f"{self.server} redirects in a circle.", server=self.server)

    def _request(self, call: _Call, url: str, token: str) -> requests.Response:
        failure: BatchExecError
        try:
            with closing(
                self._session.request(
                    call.method,
                    url,
                    params=call.params if url == call.url else None,
                    json=call.document,
                    headers=dict(call.headers or {}),
                    auth=_Bearer(token),
                    timeout=(self._settings.connect_timeout, self._settings.read_timeout),
                    # Given here, and not to the session, whose own would give way to REQUESTS_CA_BUNDLE.
                    verify=self._settings.ca_bundle or True,
                    allow_redirects=False,
                )
            ) as response:
                return response
        except requests.RequestException as error:
            failure = network_error(error, self.server)
        # Out of the handler: the library's error holds the request, and that the token.
        raise failure

    def _unexpected(self, status_code: int, body: Any) -> UnexpectedAnswerError:
        reason = _reason(status_code, body)
        if status_code == requests.codes.not_found:
            message = (
                f"There is no batch API at {self.server}: is that Airflow's address, and is the provider installed in "
                f"its API server? {reason}"
            )
        elif status_code >= requests.codes.server_error:
            message = f"{self.server} failed: {reason}"
        else:
            message = f"What {self.server} answered is not the batch API's: {reason}"
        return UnexpectedAnswerError(message, server=self.server, status_code=status_code)


def _json(response: requests.Response) -> Any:
    """The answer's JSON; its text where that is none."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return response.text


def _reason(status_code: int, body: Any) -> str:
    """What the server said in its own words, with its status before it."""
    if isinstance(body, dict):
        said = body.get("failure_message") or body.get("detail") or body.get("message") or ""
        text = said if isinstance(said, str) else json.dumps(said)
    else:
        text = body if isinstance(body, str) and not body.lstrip().startswith("<") else ""
    text = " ".join(text.split())[:_LONGEST_QUOTE]
    return f"{status_code} {text}".rstrip(" .") + "."


def _seconds(retry_after: str) -> float:
    """The seconds of a ``Retry-After``; a date counts as none, as do more than anybody wants to wait."""
    return min(float(retry_after), _LONGEST_WISH_SECONDS) if retry_after.strip().isdecimal() else 0.0


_BACKOFF = wait_exponential(multiplier=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS) + wait_random(
    0, _FIRST_PAUSE_SECONDS
)


def _pause(state: RetryCallState) -> float:
    wish: float = _failure(state).details.get("retry_after", 0.0)
    return max(_BACKOFF(state), wish)


def _tell(state: RetryCallState) -> None:
    logger.info("%s Trying again in %.1f s.", _failure(state), state.upcoming_sleep)


def _failure(state: RetryCallState) -> BatchExecError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, BatchExecError)
    return error
