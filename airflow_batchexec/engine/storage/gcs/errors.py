"""Maps the errors of Google Cloud Storage and its connections to the error tree.

Messages contain the URI and Google's own message on one line, never a key, a token, or an upload session's URL.
"""

from __future__ import annotations

import http.client
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests
import urllib3
from google.api_core.exceptions import GoogleAPICallError, from_http_response
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from airflow_batchexec.engine.storage.buckets import (
    NO_OBJECT,
    REFUSED,
    TRY_LATER,
    UNREACHABLE,
    failure,
    no_bucket,
)
from airflow_batchexec.exceptions import (
    AccessDeniedError,
    BucketNotFoundError,
    ObjectNotFoundError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.exceptions import ObjectChangedError, ObjectExistsError

__all__ = ["error_from_response", "gcs_errors", "is_transient"]

_BUSY = {408, 429, 500, 502, 503, 504}  # https://cloud.google.com/storage/docs/retry-strategy
_MAX_CHARACTERS = 300
_NETWORK = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
)
_CONNECTION_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.PoolError,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
    http.client.BadStatusLine,
    http.client.IncompleteRead,
    ConnectionError,
)


@contextmanager
def gcs_errors(
    doing: str,
    location: Location,
    *,
    absent: type[StorageError] = ObjectNotFoundError,
    refused: type[ObjectChangedError | ObjectExistsError] | None = None,
) -> Iterator[None]:
    """Map the exceptions of Google's libraries to the error tree.

    Args:
        doing: The verb of the message: "publish", "fetch" ….
        location: The location that the message names.
        absent: The error for HTTP 404 (not found).
        refused: The error for a failed precondition; ``None`` if the request has none.

    Raises:
        StorageError: Or the subclass that applies.
    """
    try:
        yield
    except GoogleAPICallError as error:
        raise _from_response(error, doing, location, absent, refused) from error
    except (DataCorruption, InvalidResponse) as error:
        raise failure(
            StorageError, doing, location, "the received content does not match the stored object.", TRY_LATER
        ) from error
    except GoogleAuthError as error:
        raise _from_auth_error(error, doing, location) from error
    except _NETWORK as error:
        raise _from_network_error(error, doing, location) from error


def is_transient(error: Exception) -> bool:
    """Whether a retry may succeed soon: the server is busy, or the connection broke."""
    if isinstance(error, GoogleAPICallError):
        return error.code in _BUSY
    if isinstance(error, InvalidResponse):
        return error.response.status_code in _BUSY
    if isinstance(error, TransportError):
        inner = error.args[0] if error.args else None
        return isinstance(inner, Exception) and is_transient(inner)
    return isinstance(error, _CONNECTION_BROKEN) and not isinstance(error, requests.exceptions.SSLError)


def error_from_response(response: requests.Response) -> GoogleAPICallError:
    """Build the error that Google's libraries raise for an error response or an unexpected one."""
    error: GoogleAPICallError = from_http_response(response)
    return error


def _message(error: GoogleAPICallError) -> str:
    """Return Google's message on one line."""
    message = str(error.message)
    if error.response is not None:
        try:
            message = str(error.response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):  # a download's error is plain text, a proxy's may be HTML
            message = error.response.text
    return _one_line(message)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_CHARACTERS].rstrip(".")


def _from_response(
    error: GoogleAPICallError,
    doing: str,
    location: Location,
    absent: type[StorageError],
    refused: type[ObjectChangedError | ObjectExistsError] | None,
) -> StorageError:
    status = int(error.code or 0)
    kind, advice = StorageError, TRY_LATER
    if status == http.client.PRECONDITION_FAILED and refused:
        kind, advice = refused, REFUSED[refused]
    elif status == http.client.NOT_FOUND:
        kind, advice = absent, no_bucket(location) if absent is BucketNotFoundError else NO_OBJECT
    elif status == http.client.UNAUTHORIZED:
        kind, advice = AccessDeniedError, "Check the service account's key; it may be invalid or revoked."
    elif status == http.client.FORBIDDEN:
        kind, advice = AccessDeniedError, "Check that the account's roles on the bucket allow this."
    return failure(kind, doing, location, f"HTTP {status} ({_message(error)}).", advice, code=str(status))


def _from_auth_error(error: GoogleAuthError, doing: str, location: Location) -> StorageError:
    if isinstance(error, TransportError) or (isinstance(error, RefreshError) and error.retryable):
        return _from_network_error(error, doing, location)
    message = _one_line(str(error.args[0] if error.args else ""))
    return failure(
        AccessDeniedError,
        doing,
        location,
        f"no usable credentials ({type(error).__name__}: {message}).",
        "Check the service account's key, or what Google's default chain finds on this machine.",
    )


def _from_network_error(error: BaseException, doing: str, location: Location) -> StorageError:
    """Report only the cause: the libraries' own messages contain full URLs, including those of upload sessions."""
    cause: BaseException | None = error
    reason = type(error).__name__
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            reason = f"{reason}: {cause.strerror}"
            break
        cause = cause.__cause__ or cause.__context__
    return failure(StorageError, doing, location, f"{reason}.", UNREACHABLE)
