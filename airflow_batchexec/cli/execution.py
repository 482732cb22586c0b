"""``batchexec models execution …``: start an execution on this machine and watch it."""

from __future__ import annotations

import json
import secrets
import signal
import sys
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_batchexec.cli.options import ModelRepositoryOption, Output, OutputOption
from airflow_batchexec.cli.settings import instance_table, repository
from airflow_batchexec.config import ExecutionConfig, flat_fields
from airflow_batchexec.exceptions import BatchExecError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from airflow_batchexec.cli.progress import ProgressView
    from airflow_batchexec.engine.local import LocalExecution

__all__ = ["execution_app"]

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

execution_app = typer.Typer(
    name="execution", no_args_is_help=True, help="Send a folder of files through a model."
)


@execution_app.callback()
def _group() -> None:
    """Send a folder of files through a model."""


def _option(name: str, *flags: str) -> Any:
    """A flag whose help is the parameter's own description."""
    schema = flat_fields()[name].schema
    unset = f" Unset: {schema['unset']}." if "unset" in schema else ""
    return typer.Option(*(flags or (f"--{name.replace('_', '-')}",)), help=schema["description"] + unset)


@execution_app.command()
def start(
    model_id: Annotated[str, _option("model_id")],
    source_folder: Annotated[str, _option("source_folder")],
    destination_folder: Annotated[str, _option("destination_folder")],
    input_file_type: Annotated[str | None, _option("input_file_type")] = None,
    output_file_type: Annotated[str | None, _option("output_file_type")] = None,
    build_id: Annotated[str | None, _option("build_id")] = None,
    pods: Annotated[int | None, _option("pods", "--pods", "--replicas")] = None,
    instance: Annotated[str | None, _option("instance")] = None,
    cpus: Annotated[float | None, _option("cpus")] = None,
    memory: Annotated[int | None, _option("memory")] = None,
    job_timeout: Annotated[int | None, _option("job_timeout")] = None,
    file_timeout: Annotated[int | None, _option("file_timeout")] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "-P", "--param-list", metavar="NAME=VALUE", help="A parameter of the execution; may be repeated."
        ),
    ] = None,
    model_repository: ModelRepositoryOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run an execution on this machine; both folders are file:// folders.

    Ends with 0 where every file has its result, 1 where the execution failed, 2 where it was refused before any file
    was touched.
    """
    fields = {
        "model_id": model_id,
        "source_folder": _local_folder(source_folder, "source_folder"),
        "destination_folder": _local_folder(destination_folder, "destination_folder"),
        "input_file_type": _required_type(input_file_type),
        "output_file_type": output_file_type or input_file_type,
        "build_id": build_id,
        "pods": pods,
        "instance": instance,
        "cpus": cpus,
        "memory": memory,
        "job_timeout": job_timeout,
        "file_timeout": file_timeout,
        "parameters": _parameters(parameters or []),
    }
    _run(ExecutionConfig.from_fields(**fields), model_repository, output)


def _run(config: ExecutionConfig, model_repository: str | None, output: Output) -> None:
    from airflow_batchexec.cli.progress import ProgressView, print_summary  # noqa: PLC0415  rich takes its time

    view = ProgressView()
    execution = _execution(config, model_repository, view)
    failure: BatchExecError | None = None
    with _interruptible(), view:
        prepared = execution.prepare()
        try:
            manifest = execution.run(prepared)
        except BatchExecError as error:
            failure = error
    if failure is not None:
        # It could not even be concluded; what is refused is said by whoever called.
        typer.echo(f"error: {failure}", err=True)
        raise typer.Exit(EXIT_FAILED)
    if output is Output.JSON:
        without_files = {name: value for name, value in manifest.items() if name not in {"files", "skipped"}}
        sys.stdout.write(json.dumps(without_files) + "\n")
    else:
        print_summary(manifest)
    if manifest["status"] != "FINISHED":
        raise typer.Exit(EXIT_FAILED)


def _execution(config: ExecutionConfig, model_repository: str | None, view: ProgressView) -> LocalExecution:
    from airflow_batchexec.engine.local import LocalExecution, Observer  # noqa: PLC0415  as above
    from airflow_batchexec.engine.locations import AllowedLocations, Location  # noqa: PLC0415  as above
    from airflow_batchexec.engine.storage import open_storage  # noqa: PLC0415  as above

    return LocalExecution(
        execution_id=f"local-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}",
        config=config,
        repository=repository(model_repository),
        instances=instance_table(),
        open_storage=open_storage,
        allowed=AllowedLocations((Location.parse("file:///"),)),
        observer=Observer(planned=view.planned, recorded=view.recorded, printed=view.printed),
    )


def _local_folder(folder: str, field: str) -> str:
    """A file:// folder; a relative one, which existing command lines use, is taken from the working folder."""
    prefix = "file://"
    path = folder.removeprefix(prefix)
    if not folder.startswith(prefix) or not path:
        raise ConfigurationError(
            f"{field}: {folder!r} is no file:// folder. This command runs on this machine and reads and writes "
            f"file:// folders; executions over buckets run in Airflow.",
            field=field,
        )
    return prefix + str(Path(path).absolute())


def _required_type(file_type: str | None) -> str:
    if not file_type:
        raise ConfigurationError(
            "input_file_type: it is required; it selects the files of the source folder.",
            field="input_file_type",
        )
    return file_type


def _parameters(pairs: list[str]) -> dict[str, str]:
    parameters = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ConfigurationError(f"parameters: {pair!r} is not NAME=VALUE.", field="parameters")
        parameters[name] = value
    return parameters


@contextmanager
def _interruptible() -> Iterator[None]:
    """A SIGTERM, or the end of the terminal, ends an execution as cleanly as Ctrl-C does.

    The first of them counts: a second Ctrl-C must not cut the clean end short. What is ignored, as under ``nohup``,
    stays ignored.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.getsignal(number) for number in numbers}
    previous = {number: handler for number, handler in previous.items() if handler is not signal.SIG_IGN}
    try:
        for number in previous:
            signal.signal(number, interrupt)
        yield
    except KeyboardInterrupt:
        typer.echo(
            "The execution was interrupted: its pods have ended, and no partial result was left.", err=True
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
