"""What the command line does with errors: one line for those that a user can act on, a traceback for bugs.

The line begins with ``error:``; the exit code says of which kind it is.
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
"""The execution began, and did not finish."""
REFUSED = 2
"""Nothing was done: wrong usage or configuration, an unknown model or execution, a twin that runs."""
UNREACHABLE = 3
"""The server did not answer, or not as this API does."""
NOT_ALLOWED = 4
"""The server does not know the user, or does not let them."""
INTERRUPTED = 130
"""The user ended the command."""


def _exit_code(error: BatchExecError) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, NotAllowedError):
        return NOT_ALLOWED
    return UNREACHABLE if isinstance(error, ServerError) else REFUSED


def report(message: object) -> None:
    """Say on standard error what went wrong."""
    typer.echo(f"error: {message}", err=True)


class ReportingGroup(TyperGroup):
    """The root of the commands: an error of this package is one line on stderr, and its exit code.

    A command that has another exit code for some errors catches them itself.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for.

        Raises:
            typer.Exit: The command raised an error of this package.
        """
        try:
            return super().invoke(ctx)
        except BatchExecError as error:
            report(error)
            raise typer.Exit(_exit_code(error)) from error
