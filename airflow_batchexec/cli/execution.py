"""``batchexec models execution …``: commands that manage executions."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from airflow_batchexec.cli.completion import complete_status
from airflow_batchexec.cli.options import PLAIN, ExecutionIdOption, Output, OutputOption
from airflow_batchexec.cli.server import ServerOptions, with_server_options

__all__ = ["execution_app"]


class _Executions(TyperGroup):
    """Loads ``start`` on demand: its flags come from the configuration, which is slow to import."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the names of the commands."""
        return ["start", *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name."""
        return _start() if cmd_name == "start" else super().get_command(ctx, cmd_name)


def _start() -> Any:
    from airflow_batchexec.cli.start import start  # noqa: PLC0415  loaded on demand

    app = typer.Typer(add_completion=False, rich_markup_mode=PLAIN)
    app.command("start")(start)
    # typer turns an app with a single command into that command.
    return typer.main.get_command(app)


execution_app = typer.Typer(
    name="execution",
    cls=_Executions,
    no_args_is_help=True,
    rich_markup_mode=PLAIN,
    help="Run a model over a folder of files.",
)


@execution_app.command()
@with_server_options
def status(
    ctx: typer.Context,
    *,
    execution_id: ExecutionIdOption,
    output: OutputOption = Output.TEXT,
    server: ServerOptions,
) -> None:
    """Show the status of an execution.

    Exits with 0 whatever the status is. Use wait for an exit code that reflects it.
    """
    from airflow_batchexec.cli.remote import show_status  # noqa: PLC0415  the client is slow to import

    show_status(ctx, execution_id, server, output)


@execution_app.command()
@with_server_options
def report(
    ctx: typer.Context,
    *,
    execution_id: ExecutionIdOption,
    output: OutputOption = Output.TEXT,
    server: ServerOptions,
) -> None:
    """Show the log of an execution: every file, every retry, and what the model printed."""
    from airflow_batchexec.cli.remote import show_report  # noqa: PLC0415  as above

    show_report(ctx, execution_id, server, output)


@execution_app.command()
@with_server_options
def cancel(
    ctx: typer.Context,
    *,
    execution_id: ExecutionIdOption,
    output: OutputOption = Output.TEXT,
    server: ServerOptions,
) -> None:
    """Cancel an execution. Existing results stay; no partial results are left."""
    from airflow_batchexec.cli.remote import cancel as cancel_execution  # noqa: PLC0415  as above

    cancel_execution(ctx, execution_id, server, output)


@execution_app.command()
@with_server_options
def wait(
    ctx: typer.Context,
    *,
    execution_id: ExecutionIdOption,
    no_cancel: Annotated[
        bool, typer.Option("--no-cancel", help="On Ctrl-C, stop waiting without cancelling.")
    ] = False,
    output: OutputOption = Output.TEXT,
    server: ServerOptions,
) -> None:
    """Wait for an execution to end. Ctrl-C cancels it.

    Exits with 0 if every file has a result, and with 1 if the execution ended in any other way.
    """
    from airflow_batchexec.cli.remote import wait_for  # noqa: PLC0415  as above

    wait_for(ctx, execution_id, server, output, cancel=not no_cancel)


@execution_app.command("list")
@with_server_options
def list_executions(
    ctx: typer.Context,
    *,
    model_id: Annotated[
        str | None,
        typer.Option("--model-id", metavar="M", help="Only executions of this model.", show_default=False),
    ] = None,
    build_id: Annotated[
        str | None,
        typer.Option("--build-id", metavar="B", help="Only executions of this build.", show_default=False),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            metavar="S",
            help="Only executions in this status: committed, pending, running, finished, failed, cancelled or timeout.",
            autocompletion=complete_status,
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="Maximum number of executions.")
    ] = 20,
    output: OutputOption = Output.TEXT,
    server: ServerOptions,
) -> None:
    """List executions, newest first."""
    from airflow_batchexec.cli.remote import show_list  # noqa: PLC0415  as above

    show_list(ctx, server, output, model_id=model_id, build_id=build_id, status=status, limit=limit)
