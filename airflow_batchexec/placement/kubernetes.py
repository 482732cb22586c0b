"""The Kubernetes pod of a task, as passed to the Kubernetes executor in ``pod_override``.

Read in Airflow 3.3.2 and version 10.25 of its Kubernetes provider, which the extra ``kubernetes`` installs. The
provider is imported only when a pod is created, so only if that executor is configured.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_batchexec.engine.config.instances import Instance
    from airflow_batchexec.placement.rules import Place

__all__ = ["pod_document", "pod_override", "sets_resources", "with_override"]

_MIB = 1024**2
# The container that Airflow's executor runs the task in; the first in the pod.
_CONTAINER = "base"


def pod_document(
    instance: Instance, place: Place, *, gpu_resource: str, task_memory_bytes: int
) -> dict[str, Any]:
    """The parts of a Kubernetes pod manifest that an instance and a place determine.

    Requests equal limits, so Kubernetes reserves the resources for the pod and evicts other pods first.

    Args:
        instance: The resources of the predictor.
        place: The node constraints of the pod.
        gpu_resource: The name of the GPU resource in Kubernetes.
        task_memory_bytes: The memory of the task's own processes, added to the instance's memory.
    """
    amounts = {
        "cpu": _cpu_quantity(instance.cpus),
        "memory": f"{math.ceil((instance.memory_bytes + task_memory_bytes) / _MIB)}Mi",
        **place.resources,
    }
    limits = dict(amounts)
    if instance.gpu_amount:
        # For devices, the limit is enough: Kubernetes uses it as the request, too.
        limits[gpu_resource] = str(instance.gpu_amount)
    resources = {"requests": amounts, "limits": limits}
    return {"spec": {"containers": [{"name": _CONTAINER, "resources": resources}], **place.pod}}


def pod_override(document: dict[str, Any]) -> Any:
    """Convert a pod document to the ``V1Pod`` that Airflow expects.

    Raises:
        ConfigurationError: The extra ``kubernetes`` is not installed, or the document has fields that are unknown to
            Kubernetes and would be dropped silently.
    """
    generator = _pod_generator()
    from kubernetes.client import ApiClient  # noqa: PLC0415  only needed to create pods

    try:
        pod = generator.deserialize_model_dict(document)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"placement: invalid pod specification: {error}.", field="placement"
        ) from error
    parsed = ApiClient().sanitize_for_serialization(pod)["spec"]
    for key, value in document["spec"].items():
        if parsed.get(key) != value:
            raise ConfigurationError(
                f"placement: Kubernetes reads {key} {value} as {parsed.get(key)}; check for misspelled keys and "
                f"for numbers written as strings.",
                field="placement",
            )
    return pod


def with_override(pod: Any, override: Any) -> Any:
    """Apply an override to a pod, the way Airflow merges pods.

    Raises:
        ConfigurationError: The override is not a ``V1Pod``.
    """
    if type(override) is not type(pod):
        raise ConfigurationError(
            f"executor_config: pod_override must be a kubernetes.client.models.V1Pod, not a "
            f"{type(override).__name__}.",
            field="executor_config",
        )
    return _pod_generator().reconcile_pods(pod, override)


def sets_resources(override: Any) -> bool:
    """Whether an override sets the resources of its first container."""
    spec = getattr(override, "spec", None)
    containers = getattr(spec, "containers", None) or [None]
    return getattr(containers[0], "resources", None) is not None


def _pod_generator() -> Any:
    try:
        from airflow.providers.cncf.kubernetes.pod_generator import (  # noqa: PLC0415  takes a second
            PodGenerator,
        )
    except ImportError as error:
        raise ConfigurationError(
            f"executor: [core] executor names the Kubernetes executor, but its package cannot be imported ({error}). "
            f"Install it: pip install 'airflow-provider-batchexec[kubernetes]'.",
            field="executor",
        ) from error
    return PodGenerator


def _cpu_quantity(cpus: float) -> str:
    """The Kubernetes quantity, rounded up to millicpus, the finest precision that Kubernetes supports."""
    millicpus = max(1, math.ceil(round(cpus * 1000, 6)))
    return f"{millicpus}m" if millicpus % 1000 else str(millicpus // 1000)
