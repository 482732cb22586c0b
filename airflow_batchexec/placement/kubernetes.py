"""The Kubernetes pod of a task: what the Kubernetes executor is told of it by ``pod_override``.

Read in Airflow 3.3.2 with version 10.25 of its Kubernetes provider, whose package is the extra ``kubernetes``. It is
imported where a pod is made, so only where that executor is configured.
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
# The container that Airflow's executor runs the task in; the first of the pod's.
_CONTAINER = "base"


def pod_document(
    instance: Instance, place: Place, *, gpu_resource: str, task_memory_bytes: int
) -> dict[str, Any]:
    """The part of a Kubernetes pod that an instance and a place decide, as its manifest has it.

    Requests are equal to limits: Kubernetes then gives the pod what it asks for, and evicts others first.

    Args:
        instance: What the predictor may use.
        place: Which nodes the pod may run on.
        gpu_resource: What Kubernetes calls a GPU.
        task_memory_bytes: The memory of the task's own processes, which comes on top of the instance's.
    """
    amounts = {
        "cpu": _cpus(instance.cpus),
        "memory": f"{math.ceil((instance.memory_bytes + task_memory_bytes) / _MIB)}Mi",
        **place.resources,
    }
    limits = dict(amounts)
    if instance.gpu_amount:
        # Of a device, the limit alone is written: Kubernetes takes it for the request as well.
        limits[gpu_resource] = str(instance.gpu_amount)
    resources = {"requests": amounts, "limits": limits}
    return {"spec": {"containers": [{"name": _CONTAINER, "resources": resources}], **place.pod}}


def pod_override(document: dict[str, Any]) -> Any:
    """A pod's document as the ``V1Pod`` that Airflow takes.

    Raises:
        ConfigurationError: The extra ``kubernetes`` is not installed; or Kubernetes has no such fields, so that they
            would be dropped in silence.
    """
    generator = _pod_generator()
    from kubernetes.client import ApiClient  # noqa: PLC0415  only where pods are made

    try:
        pod = generator.deserialize_model_dict(document)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"placement: this is no part of a Kubernetes pod: {error}.", field="placement"
        ) from error
    understood = ApiClient().sanitize_for_serialization(pod)["spec"]
    for key, value in document["spec"].items():
        if understood.get(key) != value:
            raise ConfigurationError(
                f"placement: Kubernetes reads {key} {value} as {understood.get(key)}; look for a misspelt key, or "
                f"a number that is written as text.",
                field="placement",
            )
    return pod


def with_override(pod: Any, override: Any) -> Any:
    """A pod with what an override sets in place of its own, as Airflow itself merges pods.

    Raises:
        ConfigurationError: The override is no ``V1Pod``.
    """
    if type(override) is not type(pod):
        raise ConfigurationError(
            f"executor_config: its pod_override is a {type(override).__name__}, not a "
            f"kubernetes.client.models.V1Pod.",
            field="executor_config",
        )
    return _pod_generator().reconcile_pods(pod, override)


def sets_resources(override: Any) -> bool:
    """Whether a pod says itself what its first container needs."""
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
            f"executor: [core] executor names the Kubernetes executor, and its package cannot be imported ({error}). "
            f"Install it: pip install 'airflow-provider-batchexec[kubernetes]'.",
            field="executor",
        ) from error
    return PodGenerator


def _cpus(cpus: float) -> str:
    """Kubernetes knows thousandths of a cpu."""
    thousandths = max(1, math.ceil(round(cpus * 1000, 6)))
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)
