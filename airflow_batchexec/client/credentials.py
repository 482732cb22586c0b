"""Who a client is: a token that it was given, one in a file, or one that it gets for a user and a password."""

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

    from airflow_batchexec.client.settings import ClientSettings

__all__ = ["Credentials", "FixedToken", "PasswordLogin", "TokenFile", "open_credentials"]

_TOKEN = re.compile(r"[\x21-\x7e]+")
# A token is replaced when this part of its life is left, but never more than so many seconds before its end.
_LAST_PART = 0.2
_LAST_SECONDS = 60.0


class Credentials(Protocol):
    """Gives the token of each request."""

    def token(self) -> str:
        """The token to send."""

    def renew(self, refused: str) -> bool:
        """Whether ``token`` gives another one now, where the server has refused this one."""


def open_credentials(settings: ClientSettings, login: Callable[[str, str], str]) -> Credentials:
    """The credentials that the settings name.

    Args:
        settings: They name a token, a file of one, or a user.
        login: Gets a token for a user and a password.
    """
    if settings.token:
        return FixedToken(settings.token)
    if settings.token_file:
        return TokenFile(Path(settings.token_file))
    return PasswordLogin(lambda: login(settings.username, settings.password))


class FixedToken:
    """A token as it was given.

    Raises:
        ConfigurationError: It cannot stand in a header.
    """

    def __init__(self, token: str) -> None:
        self._token = _checked(token, "token")

    def token(self) -> str:
        """The token."""
        return self._token

    def renew(self, refused: str) -> bool:
        """There is no other."""
        return self._token != refused


class TokenFile:
    """A token in a file, which somebody else may replace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""

    def token(self) -> str:
        """The token, read when it is first needed.

        Raises:
            ConfigurationError: The file cannot be read, or holds no token.
        """
        self._token = self._token or self._read()
        return self._token

    def renew(self, refused: str) -> bool:
        """Whether the file holds another one by now."""
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
    """Tokens for a user and a password: the first when it is needed, the next before that one ends.

    Args:
        login: Gets a new token.
        clock: Seconds that only grow.
    """

    def __init__(self, login: Callable[[], str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._login = login
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0

    def token(self) -> str:
        """A token that is good for a while."""
        with self._lock:
            if not self._token or self._clock() >= self._renew_at:
                self._log_in()
            return self._token

    def renew(self, refused: str) -> bool:
        """Log in again, unless another thread has done it since."""
        with self._lock:
            if self._token == refused:
                self._log_in()
            return True

    def _log_in(self) -> None:
        # Counted from before the request: the token may have been made when it had just arrived.
        begun = self._clock()
        self._token = _checked(self._login(), "token")
        lifetime = _lifetime_seconds(self._token)
        left = min(lifetime * _LAST_PART, _LAST_SECONDS)
        self._renew_at = begun + lifetime - left


def _lifetime_seconds(token: str) -> float:
    """How long a token lives from when it is issued; infinite where it does not say.

    Both ends are the server's, so it does not matter whether this machine's clock is right.
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
        raise ConfigurationError(f"{field}: this is no token.", field=field)
    return token
