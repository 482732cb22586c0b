"""The ``[batchexec]`` section of Airflow's configuration, read on use and never at import."""

from __future__ import annotations

import math
import os
import re
import sys
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

    from airflow_batchexec.engine.machine.pods import Machine
    from airflow_batchexec.engine.repository.repository import ModelRepository
    from airflow_batchexec.engine.storage.base import Storage

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
    "machine",
    "max_mapped_tasks",
    "max_tasks_at_once",
    "model_repository",
    "placement",
    "pod_idle_timeout_seconds",
    "scratch_folder",
    "shares_pods",
    "task_end_seconds",
    "task_memory_bytes",
    "tasks_share_one_machine",
]

_SECTION = "batchexec"
_MIB = 1024**2
_TASKS_PER_CPU = 8
"""A mapped task takes a second or two, most of it to start and end: with four per CPU, pods have too little to do."""


def allowed_locations() -> AllowedLocations:
    """The files and buckets that executions may access; nothing on disk unless it is listed."""
    return AllowedLocations.parse(conf.get(_SECTION, "allowed_locations", fallback=""))


def deployment_name() -> str:
    """Distinguishes this Airflow from others that may write to the same destinations."""
    name: str = conf.get(_SECTION, "deployment_name", fallback="") or conf.get("api", "base_url", fallback="")
    return name


def execution_dags() -> tuple[str, ...]:
    """The DAGs whose runs the REST API serves as executions; it starts runs of the first.

    Raises:
        ConfigurationError: The list is empty, or has an empty or duplicate entry.
    """
    text = conf.get(_SECTION, "execution_dags", fallback=EXECUTION_DAG_ID)
    dag_ids = tuple(name.strip() for name in text.split(","))
    if not all(dag_ids) or len(set(dag_ids)) < len(dag_ids):
        raise ConfigurationError(
            f"execution_dags: {text!r} is invalid. Set [batchexec] execution_dags to a comma-separated list of unique "
            f"DAG ids.",
            field="execution_dags",
        )
    return dag_ids


def instance_table() -> InstanceTable:
    """The available instances."""
    return InstanceTable.parse(conf.get(_SECTION, "instances", fallback=""))


def load_timeout_seconds() -> float:
    """How long a pod may take to load its build.

    Raises:
        ConfigurationError: The option is not a positive, finite number of seconds.
    """
    return _number("load_timeout", "1800", "a positive number of seconds", lambda seconds: seconds > 0)


def pod_idle_timeout_seconds() -> float:
    """After how many seconds without a task a shared pod ends.

    Raises:
        ConfigurationError: The option is not a finite number of seconds, 0 or more.
    """
    return _number(
        "pod_idle_timeout_seconds", "60", "a number of seconds, 0 or more", lambda seconds: seconds >= 0
    )


def shares_pods() -> bool:
    """Whether the tasks on a machine share pods: a task that has a Kubernetes pod to itself does not."""
    return sys.platform == "linux" and not in_kubernetes_pod()


def machine() -> Machine:
    """The pods on this machine.

    Raises:
        ConfigurationError: An option is invalid.
        StorageError: The folder of the pods cannot be used.
    """
    from airflow_batchexec.engine.machine.files import private_folder  # noqa: PLC0415  not for parsing
    from airflow_batchexec.engine.machine.pods import Machine  # noqa: PLC0415  as above
    from airflow_batchexec.engine.machine.resources import MachineResources  # noqa: PLC0415  as above

    memory = None
    if conf.get(_SECTION, "machine_memory", fallback=""):
        memory = _number("machine_memory", "", "a positive number of MiB", lambda number: number > 0)
    return Machine(
        folder=private_folder(scratch_folder()),
        resources=MachineResources(
            cpus=_machine_cpus(), memory_bytes=None if memory is None else int(memory * _MIB)
        ),
    )


def max_tasks_at_once(*, cpus: float | None = None) -> int | None:
    """How many of an execution's tasks this machine has a use for at once.

    That is one for each pod that the machine can hold, and enough to keep its cores busy while tasks start and end.

    Args:
        cpus: The CPUs per pod, if they are known and may be fewer than those of the smallest instance.

    Returns:
        The number of tasks; ``None`` where tasks run on several machines.

    Raises:
        ConfigurationError: An option is invalid.
    """
    from airflow_batchexec.engine.machine.resources import available_cpus  # noqa: PLC0415  not for every task

    if not tasks_share_one_machine():
        return None
    machine_cpus = _machine_cpus() or available_cpus()
    smallest = min(instance.cpus for instance in instance_table())
    pod_cpus = min(cpus or smallest, smallest)
    return math.ceil(machine_cpus * max(1 / pod_cpus, _TASKS_PER_CPU))


