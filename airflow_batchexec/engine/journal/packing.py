"""Packs JSON values for the task state store, as compressed text."""

from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["pack", "pack_entries", "pack_in_rows", "unpack", "unpack_entries"]

_MAX_UNPACKED_BYTES = 64 * 1024**2
# Shorter rows stay readable.
_MIN_PACKED_CHARACTERS = 1024


def pack(value: list[Any] | dict[str, Any]) -> str:
    """Encode a JSON value compactly, as compressed base64 text."""
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


def unpack(text: str) -> Any:
    """Decode a value encoded by :func:`pack`.

    Raises:
        ValueError: The text is not a packed value, or unpacks to more than 64 MiB.
    """
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(base64.b64decode(text, validate=True), _MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise ValueError(f"Packed journal value cannot be decompressed: {error}.") from None
    if not inflater.eof:
        raise ValueError("Packed journal value is truncated, or larger than 64 MiB.")
    return json.loads(data)


def pack_in_rows(items: Sequence[Any], *, max_bytes: int) -> list[str]:
    """Pack a list into parts of limited size.

    Args:
        items: JSON values.
        max_bytes: Maximum size of a part; a single larger item gets its own part.
    """
    packed = pack(list(items))
    if len(packed) <= max_bytes or len(items) < 2:  # noqa: PLR2004  a single item cannot be split
        return [packed]
    middle = len(items) // 2
    return [
        part for half in (items[:middle], items[middle:]) for part in pack_in_rows(half, max_bytes=max_bytes)
    ]


def pack_entries(entries: list[dict[str, Any]]) -> list[dict[str, Any]] | str:
    """Encode a row of journal entries: packed if it is long, to about a tenth of its size."""
    return pack(entries) if len(json.dumps(entries)) > _MIN_PACKED_CHARACTERS else entries


def unpack_entries(row: Any) -> list[Any]:
    """Decode a row of journal entries; empty if it is not one."""
    try:
        entries = unpack(row) if isinstance(row, str) else row
    except (TypeError, ValueError):
        return []
    return entries if isinstance(entries, list) else []
