"""The rules of ``[batchexec] placement``: which machines an instance and a purchase option stand for.

Read and applied here, without Airflow or Kubernetes. A rule has conditions and what it asks for where all of them
hold::

    [{"purchase_option": "spot", "nodeSelector": {"karpenter.sh/capacity-type": "spot"}, "queue": "spot"},
     {"gpu_type": "NVIDIA_T4", "nodeSelector": {"karpenter.k8s.aws/instance-gpu-name": "t4"}}]
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.config.purchase_option import PurchaseOption
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_batchexec.engine.config.instances import Instance, InstanceTable

__all__ = ["Place", "PlacementRules"]

_CONDITIONS = ("instance", "gpu_type", "purchase_option")
# With the types that JSON gives them, as Kubernetes spells them in a pod's specification.
_OF_POD = {"nodeSelector": dict, "tolerations": list, "affinity": dict}
_KEYS = (*_CONDITIONS, "queue", *_OF_POD, "resources")
# How a condition names a GPU of which only the amount is known.
_SOME_GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Place:
    """What is asked of the machine that a task runs on.

    Attributes:
        queue: The queue of Celery's workers; ``None`` for the default one.
        pod: ``nodeSelector``, ``tolerations`` and ``affinity`` of a Kubernetes pod's specification.
        resources: Amounts of further resources of the pod's container, such as ``ephemeral-storage``.
    """

    queue: str | None = None
    pod: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Rule:
    conditions: Mapping[str, tuple[str, ...]]
    place: Place

    def holds(self, values: Mapping[str, str]) -> bool:
        return all(
            # What is not set is no value, not even for "*".
            values[name] and any(fnmatchcase(values[name], pattern) for pattern in patterns)
            for name, patterns in self.conditions.items()
        )


class PlacementRules:
    """The rules, in their order."""

    def __init__(self, rules: Sequence[_Rule] = ()) -> None:
        self._rules = tuple(rules)

    @classmethod
    def parse(cls, text: str, *, instances: InstanceTable) -> PlacementRules:
        """Read the rules from JSON; empty text holds none.

        Args:
            text: A JSON list of objects.
            instances: The instances there are: a rule for another one is a slip of the pen.

        Raises:
            ConfigurationError: The text is no such list; the message names the rule and the key.
        """
        if not text.strip():
            return cls()
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"placement: this is no JSON: {error}.", field="placement") from error
        if not isinstance(entries, list):
            raise ConfigurationError(
                'placement: write a JSON list of rules, as in [{"purchase_option": "spot", "queue": "spot"}].',
                field="placement",
            )
        return cls([_read_rule(entry, f"placement[{n}]", instances) for n, entry in enumerate(entries)])

    def place(self, instance: Instance, purchase_option: str) -> Place:
        """What all rules that hold ask for together; where two set the same, the later one does.

        Selectors, tolerations and affinities of several rules all apply.

        Args:
            instance: What the task needs.
            purchase_option: ``spot``, ``on-demand``, or empty where it is not set.
        """
        values = {
            "instance": instance.name.lower(),
            "gpu_type": (instance.gpu_type or _SOME_GPU).lower() if instance.gpu_amount else "",
            "purchase_option": purchase_option,
        }
        place = Place()
        for rule in self._rules:
            if rule.holds(values):
                place = Place(
                    queue=rule.place.queue or place.queue,
                    pod=_merged(place.pod, rule.place.pod),
                    resources={**place.resources, **rule.place.resources},
                )
        return place

    def tell_apart(self, condition: str) -> bool:
        """Whether any rule has this condition."""
        return any(condition in rule.conditions for rule in self._rules)


def _merged(first: Any, second: Any, key: str = "") -> Any:
    if isinstance(first, dict) and isinstance(second, dict):
        shared = {name: _merged(first[name], second[name], name) for name in first if name in second}
        return {**first, **second, **shared}
    if isinstance(first, list) and isinstance(second, list):
        if key == "nodeSelectorTerms":
            # Kubernetes takes a node for which one of them holds, so each of the one goes with each of the other.
            return [_merged(one, other) for one in first for other in second]
        return [*first, *second]
    return second


def _read_rule(entry: Any, name: str, instances: InstanceTable) -> _Rule:
    if not isinstance(entry, dict):
        raise _wrong(
            name, f'write an object, as in {{"purchase_option": "spot", "queue": "spot"}}, not {entry!r}'
        )
    for key in entry:
        if key not in _KEYS:
            raise _wrong(f"{name}.{key}", f"there is no such key. There are {', '.join(_KEYS)}")
    if not set(entry) - set(_CONDITIONS):
        asks = ", ".join(key for key in _KEYS if key not in _CONDITIONS)
        raise _wrong(name, f"it asks for nothing; write one or more of {asks}")
    conditions = {
        key: _read_patterns(entry[key], f"{name}.{key}", instances) for key in _CONDITIONS if key in entry
    }
    pod = {key: entry[key] for key in _OF_POD if key in entry}
    for key, value in pod.items():
        if not isinstance(value, _OF_POD[key]):
            kind = "a list of objects" if _OF_POD[key] is list else "an object"
            raise _wrong(f"{name}.{key}", f"write {kind}, as in a Kubernetes pod's specification")
    for label, value in pod.get("nodeSelector", {}).items():
        if not isinstance(value, str):
            raise _wrong(
                f"{name}.nodeSelector.{label}",
                f"a label's value is text: write {json.dumps(json.dumps(value))}",
            )
    queue = entry.get("queue")
    if "queue" in entry and not (isinstance(queue, str) and queue.strip()):
        raise _wrong(f"{name}.queue", f"{queue!r} is no name of a queue")
    return _Rule(conditions, Place(queue=queue, pod=pod, resources=_read_resources(entry, name)))


def _read_patterns(value: Any, name: str, instances: InstanceTable) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) and one.strip() for one in values):
        raise _wrong(name, f"{value!r} is neither text nor a list of texts")
    patterns = tuple(one.strip().lower() for one in values)
    if name.endswith(".purchase_option"):
        patterns = tuple(map(PurchaseOption.normalize, patterns))
    for pattern in patterns:
        if any(letter in pattern for letter in "*?["):
            continue
        if name.endswith(".instance"):
            instances.get(pattern, field=name)
        elif name.endswith(".purchase_option") and pattern not in set(PurchaseOption):
            raise _wrong(name, f"{pattern!r} is neither {PurchaseOption.SPOT} nor {PurchaseOption.ON_DEMAND}")
    return patterns


def _read_resources(entry: dict[str, Any], name: str) -> dict[str, str]:
    resources = entry.get("resources", {})
    if not isinstance(resources, dict):
        raise _wrong(f"{name}.resources", 'write an object, as in {"ephemeral-storage": "20Gi"}')
    for resource, amount in resources.items():
        if resource in {"cpu", "memory"}:
            raise _wrong(f"{name}.resources.{resource}", "it comes from the instance")
        if isinstance(amount, bool) or not isinstance(amount, (str, int)):
            raise _wrong(f"{name}.resources.{resource}", f"{amount!r} is no amount")
    return {resource: str(amount) for resource, amount in resources.items()}


def _wrong(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {reason}.", field=name)
