"""Placement of an execution's tasks on Airflow's executors, according to its instance and purchase option.

On the Kubernetes executor, these determine the resources and nodes of each task's Kubernetes pod; on the Celery
executor, the queue. Airflow reads both when it parses the DAG, so only literal values count. What an execution needs is
known only when it is planned; it is then refused if it needs more than its DAG's tasks have.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec import settings
from airflow_batchexec.engine.config.sections import AdvancedOptions, Resources
from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.placement.kubernetes import pod_document, pod_override, sets_resources, with_override
from airflow_batchexec.placement.rules import PlacementRules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.sdk import BaseOperator

    from airflow_batchexec.engine.config.instances import Instance
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.placement.rules import Place

__all__ = ["Placement", "admission", "place_tasks", "placement_rules"]

log = logging.getLogger(__name__)
_MIB = 1024**2
_KUBERNETES = "KubernetesExecutor"
_CELERY = "CeleryExecutor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The resources and machines that a DAG's tasks were given when it was parsed.

    Attributes:
        executor: The class name of the executor that runs them: Kubernetes or Celery.
        instance: The instance that fits their machines.
        purchase_option: The purchase option of their machines; empty if unset.
        by_rules: Whether the rules of ``[batchexec] placement`` alone determined the machines.
    """

    executor: str
    instance: Instance
    purchase_option: str
    by_rules: bool = True


def place_tasks(
    literals: Mapping[str, Any],
    *,
    sibling: BaseOperator,
    executor: str | None = None,
    queue: str | None = None,
    executor_config: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], Placement | None]:
    """Determine the operator arguments that place an execution's tasks, and what the tasks have room for.

    The DAG author's settings take precedence over the instance. Nothing is added if neither the Kubernetes nor the
    Celery executor is configured.

    Args:
        literals: The parameters that are known when the DAG is parsed, by flat name.
        sibling: A task in the same DAG and group. Executor settings in their ``default_args`` also count as the DAG
            author's.
        executor: The DAG author's executor.
        queue: The DAG author's queue.
        executor_config: The DAG author's executor config. Each field that its ``pod_override`` sets takes precedence
            over the instance.

    Returns:
        The operator arguments, and the placement; ``None`` if nothing is known about the machines.

    Raises:
        ConfigurationError: A parameter or a rule is invalid, or the package of the Kubernetes executor is missing.
    """
    given = {"executor": executor, "queue": queue, "executor_config": executor_config}
    arguments = {name: value for name, value in given.items() if value is not None}
    in_pod = settings.in_kubernetes_pod()
    classes = list(settings.executors().values())
    on_kubernetes = any(name.endswith(_KUBERNETES) for name in classes)
    on_celery = any(name.endswith(_CELERY) for name in classes)
    if not (on_kubernetes or on_celery or in_pod):
        return arguments, None
    instance, purchase_option = _requested(literals)
    place = placement_rules().place(instance, purchase_option)
    config = dict(executor_config or sibling.executor_config or {})
    override = config.get("pod_override")
    if queue is None and sibling.queue != settings.default_queue():
        queue = sibling.queue
    # The executor reads pod_override from the DAG as parsed by the DAG processor, so the task in the pod can skip it.
    if on_kubernetes and not in_pod:
        arguments["executor_config"] = {**config, "pod_override": _pod(instance, place, override)}
    if on_celery and queue is None and place.queue is not None:
        arguments["queue"] = place.queue
    placement = Placement(
        executor=_executor_class(executor, sibling, in_pod=in_pod),
        instance=instance,
        purchase_option=purchase_option,
        by_rules=override is None,
    )
    if placement.executor.endswith(_KUBERNETES):
        return arguments, None if sets_resources(override) else placement
    return arguments, placement if placement.executor.endswith(_CELERY) and queue is None else None


def admission(placement: Placement | None, config: ExecutionConfig) -> Callable[[Instance, str], None]:
    """Create a check that refuses executions that do not fit their DAG's tasks.

    Args:
        placement: The placement of the tasks.
        config: The request.

    Returns:
        A function of the resolved instance and purchase option. It raises ``ConfigurationError`` if the instance needs
        more than the tasks have, or if the request sets a different purchase option. If the deployment sets a different
        one, it only logs a warning, because that is not known when the DAG is parsed.
    """

    def admit(instance: Instance, purchase_option: str) -> None:
        if placement is not None:
            _check_instance(placement, instance, config)
            _check_purchase_option(placement, instance, purchase_option, config)

    return admit


def placement_rules() -> PlacementRules:
    """The rules of ``[batchexec] placement``.

    Raises:
        ConfigurationError: A rule is invalid.
    """
    return PlacementRules.parse(settings.placement(), instances=settings.instance_table())


