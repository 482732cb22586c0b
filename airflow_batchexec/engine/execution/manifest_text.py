"""The manifest as text: written entry by entry, and its header read without the rest, however many files there are."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["entry_pieces", "header_of", "manifest_pieces"]

_START_OF_FILES = ',\n "files": ['


def manifest_pieces(header: Mapping[str, Any], files: Iterable[str], skipped: Iterable[str]) -> Iterator[str]:
    """Yield the text of a manifest, as ``json.dumps(…, indent=1, ensure_ascii=False)`` would write it.

    Args:
        header: The fields except the lists of files, as JSON values.
        files: The text of ``files``, from :func:`entry_pieces`.
        skipped: The text of ``skipped``, likewise.
    """
    yield json.dumps(header, indent=1, ensure_ascii=False).removesuffix("\n}")
    yield _START_OF_FILES
    yield from files
    yield '],\n "skipped": ['
    yield from skipped
    yield "]\n}"


def entry_pieces(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the text of a list of the manifest, without its brackets.

    Args:
        entries: The entries. Their values are plain JSON values, or objects of plain values.
    """
    separator, end = "\n  ", ""
    for entry in entries:
        yield separator + _entry(entry)
        separator, end = ",\n  ", "\n "
    yield end


def header_of(start: str) -> dict[str, Any] | None:
    """The fields before the lists of files, from the start of a document.

    Returns:
        The fields; ``None`` if the start does not have them all, or is not as :func:`manifest_pieces` writes it.
    """
    header, found, _ = start.partition(_START_OF_FILES)
    try:
        values = json.loads(header + "\n}") if found else None
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _entry(entry: Mapping[str, Any]) -> str:
    """An entry at the indentation that it has in the document."""
    pieces = []
    for name, value in entry.items():
        text = _object(value) if isinstance(value, dict) else _plain(value)
        pieces.append(f"{_name(name)}: {text}")
    return "{\n   " + ",\n   ".join(pieces) + "\n  }" if pieces else "{}"


def _object(values: Mapping[str, Any]) -> str:
    return f"{{\n    {_inner(values)[1:-1]}\n   }}" if values else "{}"


# With ``indent``, the standard library encodes in Python; without, in C, which is several times faster.
_plain = json.JSONEncoder(ensure_ascii=False).encode
_name = cache(_plain)
_inner = json.JSONEncoder(ensure_ascii=False, separators=(",\n    ", ": ")).encode
