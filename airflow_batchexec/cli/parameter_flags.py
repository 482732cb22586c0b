"""One flag per execution parameter, generated from the configuration so that the two cannot diverge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_batchexec.cli.completion import complete_from, complete_instance
from airflow_batchexec.cli.options import flag
from airflow_batchexec.engine.config.sections import FlatField, flat_fields
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    import inspect
    from collections.abc import Sequence

__all__ = ["collect_parameters", "flag_for", "parameter_flags"]

# Spellings that existing command lines use, if not just the parameter's name.
_SPELLINGS = {
    "pods": ("--pods", "--replicas"),
    "iam_role_arn": ("--iam-role-arn", "--custom-iam-role-arn"),
    "parameters": ("-P", "--param-list"),
}
_KINDS = {"string": str, "integer": int, "number": float}
_METAVARS = {"string": "TEXT", "integer": "N", "number": "N"}


def parameter_flags() -> list[inspect.Parameter]:
    """Return the flags, in the order of the parameter table."""
    return [_flag(name, field) for name, field in flat_fields().items()]


def flag_for(name: str) -> str:
    """Return the preferred flag of a parameter."""
    return max(_declarations(name), key=lambda declaration: declaration.startswith("--"))


def collect_parameters(*, parameters: Sequence[str] | None, **fields: Any) -> dict[str, Any]:
    """Collect the parameters that the user passed, by flat name.

    Raises:
        ConfigurationError: A model parameter is not NAME=VALUE, or is set twice.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if parameters:
        given["parameters"] = _pairs(parameters)
    return given


def _flag(name: str, field: FlatField) -> inspect.Parameter:
    declarations = _declarations(name)
    if name == "parameters":
        return flag(
            name,
            list[str] | None,
            *declarations,
            metavar="NAME=VALUE",
            help="An environment variable for the model; may be repeated.",
        )
    kind = field.schema["type"]
    values = [value for value in field.schema.get("enum", ()) if value]
    return flag(
        name,
        _KINDS[kind] | None,
        *declarations,
        metavar=_METAVARS[kind],
        help=_help(field),
        autocompletion=complete_instance if name == "instance" else complete_from(values) if values else None,
    )


def _declarations(name: str) -> tuple[str, ...]:
    return _SPELLINGS.get(name, (f"--{name.replace('_', '-')}",))


def _help(field: FlatField) -> str:
    """The parameter's description, and its default."""
    schema = field.schema
    text: str = schema["description"]
    if field.required:
        return f"{text} Required, as a flag or in the file."
    return f"{text} Default: {schema['unset']}." if "unset" in schema else text


def _pairs(pairs: Sequence[str]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ConfigurationError(f"parameters: {pair!r} is not NAME=VALUE.", field="parameters")
        if name in parameters:
            raise ConfigurationError(f"parameters: {name!r} is set twice.", field="parameters")
        parameters[name] = value
    return parameters
