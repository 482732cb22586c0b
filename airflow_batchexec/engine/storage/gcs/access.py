"""Whom Google Cloud Storage is reached as, and where.

It is read without Google's libraries, which are an extra: what is wrong with a key is told before any is imported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from airflow_batchexec.exceptions import ConfigurationError

__all__ = ["GcsAccess", "wrong_key"]

_KEY_FIELD = "service_account_key_secret_name"
# What a request for a token is signed with, and where it is sent.
_PARTS = ("client_email", "private_key", "token_uri")


@dataclass(frozen=True, kw_only=True)
class GcsAccess:
    """How to reach Google Cloud Storage, and as whom.

    Attributes:
        service_account_key: A service account's key, as the JSON text that Google gives out; without one, Google's
            default chain (application default credentials) finds the credentials.
        endpoint_url: A server other than Google's.

    Raises:
        ConfigurationError: The key is not JSON, is no service account's, or lacks a part, and is not shown; or the
            endpoint is no URL.
    """

    service_account_key: str | None = field(default=None, repr=False)
    endpoint_url: str | None = None

    def __post_init__(self) -> None:
        if self.endpoint_url and not _is_url(self.endpoint_url):
            raise ConfigurationError(
                f"endpoint_url: {self.endpoint_url!r} is no http:// or https:// URL.", field="endpoint_url"
            )
        self.key_parts()

    def key_parts(self) -> dict[str, Any] | None:
        """The key's parts by name; ``None`` without a key.

        Raises:
            ConfigurationError: As for the class.
        """
        if not self.service_account_key:
            return None
        parts = _json_of(self.service_account_key)
        if not isinstance(parts, dict):
            raise wrong_key("is no JSON object")
        if parts.get("type") != "service_account":
            raise wrong_key('is no key of a service account: its "type" is not "service_account"')
        for name in _PARTS:
            if not isinstance(parts.get(name), str) or not parts[name]:
                raise wrong_key(f'has no "{name}"')
        return parts


def wrong_key(reason: str) -> ConfigurationError:
    """What is raised for a key that cannot be used; the reason says nothing of its content."""
    return ConfigurationError(
        f"{_KEY_FIELD}: the secret's value {reason}. Store the JSON file of a service account's key as it is.",
        field=_KEY_FIELD,
    )


def _json_of(text: str) -> Any:
    """What the text holds; ``None`` where it is no JSON: the parser's own error would carry the whole text along."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port  # a port that is no number is found when it is asked for
    except ValueError:
        return False
    return url.scheme in {"http", "https"} and bool(url.hostname) and not url.query and not url.fragment
