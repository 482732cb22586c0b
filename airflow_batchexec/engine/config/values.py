"""Formats of individual configuration values: parsing of model parameters, and JSON schemas of strings.

Airflow checks the schemas before it creates a run; the configuration rejects the same values. The schemas allow
whitespace around a string, which the configuration strips.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.config import JsonDict

__all__ = [
    "BUCKET_SCHEMA",
    "FOLDER_SCHEMA",
    "ID_SCHEMA",
    "OPTIONAL_ID_SCHEMA",
    "PARAMETERS_SCHEMA",
    "ROLE",
    "ROLE_SCHEMA",
    "SECRET_NAME",
    "SECRET_NAME_SCHEMA",
    "check_parameters",
    "merge_instance_names",
    "read_parameters",
]

SECRET_NAME = re.compile(r"[^\s\x00-\x1f\x7f]*")
ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
_PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Variables that determine which code the pod runs, or that the pod itself sets from its instance.
_RESERVED = re.compile(
    r"PATH|HOME|TMPDIR|SHELL|IFS|BASH_ENV|GCONV_PATH|GLIBC_TUNABLES|OPENSSL_(CONF|ENGINES|MODULES)"
    r"|(CUDA|NVIDIA)_VISIBLE_DEVICES"
    r"|(LD|DYLD|BATCHEXEC|MALLOC|BASH_FUNC)_.*|PYTHON.*"
    r"|(OMP|OPENBLAS|MKL|BLIS|NUMEXPR|RAYON)_NUM_THREADS|(NUMEXPR|POLARS)_MAX_THREADS"
    r"|VECLIB_MAXIMUM_THREADS|ARROW_IO_THREADS|LOKY_MAX_CPU_COUNT",
    re.IGNORECASE,
)
_RESERVED_REASON = "it would change which code the pod runs, or is set from the instance"

_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
ID_SCHEMA: JsonDict = {"pattern": rf"^\s*{_ID}\s*$"}
OPTIONAL_ID_SCHEMA: JsonDict = {"pattern": rf"^\s*({_ID})?\s*$"}
BUCKET_SCHEMA: JsonDict = {"pattern": r"^\s*([A-Za-z0-9]+://)?[A-Za-z0-9_]?[A-Za-z0-9._-]{0,254}/*\s*$"}
FOLDER_SCHEMA: JsonDict = {"pattern": r"\S"}
SECRET_NAME_SCHEMA: JsonDict = {"pattern": rf"^\s*{SECRET_NAME.pattern}\s*$"}
ROLE_SCHEMA: JsonDict = {"pattern": rf"^\s*({ROLE.pattern})?\s*$"}

_LINE_START = r"(^|\n)[ \t]*"
_RESERVED_SCHEMA: JsonDict = {"description": f"reserved: {_RESERVED_REASON}", "type": "string"}
PARAMETERS_SCHEMA: JsonDict = {
    "type": ["object", "string"],
    "additionalProperties": {"type": ["string", "number", "boolean"], "pattern": r"^[^\x00]*$"},
    "pattern": r"^[^\x00]*$",
    # Separate schemas, because an error shows the one that failed, with its description.
    "allOf": [
        {
            "propertyNames": {
                "description": "the name of an environment variable",
                "pattern": f"^{_PARAMETER_NAME.pattern}$",
            }
        },
        {"propertyNames": {"not": {**_RESERVED_SCHEMA, "pattern": f"^(?i:{_RESERVED.pattern})$"}}},
        {
            "not": {
                "description": "with a line that is not NAME=VALUE",
                "type": "string",
                "pattern": rf"{_LINE_START}(?!{_PARAMETER_NAME.pattern}=)\S",
            }
        },
        {"not": {**_RESERVED_SCHEMA, "pattern": rf"{_LINE_START}(?i:{_RESERVED.pattern})="}},
    ],
}


def read_parameters(value: Any) -> Any:
    """Convert a mapping or ``NAME=VALUE`` lines to a dictionary of strings; return any other value unchanged.

    Whitespace before a name is ignored; whitespace around a value is kept.

    Raises:
        ConfigurationError: A line is not ``NAME=VALUE``, a name is invalid or set twice, or a value cannot be converted
            to a string.
    """
    if isinstance(value, str):
        value = _read_lines(value)
    if not isinstance(value, dict):
        return value
    return {_check_name(name): _to_string(name, entry) for name, entry in value.items()}


def merge_instance_names(values: Any) -> Any:
    """Move the value of the alias ``instance`` to ``instance_size``.

    Raises:
        ConfigurationError: Both are set, to different instances.
    """
    if not isinstance(values, dict) or "instance" not in values:
        return values
    values = dict(values)
    instance, size = values.pop("instance"), values.get("instance_size")
    if not size:
        return {**values, "instance_size": instance}
    if instance and str(instance).strip().lower() != str(size).strip().lower():
        raise ConfigurationError(
            f"instance: {instance!r} conflicts with instance_size {size!r}. Set only one.", field="instance"
        )
    return values


def check_parameters(parameters: Mapping[str, str]) -> None:
    """Reject parameters that a pod's environment must not contain.

    Raises:
        ConfigurationError: A name is reserved, or a value is not valid in an environment variable.
    """
    for name, value in parameters.items():
        if _RESERVED.fullmatch(name):
            raise ConfigurationError(
                f"parameters: {name!r} is reserved: {_RESERVED_REASON}.", field="parameters"
            )
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ConfigurationError(
                f"parameters: the value of {name!r} contains a NUL or is not valid Unicode.",
                field="parameters",
            )


def _read_lines(text: str) -> dict[str, str]:
    pairs = {}
    for line in re.split(r"\r?\n", text):
        name, separator, value = line.lstrip().partition("=")
        if not name and not separator:
            continue
        if not separator:
            raise ConfigurationError(f"parameters: {line!r} is not NAME=VALUE.", field="parameters")
        if name in pairs:
            raise ConfigurationError(f"parameters: {name!r} is set twice.", field="parameters")
        pairs[name] = value
    return pairs


def _check_name(name: Any) -> str:
    if not isinstance(name, str) or not _PARAMETER_NAME.fullmatch(name):
        raise ConfigurationError(
            f"parameters: {name!r} is not a valid name of an environment variable: it must start with a letter or "
            f"'_' and contain only letters, digits and '_'.",
            field="parameters",
        )
    return name


def _to_string(name: Any, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if not isinstance(value, str):
        raise ConfigurationError(
            f"parameters: the value of {name!r} is of type {type(value).__name__}; environment variables must be "
            f"strings, numbers or booleans.",
            field="parameters",
        )
    return value
