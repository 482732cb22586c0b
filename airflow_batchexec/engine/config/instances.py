"""Instances: named sets of CPUs, memory and GPUs for one pod.

Names and sizes are those of the guide's platform (JFrog ML, "Instance Sizes"). There, a GPU instance is slightly
smaller than its machine: one CPU and some memory are reserved for the node.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["DEFAULT_INSTANCES", "Instance", "InstanceTable"]

_MIB = 1024**2
_GIB = 1024**3
_KEYS = ("cpus", "memory_gib", "gpu_type", "gpu_amount")

_DEFAULT_INSTANCE = "small"
"""The instance of an execution if neither the request nor the deployment names one."""


@dataclass(frozen=True, slots=True)
class Instance:
    """The resources of one pod.

    Attributes:
        name: The name as spelled in the table.
        cpus: The number of CPUs; may be fractional.
        memory_bytes: The memory limit in bytes; a pod that exceeds it is terminated.
        gpu_type: The GPU type, such as ``NVIDIA_T4``; ``None`` without GPUs.
        gpu_amount: The number of GPUs.
    """

    name: str
    cpus: float
    memory_bytes: int
    gpu_type: str | None = None
    gpu_amount: int = 0

    def __str__(self) -> str:
        gpus = f", {self.gpu_amount} x {self.gpu_type or 'GPU'}" if self.gpu_amount else ""
        return f"{self.name} ({self.cpus:g} cpus, {self.memory_bytes / _GIB:g} GiB{gpus})"


DEFAULT_INSTANCES: tuple[Instance, ...] = (
    Instance("tiny", 1, 2 * _GIB),
    Instance("small", 2, 8 * _GIB),
    Instance("medium", 4, 16 * _GIB),
    Instance("large", 8, 32 * _GIB),
    Instance("xlarge", 16, 64 * _GIB),
    Instance("2xlarge", 32, 128 * _GIB),
    Instance("4xlarge", 64, 256 * _GIB),
    Instance("gpu.t4.xl", 3, 14 * _GIB, "NVIDIA_T4", 1),
    Instance("gpu.t4.2xl", 7, 28 * _GIB, "NVIDIA_T4", 1),
    Instance("gpu.t4.4xl", 15, 59 * _GIB, "NVIDIA_T4", 1),
    Instance("gpu.l4.xl", 3, 12 * _GIB, "NVIDIA_L4", 1),
    Instance("gpu.a10.xl", 3, 14 * _GIB, "NVIDIA_A10G", 1),
    Instance("gpu.a10.2xl", 7, 28 * _GIB, "NVIDIA_A10G", 1),
    Instance("gpu.a10.4xl", 15, 59 * _GIB, "NVIDIA_A10G", 1),
    Instance("gpu.a10.8xl", 31, 123 * _GIB, "NVIDIA_A10G", 1),
    Instance("gpu.a10.12xl", 47, 189 * _GIB, "NVIDIA_A10G", 4),
    Instance("gpu.v100.xl", 7, 56 * _GIB, "NVIDIA_V100", 1),
    Instance("gpu.v100.4xl", 31, 227 * _GIB, "NVIDIA_V100", 4),
    Instance("gpu.v100.8xl", 63, 454 * _GIB, "NVIDIA_V100", 8),
    Instance("gpu.a100.xl", 11, 78 * _GIB, "NVIDIA_A100", 1),
    Instance("gpu.a100.8xl", 95, 1072 * _GIB, "NVIDIA_A100", 8),
)


class InstanceTable:
    """Instances by case-insensitive name.

    Args:
        extra: Instances to add to the defaults, or to replace them, by name:
            ``{"mine": {"cpus": 1, "memory_gib": 3, "gpu_type": "NVIDIA_T4", "gpu_amount": 1}}``.

    Raises:
        ConfigurationError: ``extra`` is invalid; the message names the instance and the key.
    """

    def __init__(self, *, extra: Mapping[str, Any] | None = None) -> None:
        instances = [
            *DEFAULT_INSTANCES,
            *(_read_instance(name, entry) for name, entry in (extra or {}).items()),
        ]
        self._instances = {instance.name.lower(): instance for instance in instances}

    @classmethod
    def parse(cls, text: str) -> InstanceTable:
        """Read additional instances from JSON; an empty string adds none.

        Raises:
            ConfigurationError: The text is not a JSON object, or an instance in it is invalid.
        """
        if not text.strip():
            return cls()
        try:
            extra = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"instances: invalid JSON: {error}.", field="instances") from error
        if not isinstance(extra, dict):
            raise ConfigurationError(
                'instances: expected a JSON object of instances by name, as in {"mine": {"cpus": 1, "memory_gib": 3}}.',
                field="instances",
            )
        return cls(extra=extra)

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._instances.values())

    def get(self, name: str, *, field: str = "instance") -> Instance:
        """The instance with this name.

        Raises:
            ConfigurationError: The name is unknown; the message lists the known names.
        """
        found = self._instances.get(name.strip().lower())
        if found is not None:
            return found
        import difflib  # noqa: PLC0415  only needed for the message

        close = difflib.get_close_matches(name.strip().lower(), self._instances, n=1)
        hint = f" Did you mean {self._instances[close[0]].name!r}?" if close else ""
        names = ", ".join(instance.name for instance in self)
        raise ConfigurationError(
            f"{field}: unknown instance {name!r}.{hint} Known instances: {names}.", field=field
        )

    def resolve(
        self,
        *,
        requested: str | None = None,
        deployed: str | None = None,
        cpus: float | None = None,
        memory_mib: int | None = None,
        gpu_type: str | None = None,
        gpu_amount: int | None = None,
    ) -> Instance:
        """Determine the resources of an execution's pods.

        The request takes precedence over the deployment, and the deployment over ``small``.

        Args:
            requested: The instance named in the request.
            deployed: The instance named in the model's deployment.
            cpus: Overrides the instance's CPUs. Here and below, 0 means unset, like ``None``, because clients send 0
                for fields that are not set.
            memory_mib: Overrides the instance's memory, in MiB.
            gpu_type: Overrides the instance's GPU type.
            gpu_amount: Overrides the instance's number of GPUs; defaults to 1 if ``gpu_type`` is set and the instance
                has no GPU.

        Raises:
            ConfigurationError: The instance is unknown, or a number is negative or not finite.
        """
        for field, value in (("cpus", cpus), ("memory", memory_mib), ("gpu_amount", gpu_amount)):
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigurationError(
                    f"{field}: {value} is not a valid amount; it must be 0 or more.", field=field
                )
        base = self.get(requested) if requested else None
        if base is None:
            base = (
                self.get(deployed, field="deployment.instance") if deployed else self.get(_DEFAULT_INSTANCE)
            )
        return replace(
            base,
            cpus=cpus or base.cpus,
            memory_bytes=memory_mib * _MIB if memory_mib else base.memory_bytes,
            gpu_type=gpu_type or base.gpu_type,
            gpu_amount=gpu_amount or base.gpu_amount or (1 if gpu_type else 0),
        )


def _read_instance(name: str, entry: Any) -> Instance:
    field = f"instances.{name}"
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(f"instances: {name!r} is not a valid instance name.", field="instances")
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{field}: expected an object with cpus and memory_gib.", field=field)
    unknown = sorted(str(key) for key in entry if key not in _KEYS)
    if unknown:
        raise ConfigurationError(
            f"{field}.{unknown[0]}: unknown key. Known keys: {', '.join(_KEYS)}.",
            field=f"{field}.{unknown[0]}",
        )
    gpu_type = entry.get("gpu_type")
    if gpu_type is not None and not isinstance(gpu_type, str):
        raise ConfigurationError(
            f"{field}.gpu_type: {gpu_type!r} is not a string.", field=f"{field}.gpu_type"
        )
    gpu_amount = _read_amount(entry, "gpu_amount", field) if "gpu_amount" in entry else 1 if gpu_type else 0
    if gpu_amount != int(gpu_amount):
        raise ConfigurationError(
            f"{field}.gpu_amount: {gpu_amount} is not a whole number.", field=f"{field}.gpu_amount"
        )
    return Instance(
        name=name.strip(),
        cpus=_read_amount(entry, "cpus", field, positive=True),
        memory_bytes=int(_read_amount(entry, "memory_gib", field, positive=True) * _GIB),
        gpu_type=gpu_type,
        gpu_amount=int(gpu_amount),
    )


def _read_amount(entry: dict[str, Any], key: str, field: str, *, positive: bool = False) -> float:
    value = entry.get(key)
    # In Python, true is an int, and json.loads accepts NaN and Infinity.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        amount = float(value)
        if amount or not positive:
            return amount
    problem = "required, but missing" if value is None else f"{value!r} is not a valid amount"
    expected = "a number greater than 0" if positive else "a number of 0 or more"
    raise ConfigurationError(f"{field}.{key}: {problem}; set it to {expected}.", field=f"{field}.{key}")
