"""Profiles: the user's configuration file, with one table of settings per server.

::

    [default]
    server = "https://airflow.example.com"
    token_file = "token"                # beside this file

    [staging]
    server = "https://staging.example.com/airflow"
    username = "ada"
    password = "..."
"""

from __future__ import annotations

import logging
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from airflow_batchexec.exceptions import ConfigurationError

__all__ = ["default_path", "read_profile"]

_STRINGS = ("server", "token", "token_file", "username", "password", "ca_bundle")
_NUMBERS = ("connect_timeout", "read_timeout", "retries")
_PATHS = ("token_file", "ca_bundle")
_SECRETS = ("token", "password")

log = logging.getLogger(__name__)


def default_path() -> Path:
    """Return the default path of the configuration file, which may not exist."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "batchexec" / "config.toml"


def read_profile(path: Path, profile: str) -> dict[str, Any] | None:
    """Read one table of the file, with paths made absolute; ``None`` if the file does not exist.

    Raises:
        ConfigurationError: The file cannot be read, has no such table, or contains an invalid key or value. The message
            does not repeat values: they may be secret.
    """
    try:
        with path.open("rb") as file:
            shared = bool(os.fstat(file.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH))
            document = tomllib.load(file)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _invalid(path, f"cannot be read: {error}") from error
    if profile not in document:
        tables = ", ".join(name for name, table in document.items() if isinstance(table, dict)) or "none"
        raise _invalid(path, f"there is no profile [{profile}]; the profiles are: {tables}")
    table = document[profile]
    if not isinstance(table, dict):
        raise _invalid(path, f"{profile} is not a table; write [{profile}] with its settings below")
    for key, value in table.items():
        _check(path, f"{profile}.{key}", key, value)
    if shared and any(key in table for key in _SECRETS):
        log.warning("%s contains a secret but is readable by other users. Run: chmod 600 %s", path, path)
    return {
        key: str(path.parent / Path(value).expanduser()) if key in _PATHS and value else value
        for key, value in table.items()
    }


def _check(path: Path, name: str, key: str, value: Any) -> None:
    if key in _STRINGS:
        valid, kind = isinstance(value, str), "a string"
    elif key in _NUMBERS:
        valid, kind = isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
    else:
        raise _invalid(path, f"{name} is not a setting; the settings are {', '.join(_STRINGS + _NUMBERS)}")
    if not valid:
        raise _invalid(path, f"{name} must be {kind}")


def _invalid(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: {reason}.", file=str(path))
