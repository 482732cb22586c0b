"""The ``[batchexec]`` section of Airflow's configuration, read where it is needed and never at import."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import conf

from airflow_batchexec.engine.instances import InstanceTable
from airflow_batchexec.engine.locations import AllowedLocations, Location
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_batchexec.engine.repository import ModelRepository
    from airflow_batchexec.engine.storage import Storage

__all__ = [
    "allowed_locations",
    "deployment_name",
    "instance_table",
    "load_timeout_seconds",
    "machine_is_shared",
    "model_repository",
    "most_mapped_tasks",
    "scratch_folder",
]

_SECTION = "batchexec"


def allowed_locations() -> AllowedLocations:
    """Which files and buckets executions may touch; on disk nothing, unless it is listed."""
    return AllowedLocations.parse(conf.get(_SECTION, "allowed_locations", fallback=""))


def deployment_name() -> str:
    """What tells this Airflow from others that may write to the same destinations."""
    name: str = conf.get(_SECTION, "deployment_name", fallback="") or conf.get("api", "base_url", fallback="")
    return name


def instance_table() -> InstanceTable:
    """The instances there are."""
    return InstanceTable.parse(conf.get(_SECTION, "instances", fallback=""))


def load_timeout_seconds() -> float:
    """How long a pod may take to load its build.

    Raises:
        ConfigurationError: The option is no number of seconds above 0.
    """
    text = conf.get(_SECTION, "load_timeout", fallback="1800")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigurationError(
            f"load_timeout: {text!r} is no number of seconds above 0. Set [batchexec] load_timeout to one.",
            field="load_timeout",
        )
    return seconds


def scratch_folder() -> Path | None:
    """Where pods and fetched files are put; ``None`` for the system's temporary folder."""
    folder = conf.get(_SECTION, "scratch_folder", fallback="")
    return Path(folder) if folder else None


def model_repository(open_storage: Callable[[Location], Storage]) -> ModelRepository:
    """The repository that builds come from.

    Args:
        open_storage: Opens a repository that lies in a bucket.

    Raises:
        ConfigurationError: There is none.
    """
    from airflow_batchexec.engine.repository import ModelRepository, default_cache  # noqa: PLC0415  not for parsing

    uri = conf.get(_SECTION, "model_repository", fallback="")
    if not uri:
        raise ConfigurationError(
            "model_repository: there is none. Set [batchexec] model_repository to the folder or URI that builds "
            "lie in.",
            field="model_repository",
        )
    root = (
        Location.parse(uri, field="model_repository")
        if "://" in uri
        else Location.of_path(Path(uri).expanduser())
    )
    cache = conf.get(_SECTION, "build_cache", fallback="")
    return ModelRepository(
        root=root, storage=open_storage(root), cache=Path(cache) if cache else default_cache()
    )


def most_mapped_tasks() -> int:
    """How many mapped tasks Airflow lets one task expand to."""
    return int(conf.get("core", "max_map_length", fallback="1024"))


def machine_is_shared() -> bool:
    """Whether an execution's pods all run on one machine, so that each must make do with its share of the cores."""
    executor = conf.get("core", "executor", fallback="LocalExecutor")
    return executor.split(",")[0].strip().rpartition(".")[2] == "LocalExecutor"
