"""Which server a client talks to, and as whom.

Each setting comes from the arguments, else from the environment, else from the client's file. Who one is goes
together: a user name from one place and a token from another are not mixed, and no place's secret is sent to a
server that it was not written for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_batchexec.client.profiles import default_path, read_profile
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ClientSettings", "server_address"]

_VARIABLES = {
    "server": "BATCHEXEC_SERVER",
    "token": "BATCHEXEC_TOKEN",
    "token_file": "BATCHEXEC_TOKEN_FILE",
    "username": "BATCHEXEC_USERNAME",
    "password": "BATCHEXEC_PASSWORD",
    "ca_bundle": "BATCHEXEC_CA_BUNDLE",
}
"""The environment variable of each setting that has one."""

_CONFIG_VARIABLE = "BATCHEXEC_CONFIG"
"""Names the client's file in place of the one in the user's configuration folder."""

_PROFILE_VARIABLE = "BATCHEXEC_PROFILE"
"""Names the table of that file in place of ``default``."""

_KINDS_OF_IDENTITY = ("token", "token_file", "username")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """What a client needs to know; ``find`` looks it up.

    Attributes:
        server: Airflow's address, without what the batch API adds to it.
        token: A token of that Airflow.
        token_file: A file that holds one. It is read again where the server refuses what was in it.
        username: Whom to log in as, where there is neither.
        password: With which password.
        ca_bundle: A file of certificates to trust in place of the usual ones; empty for those.
        connect_timeout: Seconds until a connection must stand.
        read_timeout: Seconds that the server may say nothing.
        retries: How often a request that could not be answered is sent again.
    """

    server: str
    token: str = field(default="", repr=False)
    token_file: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    ca_bundle: str = ""
    connect_timeout: float = 5.0
    read_timeout: float = 60.0
    retries: int = 4

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "read_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(
                    f"{name}: {getattr(self, name)!r} is no number of seconds.", field=name
                )
        if self.retries != int(self.retries) or self.retries < 0:
            raise ConfigurationError(f"retries: {self.retries!r} is no number of times.", field="retries")
        if self.ca_bundle and not Path(self.ca_bundle).exists():
            raise ConfigurationError(f"ca_bundle: there is no {self.ca_bundle}.", field="ca_bundle")
        object.__setattr__(self, "server", server_address(self.server))

    @classmethod
    def find(
        cls,
        *,
        profile: str | None = None,
        config_file: str | Path | None = None,
        default_server: str | None = None,
        ask_password: Callable[[str], str] | None = None,
        **arguments: Any,
    ) -> ClientSettings:
        """Look every setting up; an argument that is ``None`` or empty stands for unset.

        Args:
            profile: The table of the client's file; ``default``.
            config_file: The client's file.
            default_server: The server where nothing names one.
            ask_password: Asked for the password of a user where nothing gives one.
            arguments: The attributes of this class.

        Raises:
            ConfigurationError: No server or no identity is named, or a setting is wrong.
        """
        environment = {name: os.environ.get(variable) for name, variable in _VARIABLES.items()}
        places = [
            {name: value for name, value in place.items() if value not in (None, "")}
            for place in (arguments, environment, _from_file(config_file, profile))
        ]
        found: dict[str, Any] = {}
        for place in reversed(places):
            found |= {name: value for name, value in place.items() if name not in _identity_names()}
        found.setdefault("server", default_server)
        if not found["server"]:
            raise ConfigurationError(
                f"server: no server is named. Give its address as server, in {_VARIABLES['server']}, or in "
                f"{default_path()}.",
                field="server",
            )
        found["server"] = server_address(str(found["server"]))
        found |= _identity(places, found["server"], ask_password)
        return cls(**found)


def server_address(text: str) -> str:
    """Airflow's address of whatever of it somebody has at hand, for example the one of a single call.

    Raises:
        ConfigurationError: It is no http:// or https:// address, or holds a password or a query.
    """
    try:
        parts = urlsplit(text.strip())
        right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    # The text itself may hold a password, so no error repeats it.
    if not right:
        raise ConfigurationError(
            "server: this is no address; write one such as https://airflow.example.com.", field="server"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            "server: the address may hold neither user and password nor a query; those are settings of their own.",
            field="server",
        )
    path = parts.path.partition("/api/v1/batch-job")[0].rstrip("/").removesuffix("/batchexec").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _from_file(config_file: str | Path | None, profile: str | None) -> Mapping[str, Any]:
    named = config_file or os.environ.get(_CONFIG_VARIABLE)
    wanted = profile or os.environ.get(_PROFILE_VARIABLE)
    path = Path(named).expanduser() if named else default_path()
    settings = read_profile(path, wanted or "default")
    if settings is None and (named or wanted):
        raise ConfigurationError(f"{path}: there is no such file.", file=str(path))
    return settings or {}


def _identity_names() -> tuple[str, ...]:
    return (*_KINDS_OF_IDENTITY, "password")


def _identity(
    places: list[dict[str, Any]], server: str, ask_password: Callable[[str], str] | None
) -> dict[str, str]:
    """Token, token file, or user and password: all of the first place that says who one is."""
    of_others = ""
    for number, place in enumerate(places):
        kinds = [kind for kind in _KINDS_OF_IDENTITY if kind in place]
        if not kinds:
            continue
        if "server" in place and server_address(place["server"]) != server:
            of_others = f" What is there is for {server_address(place['server'])}."
            continue
        if len(kinds) > 1:
            raise ConfigurationError(f"{kinds[0]}: set it, or {kinds[1]}, but not both.", field=kinds[0])
        if kinds[0] != "username":
            return {kinds[0]: str(place[kinds[0]])}
        username = str(place["username"])
        password = _password(places[number:], username, server) or (ask_password or _no_password)(username)
        return {"username": username, "password": password}
    raise ConfigurationError(
        f"token: nothing says who you are at {server}. Give a token (as token, in {_VARIABLES['token']}, in a "
        f"token_file), or username and password.{of_others}",
        field="token",
    )


def _password(places: list[dict[str, Any]], username: str, server: str) -> str:
    """The password beside the user name, or one of a later place that names no other user or server."""
    for place in places:
        if place.get("username", username) == username and "password" in place:
            if "server" in place and server_address(place["server"]) != server:
                continue
            return str(place["password"])
    return ""


def _no_password(username: str) -> str:
    raise ConfigurationError(
        f"password: there is none for {username!r}. Give it as password, or in {_VARIABLES['password']}.",
        field="password",
    )
