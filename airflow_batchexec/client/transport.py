"""Sends REST API calls, retries those without a response, and recognizes responses that are not from the API.

Every call is safe to retry: reads have no side effects, starts carry an idempotency key, and cancels are idempotent. An
attempt lasts until the last byte of the response has been read. urllib3 only retries until the headers arrive, so
tenacity does the retries.
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

    from airflow_batchexec.client.client_settings import ClientSettings

__all__ = ["Response", "Transport"]

_API = "/batchexec/api/v1/"
_LOGIN = "/auth/token"
_UNAVAILABLE = frozenset({429, 502, 503, 504})
_FORBIDDEN = frozenset({401, 403})
_MAX_REDIRECTS = 5
_INITIAL_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 10.0
_MAX_RETRY_AFTER_SECONDS = 60.0
_MAX_REASON_LENGTH = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Response:
    """The API's response to a call, whether the call succeeded or was refused.

    Attributes:
        status_code: The HTTP status.
        body: The response message, as JSON.
        attempts: The number of attempts.
    """

    status_code: int
    body: dict[str, Any] = field(repr=False)
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    url: str
    document: Any = field(default=None, repr=False)
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    with_token: bool = True


class _Bearer(requests.auth.AuthBase):
    """Sets the token. In a plain header, it would be replaced by a password that ~/.netrc has for the server."""

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
            path: The path, relative to that of the API.
            document: The JSON body.
            params: The query parameters.
            headers: Additional headers.

        Raises:
            NotAllowedError: The user is not authenticated or lacks the permission.
            ServerUnreachableError: All attempts failed without a response.
            UntrustedServerError: The server's certificate is not trusted.
            UnexpectedAnswerError: The server failed, or the response is not from this API.
        """
        call = _Call(method, self.server + _API + path, document, params, headers)
        status_code, body, attempts = self._exchange(call)
        if status_code in _FORBIDDEN:
            raise NotAllowedError(
                f"{self.server} denied access: {_reason(status_code, body)}",
                server=self.server,
                status_code=status_code,
            )
        if isinstance(body, dict) and isinstance(body.get("failure_message"), str) and status_code < 500:  # noqa: PLR2004  from 500 on, the server failed
            return Response(status_code, body, attempts)
        raise self._unexpected(status_code, body)

    def _log_in(self, username: str, password: str) -> str:
        call = _Call(
            "POST",
            self.server + _LOGIN,
            {"username": username, "password": password},
            with_token=False,
        )
        # Not retried here: the call that needs the token is retried as a whole.
        status_code, body = self._attempt(call)
        if status_code in _FORBIDDEN:
            raise NotAllowedError(
                f"{self.server} refused the login of {username!r}: {_reason(status_code, body)}",
                server=self.server,
                status_code=status_code,
            )
        token = body.get("access_token") if isinstance(body, dict) else None
        if not isinstance(token, str):
            raise UnexpectedAnswerError(
                f"{self.server}{_LOGIN} returned no token: {_reason(status_code, body)} If Airflow's auth manager "
                f"does not support password logins, set a token.",
                server=self.server,
                status_code=status_code,
            )
        return token

    def _exchange(self, call: _Call) -> tuple[int, Any, int]:
        """Return the status, the JSON (or the text) and the number of attempts of a call that got a response."""
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ServerError) and error.retryable),
            stop=stop_after_attempt(int(self._settings.retries) + 1),
            wait=_wait_seconds,
            before_sleep=_log_retry,
            reraise=True,
        )
        status_code, body = retrying(self._attempt, call)
        return status_code, body, retrying.statistics["attempt_number"]

    def _attempt(self, call: _Call) -> tuple[int, Any]:
        token = self._credentials.token() if call.with_token else ""
        response = self._send(call, token)
        if response.status_code == requests.codes.unauthorized and token and self._credentials.renew(token):
            response = self._send(call, self._credentials.token())
        body = _json(response)
        if response.status_code in _UNAVAILABLE:
            raise ServerUnreachableError(
                f"{self.server} is unavailable: {_reason(response.status_code, body)}",
                server=self.server,
                status_code=response.status_code,
                retry_after=_retry_after_seconds(response.headers.get("Retry-After", "")),
            )
        return response.status_code, body

    def _send(self, call: _Call, token: str) -> requests.Response:
        """Send a request once. Redirects are followed only within the server, with method, body and headers."""
        url = call.url
        for _ in range(_MAX_REDIRECTS):
            response = self._request(call, url, token)
            location = response.headers.get("Location")
            if not 300 <= response.status_code < 400 or not location:  # noqa: PLR2004  redirects
                return response
            url = urljoin(url, location)
            if urlsplit(url)[:2] != urlsplit(call.url)[:2]:
                other = urlsplit(url)
                raise UnexpectedAnswerError(
                    f"{self.server} redirects to {other.scheme}://{other.hostname}, but the token is not sent to "
                    f"another server. If that is the right server, set its URL; if it is a login page, the server does "
                    f"not accept API clients there.",
                    server=self.server,
                    status_code=response.status_code,
                )
        raise UnexpectedAnswerError(f"{self.server}: too many redirects.", server=self.server)

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
                    # Not set on the session: REQUESTS_CA_BUNDLE would override it.
                    verify=self._settings.ca_bundle or True,
                    allow_redirects=False,
                )
            ) as response:
                return response
        except requests.RequestException as error:
            failure = network_error(error, self.server)
        # Raised outside the handler: the chained error would contain the request and its token.
        raise failure

    def _unexpected(self, status_code: int, body: Any) -> UnexpectedAnswerError:
        reason = _reason(status_code, body)
        if status_code == requests.codes.not_found:
            message = (
                f"There is no batch API at {self.server}. Is this Airflow's URL, and is the provider installed in "
                f"its API server? {reason}"
            )
        elif status_code >= requests.codes.server_error:
            message = f"{self.server} failed: {reason}"
        else:
            message = f"The response of {self.server} is not from the batch API: {reason}"
        return UnexpectedAnswerError(message, server=self.server, status_code=status_code)


def _json(response: requests.Response) -> Any:
    """Return the JSON of the response, or its text if it is not JSON."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return response.text


def _reason(status_code: int, body: Any) -> str:
    """Return the status and the server's own message."""
    if isinstance(body, dict):
        message = body.get("failure_message") or body.get("detail") or body.get("message") or ""
        text = message if isinstance(message, str) else json.dumps(message)
    else:
        text = body if isinstance(body, str) and not body.lstrip().startswith("<") else ""
    text = " ".join(text.split())[:_MAX_REASON_LENGTH]
    return f"{status_code} {text}".rstrip(" .") + "."


def _retry_after_seconds(retry_after: str) -> float:
    """Return the seconds of a ``Retry-After`` header, up to a limit; 0 if it is a date."""
    return min(float(retry_after), _MAX_RETRY_AFTER_SECONDS) if retry_after.strip().isdecimal() else 0.0


_BACKOFF = wait_exponential(multiplier=_INITIAL_BACKOFF_SECONDS, max=_MAX_BACKOFF_SECONDS) + wait_random(
    0, _INITIAL_BACKOFF_SECONDS
)


def _wait_seconds(state: RetryCallState) -> float:
    retry_after: float = _failure(state).details.get("retry_after", 0.0)
    return max(_BACKOFF(state), retry_after)


def _log_retry(state: RetryCallState) -> None:
    log.info("%s Retrying in %.1f s.", _failure(state), state.upcoming_sleep)


def _failure(state: RetryCallState) -> BatchExecError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, BatchExecError)
    return error
