"""What a request leaves open, decided: the build, and what its pods are made of.

The request goes before the model's deployment, and that before what this Airflow or this machine has by default.
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
    """What was decided.

    Attributes:
        build: The build that predicts.
        instance: What each pod may use.
        purchase_option: ``spot`` or ``on-demand``; empty where nobody has said.
        pods: How many pods there are at most; 0 for no limit.
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
    pods_by_default: int = 0,
    purchase_option_by_default: str = "",
) -> Resolution:
    """Decide what the request leaves open.

    Args:
        config: The request.
        repository: Where builds come from.
        instances: The instances of this deployment.
        pods_by_default: How many pods there are where neither request nor deployment says; 0 for no limit.
        purchase_option_by_default: The purchase option where neither says; empty for none.

    Raises:
        ConfigurationError: There is no such instance.
        RepositoryError: There is no such build, or none is deployed.
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
        or purchase_option_by_default
    )
    pods = resources.pods or (deployment.pods if deployment else None) or pods_by_default
    return Resolution(build=build, instance=instance, purchase_option=purchase_option, pods=pods)
