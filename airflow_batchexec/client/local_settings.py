"""What this machine's configuration of Airflow says, without importing Airflow.

So the client and the command line on an Airflow machine mean the same model repository as its DAGs do.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.repository.repository import REPOSITORY_VARIABLE, open_repository
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_batchexec.engine.repository.repository import ModelRepository

__all__ = ["instance_table", "repository"]


def _airflow_setting(key: str) -> str | None:
    """An option under ``[batchexec]``: from the environment, else from ``airflow.cfg``; ``None`` where neither has it.

    Both places, and the order, are those of Airflow's documentation ("Setting Configuration Options").

    Raises:
        ConfigurationError: ``airflow.cfg`` cannot be read.
    """
    value = os.environ.get(f"AIRFLOW__BATCHEXEC__{key.upper()}")
    if value is not None:
        return value
    home = os.environ.get("AIRFLOW_HOME") or "~/airflow"
    path = Path(os.environ.get("AIRFLOW_CONFIG") or f"{home}/airflow.cfg").expanduser()
    # Airflow's values may hold "%", which is no interpolation here.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigurationError(
            f"{path}: Airflow's configuration cannot be read: {error}", file=str(path)
        ) from error
    return parser.get("batchexec", key, fallback=None)


def repository(uri: str | None) -> ModelRepository:
    """The model repository that the caller, the environment or Airflow's configuration names.

    Raises:
        ConfigurationError: None of them does, or the URI is malformed.
    """
    return open_repository(uri or os.environ.get(REPOSITORY_VARIABLE) or _airflow_setting("model_repository"))


def instance_table() -> InstanceTable:
    """The instances, with those of ``instances`` under ``[batchexec]``.

    Raises:
        ConfigurationError: That option is malformed.
    """
    return InstanceTable.parse(_airflow_setting("instances") or "")