def _requested(literals: Mapping[str, Any]) -> tuple[Instance, str]:
    resources = Resources(
        instance_size=literals.get("instance"),
        **{name: literals.get(name) for name in ("cpus", "memory", "gpu_type", "gpu_amount")},
    )
    instance = settings.instance_table().resolve(
        requested=resources.instance_size,
        cpus=resources.cpus,
        memory_mib=resources.memory,
        gpu_type=resources.gpu_type,
        gpu_amount=resources.gpu_amount,
    )
    options = AdvancedOptions(purchase_option=literals.get("purchase_option"))
    return instance, options.purchase_option or settings.default_purchase_option()


def _pod(instance: Instance, place: Place, override: Any) -> Any:
    document = pod_document(
        instance,
        place,
        gpu_resource=settings.gpu_resource(),
        task_memory_bytes=settings.task_memory_bytes(),
    )
    pod = pod_override(document)
    return pod if override is None else with_override(pod, override)


def _executor_class(executor: str | None, sibling: BaseOperator, *, in_pod: bool) -> str:
    """The class name of the executor that runs the tasks."""
    if executor is None and in_pod:
        return _KUBERNETES
    names = settings.executors()
    name = executor or sibling.executor or next(iter(names))
    return names.get(name, name.rpartition(".")[2])


def _check_instance(placement: Placement, instance: Instance, config: ExecutionConfig) -> None:
    lacking = _lacking_resource(placement.instance, instance)
    if lacking is None:
        return
    rules, option = placement_rules(), placement.purchase_option
    if placement.executor.endswith(_CELERY):
        queue, needed_queue = (rules.place(one, option).queue for one in (placement.instance, instance))
        if queue == needed_queue:
            return
        placed = f"run in {f'the queue {queue!r}' if queue else 'the default queue'}, which is for"
    else:
        placed = "run in Kubernetes pods made for"
    field, need = lacking
    requested = {
        name: getattr(config.resources, name) for name in ("cpus", "memory", "gpu_type", "gpu_amount")
    }
    needed = {"instance": instance.name, **{name: value for name, value in requested.items() if value}}
    arguments = ", ".join(f"{name}={value!r}" for name, value in needed.items())
    raise ConfigurationError(
        f"{field}: this execution needs {need} per pod: its instance is {instance}, but the tasks of this DAG {placed} "
        f"{placement.instance}. Request less, or run it in a DAG created for it, with {arguments} as arguments of "
        f"batch_execution_group or defaults of create_execution_dag.",
        field=field,
    )


def _lacking_resource(given: Instance, needed: Instance) -> tuple[str, str] | None:
    """The first field that is insufficient or different, and what is needed; ``None`` if nothing is lacking."""
    if needed.cpus > given.cpus:
        return "cpus", f"{needed.cpus:g} cpus"
    if needed.memory_bytes > given.memory_bytes:
        return "memory", f"{needed.memory_bytes // _MIB} MiB of memory"
    if needed.gpu_amount > given.gpu_amount:
        return "gpu_amount", f"{needed.gpu_amount} x {needed.gpu_type or 'GPU'}"
    kinds = [(instance.gpu_type or "").lower() for instance in (given, needed)]
    if needed.gpu_amount and kinds[1] and kinds[0] != kinds[1]:
        return "gpu_type", f"GPUs of type {needed.gpu_type}"
    return None


def _check_purchase_option(
    placement: Placement, instance: Instance, purchase_option: str, config: ExecutionConfig
) -> None:
    if not purchase_option or not placement.by_rules:
        return
    rules = placement_rules()
    if not rules.use_condition("purchase_option"):
        log.warning(
            "The purchase option %s has no effect: no rule of [batchexec] placement uses purchase_option.",
            purchase_option,
        )
        return
    needed, given = (rules.place(instance, one) for one in (purchase_option, placement.purchase_option))
    if placement.executor.endswith(_CELERY):
        same = needed.queue == given.queue
    else:
        same = (needed.pod, needed.resources) == (given.pod, given.resources)
    if same:
        return
    placed_for = placement.purchase_option or "no purchase option"
    if config.advanced_options.purchase_option:
        raise ConfigurationError(
            f"purchase_option: this execution requests {purchase_option}, but the tasks of this DAG were placed for "
            f"{placed_for} when it was parsed. Run it in a DAG created for it, with "
            f"purchase_option={purchase_option!r} as an argument of batch_execution_group or a default of "
            f"create_execution_dag.",
            field="purchase_option",
        )
    log.warning(
        "The model's deployment requests %s, but the tasks of this DAG were placed for %s when it was parsed, and run "
        "there. To change that, set purchase_option in the DAG.",
        purchase_option,
        placed_for,
    )
