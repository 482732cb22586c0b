"""What S3, and the way to it, can answer instead of doing what it was asked, as errors of this package.

A message holds the URI, S3's own code and its one-line message: never a key's secret, a token, or a signed request.
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

__all__ = ["NO_KEYS", "error_code", "error_text", "http_status", "is_refused_condition", "s3_errors"]

NO_KEYS = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
"""What botocore raises where it has no credentials to sign a request with."""

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
_FULL = {"EntityTooLarge", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}


@contextmanager
def s3_errors(
    doing: str,
    location: Location,
    *,
    absent: type[StorageError] = ObjectNotFoundError,
    refused: type[ObjectChangedError | ObjectExistsError] = ObjectChangedError,
) -> Iterator[None]:
    """Turn what botocore raises into the error tree.

    Args:
        doing: The verb of the message: "publish", "fetch" ….
        location: What the message names.
        absent: What a missing object means here.
        refused: What a condition that does not hold means here: ``ObjectChangedError`` or ``ObjectExistsError``.

    Raises:
        StorageError: Or the kind of it that fits.
    """
    try:
        yield
    except ClientError as error:
        raise _of_answer(error, doing, location, absent, refused) from error
    except NO_KEYS as error:
        raise failure(
            AccessDeniedError,
            doing,
            location,
            f"there are no usable credentials ({type(error).__name__}).",
            "Set the access key and secret of the connection, or of boto3's default chain.",
        ) from error
    except BotoCoreError as error:
        raise failure(StorageError, doing, location, str(error), UNREACHABLE) from error


def error_code(error: ClientError) -> str:
    """S3's code; where the answer had no body, the HTTP status as text."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_text(error: ClientError) -> str:
    """S3's one-line message, without a full stop; empty where the answer had no body."""
    return str(error.response.get("Error", {}).get("Message", "")).rstrip(".")


def http_status(error: ClientError) -> int:
    """The HTTP status of the answer; 0 where there was none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_refused_condition(error: ClientError) -> bool:
    """Whether the request's condition did not hold, or another conditional write was under way."""
    return http_status(error) == 412 or error_code(error) == "ConditionalRequestConflict"  # noqa: PLR2004  HTTP


def _of_answer(
    error: ClientError,
    doing: str,
    location: Location,
    absent: type[StorageError],
    refused: type[ObjectChangedError | ObjectExistsError],
) -> StorageError:
    code, status = error_code(error), http_status(error)
    kind, advice = StorageError, TRY_LATER
    if is_refused_condition(error):
        kind, advice = refused, REFUSED[refused]
    elif code == "NoSuchBucket":
        kind, advice = BucketNotFoundError, no_bucket(location)
    elif code in {"NoSuchKey", "NotFound", "404"}:
        kind, advice = absent, NO_OBJECT
    elif code in _BAD_KEYS:
        kind, advice = AccessDeniedError, "Check the access key and its secret; they may be wrong or expired."
    elif code in _EXPIRED:
        kind, advice = StorageError, "The temporary keys have expired. Another attempt takes new ones."
    elif code == "RequestTimeTooSkewed":
        kind, advice = AccessDeniedError, "Set this machine's clock."
    elif status in {401, 403}:
        kind, advice = AccessDeniedError, "Check the keys, and that their policy allows this."
    elif code in _FULL or status == 507:  # noqa: PLR2004  HTTP: insufficient storage
        kind, advice = DiskFullError, "Free some space in the bucket, or raise its quota."
    elif code in _WRONG_REGION:
        kind, advice = StorageError, f"The bucket is in another region{_region(error)}; set region_name."
    return failure(kind, doing, location, f"{code} ({error_text(error)}).", advice, code=code)


def _region(error: ClientError) -> str:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
    return f", {region}" if region else ""
