"""The client's file: a table of settings for each server that one works with.

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

_TEXTS = ("server", "token", "token_file", "username", "password", "ca_bundle")
_NUMBERS = ("connect_timeout", "read_timeout", "retries")
_PATHS = ("token_file", "ca_bundle")
_SECRETS = ("token", "password")

logger = logging.getLogger(__name__)


def default_path() -> Path:
    """Where the file lies unless somebody says otherwise; it need not be there."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "batchexec" / "config.toml"


def read_profile(path: Path, profile: str) -> dict[str, Any] | None:
    """The settings of one table of the file, their paths made absolute; ``None`` where there is no file.

    Raises:
        ConfigurationError: The file cannot be read, has no such table, or holds a wrong key or value. Values are not
            repeated: they may be secret.
    """
    try:
        with path.open("rb") as file:
            shared = bool(os.fstat(file.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH))
            document = tomllib.load(file)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _refused(path, f"it cannot be read: {error}") from error
    if profile not in document:
        tables = ", ".join(name for name, table in document.items() if isinstance(table, dict)) or "none"
        raise _refused(path, f"it has no profile [{profile}]; its profiles: {tables}")
    table = document[profile]
    if not isinstance(table, dict):
        raise _refused(path, f"{profile} is no table; write [{profile}] and its settings below it")
    for key, value in table.items():
        _check(path, f"{profile}.{key}", key, value)
    if shared and any(key in table for key in _SECRETS):
        logger.warning("%s holds a secret, and others may read it. Run: chmod 600 %s", path, path)
    return {
        key: str(path.parent / Path(value).expanduser()) if key in _PATHS and value else value
        for key, value in table.items()
    }


def _check(path: Path, name: str, key: str, value: Any) -> None:
    if key in _TEXTS:
        right, kind = isinstance(value, str), "a text"
    elif key in _NUMBERS:
        right, kind = isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
    else:
        raise _refused(path, f"{name} is no setting; the settings are {', '.join(_TEXTS + _NUMBERS)}")
    if not right:
        raise _refused(path, f"{name} should be {kind}")


def _refused(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: {reason}.", file=str(path))
