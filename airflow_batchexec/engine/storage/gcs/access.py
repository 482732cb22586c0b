"""Credentials and endpoint for Google Cloud Storage.

This module does not need Google's libraries, which are an extra: key errors are reported before they are imported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from airflow_batchexec.exceptions import ConfigurationError

__all__ = ["GcsAccess", "invalid_key"]

_KEY_FIELD = "service_account_key_secret_name"
# Needed to sign a token request, and to send it.
_REQUIRED_PARTS = ("client_email", "private_key", "token_uri")


@dataclass(frozen=True, kw_only=True)
class GcsAccess:
    """Credentials and endpoint for Google Cloud Storage.

    Attributes:
        service_account_key: A service account's key, as the JSON text that Google issues; if unset, Google's default
            chain (application default credentials) is used.
        endpoint_url: A server other than Google's.

    Raises:
        ConfigurationError: The key is not JSON, is not a service account's, or is incomplete (messages never show it);
            or the endpoint is not a URL.
    """

    service_account_key: str | None = field(default=None, repr=False)
    endpoint_url: str | None = None

    def __post_init__(self) -> None:
        if self.endpoint_url and not _is_url(self.endpoint_url):
            raise ConfigurationError(
                f"endpoint_url: {self.endpoint_url!r} is not an http:// or https:// URL.",
                field="endpoint_url",
            )
        self.key_parts()

    def key_parts(self) -> dict[str, Any] | None:
        """Return the key's parts by name; ``None`` without a key.

        Raises:
            ConfigurationError: As for the class.
        """
        if not self.service_account_key:
            return None
        parts = _parse_json(self.service_account_key)
        if not isinstance(parts, dict):
            raise invalid_key("is not a JSON object")
        if parts.get("type") != "service_account":
            raise invalid_key('is not a service account key: its "type" is not "service_account"')
        for name in _REQUIRED_PARTS:
            if not isinstance(parts.get(name), str) or not parts[name]:
                raise invalid_key(f'has no "{name}"')
        return parts


def invalid_key(reason: str) -> ConfigurationError:
    """Build the error for an unusable key; ``reason`` must not reveal its content."""
    return ConfigurationError(
        f"{_KEY_FIELD}: the secret's value {reason}. Store the JSON key file of a service account unchanged.",
        field=_KEY_FIELD,
    )


def _parse_json(text: str) -> Any:
    """Parse JSON; ``None`` if it is invalid: the parser's own error would hold the whole text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port  # the port is validated on access
    except ValueError:
        return False
    return url.scheme in {"http", "https"} and bool(url.hostname) and not url.query and not url.fragment
