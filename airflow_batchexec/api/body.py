"""Reads the JSON body of a request, which is untrusted."""

from __future__ import annotations

import json
import math
from email.message import Message
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request

from airflow_batchexec.api.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_BYTES", "Body", "parse_json"]

MAX_BYTES = 1024**2
"""Maximum size of a request body."""
_MAX_DEPTH = 32


async def _body(request: Request) -> bytes:
    """The raw body.

    Raises:
        ApiError: The media type is not JSON, or the body is too large.
    """
    _check_media_type(request.headers.get("content-type", ""))
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MAX_BYTES:
        raise _too_large()
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise _too_large()
    return bytes(data)


Body = Annotated[bytes, Depends(_body)]
"""The unparsed body of a request."""


def parse_json(data: bytes) -> Any:
    """Parse a JSON value.

    Raises:
        ApiError: The data is not valid JSON, or contains values that no request needs and some databases cannot store:
            duplicate keys, NaN or infinity, NUL, lone surrogates. The message has the path.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad_request(f"The body is not UTF-8: invalid data at byte {error.start}.") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise _bad_request(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        # Python limits the digits of an int, as parsing takes quadratic time.
        raise _bad_request("The body contains a number with too many digits.") from None
    for path, found in _walk(value):
        _check_value(path, found)
    return value


def _check_media_type(text: str) -> None:
    if not text:
        return
    message = Message()
    message["content-type"] = text
    kind = message.get_content_type()
    charset = str(message.get_param("charset") or "utf-8").lower()
    if (kind != "application/json" and not kind.endswith("+json")) or charset not in {"utf-8", "utf8"}:
        raise ApiError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "Content-Type: the body must be application/json in UTF-8.",
        )


class _Duplicate:
    """Replaces the value of a duplicate key."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found[key] = _Duplicate() if key in found else value
    return found


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value and key within a JSON value, with its path."""
    pending = [("", value, 0)]
    while pending:
        path, found, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise _too_deep()
        yield path, found
        if isinstance(found, dict):
            for key, member in found.items():
                member_path = f"{path}.{key}" if path else key
                yield member_path, key
                pending.append((member_path, member, depth + 1))
        elif isinstance(found, list):
            pending += [(f"{path}[{index}]", member, depth + 1) for index, member in enumerate(found)]


def _check_value(path: str, value: Any) -> None:
    if isinstance(value, _Duplicate):
        raise _bad_request(f"{_display(path)}: duplicate key.")
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad_request(f"{_display(path)}: must be a finite number.")
    if isinstance(value, str):
        if "\0" in value:
            raise _bad_request(f"{_display(path)}: must not contain NUL characters.")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise _bad_request(f"{_display(path)}: not valid Unicode.")


def _display(path: str) -> str:
    """A path from the request, made safe for a response."""
    text = path.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return (text if len(text) <= 200 else f"{text[:200]}…") or "The body"  # noqa: PLR2004  enough to find it


def _bad_request(message: str) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, message)


def _too_deep() -> ApiError:
    return _bad_request(f"The body is nested deeper than {_MAX_DEPTH} levels.")


def _too_large() -> ApiError:
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {MAX_BYTES:,} bytes.")
