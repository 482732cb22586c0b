"""The command line, ``batchexec``.

Every command is a thin shell around the engine or the client. Heavy libraries (rich's tables, requests, boto3, pandas)
are imported where they are used, so that ``--help`` and completion answer at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from airflow_batchexec._version import __version__
from airflow_batchexec.cli.errors import ReportingGroup
from airflow_batchexec.cli.execution import execution_app
from airflow_batchexec.cli.models import models_app
from airflow_batchexec.cli.options import PLAIN
from airflow_batchexec.cli.server import Surroundings

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "main"]

_PROGRAM = "batchexec"
_COMPLETION = {"install_completion", "show_completion"}

app = typer.Typer(
    name=_PROGRAM,
    cls=ReportingGroup,
    help="Batch inference over folders of CSV, Parquet and Feather files.",
    no_args_is_help=True,
    rich_markup_mode=PLAIN,
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


def main(
    arguments: Sequence[str] | None = None,
    *,
    program: str = _PROGRAM,
    default_server: str | None = None,
) -> None:
    """Run the command line; it ends the process with the command's exit code.

    Args:
        arguments: The words after the program's name; those of the process.
        program: What the program is called, in help and hints.
        default_server: The server that commands talk to where nothing names one.
    """
    command = typer.main.get_command(app)
    if program != _PROGRAM:
        # The shell asks a program for completions; another program has its own way.
        command.params = [p for p in command.params if p.name not in _COMPLETION]
    command.main(
        args=None if arguments is None else list(arguments),
        prog_name=program,
        obj=Surroundings(default_server=default_server),
    )
