"""How results look: labelled lines, tables and JSON on standard output.

Colours are for terminals alone, and not for those whose user has set ``NO_COLOR``. What comes from elsewhere can hold no
control sequences that the terminal would obey.
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
_SHORT = 40
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# A table that is piped has a line for each row, however long.
_UNLIMITED = 100_000


def print_json(document: Any) -> None:
    """One JSON document on a line of its own."""
    sys.stdout.write(json.dumps(document) + "\n")


def print_line(text: str) -> None:
    """One line as it is; it is never broken."""
    sys.stdout.write(_visible(text) + "\n")


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """A line for each label and value, the value as rich's markup; values are never broken over two lines."""
    console = Console(highlight=False, soft_wrap=True)
    for label, value in facts:
        console.print(f"[bold]{label:<{_LABEL_WIDTH}}[/]{_visible(value)}")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, status: str, folded: str) -> None:
    """A table. On a terminal nothing of it is cut: what does not fit is folded.

    Args:
        headings: The columns.
        rows: The cells.
        status: The heading of the column that holds statuses, which are coloured.
        folded: The heading of the column that is folded first; the others only where a cell is very long.
    """
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_UNLIMITED)
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        short = all(len(row[number]) <= _SHORT for row in rows)
        table.add_column(heading, overflow="fold", no_wrap=short and heading != folded)
    for row in rows:
        table.add_row(
            *(
                Text(_visible(cell), style=_STYLES.get(cell, "") if heading == status else "")
                for heading, cell in zip(headings, row, strict=True)
            )
        )
    console.print(table)


def styled_status(status: str) -> str:
    """A status's short name as rich's markup."""
    style = _STYLES.get(status)
    return f"[{style}]{escape(status)}[/]" if style else escape(status)


def _visible(text: str) -> str:
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)
