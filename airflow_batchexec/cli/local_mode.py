"""An execution on this machine: what ``start`` does where both folders are ``file://`` folders."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from airflow_batchexec.cli.errors import FAILED, INTERRUPTED, report
from airflow_batchexec.cli.options import Output
from airflow_batchexec.client.interruption import ends_as_interrupts
from airflow_batchexec.exceptions import BatchExecError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_batchexec.engine.config.model import ExecutionConfig

__all__ = ["is_local", "local_fields", "run_here"]

_PREFIX = "file://"
_FOLDERS = ("source_folder", "destination_folder")


def is_local(fields: Mapping[str, Any]) -> bool:
    """Whether an execution runs here: both folders are on this machine.

    Raises:
        ConfigurationError: One of them is, and the other is not.
    """
    here = [name for name in _FOLDERS if fields[name].lower().startswith(_PREFIX)]
    if len(here) == 1:
        (other,) = set(_FOLDERS) - set(here)
        raise ConfigurationError(
            f"{other}: {fields[other]!r} is no file:// folder, but {here[0]} is one. An execution runs on this machine "
            f"where both are file:// folders, and on the server where both are folders of buckets.",
            field=other,
        )
    return bool(here)


def local_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an execution on this machine, with what such a one takes for granted.

    Raises:
        ConfigurationError: A folder has no path, or no input file type is named.
    """
    from airflow_batchexec.client.local_run import local_folder  # noqa: PLC0415  pays for what few commands need

    if not fields.get("input_file_type"):
        raise ConfigurationError(
            "input_file_type: it is required; it selects the files of the source folder.",
            field="input_file_type",
        )
    return {
        **fields,
        **{name: local_folder(fields[name], name) for name in _FOLDERS},
        "output_file_type": fields.get("output_file_type") or fields["input_file_type"],
    }


def run_here(config: ExecutionConfig, model_repository: str | None, output: Output) -> None:
    """Run an execution to its end, and print its account.

    Raises:
        typer.Exit: It did not finish, or was interrupted.
        BatchExecError: It asks for what this machine cannot do, or was refused before any file was touched.
    """
    from airflow_batchexec.cli.progress import ProgressView, print_summary  # noqa: PLC0415  as above
    from airflow_batchexec.client.local_run import local_execution  # noqa: PLC0415  as above
    from airflow_batchexec.engine.running.local import Observer  # noqa: PLC0415  as above

    view = ProgressView()
    execution = local_execution(
        config,
        model_repository=model_repository,
        observer=Observer(planned=view.planned, recorded=view.recorded, printed=view.printed),
    )
    failure: BatchExecError | None = None
    with _interruptible(), view:
        prepared = execution.prepare()
        try:
            manifest = execution.run(prepared)
        except BatchExecError as error:
            failure = error
    if failure is not None:
        # It could not even be concluded; what is refused is said by whoever called.
        report(failure)
        raise typer.Exit(FAILED)
    if output is Output.JSON:
        sys.stdout.write(json.dumps(manifest.header().to_dict()) + "\n")
    else:
        print_summary(manifest)
    if not manifest.has_finished:
        raise typer.Exit(FAILED)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Interrupts end an execution cleanly, and the command with the exit code of interrupts."""
    with ends_as_interrupts(first_only=True):
        try:
            yield
        except KeyboardInterrupt:
            typer.echo(
                "The execution was interrupted: its pods have ended, and no partial result was left.",
                err=True,
            )
            raise typer.Exit(INTERRUPTED) from None
