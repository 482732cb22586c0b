"""The base class of the configuration's sections, and the table of their fields by flat name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SECTIONS", "FlatField", "Section", "flat_fields", "register_sections"]


class Section(BaseModel):
    """A frozen section that raises ``ConfigurationError``, naming the field, for invalid values."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**{name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            raise _configuration_error(error) from None


@dataclass(frozen=True, slots=True)
class FlatField:
    """One row of the guide's table.

    Attributes:
        section: The section of ``ExecutionConfig`` that holds the field.
        name: The field's name in that section.
        required: Whether the field has no default.
        default: The default; ``None`` for a required field.
        schema: The JSON schema, with ``title`` and ``description``; ``unset`` describes what applies if the field is
            not set.
    """

    section: str
    name: str
    required: bool
    default: Any
    schema: dict[str, Any]


_sections: dict[str, type[Section]] = {}
SECTIONS: Mapping[str, type[Section]] = MappingProxyType(_sections)
"""The sections by name, in the table's order."""


def register_sections(**sections: type[Section]) -> None:
    """Add sections to the table.

    Their base class uses the table in its errors, so this module cannot import them.
    """
    _sections.update(sections)


@cache
def flat_fields() -> Mapping[str, FlatField]:
    """The fields by flat name, in the table's order."""
    table = {}
    for section, model in SECTIONS.items():
        schemas = model.model_json_schema(mode="validation")
        for name, info in model.model_fields.items():
            schema = dict(schemas["properties"][name])
            flat = schema.pop("flat", name)
            if flat:
                schema.update(_resolve_reference(schema.pop("$ref", ""), schemas))
                default = None if info.is_required() else info.get_default(call_default_factory=True)
                table[flat] = FlatField(section, name, info.is_required(), default, schema)
    return MappingProxyType(table)


def _resolve_reference(reference: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """The choices and type behind a reference, without the referenced type's title."""
    if not reference:
        return {}
    target = schemas["$defs"][reference.rpartition("/")[2]]
    return {key: target[key] for key in ("enum", "type") if key in target}


def _configuration_error(error: ValidationError) -> ConfigurationError:
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"]]
    flat = {field.name: name for name, field in flat_fields().items()}
    field = next((flat.get(n, n) for n in names if n not in SECTIONS), ".".join(names))
    if first["type"] == "missing":
        reason = "it is required"
    elif first["type"] == "extra_forbidden":
        known = flat_fields().get(field)
        reason = f"it belongs in section {known.section}" if known else "unknown parameter"
    else:
        message = first["msg"].removeprefix("Value error, ")
        reason = message[:1].lower() + message[1:]
    return ConfigurationError(f"{field}: {reason}.", field=field)
