"""Maps the errors of STS and its connections to the error tree.

Messages start with the field to check. They contain STS's error code and its one-line message, which names the caller
and the role, but never a key, a secret or a token.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  botocore's own, which is not an OSError
    HTTPClientError,
)
from botocore.parsers import ResponseParserError

from airflow_batchexec.engine.storage.s3.errors import NO_CREDENTIALS, error_code, error_text, http_status
from airflow_batchexec.exceptions import AccessDeniedError, BatchExecError, ConfigurationError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TOKEN_FIELD", "sts_errors"]

TOKEN_FIELD = "web_identity_token_file"  # noqa: S105  a field's name
_NO_STS = "NoSTS"


class _Rule(NamedTuple):
    """How to report some error codes; an empty ``field`` means the caller's."""

    codes: frozenset[str]
    kind: type[BatchExecError]
    field: str
    advice: str


_DENIED = frozenset({"AccessDenied", "AccessDeniedException"})
_KEY_RULES = (
    _Rule(
        _DENIED,
        AccessDeniedError,
        "",
        "The role's trust policy must allow the caller ({source}), with its external_id if it requires one, and the "
        "caller's own policy must allow sts:AssumeRole.",
    ),
    _Rule(
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
        "STS does not accept {source}; they may be invalid or expired.",
    ),
)
_TOKEN_RULES = (
    _Rule(
        frozenset({"ExpiredToken", "ExpiredTokenException", "IDPRejectedClaim", "InvalidIdentityToken"}),
        AccessDeniedError,
        TOKEN_FIELD,
        "The token must come from an identity provider registered in the role's account, be issued for it (aud), and "
        "not have expired.",
    ),
    _Rule(
        _DENIED,
        AccessDeniedError,
        "",
        "The role's trust policy must allow the issuer, audience (aud) and subject (sub) of the token in {source}.",
    ),
)
_COMMON_RULES = (
    _Rule(frozenset({"RequestTimeTooSkewed"}), AccessDeniedError, "", "Set this machine's clock."),
    _Rule(
        frozenset({"RegionDisabledException"}),
        ConfigurationError,
        "region_name",
        "STS is disabled in this region.",
    ),
    _Rule(frozenset({"ValidationError"}), ConfigurationError, "", "Correct it."),
    _Rule(
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
    """Map botocore's exceptions to the error tree.

    Args:
        problem: What failed: "cannot assume the role …".
        source: Where the caller's credentials or token come from, as text.
        field: The field that messages start with by default.
        endpoint_field: The field that messages start with if STS itself is at fault.
        by_token: Whether the request uses an OIDC token instead of keys.

    Raises:
        AccessDeniedError: STS rejects the caller or its token.
        ConfigurationError: STS cannot fulfill the request; or the server is not an STS, in which case
            ``details["code"]`` is ``"NoSTS"``.
        StorageError: STS is unreachable or busy.
    """
    try:
        yield
    except ClientError as error:
        raise (
            _from_response(error, problem, source, field, by_token=by_token)
            or _not_an_sts(error, problem, endpoint_field)
        ) from error
    except NO_CREDENTIALS as error:
        raise AccessDeniedError(
            f"{field}: {problem}: no usable credentials ({type(error).__name__}) in {source}.",
            field=field,
        ) from error
    except ResponseParserError as error:
        raise _not_an_sts(error, problem, endpoint_field) from error
    except (ConnectionError, HTTPClientError) as error:
        raise StorageError(
            f"{endpoint_field}: {problem}: STS is unreachable. {error}", field=endpoint_field
        ) from error
    except BotoCoreError as error:
        raise ConfigurationError(f"{field}: {problem}: {error}", field=field) from error


def _from_response(
    error: ClientError, problem: str, source: str, field: str, *, by_token: bool
) -> BatchExecError | None:
    code, status, text = error_code(error), http_status(error), error_text(error)
    if "webidentitytoken" in text.lower():
        text = "a value is malformed"  # the text may quote the token
    rule = _find_rule(code, status, text, by_token=by_token)
    if rule is None:
        return None
    field = rule.field or field
    advice = rule.advice.format(source=source)
    return rule.kind(f"{field}: {problem}: {code} ({text}). {advice}", field=field, code=code)


def _find_rule(code: str, status: int, text: str, *, by_token: bool) -> _Rule | None:
    if "DurationSeconds" in text:
        advice = (
            "Set it to at most what the role allows; a role assumed from another role lasts one hour at most."
        )
        return _Rule(frozenset(), ConfigurationError, "role_duration_seconds", advice)
    for rule in (*(_TOKEN_RULES if by_token else _KEY_RULES), *_COMMON_RULES):
        if code in rule.codes:
            return rule
    if status >= 500 and status != 501:  # noqa: PLR2004  HTTP: the server's fault; 501 is "not implemented"
        return _Rule(frozenset(), StorageError, "", "Try again later.")
    if status in {401, 403}:
        return _Rule(frozenset(), AccessDeniedError, "", "Check {source}.")
    return None


def _not_an_sts(error: Exception, problem: str, field: str) -> ConfigurationError:
    reason = "its response cannot be parsed"
    if isinstance(error, ClientError):
        reason = "{Code} ({Message})".format_map(
            {"Code": "", "Message": "", **error.response.get("Error", {})}
        )
    return ConfigurationError(
        f"{field}: {problem}: the server is not an STS that supports this: {reason}.",
        field=field,
        code=_NO_STS,
    )
