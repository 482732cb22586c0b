"""The progress bar of an execution, on standard error if that is a terminal."""

from __future__ import annotations

import sys
from threading import Lock
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Self

    from rich.console import Console

__all__ = ["Bar", "NoBar", "TerminalBar", "progress_bar"]


class Bar(Protocol):
    """Shows the progress of an execution."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, text: str, finished: int, total: int) -> None:
        """Show a state.

        Args:
            text: The execution and its status.
            finished: The number of finished files.
            total: The total number of files; 0 if not known yet.
        """

    def advance(self, rows: int) -> None:
        """Count one more finished file. Thread-safe.

        Args:
            rows: The number of rows in its result.
        """


def progress_bar(
    text: str, *, enabled: bool | None, console: Console | None = None, with_rows: bool = False
) -> Bar:
    """Create a bar, or one that shows nothing.

    Args:
        text: The execution.
        enabled: Whether to draw a bar; ``None``: only if standard error is a terminal.
        console: The console to draw on, shared with other output; ``None``: standard error.
        with_rows: Whether to show the number of rows.
    """
    if not (sys.stderr.isatty() if enabled is None else enabled):
        return NoBar()
    return TerminalBar(text, console=console, with_rows=with_rows)


class NoBar:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, text: str, finished: int, total: int) -> None:
        """Do nothing."""

    def advance(self, rows: int) -> None:
        """Do nothing."""


class TerminalBar:
    """A bar that disappears when the execution ends.

    Args:
        text: The execution.
        console: The console to draw on; ``None``: standard error.
        with_rows: Whether to show the number of rows.
    """

    def __init__(self, text: str, *, console: Console | None = None, with_rows: bool = False) -> None:
        from rich.console import Console as RichConsole  # noqa: PLC0415  rich is slow to import
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
        """Show a state."""
        self._progress.update(
            self._task, description=self._escape(text), completed=finished, total=total or None
        )

    def advance(self, rows: int) -> None:
        """Count one more finished file."""
        with self._lock:
            self._rows += rows
            self._progress.update(self._task, advance=1, rows=self._rows)
