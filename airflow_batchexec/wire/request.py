"""The JSON that clients of the guide's service send, and the flat fields that it stands for.

The service that these clients know is described by protobuf and spoken to in JSON. So every name is taken in
snake_case and in lowerCamelCase, null and the zero of a type mean "unset", and unknown fields are ignored.
One request has two forms, flat and nested under ``batch_job_request``; they may even come together.

``request_tree.py`` holds the names of both forms and the flat field that each value becomes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.wire.request_tree import PAIR, REQUEST, START, UNIT, Pairs, Tree
from airflow_batchexec.wire.values import InputFileType, MemoryUnit, OutputFileType, WireEnum, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["StartRequest", "read_start_request", "start_request"]

_MIB_PER_GIB = 1024
# A request of unknown names alone must not become a report of nothing else.
_MOST_WARNINGS = 20
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a request says.

    Attributes:
        fields: The flat names of ``ExecutionConfig`` that are set, with JSON values; only their JSON types are checked.
        warnings: Sentences for the report: what was ignored, and why.
        paths: Where each field stood, as the sender wrote it, for example
            ``batch_job_request.modelDetails.modelId``.
    """

    fields: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)


def read_start_request(body: Any) -> StartRequest:
    """Read a request of either form.

    Args:
        body: The JSON value, parsed.

    Raises:
        ConfigurationError: A value has the wrong type, or a field is there twice; ``details["field"]`` is its path as
            the sender wrote it, and "" for the body itself.
    """
    reader = _Reader()
    reader.read(body, START, "")
    return StartRequest(reader.fields, reader.warnings(), reader.paths)


def start_request(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The nested form of flat fields, in snake_case and with the names of enums.

    The wire knows no ``bucket``: it becomes the bucket of either side that has none.

    Args:
        fields: As ``ExecutionConfig.fields`` gives them.

    Raises:
        ConfigurationError: The wire has no such field, or no such file type.
    """
    given = {name: value for name, value in fields.items() if value not in (None, "", 0, {})}
    if bucket := given.pop("bucket", None):
        given = {"source_bucket": bucket, "destination_bucket": bucket, **given}
    if "memory" in given:
        given[UNIT] = MemoryUnit.MIB.name
    for name, kind in (("input_file_type", InputFileType), ("output_file_type", OutputFileType)):
        if name in given:
            given[name] = _named(kind, given[name], name)
    if "parameters" in given:
        given["parameters"] = [{"key": key, "value": value} for key, value in given["parameters"].items()]
    nested = _write(given, REQUEST)
    if given:
        name = min(given)
        raise ConfigurationError(f"{name}: a request has no such field.", field=name)
    return {"batch_job_request": nested}


class _Reader:
    """Collects the fields of one request; of two places that set a field, the one that is read first wins."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.paths: dict[str, str] = {}
        self._ignored: list[str] = []

    def warnings(self) -> list[str]:
        """What was ignored, as sentences; no more than a report should show."""
        more = len(self._ignored) - _MOST_WARNINGS
        return self._ignored[:_MOST_WARNINGS] + ([f"{more} more fields were ignored."] if more > 0 else [])

    def read(self, value: Any, tree: Tree, path: str) -> None:
        """Read one object: first the objects within it, then its own values."""
        found = self._members(value, tree.members, path)
        if tree.one_of and len(found) > 1:
            at = [at for _, at in found.values()][1]
            raise ConfigurationError(
                f"{at}: no more than one of {', '.join(tree.members)} may be set.", field=at
            )
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
                self._take(name, member, at)

    def _take(self, name: str, value: Any, path: str) -> None:
        if name not in self.fields:
            self.fields[name] = value
            self.paths[name] = path
        elif self.fields[name] != value:
            self._ignored.append(
                f"The field {path} was ignored: {self.paths[name]} says otherwise, and wins."
            )

    def _members(self, value: Any, known: Iterable[str], path: str) -> dict[str, tuple[Any, str]]:
        """The known members of an object that are not null: the value of each, and its path as it was written."""
        if not isinstance(value, dict):
            what = path or "The request"
            raise ConfigurationError(f"{what}: it should be an object, but is {kind_of(value)}.", field=path)
        spellings = {spelling: name for name in known for spelling in (name, _camel(name))}
        found: dict[str, tuple[Any, str]] = {}
        for key, member in value.items():
            if key not in spellings:
                self._ignored.append(f"The field {_inside(path, _shown(key))} is unknown and was ignored.")
                continue
            at = _inside(path, key)
            if spellings[key] in found:
                raise ConfigurationError(f"{at}: it is there in another spelling, too.", field=at)
            found[spellings[key]] = (member, at)
        return {name: (member, at) for name, (member, at) in found.items() if member is not None}

    def _pairs(self, value: Any, path: str) -> dict[str, str]:
        if not isinstance(value, list):
            raise ConfigurationError(f"{path}: it should be a list, but is {kind_of(value)}.", field=path)
        pairs = {}
        for index, entry in enumerate(value):
            at = f"{path}[{index}]"
            found = self._members(entry, PAIR, at)
            key, text = (scalar.read(*found.get(name, ("", at))) for name, scalar in PAIR.items())
            if key in pairs:
                raise ConfigurationError(f"{at}: the key {_shown(key)!r} is there twice.", field=at)
            pairs[key] = text
        return pairs


def _write(given: dict[str, Any], tree: Tree) -> dict[str, Any]:
    """Move what is given to where it stands in the tree."""
    written: dict[str, Any] = {}
    for name, kind in tree.members.items():
        if not isinstance(kind, Tree):
            if kind.field in given:
                written[name] = given.pop(kind.field)
        elif kind.written and (inner := _write(given, kind)):
            written[name] = inner
    return written


def _named(kind: type[WireEnum], value: Any, name: str) -> str:
    try:
        return kind.parse(value).name
    except ValueError as error:
        raise ConfigurationError(f"{name}: it is {error}.", field=name) from None


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(name: Any) -> str:
    """A name that somebody chose, fit for one line of a report."""
    text = str(name)
    text = text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
