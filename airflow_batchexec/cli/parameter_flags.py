"""A flag for every parameter of an execution, made from the configuration: none can be forgotten, and none differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_batchexec.cli.completion import among, complete_instance
from airflow_batchexec.cli.options import flag
from airflow_batchexec.engine.config.sections import FlatField, flat_fields
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    import inspect
    from collections.abc import Sequence

__all__ = ["flag_of", "given_parameters", "parameter_flags"]

# What existing command lines write, where it is not the parameter's name alone.
_SPELLINGS = {
    "pods": ("--pods", "--replicas"),
    "iam_role_arn": ("--iam-role-arn", "--custom-iam-role-arn"),
    "parameters": ("-P", "--param-list"),
}
_KINDS = {"string": str, "integer": int, "number": float}
_METAVARS = {"string": "TEXT", "integer": "N", "number": "N"}


def parameter_flags() -> list[inspect.Parameter]:
    """The flags, in the order of the table."""
    return [_flag(name, field) for name, field in flat_fields().items()]


def flag_of(name: str) -> str:
    """The flag of a parameter, as one would write it."""
    return max(_declarations(name), key=lambda declaration: declaration.startswith("--"))


def given_parameters(*, parameters: Sequence[str] | None, **fields: Any) -> dict[str, Any]:
    """What the user has given, by flat name.

    Raises:
        ConfigurationError: A parameter of the model is no NAME=VALUE, or is set twice.
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
            help="What the model finds in its environment variables; may be repeated.",
        )
    kind = field.schema["type"]
    values = [value for value in field.schema.get("enum", ()) if value]
    return flag(
        name,
        _KINDS[kind] | None,
        *declarations,
        metavar=_METAVARS[kind],
        help=_help(field),
        autocompletion=complete_instance if name == "instance" else among(values) if values else None,
    )


def _declarations(name: str) -> tuple[str, ...]:
    return _SPELLINGS.get(name, (f"--{name.replace('_', '-')}",))


def _help(field: FlatField) -> str:
    """The parameter's own description, with what an unset one means."""
    schema = field.schema
    text: str = schema["description"]
    if field.required:
        return f"{text} Required, here or in the file."
    return f"{text} Unset: {schema['unset']}." if "unset" in schema else text


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
