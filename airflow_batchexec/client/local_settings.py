"""Reads this machine's Airflow configuration without importing Airflow.

So on an Airflow machine, the client and the command line use the same model repository as its DAGs.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.repository.opening import REPOSITORY_VARIABLE, open_repository
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_batchexec.engine.repository.repository import ModelRepository

__all__ = ["instance_table", "repository"]


def _airflow_setting(key: str) -> str | None:
    """Return an option of ``[batchexec]`` from the environment, else from ``airflow.cfg``; ``None`` if it is in neither.

    Sources and precedence are as in Airflow's documentation ("Setting Configuration Options").

    Raises:
        ConfigurationError: ``airflow.cfg`` cannot be read.
    """
    value = os.environ.get(f"AIRFLOW__BATCHEXEC__{key.upper()}")
    if value is not None:
        return value
    home = os.environ.get("AIRFLOW_HOME") or "~/airflow"
    path = Path(os.environ.get("AIRFLOW_CONFIG") or f"{home}/airflow.cfg").expanduser()
    # Values may contain "%", which must not be interpolated.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigurationError(
            f"{path}: Airflow's configuration cannot be read: {error}", file=str(path)
        ) from error
    return parser.get("batchexec", key, fallback=None)


def repository(uri: str | None) -> ModelRepository:
    """Open the model repository given by the caller, the environment or Airflow's configuration.

    Raises:
        ConfigurationError: No model repository is configured, or its URI is malformed.
    """
    return open_repository(uri or os.environ.get(REPOSITORY_VARIABLE) or _airflow_setting("model_repository"))


def instance_table() -> InstanceTable:
    """Return the instances, including those of the option ``[batchexec] instances``.

    Raises:
        ConfigurationError: The option is malformed.
    """
    return InstanceTable.parse(_airflow_setting("instances") or "")
