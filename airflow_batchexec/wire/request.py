"""Converts start requests, the JSON that clients of the guide's service send, from and to flat fields.

That service is defined in protobuf and uses its JSON mapping: names are accepted in snake_case and lowerCamelCase, null
and a type's zero value mean "unset", and unknown fields are ignored. A request may be flat, nested under
``batch_job_request``, or both at once.

``request_tree.py`` maps the names of both forms to flat fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.wire.request_tree import PAIR, REQUEST, START, UNIT, Pairs, Tree
from airflow_batchexec.wire.values import InputFileType, MemoryUnit, OutputFileType, WireEnum, describe_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["StartRequest", "read_start_request", "start_request"]

_MIB_PER_GIB = 1024
# Cap the warnings so that unknown fields cannot flood the report.
_MAX_WARNINGS = 20
_MAX_NAME_LENGTH = 80


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A parsed start request.

    Attributes:
        fields: The fields that are set, by their flat name in ``ExecutionConfig``. Only JSON types are validated.
        warnings: Sentences for the report that say what was ignored, and why.
        paths: The path of each field as the sender wrote it, for example ``batch_job_request.modelDetails.modelId``.
    """

    fields: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)


def read_start_request(body: Any) -> StartRequest:
    """Parse a request of either form.

    Args:
        body: The decoded JSON.

    Raises:
        ConfigurationError: A value has the wrong type, or a field is set twice; ``details["field"]`` is its path as the
            sender wrote it, or "" for the body itself.
    """
    reader = _Reader()
    reader.read(body, START, "")
    return StartRequest(reader.fields, reader.warnings(), reader.paths)


def start_request(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert flat fields to the nested form, in snake_case and with enum names.

    Requests have no ``bucket``: it is used as source and destination bucket, unless those are set.

    Args:
        fields: The fields, as returned by ``ExecutionConfig.fields``.

    Raises:
        ConfigurationError: A request cannot contain this field or file type.
    """
    given = {name: value for name, value in fields.items() if value not in (None, "", 0, {})}
    if bucket := given.pop("bucket", None):
        given = {"source_bucket": bucket, "destination_bucket": bucket, **given}
    if "memory" in given:
        given[UNIT] = MemoryUnit.MIB.name
    for name, kind in (("input_file_type", InputFileType), ("output_file_type", OutputFileType)):
        if name in given:
            given[name] = _enum_name(kind, given[name], name)
    if "parameters" in given:
        given["parameters"] = [{"key": key, "value": value} for key, value in given["parameters"].items()]
    nested = _write(given, REQUEST)
    if given:
        name = min(given)
        raise ConfigurationError(f"{name}: unknown field.", field=name)
    return {"batch_job_request": nested}


class _Reader:
    """Collects the fields of one request. If two places set a field, the one read first wins."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.paths: dict[str, str] = {}
        self._ignored: list[str] = []

    def warnings(self) -> list[str]:
        """Return sentences about what was ignored, up to a limit."""
        more = len(self._ignored) - _MAX_WARNINGS
        return self._ignored[:_MAX_WARNINGS] + ([f"{more} more fields were ignored."] if more > 0 else [])

    def read(self, value: Any, tree: Tree, path: str) -> None:
        """Read an object: first its nested objects, then its own values."""
        found = self._members(value, tree.members, path)
        if tree.one_of and len(found) > 1:
            at = [at for _, at in found.values()][1]
            raise ConfigurationError(f"{at}: only one of {', '.join(tree.members)} may be set.", field=at)
        own: dict[str, tuple[Any, str]] = {}
        for name, kind in tree.members.items():
            if name not in found:
                continue
            member, at = found[name]
            if isinstance(kind, Tree):
                self.read(member, kind, at)
            elif isinstance(kind, Pairs):
                own[kind.field] = (self._pairs(member, at), at)
            else:
                own[kind.field] = (kind.scalar.read(member, at), at)
        unit, _ = own.pop(UNIT, ("", ""))
        if unit == MemoryUnit.GIB.name and "memory" in own:
            amount, at = own["memory"]
            own["memory"] = (amount * _MIB_PER_GIB, at)
        for name, (member, at) in own.items():
            if member:
                self._set_field(name, member, at)

    def _set_field(self, name: str, value: Any, path: str) -> None:
        if name not in self.fields:
            self.fields[name] = value
            self.paths[name] = path
        elif self.fields[name] != value:
            self._ignored.append(
                f"The field {path} was ignored: {self.paths[name]} has another value and takes precedence."
            )

    def _members(self, value: Any, known: Iterable[str], path: str) -> dict[str, tuple[Any, str]]:
        """Return value and path, as the sender wrote it, of each known member that is not null."""
        if not isinstance(value, dict):
            what = path or "The request"
            raise ConfigurationError(f"{what}: it must be an object, not {describe_type(value)}.", field=path)
        spellings = {spelling: name for name in known for spelling in (name, _camel(name))}
        found: dict[str, tuple[Any, str]] = {}
        for key, member in value.items():
            if key not in spellings:
                self._ignored.append(f"The field {_join(path, _printable(key))} is unknown and was ignored.")
                continue
            at = _join(path, key)
            if spellings[key] in found:
                raise ConfigurationError(f"{at}: it is also set in another spelling.", field=at)
            found[spellings[key]] = (member, at)
        return {name: (member, at) for name, (member, at) in found.items() if member is not None}

    def _pairs(self, value: Any, path: str) -> dict[str, str]:
        if not isinstance(value, list):
            raise ConfigurationError(f"{path}: it must be a list, not {describe_type(value)}.", field=path)
        pairs = {}
        for index, entry in enumerate(value):
            at = f"{path}[{index}]"
            found = self._members(entry, PAIR, at)
            key, text = (scalar.read(*found.get(name, ("", at))) for name, scalar in PAIR.items())
            if key in pairs:
                raise ConfigurationError(f"{at}: duplicate key {_printable(key)!r}.", field=at)
            pairs[key] = text
        return pairs


def _write(given: dict[str, Any], tree: Tree) -> dict[str, Any]:
    """Move the given fields to their places in the tree."""
    written: dict[str, Any] = {}
    for name, kind in tree.members.items():
        if not isinstance(kind, Tree):
            if kind.field in given:
                written[name] = given.pop(kind.field)
        elif kind.written and (inner := _write(given, kind)):
            written[name] = inner
    return written


def _enum_name(kind: type[WireEnum], value: Any, name: str) -> str:
    try:
        return kind.parse(value).name
    except ValueError as error:
        raise ConfigurationError(f"{name}: it is {error}.", field=name) from None


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _printable(name: Any) -> str:
    """Make a name from a request fit for one line of a report."""
    text = str(name)
    text = text if len(text) <= _MAX_NAME_LENGTH else text[:_MAX_NAME_LENGTH] + "…"
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
