"""The command line, ``batchexec``.

Every command is a thin wrapper around the engine or the client. Heavy libraries (rich's tables, requests, boto3,
pandas) are imported where they are used, to keep ``--help`` and completion fast.
"""

from __future__ import annotations

import atexit
import gc
from typing import TYPE_CHECKING, Annotated

import typer

from airflow_batchexec._version import __version__
from airflow_batchexec.cli.errors import ReportingGroup
from airflow_batchexec.cli.execution import execution_app
from airflow_batchexec.cli.models import models_app
from airflow_batchexec.cli.options import PLAIN
from airflow_batchexec.cli.server import CliContext

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "main"]

_PROGRAM = "batchexec"
_COMPLETION_OPTIONS = {"install_completion", "show_completion"}

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


def _show_version(requested: bool) -> None:  # noqa: FBT001  typer passes the option's value by position
    if requested:
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
    """Run the command line, then exit the process with the command's exit code.

    Args:
        arguments: The command-line arguments, without the program name; defaults to those of the process.
        program: The program name to show in help and hints.
        default_server: The server to use if none is configured.
    """
    # Otherwise, the garbage collections at the interpreter's exit take about 60 ms after a local execution.
    atexit.register(gc.freeze)
    command = typer.main.get_command(app)
    if program != _PROGRAM:
        # A program that embeds these commands provides its own completion.
        command.params = [p for p in command.params if p.name not in _COMPLETION_OPTIONS]
    command.main(
        args=None if arguments is None else list(arguments),
        prog_name=program,
        obj=CliContext(default_server=default_server),
    )
