"""What Google Cloud Storage, and the way to it, can answer instead of doing what it was asked, as errors of this package.

A message holds the URI and Google's own one-line message: never a key, a token, or the address of an upload session.
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

__all__ = ["error_of", "gcs_errors", "is_transient"]

_BUSY = {408, 429, 500, 502, 503, 504}  # https://cloud.google.com/storage/docs/retry-strategy
_MOST_CHARACTERS = 300
_NETWORK = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
)
_BROKEN_OFF = (
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
    """Turn what Google's libraries raise into the error tree.

    Args:
        doing: The verb of the message: "publish", "fetch" ….
        location: What the message names.
        absent: What HTTP's "not found" means here.
        refused: What a condition that does not hold means here; ``None`` where none was set.

    Raises:
        StorageError: Or the kind of it that fits.
    """
    try:
        yield
    except GoogleAPICallError as error:
        raise _of_answer(error, doing, location, absent, refused) from error
    except (DataCorruption, InvalidResponse) as error:
        raise failure(
            StorageError, doing, location, "what came is not what is stored there.", TRY_LATER
        ) from error
    except GoogleAuthError as error:
        raise _of_credentials(error, doing, location) from error
    except _NETWORK as error:
        raise _of_network(error, doing, location) from error


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed soon: the server is busy, or the connection broke."""
    if isinstance(error, GoogleAPICallError):
        return error.code in _BUSY
    if isinstance(error, InvalidResponse):
        return error.response.status_code in _BUSY
    if isinstance(error, TransportError):
        inner = error.args[0] if error.args else None
        return isinstance(inner, Exception) and is_transient(inner)
    return isinstance(error, _BROKEN_OFF) and not isinstance(error, requests.exceptions.SSLError)


def error_of(answer: requests.Response) -> GoogleAPICallError:
    """What Google's libraries raise for an answer that refuses, or is none to what was asked."""
    error: GoogleAPICallError = from_http_response(answer)
    return error


def _said(error: GoogleAPICallError) -> str:
    """What Google said, on one line."""
    said = str(error.message)
    if error.response is not None:
        try:
            said = str(error.response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):  # a download's error is plain text, a proxy's may be a page
            said = error.response.text
    return _on_one_line(said)


def _on_one_line(text: str) -> str:
    return " ".join(text.split())[:_MOST_CHARACTERS].rstrip(".")


def _of_answer(
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
        kind, advice = AccessDeniedError, "Check the service account's key; it may be wrong or revoked."
    elif status == http.client.FORBIDDEN:
        kind, advice = AccessDeniedError, "Check that the account's roles in the bucket allow this."
    return failure(kind, doing, location, f"HTTP {status} ({_said(error)}).", advice, code=str(status))


def _of_credentials(error: GoogleAuthError, doing: str, location: Location) -> StorageError:
    if isinstance(error, TransportError) or (isinstance(error, RefreshError) and error.retryable):
        return _of_network(error, doing, location)
    said = _on_one_line(str(error.args[0] if error.args else ""))
    return failure(
        AccessDeniedError,
        doing,
        location,
        f"there are no usable credentials ({type(error).__name__}: {said}).",
        "Check the service account's key, or what Google's default chain finds on this machine.",
    )


def _of_network(error: BaseException, doing: str, location: Location) -> StorageError:
    """The libraries' own messages hold whole addresses, also that of an upload session, so only the cause is told."""
    cause: BaseException | None = error
    reason = type(error).__name__
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            reason = f"{reason}: {cause.strerror}"
            break
        cause = cause.__cause__ or cause.__context__
    return failure(StorageError, doing, location, f"{reason}.", UNREACHABLE)
