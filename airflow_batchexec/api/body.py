"""The JSON of a request, read by somebody who does not trust it."""

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

__all__ = ["MOST_BYTES", "Body", "parse_json"]

MOST_BYTES = 1024**2
"""What a request may hold."""
_DEEPEST = 32


async def _body(request: Request) -> bytes:
    """The body, as it came.

    Raises:
        ApiError: It is no JSON by its media type, or too large.
    """
    _check_media_type(request.headers.get("content-type", ""))
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MOST_BYTES:
        raise _too_large()
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BYTES:
            raise _too_large()
    return bytes(data)


Body = Annotated[bytes, Depends(_body)]
"""The body of a request, not yet parsed."""


def parse_json(data: bytes) -> Any:
    """The JSON value.

    Raises:
        ApiError: It is none, or holds what no request needs and what some database cannot store: a key twice, a number
            that is none, a NUL, half a character. The message says where.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(f"The body is not UTF-8: byte {error.start} is wrong.") from None
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise _bad(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        # Python refuses to read more digits than it can in a reasonable time.
        raise _bad("The body holds a number with too many digits.") from None
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
            "Content-Type: the body should be application/json, in UTF-8.",
        )


class _Twice:
    """Stands for the value of a key that its object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found[key] = _Twice() if key in found else value
    return found


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every value of a JSON value, and every key, with its path."""
    left = [("", value, 0)]
    while left:
        path, found, depth = left.pop()
        if depth > _DEEPEST:
            raise _too_deep()
        yield path, found
        if isinstance(found, dict):
            for key, member in found.items():
                inside = f"{path}.{key}" if path else key
                yield inside, key
                left.append((inside, member, depth + 1))
        elif isinstance(found, list):
            left += [(f"{path}[{index}]", member, depth + 1) for index, member in enumerate(found)]


def _check_value(path: str, value: Any) -> None:
    if isinstance(value, _Twice):
        raise _bad(f"{_shown(path)}: it is there twice.")
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad(f"{_shown(path)}: this is no number that JSON knows.")
    if isinstance(value, str):
        if "\0" in value:
            raise _bad(f"{_shown(path)}: it holds a NUL.")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise _bad(f"{_shown(path)}: it is not valid Unicode.")


def _shown(path: str) -> str:
    """A path that a sender wrote, fit for a response."""
    text = path.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return (text if len(text) <= 200 else f"{text[:200]}…") or "The body"  # noqa: PLR2004  enough to find it


def _bad(message: str) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, message)


def _too_deep() -> ApiError:
    return _bad(f"The body is nested deeper than {_DEEPEST} levels.")


def _too_large() -> ApiError:
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {MOST_BYTES:,} bytes.")
