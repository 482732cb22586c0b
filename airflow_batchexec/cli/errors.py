"""What the command line does with errors: one line for those that a user can act on, a traceback for bugs."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from airflow_batchexec.exceptions import BatchExecError

__all__ = ["REFUSED", "ReportingGroup"]

REFUSED = 2
"""The exit code where nothing was done: wrong usage or configuration, an unknown model, a bucket out of reach."""


class ReportingGroup(TyperGroup):
    """The root of the commands: an error of this package is one line on stderr and the exit code 2.

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
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(REFUSED) from error
