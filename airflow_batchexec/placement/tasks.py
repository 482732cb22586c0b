"""Where the tasks of an execution run: what its instance and purchase option become on Airflow's executors.

On the Kubernetes executor they become the resources and the nodes of each task's Kubernetes pod, on the Celery
executor a queue. Airflow takes both when the DAG is parsed, so the literal values decide. What an execution needs is
known when it is planned; one that needs more than its DAG's tasks were given is refused then.
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

_LOG = logging.getLogger(__name__)
_MIB = 1024**2
_KUBERNETES = "KubernetesExecutor"
_CELERY = "CeleryExecutor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a DAG's tasks were given when it was parsed.

    Attributes:
        executor: The class of the executor that they run on: Kubernetes' or Celery's.
        instance: What their machines have room for.
        purchase_option: How their machines are bought; empty where nothing says so.
        chosen: Whether the machines were chosen by the rules of ``[batchexec] placement`` alone.
    """

    executor: str
    instance: Instance
    purchase_option: str
    chosen: bool = True


def place_tasks(
    literals: Mapping[str, Any],
    *,
    like: BaseOperator,
    executor: str | None = None,
    queue: str | None = None,
    executor_config: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], Placement | None]:
    """The arguments that place an execution's tasks, and what an execution in them may need.

    What the author of the DAG says goes before the instance. Nothing is added where neither the Kubernetes nor the
    Celery executor is configured.

    Args:
        literals: The parameters that are known when the DAG is parsed, by flat name.
        like: A task of the same DAG and group: what their ``default_args`` say of executors is the author's word too.
        executor: The author's choice of an executor.
        queue: The author's choice of a queue.
        executor_config: The author's. Of its ``pod_override``, each field that is set wins over the instance's.

    Returns:
        Arguments of the operator, and the placement; ``None`` where nothing is known of the machines.

    Raises:
        ConfigurationError: A parameter or a rule is wrong, or the package of the Kubernetes executor is missing.
    """
    own = {"executor": executor, "queue": queue, "executor_config": executor_config}
    arguments = {name: value for name, value in own.items() if value is not None}
    in_pod = settings.in_kubernetes_pod()
    classes = list(settings.executors().values())
    on_kubernetes = any(name.endswith(_KUBERNETES) for name in classes)
    on_celery = any(name.endswith(_CELERY) for name in classes)
    if not (on_kubernetes or on_celery or in_pod):
        return arguments, None
    instance, purchase_option = _wanted(literals)
    place = placement_rules().place(instance, purchase_option)
    config = dict(executor_config or like.executor_config or {})
    override = config.get("pod_override")
    if queue is None and like.queue != settings.default_queue():
        queue = like.queue
    # The executor reads it of the DAG as it was parsed elsewhere, so a task that it runs need not make it again.
    if on_kubernetes and not in_pod:
        arguments["executor_config"] = {**config, "pod_override": _pod(instance, place, override)}
    if on_celery and queue is None and place.queue is not None:
        arguments["queue"] = place.queue
    placement = Placement(
        executor=_executor(executor, like, in_pod=in_pod),
        instance=instance,
        purchase_option=purchase_option,
        chosen=override is None,
    )
    if placement.executor.endswith(_KUBERNETES):
        return arguments, None if sets_resources(override) else placement
    return arguments, placement if placement.executor.endswith(_CELERY) and queue is None else None


def admission(placement: Placement | None, config: ExecutionConfig) -> Callable[[Instance, str], None]:
    """What refuses an execution that its DAG's tasks have no room for.

    Args:
        placement: What the tasks were given.
        config: The request.

    Returns:
        A function of the instance and the purchase option that were resolved. It raises ``ConfigurationError`` where
        the instance needs more, or where the request asks for another purchase option. It only logs where the
        deployment asks for one, which nobody can know when the DAG is parsed.
    """

    def admit(instance: Instance, purchase_option: str) -> None:
        if placement is not None:
            _check_instance(placement, instance, config)
            _check_purchase_option(placement, instance, purchase_option, config)

    return admit


