"""An execution's configuration as a YAML file: the sections of ``ExecutionConfig``, which flags go over.

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

A value whose field is text is taken as it is written: a build ``1.10`` stays ``1.10``, and a parameter ``yes`` stays
``yes``, whatever YAML takes them for.
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

__all__ = ["ConfigurationFile", "configuration_yaml", "read_configuration_file"]

_STANDARD_INPUT = "-"
_NULL = "tag:yaml.org,2002:null"
_TEXT = "tag:yaml.org,2002:str"
# Local file mode asks for the input's, and results may depend on both.
_ALWAYS = ("input_file_type", "output_file_type")


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """What such a file holds.

    Attributes:
        fields: Its values by flat name.
        places: Where each stands, for errors: the file and the line.
    """

    fields: dict[str, Any]
    places: dict[str, str]


def configuration_yaml(config: ExecutionConfig) -> str:
    """The file of a configuration: all that is set, in its sections, and the file types in any case."""
    set_fields = config.fields()
    sections: dict[str, dict[str, Any]] = {}
    for name, field in flat_fields().items():
        if name in set_fields or name in _ALWAYS:
            value = set_fields.get(name, field.default)
            sections.setdefault(field.section, {})[field.name] = (
                value.value if isinstance(value, Enum) else value
            )
    text: str = yaml.dump(sections, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # it ships no types
    """Writes texts that hold more than what one sees with escapes: YAML takes some characters for line breaks."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(_TEXT, text, style=None if text.isprintable() else '"'),
)


def read_configuration_file(name: str) -> ConfigurationFile:
    """Read such a file; ``-`` is standard input.

    Raises:
        ConfigurationError: It cannot be read, is no YAML, or holds something else than the sections and their fields;
            the message names file and line.
    """
    return _Reader("standard input" if name == _STANDARD_INPUT else name).read(_content(name))


def _content(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == _STANDARD_INPUT else Path(name).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name}: it cannot be read: {error.strerror}.", file=name) from error


class _Reader:
    """Reads one file, and knows its name for errors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._constructor = yaml.SafeLoader("")

    def read(self, content: bytes) -> ConfigurationFile:
        root = self._compose(content)
        found = ConfigurationFile({}, {})
        repeated = ConfigurationFile({}, {})
        for section, head, node in self._entries(root, "the file"):
            if section not in SECTIONS:
                raise self._error(head, f"there is no section {section!r}; there are {_listed(SECTIONS)}")
            names = _names(section)
            for name, key, value in self._entries(node, section):
                if name not in names:
                    raise self._error(
                        key, f"there is no parameter {name!r} in {section}; there are {_listed(names)}"
                    )
                flat = names[name]
                into = found if flat_fields()[flat].section == section else repeated
                if flat in into.fields:
                    raise self._error(key, f"{name!r} is set twice: see {into.places[flat]}")
                if not _is_null(value):
                    into.fields[flat] = self._value(flat, value)
                    into.places[flat] = self._place(key)
        # What a section repeats from another one goes before it there.
        return ConfigurationFile(found.fields | repeated.fields, found.places | repeated.places)

    def _compose(self, content: bytes) -> yaml.Node | None:
        try:
            return yaml.compose(content, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = f", line {mark.line + 1}" if mark else ""
            raise self._unreadable(f"{self._name}{line}: this is no YAML: {error.problem}.") from error
        except yaml.YAMLError as error:
            raise self._unreadable(
                f"{self._name}: this is no YAML: {' '.join(str(error).split())}."
            ) from error
        except RecursionError as error:
            raise self._unreadable(f"{self._name}: this is nested too deeply.") from error

    def _entries(self, node: yaml.Node | None, what: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Name, key and value of a mapping's entries; an empty one has none."""
        if node is None or _is_null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} must be a mapping of names to values")
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, f"in {what}, a name must be text")
            if key.value in seen:
                raise self._error(key, f"{key.value!r} is set twice in {what}")
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
            raise self._error(node, f"{flat}: {node.value!r} cannot be read") from error

    def _text(self, name: str, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, f"{name}: this must be a single value")
        text: str = node.value
        return text

    def _place(self, node: yaml.Node) -> str:
        return f"{self._name}, line {node.start_mark.line + 1}"

    def _error(self, node: yaml.Node, reason: str) -> ConfigurationError:
        return self._unreadable(f"{self._place(node)}: {reason}.")

    def _unreadable(self, message: str) -> ConfigurationError:
        return ConfigurationError(message, file=self._name)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))


@cache
def _names(section: str) -> dict[str, str]:
    """The flat name of each name that a section may hold: a field's own, its flat one, and what it repeats."""
    names = {name: name for name in SECTIONS[section].model_fields if name in flat_fields()}
    for flat, field in flat_fields().items():
        if field.section == section:
            names |= {field.name: flat, flat: flat}
    return names
