"""The command line, ``batchexec``.

Every command is a thin shell around the engine. Heavy libraries (rich's tables, boto3, pandas) are imported where they
are used, so that ``--help`` and completion answer at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from airflow_batchexec import __version__
from airflow_batchexec.cli.errors import ReportingGroup
from airflow_batchexec.cli.execution import execution_app
from airflow_batchexec.cli.models import models_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="batchexec",
    cls=ReportingGroup,
    help="Batch inference over folders of CSV, Parquet and Feather files.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models_app.add_typer(execution_app, name="execution")
app.add_typer(models_app, name="models")


def _show_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it with the option's value
    if wanted:
        typer.echo(f"batchexec {__version__}")
        raise typer.Exit


@app.callback()
def _batchexec(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; it ends the process with the command's exit code."""
    app(prog_name="batchexec")
