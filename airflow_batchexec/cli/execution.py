"""``batchexec models execution …``: the commands about executions."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from airflow_batchexec.cli.completion import complete_status
from airflow_batchexec.cli.options import PLAIN, ExecutionIdOption, Output, OutputOption
from airflow_batchexec.cli.server import ServerOptions, takes_server

__all__ = ["execution_app"]


class _Executions(TyperGroup):
    """The commands. The flags of start come from the configuration, which takes its time: it is loaded on demand."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return ["start", *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of them."""
        return _start() if cmd_name == "start" else super().get_command(ctx, cmd_name)


def _start() -> Any:
    from airflow_batchexec.cli.start import start  # noqa: PLC0415  as said above

    app = typer.Typer(add_completion=False, rich_markup_mode=PLAIN)
    app.command("start")(start)
    # An app of one command is that command.
    return typer.main.get_command(app)


execution_app = typer.Typer(
    name="execution",
    cls=_Executions,
    no_args_is_help=True,
    rich_markup_mode=PLAIN,
    help="Send a folder of files through a model.",
)


@execution_app.command()
@takes_server
def status(
    ctx: typer.Context,
    *,
    execution_id: ExecutionIdOption,
    output: OutputOption = Output.TEXT,
    server: ServerOptions,
) -> None:
    """Show what an execution does, or has come to.

    Ends with 0 whatever the status is: for an exit code that tells of a failure, see wait.
    """
    from airflow_batchexec.cli.remote import show_status  # noqa: PLC0415  the client takes its time

    show_status(ctx, execution_id, server, output)


@execution_app.command()
@takes_server
def report(
    ctx: typer.Context,
    *,
    execution_id: ExecutionIdOption,
    output: OutputOption = Output.TEXT,
    server: ServerOptions,
) -> None:
    """Show an execution's log: every file, every retry, and what the model printed."""
    from airflow_batchexec.cli.remote import show_report  # noqa: PLC0415  as above

    show_report(ctx, execution_id, server, output)


@execution_app.command()
@takes_server
def cancel(
    ctx: typer.Context,
    *,
    execution_id: ExecutionIdOption,
    output: OutputOption = Output.TEXT,
    server: ServerOptions,
) -> None:
    """End an execution. Results that are there stay; nothing partial is left."""
    from airflow_batchexec.cli.remote import cancel as cancel_it  # noqa: PLC0415  as above

    cancel_it(ctx, execution_id, server, output)


@execution_app.command()
@takes_server
def wait(
    ctx: typer.Context,
    *,
    execution_id: ExecutionIdOption,
    no_cancel: Annotated[
        bool, typer.Option("--no-cancel", help="On Ctrl-C leave the execution alone, and stop waiting.")
    ] = False,
    output: OutputOption = Output.TEXT,
    server: ServerOptions,
) -> None:
    """Wait until an execution has ended. Ctrl-C cancels it.

    Ends with 0 where every file has its result, and with 1 where the execution has ended otherwise.
    """
    from airflow_batchexec.cli.remote import wait_for  # noqa: PLC0415  as above

    wait_for(ctx, execution_id, server, output, cancel=not no_cancel)


@execution_app.command("list")
@takes_server
def list_executions(
    ctx: typer.Context,
    *,
    model_id: Annotated[
        str | None, typer.Option("--model-id", metavar="M", help="Of this model only.", show_default=False)
    ] = None,
    build_id: Annotated[
        str | None, typer.Option("--build-id", metavar="B", help="Of this build only.", show_default=False)
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            metavar="S",
            help="In this status only: committed, pending, running, finished, failed, cancelled or timeout.",
            autocompletion=complete_status,
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")] = 20,
    output: OutputOption = Output.TEXT,
    server: ServerOptions,
) -> None:
    """Show executions, the newest first."""
    from airflow_batchexec.cli.remote import show_list  # noqa: PLC0415  as above

    show_list(ctx, server, output, model_id=model_id, build_id=build_id, status=status, limit=limit)
