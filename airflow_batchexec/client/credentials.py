"""The client's credentials: a fixed token, a token in a file, or a login with username and password."""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_batchexec.client.client_settings import ClientSettings

__all__ = ["Credentials", "FixedToken", "PasswordLogin", "TokenFile", "open_credentials"]

_TOKEN = re.compile(r"[\x21-\x7e]+")
# A token is renewed once this fraction of its lifetime is left, but at most this many seconds before it expires.
_RENEWAL_FRACTION = 0.2
_MAX_RENEWAL_MARGIN_SECONDS = 60.0


class Credentials(Protocol):
    """Provides the token for each request."""

    def token(self) -> str:
        """Return the token to send."""

    def renew(self, refused: str) -> bool:
        """After the server refused this token, report whether ``token`` now returns a different one."""


def open_credentials(settings: ClientSettings, login: Callable[[str, str], str]) -> Credentials:
    """Create the credentials from the settings.

    Args:
        settings: Contain a token, a token file, or a username and password.
        login: Exchanges a username and a password for a token.
    """
    if settings.token:
        return FixedToken(settings.token)
    if settings.token_file:
        return TokenFile(Path(settings.token_file))
    return PasswordLogin(lambda: login(settings.username, settings.password))


class FixedToken:
    """A fixed token.

    Raises:
        ConfigurationError: The token cannot be sent in a header.
    """

    def __init__(self, token: str) -> None:
        self._token = _checked(token, "token")

    def token(self) -> str:
        """Return the token."""
        return self._token

    def renew(self, refused: str) -> bool:
        """Nothing to renew."""
        return self._token != refused


class TokenFile:
    """A token in a file that another process may replace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""

    def token(self) -> str:
        """Return the token, reading the file on first use.

        Raises:
            ConfigurationError: The file cannot be read, or does not contain a token.
        """
        self._token = self._token or self._read()
        return self._token

    def renew(self, refused: str) -> bool:
        """Read the file again, and report whether the token changed."""
        self._token = self._read()
        return self._token != refused

    def _read(self) -> str:
        try:
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"token_file: {self._path} cannot be read: {error}.", field="token_file"
            ) from error
        return _checked(text, "token_file")


class PasswordLogin:
    """Tokens obtained with a username and a password: on first use, then renewed before they expire.

    Args:
        login: Obtains a new token.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, login: Callable[[], str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._login = login
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0

    def token(self) -> str:
        """Return a token that is not about to expire."""
        with self._lock:
            if not self._token or self._clock() >= self._renew_at:
                self._log_in()
            return self._token

    def renew(self, refused: str) -> bool:
        """Log in again, unless another thread has already done so."""
        with self._lock:
            if self._token == refused:
                self._log_in()
            return True

    def _log_in(self) -> None:
        # Counted from before the request: the token may have been issued as soon as the request arrived.
        requested_at = self._clock()
        self._token = _checked(self._login(), "token")
        lifetime = _lifetime_seconds(self._token)
        margin = min(lifetime * _RENEWAL_FRACTION, _MAX_RENEWAL_MARGIN_SECONDS)
        self._renew_at = requested_at + lifetime - margin


def _lifetime_seconds(token: str) -> float:
    """Return the lifetime of a token in seconds; infinite if the token does not state it.

    Issue and expiry time are both from the server, so clock skew on this machine does not matter.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"]) - float(claims.get("iat", time.time()))
    except (IndexError, KeyError, TypeError, AttributeError, ValueError, binascii.Error):
        return float("inf")


def _checked(token: str, field: str) -> str:
    token = token.strip()
    if not _TOKEN.fullmatch(token):
        raise ConfigurationError(f"{field}: this is not a token.", field=field)
    return token
