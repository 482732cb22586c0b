"""The settings of a client: its server and credentials.

Each setting comes from the arguments, else from the environment, else from the configuration file. Credentials are
taken as a unit: a username from one source is not mixed with a token from another, and a secret is not sent to a server
other than the one its source names.
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

__all__ = ["ClientSettings", "normalize_server"]

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
"""The environment variable that overrides the path of the configuration file."""

_PROFILE_VARIABLE = "BATCHEXEC_PROFILE"
"""The environment variable that selects a profile other than ``default``."""

_CREDENTIAL_KINDS = ("token", "token_file", "username")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """The settings of a client; ``find`` collects them.

    Attributes:
        server: Airflow's URL, without the path of the batch API.
        token: An Airflow API token.
        token_file: A file that contains a token. It is read again if the server refuses the token.
        username: The user to log in as, if there is no token or token file.
        password: The password of that user.
        ca_bundle: A file of CA certificates to trust instead of the default ones; empty for the default ones.
        connect_timeout: The timeout for connecting, in seconds.
        read_timeout: The maximum time without data from the server, in seconds.
        retries: How often to retry a request that got no response.
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
                    f"{name}: {getattr(self, name)!r} is not a positive number of seconds.", field=name
                )
        if self.retries != int(self.retries) or self.retries < 0:
            raise ConfigurationError(
                f"retries: {self.retries!r} is not a non-negative integer.", field="retries"
            )
        if self.ca_bundle and not Path(self.ca_bundle).exists():
            raise ConfigurationError(f"ca_bundle: {self.ca_bundle} does not exist.", field="ca_bundle")
        object.__setattr__(self, "server", normalize_server(self.server))

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
        """Collect the settings. Arguments that are ``None`` or empty are unset.

        Args:
            profile: The table of the configuration file to use; defaults to ``default``.
            config_file: The configuration file.
            default_server: The server to use if none is configured.
            ask_password: Prompts for a user's password if none is configured.
            arguments: Attributes of this class.

        Raises:
            ConfigurationError: No server or credentials are configured, or a setting is invalid.
        """
        environment = {name: os.environ.get(variable) for name, variable in _VARIABLES.items()}
        sources = [
            {name: value for name, value in source.items() if value not in (None, "")}
            for source in (arguments, environment, _from_file(config_file, profile))
        ]
        found: dict[str, Any] = {}
        for source in reversed(sources):
            found |= {name: value for name, value in source.items() if name not in _credential_names()}
        found.setdefault("server", default_server)
        if not found["server"]:
            raise ConfigurationError(
                f"server: no server is configured. Set its URL as server, in {_VARIABLES['server']}, or in "
                f"{default_path()}.",
                field="server",
            )
        found["server"] = normalize_server(str(found["server"]))
        found |= _find_credentials(sources, found["server"], ask_password)
        return cls(**found)


def normalize_server(text: str) -> str:
    """Return Airflow's base URL from any URL of its batch API, for example that of a single call.

    Raises:
        ConfigurationError: It is not an http:// or https:// URL, or contains a password or a query.
    """
    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    # Errors do not repeat the URL: it may contain a password.
    if not valid:
        raise ConfigurationError(
            "server: this is not a URL; use one like https://airflow.example.com.", field="server"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            "server: the URL must not contain a username, password or query; credentials have separate settings.",
            field="server",
        )
    path = parts.path.partition("/api/v1/batch-job")[0].rstrip("/").removesuffix("/batchexec").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _from_file(config_file: str | Path | None, profile: str | None) -> Mapping[str, Any]:
    explicit_file = config_file or os.environ.get(_CONFIG_VARIABLE)
    explicit_profile = profile or os.environ.get(_PROFILE_VARIABLE)
    path = Path(explicit_file).expanduser() if explicit_file else default_path()
    settings = read_profile(path, explicit_profile or "default")
    if settings is None and (explicit_file or explicit_profile):
        raise ConfigurationError(f"{path}: the file does not exist.", file=str(path))
    return settings or {}


def _credential_names() -> tuple[str, ...]:
    return (*_CREDENTIAL_KINDS, "password")


def _find_credentials(
    sources: list[dict[str, Any]], server: str, ask_password: Callable[[str], str] | None
) -> dict[str, str]:
    """Return the token, the token file, or username and password of the first source that has credentials."""
    mismatch = ""
    for number, source in enumerate(sources):
        kinds = [kind for kind in _CREDENTIAL_KINDS if kind in source]
        if not kinds:
            continue
        if "server" in source and normalize_server(source["server"]) != server:
            mismatch = f" The configured credentials are for {normalize_server(source['server'])}."
            continue
        if len(kinds) > 1:
            raise ConfigurationError(
                f"{kinds[0]}: set either {kinds[0]} or {kinds[1]}, not both.", field=kinds[0]
            )
        if kinds[0] != "username":
            return {kinds[0]: str(source[kinds[0]])}
        username = str(source["username"])
        password = _password(sources[number:], username, server) or (ask_password or _no_password)(username)
        return {"username": username, "password": password}
    raise ConfigurationError(
        f"token: no credentials are configured for {server}. Set a token (as token, in {_VARIABLES['token']}, or as "
        f"token_file), or username and password.{mismatch}",
        field="token",
    )


def _password(sources: list[dict[str, Any]], username: str, server: str) -> str:
    """Return the first password whose source does not name another user or server."""
    for source in sources:
        if source.get("username", username) == username and "password" in source:
            if "server" in source and normalize_server(source["server"]) != server:
                continue
            return str(source["password"])
    return ""


def _no_password(username: str) -> str:
    raise ConfigurationError(
        f"password: no password is configured for {username!r}. Set it as password, or in {_VARIABLES['password']}.",
        field="password",
    )