def placement_rules() -> PlacementRules:
    """The rules of ``[batchexec] placement``.

    Raises:
        ConfigurationError: A rule is wrong.
    """
    return PlacementRules.parse(settings.placement(), instances=settings.instance_table())


def _wanted(literals: Mapping[str, Any]) -> tuple[Instance, str]:
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


def _executor(chosen: str | None, like: BaseOperator, *, in_pod: bool) -> str:
    """The class of the executor that the tasks run on."""
    if chosen is None and in_pod:
        return _KUBERNETES
    names = settings.executors()
    name = chosen or like.executor or next(iter(names))
    return names.get(name, name.rpartition(".")[2])


def _check_instance(placement: Placement, instance: Instance, config: ExecutionConfig) -> None:
    lacking = _lacking(placement.instance, instance)
    if lacking is None:
        return
    rules, option = placement_rules(), placement.purchase_option
    if placement.executor.endswith(_CELERY):
        queue, other = (rules.place(wanted, option).queue for wanted in (placement.instance, instance))
        if queue == other:
            return
        has = f"run in {f'the queue {queue!r}' if queue else 'the default queue'}, which is for"
    else:
        has = "have Kubernetes pods that were made for"
    field, need = lacking
    asked = {name: getattr(config.resources, name) for name in ("cpus", "memory", "gpu_type", "gpu_amount")}
    made = {"instance": instance.name, **{name: value for name, value in asked.items() if value}}
    written = ", ".join(f"{name}={value!r}" for name, value in made.items())
    raise ConfigurationError(
        f"{field}: this execution needs {need} for each of its pods, {instance}, and the tasks of this DAG {has} "
        f"{placement.instance}. Ask for less, or run it in a DAG that is made for it: with {written} "
        f"as arguments of batch_execution_group, or as defaults of create_execution_dag.",
        field=field,
    )


def _lacking(given: Instance, needed: Instance) -> tuple[str, str] | None:
    """The first field of which more, or another, is needed; and how much."""
    if needed.cpus > given.cpus:
        return "cpus", f"{needed.cpus:g} cpus"
    if needed.memory_bytes > given.memory_bytes:
        return "memory", f"{needed.memory_bytes // _MIB} MiB of memory"
    if needed.gpu_amount > given.gpu_amount:
        return "gpu_amount", f"{needed.gpu_amount} x {needed.gpu_type or 'GPU'}"
    kinds = [(instance.gpu_type or "").lower() for instance in (given, needed)]
    if needed.gpu_amount and kinds[1] and kinds[0] != kinds[1]:
        return "gpu_type", f"a GPU {needed.gpu_type}"
    return None


def _check_purchase_option(
    placement: Placement, instance: Instance, purchase_option: str, config: ExecutionConfig
) -> None:
    if not purchase_option or not placement.chosen:
        return
    rules = placement_rules()
    if not rules.tell_apart("purchase_option"):
        _LOG.warning(
            "The purchase option is %s, and no rule of [batchexec] placement says what that means.",
            purchase_option,
        )
        return
    wanted, given = (rules.place(instance, one) for one in (purchase_option, placement.purchase_option))
    if placement.executor.endswith(_CELERY):
        same = wanted.queue == given.queue
    else:
        same = (wanted.pod, wanted.resources) == (given.pod, given.resources)
    if same:
        return
    made_for = placement.purchase_option or "no purchase option"
    if config.advanced_options.purchase_option:
        raise ConfigurationError(
            f"purchase_option: this execution asks for {purchase_option}, and the tasks of this DAG were placed for "
            f"{made_for} when it was parsed. Run it in a DAG that is made for it: with purchase_option "
            f"{purchase_option!r} as an argument of batch_execution_group, or as a default of create_execution_dag.",
            field="purchase_option",
        )
    _LOG.warning(
        "The model's deployment asks for %s, and the tasks of this DAG were placed for %s when it was parsed: they "
        "run there. Write purchase_option into the DAG to change that.",
        purchase_option,
        made_for,
    )
