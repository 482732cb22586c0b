"""The bar of an execution, on standard error; nothing is drawn where that is not a terminal."""

from __future__ import annotations

import sys
from threading import Lock
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Self

    from rich.console import Console

__all__ = ["Bar", "NoBar", "TerminalBar", "bar"]


class Bar(Protocol):
    """What shows how far an execution is."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, text: str, finished: int, total: int) -> None:
        """Show this state.

        Args:
            text: What is executed, and its status.
            finished: The number of finished files.
            total: The number of all files; 0 while it is not known.
        """

    def advance(self, rows: int) -> None:
        """Count one more finished file; threads may call this at the same time.

        Args:
            rows: The number of rows of its result.
        """


def bar(text: str, *, wanted: bool | None, console: Console | None = None, with_rows: bool = False) -> Bar:
    """A bar where one is wanted.

    Args:
        text: What is executed.
        wanted: Whether to draw a bar; ``None``: where standard error is a terminal.
        console: Where to draw it, together with what else is printed there; ``None``: standard error.
        with_rows: Whether to show the number of rows.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        return NoBar()
    return TerminalBar(text, console=console, with_rows=with_rows)


class NoBar:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, text: str, finished: int, total: int) -> None:
        """Nothing is shown."""

    def advance(self, rows: int) -> None:
        """Nothing is shown."""


class TerminalBar:
    """A bar that is gone when the execution has ended.

    Args:
        text: What is executed.
        console: Where to draw it; ``None``: standard error.
        with_rows: Whether to show the number of rows.
    """

    def __init__(self, text: str, *, console: Console | None = None, with_rows: bool = False) -> None:
        from rich.console import Console as RichConsole  # noqa: PLC0415  rich takes its time
        from rich.markup import escape  # noqa: PLC0415  as above
        from rich.progress import (  # noqa: PLC0415  as above
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("files"),
            *([TextColumn("{task.fields[rows]:,} rows")] if with_rows else []),
            TimeElapsedColumn(),
            console=console or RichConsole(stderr=True),
            transient=True,
        )
        self._escape = escape
        self._task = self._progress.add_task(escape(text), total=None, rows=0)
        self._rows = 0
        self._lock = Lock()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, text: str, finished: int, total: int) -> None:
        """Show this state."""
        self._progress.update(
            self._task, description=self._escape(text), completed=finished, total=total or None
        )

    def advance(self, rows: int) -> None:
        """Count one more finished file."""
        with self._lock:
            self._rows += rows
            self._progress.update(self._task, advance=1, rows=self._rows)
