"""The commands for executions on a server, after their flags have been parsed."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from airflow_batchexec.cli.display import print_facts, print_json, print_line, print_table, styled_status
from airflow_batchexec.cli.errors import FAILED, INTERRUPTED, REFUSED, report
from airflow_batchexec.cli.options import Output
from airflow_batchexec.wire.request import read_start_request, start_request
from airflow_batchexec.wire.values import JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_batchexec.cli.server import ServerOptions
    from airflow_batchexec.client import (
        BatchJobManagerClient,
        BatchJobSummary,
        ExecutionStatusResult,
        StartExecutionResult,
    )
    from airflow_batchexec.engine.config.model import ExecutionConfig

__all__ = ["cancel", "show_list", "show_report", "show_status", "start_on_server", "wait_for"]

_HEADINGS = ("execution", "status", "build", "files", "started (UTC)", "took")


def start_on_server(
    ctx: typer.Context, config: ExecutionConfig, server: ServerOptions, output: Output, *, wait: bool
) -> None:
    """Start an execution on the server; optionally wait for it to end."""
    with server.client(ctx) as client:
        if wait:
            _start_and_wait(client, config, output)
            return
        result = client.start_execution(config)
    _exit_if_refused(result, output, sent=config)
    if output is Output.JSON:
        print_json(result.wire)
        return
    execution_id = result.execution_id
    print_line(f"Started execution {execution_id}.")
    print_line(f"Status: {server.command(ctx, 'status', execution_id)}")
    print_line(f"Wait:   {server.command(ctx, 'wait', execution_id)}")


def _start_and_wait(client: BatchJobManagerClient, config: ExecutionConfig, output: Output) -> None:
    def print_started(result: StartExecutionResult) -> None:
        if result.success:
            typer.echo(f"Started execution {result.execution_id}.", err=True)

    try:
        started, ended = client.run_execution(config, on_started=print_started)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    _exit_if_refused(started, output, sent=config)
    assert ended is not None, "a started execution has been waited for"
    _print_end(ended, started.execution_id, output)


def show_status(ctx: typer.Context, execution_id: str, server: ServerOptions, output: Output) -> None:
    """Print the status of an execution. A failed execution is not an error of this command."""
    with server.client(ctx) as client:
        result = client.get_execution_status(execution_id)
    _exit_if_refused(result, output)
    _print_status(result, execution_id, output)


def show_report(ctx: typer.Context, execution_id: str, server: ServerOptions, output: Output) -> None:
    """Print the log of an execution."""
    with server.client(ctx) as client:
        result = client.get_execution_report(execution_id)
    _exit_if_refused(result, output)
    if output is Output.JSON:
        print_json(result.wire)
        return
    for line in result.records:
        print_line(line)


def cancel(ctx: typer.Context, execution_id: str, server: ServerOptions, output: Output) -> None:
    """Cancel an execution."""
    with server.client(ctx) as client:
        result = client.cancel_execution(execution_id)
    _exit_if_refused(result, output)
    if output is Output.JSON:
        print_json(result.wire)
    else:
        print_line(f"Execution {execution_id} is being cancelled; its pods exit within seconds.")


def show_list(ctx: typer.Context, server: ServerOptions, output: Output, **filters: Any) -> None:
    """Print the executions that the user may see, newest first."""
    with server.client(ctx) as client:
        result = client.list_batch_jobs(**filters)
    _exit_if_refused(result, output)
    if output is Output.JSON:
        print_json(result.wire)
    elif result.batch_jobs:
        rows = [_row(job) for job in result.batch_jobs]
        print_table(_HEADINGS, rows, status="status", folded="build")
    else:
        print_line("No executions found.")


def wait_for(
    ctx: typer.Context, execution_id: str, server: ServerOptions, output: Output, *, cancel: bool
) -> None:
    """Wait for an execution to end and print its final status."""
    try:
        with server.client(ctx) as client:
            result = client.wait_for_execution(execution_id, cancel_on_interrupt=cancel)
    except KeyboardInterrupt:
        if not cancel:
            typer.echo(f"The execution continues: {server.command(ctx, 'status', execution_id)}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _print_end(result, execution_id, output)


def _print_end(result: ExecutionStatusResult, execution_id: str, output: Output) -> None:
    """Print the final status of an execution, and exit with the matching code."""
    _exit_if_refused(result, output)
    _print_status(result, execution_id, output)
    if result.status is not JobStatus.BATCH_JOB_FINISHED_STATUS:
        raise typer.Exit(FAILED)


def _exit_if_refused(result: Any, output: Output, *, sent: ExecutionConfig | None = None) -> None:
    """Exit if the server refused the call. With JSON output, its response is still printed."""
    if result.success:
        return
    if output is Output.JSON:
        print_json(result.wire)
    report(_with_parameter_name(result.failure_message, sent) if sent is not None else result.failure_message)
    raise typer.Exit(REFUSED)


def _with_parameter_name(message: str, sent: ExecutionConfig) -> str:
    """Replace a leading request path in a refusal by the parameter name that the user knows."""
    for name, path in read_start_request(start_request(sent.fields())).paths.items():
        if message.startswith(f"{path}: "):
            return f"{name}{message.removeprefix(path)}"
    return message


def _print_status(result: ExecutionStatusResult, execution_id: str, output: Output) -> None:
    if output is Output.JSON:
        # The response has no execution ID; add it as a start response names it.
        print_json({"batch_id": execution_id, **result.wire})
    else:
        print_facts(_facts(result, execution_id))


def _facts(result: ExecutionStatusResult, execution_id: str) -> Iterator[tuple[str, str]]:
    yield "Status", styled_status(result.status.short)
    if result.failure_message:
        yield "Reason", escape(result.failure_message)
    yield "Execution", escape(execution_id)
    if result.total_files or result.ended:
        yield "Files", f"{result.finished_files:,} of {result.total_files:,} finished"
    else:
        yield "Files", "not counted yet"


def _row(job: BatchJobSummary) -> tuple[str, ...]:
    start, end = job.start_time, job.end_time
    return (
        job.job_id,
        job.job_status.short,
        job.build_id or "-",
        str(job.job_size or "-"),
        f"{start.astimezone(UTC):%Y-%m-%d %H:%M}" if start else "-",
        str(timedelta(seconds=round((end - start).total_seconds()))) if start and end else "-",
    )
