"""Output formatting: labelled lines, tables and JSON on standard output.

Colours are used only on terminals, and not if ``NO_COLOR`` is set. Control characters in foreign text are escaped, so
that it cannot control the terminal.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["print_facts", "print_json", "print_line", "print_table", "styled_status"]

_STYLES = {"FINISHED": "green", "CANCELLED": "yellow", "FAILED": "red", "TIMEOUT": "red"}
_LABEL_WIDTH = 11
_MAX_UNFOLDED_LENGTH = 40
_CONTROL_CHARACTERS = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# In a piped table each row is one line, however long.
_UNLIMITED_WIDTH = 100_000


def print_json(document: Any) -> None:
    """Print a JSON document on one line."""
    sys.stdout.write(json.dumps(document) + "\n")


def print_line(text: str) -> None:
    """Print a line without wrapping it."""
    sys.stdout.write(_escape_controls(text) + "\n")


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print one line per label and value, without wrapping. Values are rich markup."""
    console = Console(highlight=False, soft_wrap=True)
    for label, value in facts:
        console.print(f"[bold]{label:<{_LABEL_WIDTH}}[/]{_escape_controls(value)}")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, status: str, folded: str) -> None:
    """Print a table. On a terminal, cells that do not fit are folded, never truncated.

    Args:
        headings: The column headings.
        rows: The cells of each row.
        status: The heading of the column of statuses, which are coloured.
        folded: The heading of the column to fold first; other columns are folded only if a cell is very long.
    """
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_UNLIMITED_WIDTH)
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        short = all(len(row[number]) <= _MAX_UNFOLDED_LENGTH for row in rows)
        table.add_column(heading, overflow="fold", no_wrap=short and heading != folded)
    for row in rows:
        table.add_row(
            *(
                Text(_escape_controls(cell), style=_STYLES.get(cell, "") if heading == status else "")
                for heading, cell in zip(headings, row, strict=True)
            )
        )
    console.print(table)


def styled_status(status: str) -> str:
    """Return a status's short name as rich markup."""
    style = _STYLES.get(status)
    return f"[{style}]{escape(status)}[/]" if style else escape(status)


def _escape_controls(text: str) -> str:
    return _CONTROL_CHARACTERS.sub(
        lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text
    )
