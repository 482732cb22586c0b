"""What can be told of an execution's parameters while a DAG is parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.config.sections import SECTIONS, flat_fields
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_literals", "check_names", "given", "is_templated"]


def check_literals(fields: Mapping[str, Any]) -> None:
    """Refuse what is wrong already; templated values are checked when they are rendered.

    Raises:
        ConfigurationError: A name is unknown, a required one is missing, or a literal value is wrong.
    """
    check_names(fields)
    if not any(is_templated(value) for value in fields.values()):
        ExecutionConfig.from_fields(**fields)
        return
    # Whether bucket and folder agree cannot be told yet, so each section is checked by itself.
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in fields.items():
        flat = flat_fields()[name]
        if not is_templated(value):
            sections[flat.section][flat.name] = value
        elif flat.required:
            sections[flat.section][flat.name] = "templated"
    for section, values in sections.items():
        SECTIONS[section](**values)


def check_names(fields: Mapping[str, Any]) -> None:
    """Refuse names that no parameter has.

    Raises:
        ConfigurationError: A name is unknown.
    """
    for name in fields:
        if name not in flat_fields():
            raise ConfigurationError(f"{name}: there is no such parameter.", field=name)


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is set: a template that renders to nothing leaves its parameter out."""
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def is_templated(value: Any) -> bool:
    """Whether a value is known only when the task runs: a Jinja template, or what another task gives."""
    if isinstance(value, dict):
        return any(is_templated(entry) for entry in value.values())
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return hasattr(value, "resolve")
