"""Maps the errors of S3 and its connections to the error tree.

Messages contain the URI, S3's error code and its one-line message, never a secret key, a token, or a signed request.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)

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
    DiskFullError,
    ObjectChangedError,
    ObjectNotFoundError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.exceptions import ObjectExistsError

__all__ = ["NO_CREDENTIALS", "error_code", "error_text", "http_status", "is_failed_precondition", "s3_errors"]

NO_CREDENTIALS = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
"""Raised by botocore if it has no credentials to sign a request."""

_BAD_KEYS = {
    "AuthFailure",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_WRONG_REGION = {
    "301",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
}
_STORE_FULL = {"EntityTooLarge", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}


@contextmanager
def s3_errors(
    doing: str,
    location: Location,
    *,
    absent: type[StorageError] = ObjectNotFoundError,
    refused: type[ObjectChangedError | ObjectExistsError] = ObjectChangedError,
) -> Iterator[None]:
    """Map botocore's exceptions to the error tree.

    Args:
        doing: The verb of the message: "publish", "fetch" ….
        location: The location that the message names.
        absent: The error for a missing object.
        refused: The error for a failed precondition: ``ObjectChangedError`` or ``ObjectExistsError``.

    Raises:
        StorageError: Or the subclass that applies.
    """
    try:
        yield
    except ClientError as error:
        raise _from_response(error, doing, location, absent, refused) from error
    except NO_CREDENTIALS as error:
        raise failure(
            AccessDeniedError,
            doing,
            location,
            f"no usable credentials ({type(error).__name__}).",
            "Set the access key and secret in the connection, or for boto3's default chain.",
        ) from error
    except BotoCoreError as error:
        raise failure(StorageError, doing, location, str(error), UNREACHABLE) from error


def error_code(error: ClientError) -> str:
    """Return S3's error code, or the HTTP status as text if the response has no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_text(error: ClientError) -> str:
    """Return S3's one-line message without its trailing period; empty if the response has no body."""
    return str(error.response.get("Error", {}).get("Message", "")).rstrip(".")


def http_status(error: ClientError) -> int:
    """Return the HTTP status of the response; 0 if there was no response."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_failed_precondition(error: ClientError) -> bool:
    """Whether the request's precondition failed, or a concurrent conditional write was in progress."""
    return http_status(error) == 412 or error_code(error) == "ConditionalRequestConflict"  # noqa: PLR2004  HTTP


def _from_response(
    error: ClientError,
    doing: str,
    location: Location,
    absent: type[StorageError],
    refused: type[ObjectChangedError | ObjectExistsError],
) -> StorageError:
    code, status = error_code(error), http_status(error)
    kind, advice = StorageError, TRY_LATER
    if is_failed_precondition(error):
        kind, advice = refused, REFUSED[refused]
    elif code == "NoSuchBucket":
        kind, advice = BucketNotFoundError, no_bucket(location)
    elif code in {"NoSuchKey", "NotFound", "404"}:
        kind, advice = absent, NO_OBJECT
    elif code in _BAD_KEYS:
        kind, advice = (
            AccessDeniedError,
            "Check the access key and its secret; they may be invalid or expired.",
        )
    elif code in _EXPIRED:
        kind, advice = StorageError, "The temporary credentials have expired. A retry uses new ones."
    elif code == "RequestTimeTooSkewed":
        kind, advice = AccessDeniedError, "Set this machine's clock."
    elif status in {401, 403}:
        kind, advice = AccessDeniedError, "Check the access key, and that its policy allows this."
    elif code in _STORE_FULL or status == 507:  # noqa: PLR2004  HTTP: insufficient storage
        kind, advice = DiskFullError, "Free up space in the bucket, or raise its quota."
    elif code in _WRONG_REGION:
        kind, advice = StorageError, f"The bucket is in another region{_region(error)}; set region_name."
    return failure(kind, doing, location, f"{code} ({error_text(error)}).", advice, code=code)


def _region(error: ClientError) -> str:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
    return f", {region}" if region else ""
