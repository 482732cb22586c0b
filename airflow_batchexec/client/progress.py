"""The bar of an execution that is waited for, on standard error; nothing is drawn where that is no terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Self

    from rich.progress import ProgressColumn

__all__ = ["Bar", "NoBar", "TerminalBar", "bar", "columns"]


class Bar(Protocol):
    """What shows how far an execution is."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, status: str, finished: int, total: int) -> None:
        """Show this state; a total of 0 is not known yet."""


def bar(label: str, *, wanted: bool | None) -> Bar:
    """A bar where one is wanted; ``None`` leaves it to whether standard error is a terminal."""
    return TerminalBar(label) if (sys.stderr.isatty() if wanted is None else wanted) else NoBar()


def columns() -> list[ProgressColumn]:
    """What every bar of executions consists of: what is done, how many files of how many, and since when."""
    from rich.progress import (  # noqa: PLC0415  rich takes its time
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    return [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TimeElapsedColumn(),
    ]


class NoBar:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, status: str, finished: int, total: int) -> None:
        """Nothing is shown."""


class TerminalBar:
    """A bar that is gone when the execution has ended."""

    def __init__(self, label: str) -> None:
        from rich.console import Console  # noqa: PLC0415  as above
        from rich.markup import escape  # noqa: PLC0415  as above
        from rich.progress import Progress  # noqa: PLC0415  as above

        self._label = escape(label)
        self._progress = Progress(*columns(), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(self._label, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, status: str, finished: int, total: int) -> None:
        """Show this state."""
        self._progress.update(
            self._task,
            description=f"{self._label} {status.lower()}",
            completed=finished,
            total=total or None,
        )
