"""Resolution of what a request leaves open: the build, and the instance, purchase option and number of its pods.

The request takes precedence over the model's deployment, which takes precedence over the defaults of this Airflow or
machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_batchexec.engine.config.instances import Instance, InstanceTable
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.repository.builds import Build
    from airflow_batchexec.engine.repository.repository import ModelRepository

__all__ = ["Resolution", "resolve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The resolved values.

    Attributes:
        build: The build.
        instance: The instance of each pod.
        purchase_option: ``spot`` or ``on-demand``; empty if not set.
        pods: The maximum number of pods; 0 for no limit.
    """

    build: Build
    instance: Instance
    purchase_option: str
    pods: int


def resolve(
    config: ExecutionConfig,
    *,
    repository: ModelRepository,
    instances: InstanceTable,
    default_pods: int = 0,
    default_purchase_option: str = "",
) -> Resolution:
    """Resolve what the request leaves open.

    Args:
        config: The request.
        repository: The model repository.
        instances: The available instances.
        default_pods: The number of pods if neither the request nor the deployment sets it; 0 for no limit.
        default_purchase_option: The purchase option if neither sets it; empty for none.

    Raises:
        ConfigurationError: The instance does not exist.
        RepositoryError: The build does not exist, or none is deployed.
    """
    execution, resources = config.execution, config.resources
    build, deployment = repository.resolve(execution.model_id, execution.build_id or None)
    instance = instances.resolve(
        requested=resources.instance_size,
        deployed=deployment.instance if deployment else None,
        cpus=resources.cpus,
        memory_mib=resources.memory,
        gpu_type=resources.gpu_type,
        gpu_amount=resources.gpu_amount,
    )
    purchase_option = (
        config.advanced_options.purchase_option
        or (deployment.purchase_option if deployment else None)
        or default_purchase_option
    )
    pods = resources.pods or (deployment.pods if deployment else None) or default_pods
    return Resolution(build=build, instance=instance, purchase_option=purchase_option, pods=pods)
