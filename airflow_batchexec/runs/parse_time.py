"""Checks of an execution's parameters while a DAG is parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.config.sections import SECTIONS, flat_fields
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_literals", "check_names", "given", "is_templated"]


def check_literals(fields: Mapping[str, Any]) -> None:
    """Check names and literal values; templated values are checked once they are rendered.

    Raises:
        ConfigurationError: A name is unknown, a required parameter is missing, or a literal value is invalid.
    """
    check_names(fields)
    if not any(is_templated(value) for value in fields.values()):
        ExecutionConfig.from_fields(**fields)
        return
    # Whether buckets and folders agree is not known yet, so check each section separately.
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
    """Reject unknown parameter names.

    Raises:
        ConfigurationError: A name is unknown.
    """
    for name in fields:
        if name not in flat_fields():
            raise ConfigurationError(f"{name}: unknown parameter.", field=name)


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are set. A template that renders to an empty string leaves its parameter unset."""
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def is_templated(value: Any) -> bool:
    """Whether a value is known only at run time: a Jinja template or the output of another task."""
    if isinstance(value, dict):
        return any(is_templated(entry) for entry in value.values())
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return hasattr(value, "resolve")
