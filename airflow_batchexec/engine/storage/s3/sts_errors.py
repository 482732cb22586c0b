"""What STS, and the way to it, can answer instead of doing what it was asked, as errors of this package.

A message starts with the field to look at. It holds STS's own code and its one-line message, which names the caller and
the role: never a key, a secret or a token.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  botocore's own, which is no OSError
    HTTPClientError,
)
from botocore.parsers import ResponseParserError

from airflow_batchexec.engine.storage.s3.errors import NO_KEYS, error_code, error_text, http_status
from airflow_batchexec.exceptions import AccessDeniedError, BatchExecError, ConfigurationError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TOKEN_FIELD", "sts_errors"]

TOKEN_FIELD = "web_identity_token_file"  # noqa: S105  a field's name
_NO_STS = "NoSTS"


class _Verdict(NamedTuple):
    """What some codes mean; an empty field is the caller's own."""

    codes: frozenset[str]
    kind: type[BatchExecError]
    field: str
    advice: str


_DENIED = frozenset({"AccessDenied", "AccessDeniedException"})
_OF_KEYS = (
    _Verdict(
        _DENIED,
        AccessDeniedError,
        "",
        "The role's trust policy must allow the caller ({source}), with the external_id that it asks for, and the "
        "caller's own policy must allow sts:AssumeRole.",
    ),
    _Verdict(
        frozenset(
            {
                "AuthFailure",
                "ExpiredToken",
                "ExpiredTokenException",
                "IncompleteSignature",
                "InvalidAccessKeyId",
                "InvalidClientTokenId",
                "InvalidToken",
                "MissingAuthenticationToken",
                "OptInRequired",
                "SignatureDoesNotMatch",
                "UnrecognizedClientException",
            }
        ),
        AccessDeniedError,
        "",
        "STS does not accept {source}; they may be wrong or expired.",
    ),
)
_OF_TOKEN = (
    _Verdict(
        frozenset({"ExpiredToken", "ExpiredTokenException", "IDPRejectedClaim", "InvalidIdentityToken"}),
        AccessDeniedError,
        TOKEN_FIELD,
        "The token must come from an identity provider that the role's account knows, be meant for it (aud), and not "
        "have expired.",
    ),
    _Verdict(
        _DENIED,
        AccessDeniedError,
        "",
        "The role's trust policy must allow issuer, audience (aud) and subject (sub) of the token in {source}.",
    ),
)
_OF_EITHER = (
    _Verdict(frozenset({"RequestTimeTooSkewed"}), AccessDeniedError, "", "Set this machine's clock."),
    _Verdict(
        frozenset({"RegionDisabledException"}),
        ConfigurationError,
        "region_name",
        "STS is switched off in this region.",
    ),
    _Verdict(frozenset({"ValidationError"}), ConfigurationError, "", "Correct it."),
    _Verdict(
        frozenset({"IDPCommunicationError", "RequestLimitExceeded", "Throttling", "ThrottlingException"}),
        StorageError,
        "",
        "Try again later.",
    ),
)


@contextmanager
def sts_errors(
    problem: str,
    *,
    source: str,
    field: str = "iam_role_arn",
    endpoint_field: str = "sts_endpoint_url",
    by_token: bool = False,
) -> Iterator[None]:
    """Turn what botocore raises into the error tree.

    Args:
        problem: What has not come about: "the role … cannot be assumed".
        source: With what STS is asked, in words.
        field: What the message starts with, where nothing else is known to be at fault.
        endpoint_field: What it starts with where STS itself is.
        by_token: Whether STS is asked with an OIDC token in place of keys.

    Raises:
        AccessDeniedError: STS refuses the caller or its token.
        ConfigurationError: STS cannot do what it is asked; or what answers is no STS: ``details["code"]`` is
            ``"NoSTS"``.
        StorageError: STS is out of reach or busy.
    """
    try:
        yield
    except ClientError as error:
        raise (
            _of_answer(error, problem, source, field, by_token=by_token)
            or _no_sts(error, problem, endpoint_field)
        ) from error
    except NO_KEYS as error:
        raise AccessDeniedError(
            f"{field}: {problem}: there are no usable credentials ({type(error).__name__}) in {source}.",
            field=field,
        ) from error
    except ResponseParserError as error:
        raise _no_sts(error, problem, endpoint_field) from error
    except (ConnectionError, HTTPClientError) as error:
        raise StorageError(
            f"{endpoint_field}: {problem}: STS is out of reach. {error}", field=endpoint_field
        ) from error
    except BotoCoreError as error:
        raise ConfigurationError(f"{field}: {problem}: {error}", field=field) from error


def _of_answer(
    error: ClientError, problem: str, source: str, field: str, *, by_token: bool
) -> BatchExecError | None:
    code, status, text = error_code(error), http_status(error), error_text(error)
    if "webidentitytoken" in text.lower():
        text = "a value is malformed"  # the text may quote the token
    verdict = _verdict(code, status, text, by_token=by_token)
    if verdict is None:
        return None
    field = verdict.field or field
    advice = verdict.advice.format(source=source)
    return verdict.kind(f"{field}: {problem}: {code} ({text}). {advice}", field=field, code=code)


def _verdict(code: str, status: int, text: str, *, by_token: bool) -> _Verdict | None:
    if "DurationSeconds" in text:
        advice = (
            "Set it to what the role allows; a role that is assumed as another role lives an hour at most."
        )
        return _Verdict(frozenset(), ConfigurationError, "role_duration_seconds", advice)
    for verdict in (*(_OF_TOKEN if by_token else _OF_KEYS), *_OF_EITHER):
        if code in verdict.codes:
            return verdict
    if status >= 500 and status != 501:  # noqa: PLR2004  HTTP: the server's fault; 501 is "not implemented"
        return _Verdict(frozenset(), StorageError, "", "Try again later.")
    if status in {401, 403}:
        return _Verdict(frozenset(), AccessDeniedError, "", "Check {source}.")
    return None


def _no_sts(error: Exception, problem: str, field: str) -> ConfigurationError:
    answer = "its answer cannot be read"
    if isinstance(error, ClientError):
        answer = "{Code} ({Message})".format_map(
            {"Code": "", "Message": "", **error.response.get("Error", {})}
        )
    return ConfigurationError(
        f"{field}: {problem}: what answers there is no STS that can do this: {answer}.",
        field=field,
        code=_NO_STS,
    )
