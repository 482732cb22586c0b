"""What the commands about executions on a server do, once their flags are read."""

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

__all__ = ["cancel", "show_list", "show_report", "show_status", "start_there", "wait_for"]

_HEADINGS = ("execution", "status", "build", "files", "started (UTC)", "took")


def start_there(
    ctx: typer.Context, config: ExecutionConfig, server: ServerOptions, output: Output, *, wait: bool
) -> None:
    """Start an execution on the server, and wait for it if that is wanted."""
    with server.client(ctx) as client:
        if wait:
            _start_and_wait(client, config, output)
            return
        result = client.start_execution(config)
    _check(result, output, sent=config)
    if output is Output.JSON:
        print_json(result.wire)
        return
    execution_id = result.execution_id
    print_line(f"Started execution {execution_id}.")
    print_line(f"Look at it:  {server.command(ctx, 'status', execution_id)}")
    print_line(f"Wait for it: {server.command(ctx, 'wait', execution_id)}")


def _start_and_wait(client: BatchJobManagerClient, config: ExecutionConfig, output: Output) -> None:
    def tell(result: StartExecutionResult) -> None:
        if result.success:
            typer.echo(f"Started execution {result.execution_id}.", err=True)

    try:
        started, ended = client.run_execution(config, on_started=tell)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    _check(started, output, sent=config)
    assert ended is not None, "what was started has been waited for"
    _end(ended, started.execution_id, output)


def show_status(ctx: typer.Context, execution_id: str, server: ServerOptions, output: Output) -> None:
    """Print what an execution does; a failed one is no failure of the question."""
    with server.client(ctx) as client:
        result = client.get_execution_status(execution_id)
    _check(result, output)
    _print_status(result, execution_id, output)


def show_report(ctx: typer.Context, execution_id: str, server: ServerOptions, output: Output) -> None:
    """Print the lines of an execution's log."""
    with server.client(ctx) as client:
        result = client.get_execution_report(execution_id)
    _check(result, output)
    if output is Output.JSON:
        print_json(result.wire)
        return
    for line in result.records:
        print_line(line)


def cancel(ctx: typer.Context, execution_id: str, server: ServerOptions, output: Output) -> None:
    """Cancel an execution."""
    with server.client(ctx) as client:
        result = client.cancel_execution(execution_id)
    _check(result, output)
    if output is Output.JSON:
        print_json(result.wire)
    else:
        print_line(f"Execution {execution_id} is being cancelled; its pods end in the next seconds.")


def show_list(ctx: typer.Context, server: ServerOptions, output: Output, **filters: Any) -> None:
    """Print the executions that the user may see, the newest first."""
    with server.client(ctx) as client:
        result = client.list_batch_jobs(**filters)
    _check(result, output)
    if output is Output.JSON:
        print_json(result.wire)
    elif result.batch_jobs:
        rows = [_row(job) for job in result.batch_jobs]
        print_table(_HEADINGS, rows, status="status", folded="build")
    else:
        print_line("There are no such executions.")


def wait_for(
    ctx: typer.Context, execution_id: str, server: ServerOptions, output: Output, *, cancel: bool
) -> None:
    """Wait until an execution has ended, and print what has become of it."""
    try:
        with server.client(ctx) as client:
            result = client.wait_for_execution(execution_id, cancel_on_interrupt=cancel)
    except KeyboardInterrupt:
        if not cancel:
            typer.echo(f"The execution goes on: {server.command(ctx, 'status', execution_id)}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _end(result, execution_id, output)


def _end(result: ExecutionStatusResult, execution_id: str, output: Output) -> None:
    """Print how an execution has ended, and end the command likewise."""
    _check(result, output)
    _print_status(result, execution_id, output)
    if result.status is not JobStatus.BATCH_JOB_FINISHED_STATUS:
        raise typer.Exit(FAILED)


def _check(result: Any, output: Output, *, sent: ExecutionConfig | None = None) -> None:
    """End the command where the server has refused; its answer is the result all the same."""
    if result.success:
        return
    if output is Output.JSON:
        print_json(result.wire)
    report(_in_own_words(result.failure_message, sent) if sent is not None else result.failure_message)
    raise typer.Exit(REFUSED)


def _in_own_words(message: str, sent: ExecutionConfig) -> str:
    """A refusal that names a field by its place in the request, with the name that the user knows it by."""
    for name, path in read_start_request(start_request(sent.fields())).paths.items():
        if message.startswith(f"{path}: "):
            return f"{name}{message.removeprefix(path)}"
    return message


def _print_status(result: ExecutionStatusResult, execution_id: str, output: Output) -> None:
    if output is Output.JSON:
        # The wire's answer, with the id that a start gives: the document says of which execution it speaks.
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