def scratch_folder() -> Path | None:
    """The folder for pods, fetched files and temporary databases; ``None`` for the system's temporary folder."""
    folder = conf.get(_SECTION, "scratch_folder", fallback="")
    return Path(folder) if folder else None


def model_repository(open_storage: Callable[[Location], Storage]) -> ModelRepository:
    """The repository that contains the builds.

    Args:
        open_storage: Opens the storage of the repository's location.

    Raises:
        ConfigurationError: The option is not set, or is malformed.
    """
    from airflow_batchexec.engine.repository.opening import default_cache  # noqa: PLC0415  not for parsing
    from airflow_batchexec.engine.repository.repository import ModelRepository  # noqa: PLC0415  not for parsing

    uri = conf.get(_SECTION, "model_repository", fallback="")
    if not uri:
        raise ConfigurationError(
            "model_repository: missing. Set [batchexec] model_repository to the folder or URI of the repository.",
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


def max_mapped_tasks() -> int:
    """The maximum number of mapped tasks that Airflow lets one task expand to."""
    return int(conf.get("core", "max_map_length", fallback="1024"))


def tasks_share_one_machine() -> bool:
    """Whether all tasks run on one machine, the scheduler's."""
    # In the pods of KubernetesExecutor, Airflow's Helm chart configures LocalExecutor.
    return not in_kubernetes_pod() and set(executors().values()) == {"LocalExecutor"}


def executors() -> dict[str, str]:
    """The executors of this Airflow: class names by the alias that tasks use, the default executor first."""
    text = conf.get("core", "executor", fallback="LocalExecutor")
    executors_by_alias = {}
    for entry in re.split("[,;]", text):
        # With several teams: "LocalExecutor;team=CeleryExecutor". With an alias: "alias:path.to.Executor".
        alias, _, path = entry.rpartition("=")[2].strip().rpartition(":")
        name = path.rpartition(".")[2]
        executors_by_alias[alias or name] = name
    return executors_by_alias


def default_queue() -> str:
    """The queue of tasks that do not set one."""
    name: str = conf.get("operators", "default_queue", fallback="default")
    return name


def in_kubernetes_pod() -> bool:
    """Whether KubernetesExecutor started this task, whatever executor is configured here."""
    # The executor itself sets this (construct_pod in the pod_generator of Airflow's Kubernetes provider).
    return bool(os.environ.get("AIRFLOW_IS_K8S_EXECUTOR_POD"))


def placement() -> str:
    """The placement rules, as JSON."""
    text: str = conf.get(_SECTION, "placement", fallback="")
    return text


def default_purchase_option() -> str:
    """The purchase option if neither the request nor the deployment sets one; empty for none.

    Raises:
        ConfigurationError: The option is not a known purchase option.
    """
    text = conf.get(_SECTION, "purchase_option", fallback="").strip()
    try:
        return PurchaseOption.parse(text) if text else ""
    except ValueError as error:
        raise ConfigurationError(
            f"purchase_option: {error} Correct [batchexec] purchase_option.",
            field="purchase_option",
        ) from None


def gpu_resource() -> str:
    """The Kubernetes resource name of a GPU."""
    name: str = conf.get(_SECTION, "gpu_resource", fallback="").strip()
    return name or "nvidia.com/gpu"


def task_memory_bytes() -> int:
    """The memory for a task's own processes, in addition to the instance's.

    Raises:
        ConfigurationError: The option is not a whole number of MiB, 0 or more.
    """
    text = conf.get(_SECTION, "task_memory", fallback="512")
    if not text.strip().isdecimal():
        raise ConfigurationError(
            f"task_memory: {text!r} is invalid. Set [batchexec] task_memory to a whole number of MiB, 0 or more.",
            field="task_memory",
        )
    return int(text) * _MIB


def task_end_seconds() -> float:
    """How long a task may keep running after Airflow ends it: until its next heartbeat, and then until it is killed."""
    return conf.getint("workers", "min_heartbeat_interval", fallback=5) + 7.0


def _machine_cpus() -> float | None:
    if not conf.get(_SECTION, "machine_cpus", fallback=""):
        return None
    return _number("machine_cpus", "", "a positive number of CPUs", lambda number: number > 0)


def _number(option: str, default: str, expected: str, is_valid: Callable[[float], bool]) -> float:
    text = conf.get(_SECTION, option, fallback=default)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and is_valid(number)):
        raise ConfigurationError(
            f"{option}: {text!r} is invalid. Set [batchexec] {option} to {expected}.", field=option
        )
    return number
