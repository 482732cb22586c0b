"""The ``[batchexec]`` section of Airflow's configuration, read where it is needed and never at import."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import conf

from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.config.purchase_option import PurchaseOption
from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.names import EXECUTION_DAG_ID

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_batchexec.engine.repository.repository import ModelRepository
    from airflow_batchexec.engine.storage import Storage

__all__ = [
    "allowed_locations",
    "default_purchase_option",
    "default_queue",
    "deployment_name",
    "execution_dags",
    "executors",
    "gpu_resource",
    "in_kubernetes_pod",
    "instance_table",
    "load_timeout_seconds",
    "machine_is_shared",
    "model_repository",
    "most_mapped_tasks",
    "placement",
    "scratch_folder",
    "task_end_seconds",
    "task_memory_bytes",
]

_SECTION = "batchexec"
_MIB = 1024**2


def allowed_locations() -> AllowedLocations:
    """Which files and buckets executions may touch; on disk nothing, unless it is listed."""
    return AllowedLocations.parse(conf.get(_SECTION, "allowed_locations", fallback=""))


def deployment_name() -> str:
    """What tells this Airflow from others that may write to the same destinations."""
    name: str = conf.get(_SECTION, "deployment_name", fallback="") or conf.get("api", "base_url", fallback="")
    return name


def execution_dags() -> tuple[str, ...]:
    """The DAGs whose runs the REST API serves as executions; it starts runs of the first.

    Raises:
        ConfigurationError: None is named, or one twice.
    """
    text = conf.get(_SECTION, "execution_dags", fallback=EXECUTION_DAG_ID)
    dag_ids = tuple(name.strip() for name in text.split(","))
    if not all(dag_ids) or len(set(dag_ids)) < len(dag_ids):
        raise ConfigurationError(
            f"execution_dags: {text!r} is no list of different DAG ids. Set [batchexec] execution_dags to one, separated "
            f"by commas.",
            field="execution_dags",
        )
    return dag_ids


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
    from airflow_batchexec.engine.repository.repository import ModelRepository, default_cache  # noqa: PLC0415  not for parsing

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
    # In the pods of the Kubernetes executor, Airflow's Helm chart configures the local one.
    return not in_kubernetes_pod() and next(iter(executors().values())) == "LocalExecutor"


def executors() -> dict[str, str]:
    """The executors of this Airflow: the class's name by the alias that tasks may call it by, the default one first."""
    text = conf.get("core", "executor", fallback="LocalExecutor")
    found = {}
    for entry in re.split("[,;]", text):
        # With several teams: "LocalExecutor;team=CeleryExecutor". With an alias: "alias:path.to.Executor".
        alias, _, path = entry.rpartition("=")[2].strip().rpartition(":")
        name = path.rpartition(".")[2]
        found[alias or name] = name
    return found


def default_queue() -> str:
    """The queue of tasks that name none."""
    name: str = conf.get("operators", "default_queue", fallback="default")
    return name


def in_kubernetes_pod() -> bool:
    """Whether this is a task that the Kubernetes executor has started, whatever is configured here."""
    # Set by the executor itself (construct_pod in the pod_generator of Airflow's Kubernetes provider).
    return bool(os.environ.get("AIRFLOW_IS_K8S_EXECUTOR_POD"))


def placement() -> str:
    """The rules of placement, as JSON."""
    text: str = conf.get(_SECTION, "placement", fallback="")
    return text


def default_purchase_option() -> str:
    """The purchase option where neither the request nor the deployment names one; empty for none.

    Raises:
        ConfigurationError: It is none.
    """
    text = conf.get(_SECTION, "purchase_option", fallback="").strip()
    try:
        return PurchaseOption.parse(text) if text else ""
    except ValueError as error:
        raise ConfigurationError(
            f"purchase_option: {error} Set [batchexec] purchase_option to one of them.",
            field="purchase_option",
        ) from None


def gpu_resource() -> str:
    """What Kubernetes calls a GPU."""
    name: str = conf.get(_SECTION, "gpu_resource", fallback="").strip()
    return name or "nvidia.com/gpu"


def task_memory_bytes() -> int:
    """The memory of a task's own processes, beside the instance's.

    Raises:
        ConfigurationError: The option is no number of MiB, 0 or more.
    """
    text = conf.get(_SECTION, "task_memory", fallback="512")
    if not text.strip().isdecimal():
        raise ConfigurationError(
            f"task_memory: {text!r} is no whole number of MiB. Set [batchexec] task_memory to one.",
            field="task_memory",
        )
    return int(text) * _MIB


def task_end_seconds() -> float:
    """How long a task may go on after Airflow was told to end it: until its next heartbeat, and then as it is killed."""
    return conf.getint("workers", "min_heartbeat_interval", fallback=5) + 7.0
