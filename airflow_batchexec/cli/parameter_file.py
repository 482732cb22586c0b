"""The YAML file of ``--from-file``: parameters in the sections of ``ExecutionConfig``. Flags override it.

::

    execution:
      model_id: arrival_delay
      source_folder: s3://flights/2013-01-01
      destination_folder: s3://delays/2013-01-01
      parameters:
        TAX_RATE: 0.20
    resources:
      pods: 4
    advanced_options:
      purchase_option: spot

Values of string fields are kept as written: a build ``1.10`` stays ``1.10`` and a parameter ``yes`` stays ``yes``,
even though YAML would read a number and a boolean.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from airflow_batchexec.engine.config.sections import SECTIONS, flat_fields
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_batchexec.engine.config.model import ExecutionConfig

__all__ = ["ParameterFile", "read_parameter_file", "render_parameter_file"]

_STANDARD_INPUT = "-"
_NULL = "tag:yaml.org,2002:null"
_TEXT = "tag:yaml.org,2002:str"
# Local file mode requires the input file type, and results may depend on both.
_ALWAYS_WRITTEN = ("input_file_type", "output_file_type")


@dataclass(frozen=True, slots=True)
class ParameterFile:
    """The parsed contents of a parameter file.

    Attributes:
        fields: The values by flat name.
        positions: The file and line of each value, for error messages.
    """

    fields: dict[str, Any]
    positions: dict[str, str]


def render_parameter_file(config: ExecutionConfig) -> str:
    """Render a configuration as a parameter file: every field that is set, plus the file types even if unset."""
    set_fields = config.fields()
    sections: dict[str, dict[str, Any]] = {}
    for name, field in flat_fields().items():
        if name in set_fields or name in _ALWAYS_WRITTEN:
            value = set_fields.get(name, field.default)
            sections.setdefault(field.section, {})[field.name] = (
                value.value if isinstance(value, Enum) else value
            )
    text: str = yaml.dump(sections, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Escapes strings with non-printable characters: YAML treats some of them as line breaks."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(_TEXT, text, style=None if text.isprintable() else '"'),
)


def read_parameter_file(name: str) -> ParameterFile:
    """Read a parameter file; ``-`` means standard input.

    Raises:
        ConfigurationError: The file cannot be read, is not valid YAML, or contains unknown sections or parameters; the
            message names the file and the line.
    """
    return _Reader("standard input" if name == _STANDARD_INPUT else name).read(_read_bytes(name))


def _read_bytes(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == _STANDARD_INPUT else Path(name).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name}: cannot be read: {error.strerror}.", file=name) from error


class _Reader:
    """Reads one file, and names it in errors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._constructor = yaml.SafeLoader("")

    def read(self, content: bytes) -> ParameterFile:
        root = self._compose(content)
        found = ParameterFile({}, {})
        repeated = ParameterFile({}, {})
        for section, head, node in self._entries(root, "the file"):
            if section not in SECTIONS:
                raise self._error_at(
                    head, f"unknown section {section!r}; the sections are {_joined(SECTIONS)}"
                )
            names = _flat_names(section)
            for name, key, value in self._entries(node, section):
                if name not in names:
                    raise self._error_at(
                        key, f"unknown parameter {name!r} in {section}; its parameters are {_joined(names)}"
                    )
                flat = names[name]
                into = found if flat_fields()[flat].section == section else repeated
                if flat in into.fields:
                    raise self._error_at(key, f"{name!r} is set twice, first in {into.positions[flat]}")
                if not _is_null(value):
                    into.fields[flat] = self._value(flat, value)
                    into.positions[flat] = self._position(key)
        # A field that one section repeats from another takes precedence over the original.
        return ParameterFile(found.fields | repeated.fields, found.positions | repeated.positions)

    def _compose(self, content: bytes) -> yaml.Node | None:
        try:
            return yaml.compose(content, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = f", line {mark.line + 1}" if mark else ""
            raise self._file_error(f"{self._name}{line}: not valid YAML: {error.problem}.") from error
        except yaml.YAMLError as error:
            raise self._file_error(
                f"{self._name}: not valid YAML: {' '.join(str(error).split())}."
            ) from error
        except RecursionError as error:
            raise self._file_error(f"{self._name}: nested too deeply.") from error

    def _entries(self, node: yaml.Node | None, what: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Yield name, key node and value node of each entry; an empty node has none."""
        if node is None or _is_null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            raise self._error_at(node, f"{what} must be a mapping of names to values")
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error_at(key, f"names in {what} must be strings")
            if key.value in seen:
                raise self._error_at(key, f"{key.value!r} is set twice in {what}")
            seen.add(key.value)
            yield key.value, key, value

    def _value(self, flat: str, node: yaml.Node) -> Any:
        if flat == "parameters" and isinstance(node, yaml.MappingNode):
            return {
                name: "" if _is_null(value) else self._text(name, value)
                for name, _, value in self._entries(node, flat)
            }
        if flat == "parameters" or flat_fields()[flat].schema["type"] == "string":
            return self._text(flat, node)
        self._text(flat, node)
        try:
            return self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self._error_at(node, f"{flat}: {node.value!r} is not a valid value") from error

    def _text(self, name: str, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error_at(node, f"{name} must be a single value")
        text: str = node.value
        return text

    def _position(self, node: yaml.Node) -> str:
        return f"{self._name}, line {node.start_mark.line + 1}"

    def _error_at(self, node: yaml.Node, reason: str) -> ConfigurationError:
        return self._file_error(f"{self._position(node)}: {reason}.")

    def _file_error(self, message: str) -> ConfigurationError:
        return ConfigurationError(message, file=self._name)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL


def _joined(names: Any) -> str:
    return ", ".join(sorted(names))


@cache
def _flat_names(section: str) -> dict[str, str]:
    """Map each name that a section accepts to its flat name: field names, flat names, and repeated fields."""
    names = {name: name for name in SECTIONS[section].model_fields if name in flat_fields()}
    for flat, field in flat_fields().items():
        if field.section == section:
            names |= {field.name: flat, flat: flat}
    return names
