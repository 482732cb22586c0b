"""Error handling of the command line: one line for errors that a user can act on, a traceback for bugs.

The line starts with ``error:``; the exit code tells what kind of error it is.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from airflow_batchexec.exceptions import BatchExecError, NotAllowedError, ServerError

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "NOT_ALLOWED",
    "REFUSED",
    "UNREACHABLE",
    "ReportingGroup",
    "report",
]

FAILED = 1
"""The execution started but did not finish."""
REFUSED = 2
"""Nothing was done: wrong usage or configuration, an unknown model or execution, or the same execution is running."""
UNREACHABLE = 3
"""The server did not respond, or the response is not from this API."""
NOT_ALLOWED = 4
"""The user is not authenticated or lacks the permission."""
INTERRUPTED = 130
"""The user interrupted the command."""


def _exit_code(error: BatchExecError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, NotAllowedError):
        return NOT_ALLOWED
    return UNREACHABLE if isinstance(error, ServerError) else REFUSED


def report(message: object) -> None:
    """Print an error message to standard error."""
    typer.echo(f"error: {message}", err=True)


class ReportingGroup(TyperGroup):
    """The root command group: reports errors of this package as one line on stderr and an exit code.

    Commands that need other exit codes catch those errors themselves.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: The command raised a ``BatchExecError``.
        """
        try:
            return super().invoke(ctx)
        except BatchExecError as error:
            report(error)
            raise typer.Exit(_exit_code(error)) from error
