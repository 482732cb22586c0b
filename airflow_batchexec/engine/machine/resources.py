"""The resources that this machine offers to pods."""

from __future__ import annotations

import math
import os
import re
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batchexec.exceptions import PodError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_batchexec.engine.config.instances import Instance

__all__ = ["MachineResources", "Reservation", "parse_gpu_list"]

_CGROUP = Path("/sys/fs/cgroup")
_NVIDIA_SMI_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one pod occupies.

    Attributes:
        cpus: The number of CPUs; may be fractional.
        memory_bytes: The memory, in bytes.
        gpus: The ids of its GPUs, as in ``CUDA_VISIBLE_DEVICES``.
    """

    cpus: float
    memory_bytes: int
    gpus: tuple[str, ...] = ()


class MachineResources:
    """What the pods on this machine may occupy together.

    Args:
        cpus: The number of CPUs; ``None`` for those that this process may use.
        memory_bytes: The memory, in bytes; ``None`` for all that this process may use.
        gpus: The ids of the GPUs; ``None`` for those that are found when a pod first needs one.
    """

    def __init__(
        self,
        *,
        cpus: float | None = None,
        memory_bytes: int | None = None,
        gpus: tuple[str, ...] | None = None,
    ) -> None:
        self._cpus = cpus
        self._memory_bytes = memory_bytes
        self._gpus = gpus

    # Looked up when a pod is started: a task that finds one does not need them.

    @cached_property
    def cpus(self) -> float:
        """The number of CPUs."""
        return available_cpus() if self._cpus is None else self._cpus

    @cached_property
    def memory_bytes(self) -> int:
        """The memory, in bytes."""
        return available_memory_bytes() if self._memory_bytes is None else self._memory_bytes

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """The ids of the GPUs."""
        return available_gpus(os.environ) if self._gpus is None else self._gpus

    def reserve(self, instance: Instance, others: Iterable[Reservation]) -> Reservation | None:
        """The resources for a pod of an instance, beside those of other pods.

        Without other pods, an instance that is larger than the machine gets all of it. Where no GPUs are found, they
        are not counted: the build itself then reports that they are missing.

        Returns:
            The reservation; ``None`` if the machine is full.

        Raises:
            PodError: The machine has GPUs, but fewer than the instance.
        """
        others = list(others)
        gpus: tuple[str, ...] = ()
        if instance.gpu_amount and self.gpus:
            if instance.gpu_amount > len(self.gpus):
                raise PodError(
                    f"The instance {instance} needs {instance.gpu_amount} GPUs, but this machine has "
                    f"{len(self.gpus)}. Choose another instance, or a machine that has them."
                )
            used = {gpu for other in others for gpu in other.gpus}
            gpus = tuple(gpu for gpu in self.gpus if gpu not in used)[: instance.gpu_amount]
            if len(gpus) < instance.gpu_amount:
                return None
        # Rounding: ten pods of 0.1 cpus fit a machine with one.
        cpus = math.fsum(other.cpus for other in others) + instance.cpus
        memory_bytes = sum(other.memory_bytes for other in others) + instance.memory_bytes
        is_in_use = any(other.cpus or other.memory_bytes for other in others)
        if is_in_use and (cpus > self.cpus + 1e-6 or memory_bytes > self.memory_bytes):
            return None
        return Reservation(instance.cpus, instance.memory_bytes, gpus)


def available_cpus() -> float:
    """The number of CPUs that this process may use: its affinity, limited by its control group's quota."""
    cores = (
        float(len(os.sched_getaffinity(0)))
        if hasattr(os, "sched_getaffinity")
        else float(os.cpu_count() or 1)
    )
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):
        # Without a limit, the quota is "max".
        return cores


def available_memory_bytes() -> int:
    """The memory that this process may use, in bytes: the machine's, limited by its control group."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(memory_bytes, int((_CGROUP / "memory.max").read_text()))
    except (OSError, ValueError):
        return memory_bytes


def available_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The ids of the GPUs that this process may use: those of ``CUDA_VISIBLE_DEVICES``, else all."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(gpu.strip() for gpu in visible.split(",") if gpu.strip())
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"],  # noqa: S607  wherever the driver's installer has put it
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpu_list(listing.stdout)


def parse_gpu_list(text: str) -> tuple[str, ...]:
    """The ids in the output of ``nvidia-smi -L``: of each GPU or, where it is partitioned, of its MIG devices."""
    gpus: list[str] = []
    partitioned: set[str] = set()
    last = ""
    for line in text.splitlines():
        found = re.search(r"\(UUID: ([^)\s]+)\)", line)
        if found is None:
            continue
        if line.startswith("GPU "):
            last = found[1]
        else:
            partitioned.add(last)
        gpus.append(found[1])
    return tuple(gpu for gpu in gpus if gpu not in partitioned)
