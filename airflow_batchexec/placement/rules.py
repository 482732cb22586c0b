"""The rules of ``[batchexec] placement``, which map instances and purchase options to machines.

This module parses and applies them without Airflow or Kubernetes. A rule has conditions, and requirements that apply if
all conditions match::

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
# The fields of a Kubernetes pod specification that a rule may set, with their types in JSON.
_POD_FIELDS = {"nodeSelector": dict, "tolerations": list, "affinity": dict}
_KEYS = (*_CONDITIONS, "queue", *_POD_FIELDS, "resources")
# The GPU type for conditions if an instance sets only the number of GPUs.
_UNTYPED_GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Place:
    """The requirements on the machine that a task runs on.

    Attributes:
        queue: The Celery queue; ``None`` for the default queue.
        pod: ``nodeSelector``, ``tolerations`` and ``affinity`` of the Kubernetes pod specification.
        resources: Amounts of additional resources of the pod's container, such as ``ephemeral-storage``.
    """

    queue: str | None = None
    pod: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Rule:
    conditions: Mapping[str, tuple[str, ...]]
    place: Place

    def matches(self, values: Mapping[str, str]) -> bool:
        return all(
            # An unset value does not match anything, not even "*".
            values[name] and any(fnmatchcase(values[name], pattern) for pattern in patterns)
            for name, patterns in self.conditions.items()
        )


class PlacementRules:
    """An ordered list of rules."""

    def __init__(self, rules: Sequence[_Rule] = ()) -> None:
        self._rules = tuple(rules)

    @classmethod
    def parse(cls, text: str, *, instances: InstanceTable) -> PlacementRules:
        """Parse rules from JSON; an empty string contains none.

        Args:
            text: A JSON list of objects.
            instances: The known instances. A rule for any other instance is rejected as a typo.

        Raises:
            ConfigurationError: The text is not a valid list of rules; the message names the rule and the key.
        """
        if not text.strip():
            return cls()
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"placement: invalid JSON: {error}.", field="placement") from error
        if not isinstance(entries, list):
            raise ConfigurationError(
                'placement: expected a JSON list of rules, such as [{"purchase_option": "spot", "queue": "spot"}].',
                field="placement",
            )
        return cls([_read_rule(entry, f"placement[{n}]", instances) for n, entry in enumerate(entries)])

    def place(self, instance: Instance, purchase_option: str) -> Place:
        """Combine the requirements of all matching rules.

        Node selectors, tolerations and affinities are merged; if two rules set the same value, the later rule wins.

        Args:
            instance: The resources that the task needs.
            purchase_option: ``spot``, ``on-demand``, or empty if unset.
        """
        values = {
            "instance": instance.name.lower(),
            "gpu_type": (instance.gpu_type or _UNTYPED_GPU).lower() if instance.gpu_amount else "",
            "purchase_option": purchase_option,
        }
        place = Place()
        for rule in self._rules:
            if rule.matches(values):
                place = Place(
                    queue=rule.place.queue or place.queue,
                    pod=_merge(place.pod, rule.place.pod),
                    resources={**place.resources, **rule.place.resources},
                )
        return place

    def use_condition(self, condition: str) -> bool:
        """Whether any rule uses this condition."""
        return any(condition in rule.conditions for rule in self._rules)


def _merge(first: Any, second: Any, key: str = "") -> Any:
    if isinstance(first, dict) and isinstance(second, dict):
        shared = {name: _merge(first[name], second[name], name) for name in first if name in second}
        return {**first, **second, **shared}
    if isinstance(first, list) and isinstance(second, list):
        if key == "nodeSelectorTerms":
            # A node must match any one of the terms, so combine every term of one rule with every term of the other.
            return [_merge(one, other) for one in first for other in second]
        return [*first, *second]
    return second


def _read_rule(entry: Any, name: str, instances: InstanceTable) -> _Rule:
    if not isinstance(entry, dict):
        raise _rule_error(
            name, f'expected an object, such as {{"purchase_option": "spot", "queue": "spot"}}, not {entry!r}'
        )
    for key in entry:
        if key not in _KEYS:
            raise _rule_error(f"{name}.{key}", f"unknown key. Known keys: {', '.join(_KEYS)}")
    if not set(entry) - set(_CONDITIONS):
        requirements = ", ".join(key for key in _KEYS if key not in _CONDITIONS)
        raise _rule_error(name, f"the rule has no requirements; set one or more of {requirements}")
    conditions = {
        key: _read_patterns(entry[key], f"{name}.{key}", instances) for key in _CONDITIONS if key in entry
    }
    pod = {key: entry[key] for key in _POD_FIELDS if key in entry}
    for key, value in pod.items():
        if not isinstance(value, _POD_FIELDS[key]):
            kind = "a list of objects" if _POD_FIELDS[key] is list else "an object"
            raise _rule_error(f"{name}.{key}", f"expected {kind}, as in a Kubernetes pod specification")
    for label, value in pod.get("nodeSelector", {}).items():
        if not isinstance(value, str):
            raise _rule_error(
                f"{name}.nodeSelector.{label}",
                f"label values are strings; write {json.dumps(json.dumps(value))}",
            )
    queue = entry.get("queue")
    if "queue" in entry and not (isinstance(queue, str) and queue.strip()):
        raise _rule_error(f"{name}.queue", f"{queue!r} is not a valid queue name")
    return _Rule(conditions, Place(queue=queue, pod=pod, resources=_read_resources(entry, name)))


def _read_patterns(value: Any, name: str, instances: InstanceTable) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) and one.strip() for one in values):
        raise _rule_error(name, f"{value!r} is neither a string nor a list of strings")
    patterns = tuple(one.strip().lower() for one in values)
    if name.endswith(".purchase_option"):
        patterns = tuple(map(PurchaseOption.normalize, patterns))
    for pattern in patterns:
        if any(letter in pattern for letter in "*?["):
            continue
        if name.endswith(".instance"):
            instances.get(pattern, field=name)
        elif name.endswith(".purchase_option") and pattern not in set(PurchaseOption):
            raise _rule_error(
                name, f"{pattern!r} is neither {PurchaseOption.SPOT} nor {PurchaseOption.ON_DEMAND}"
            )
    return patterns


def _read_resources(entry: dict[str, Any], name: str) -> dict[str, str]:
    resources = entry.get("resources", {})
    if not isinstance(resources, dict):
        raise _rule_error(f"{name}.resources", 'expected an object, such as {"ephemeral-storage": "20Gi"}')
    for resource, amount in resources.items():
        if resource in {"cpu", "memory"}:
            raise _rule_error(f"{name}.resources.{resource}", "the instance determines it")
        if isinstance(amount, bool) or not isinstance(amount, (str, int)):
            raise _rule_error(f"{name}.resources.{resource}", f"{amount!r} is not a valid amount")
    return {resource: str(amount) for resource, amount in resources.items()}


def _rule_error(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {reason}.", field=name)
