"""Local mode: how ``start`` runs an execution on this machine if both folders are ``file://`` folders."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from airflow_batchexec.cli.errors import FAILED, INTERRUPTED, report
from airflow_batchexec.cli.options import Output
from airflow_batchexec.client.interruption import signals_as_interrupts
from airflow_batchexec.exceptions import BatchExecError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_batchexec.engine.config.model import ExecutionConfig

__all__ = ["is_local", "local_fields", "run_locally"]

_PREFIX = "file://"
_FOLDERS = ("source_folder", "destination_folder")


def is_local(fields: Mapping[str, Any]) -> bool:
    """Whether both folders are on this machine, so that the execution runs here.

    Raises:
        ConfigurationError: Only one of the folders is on this machine.
    """
    local = [name for name in _FOLDERS if fields[name].lower().startswith(_PREFIX)]
    if len(local) == 1:
        (other,) = set(_FOLDERS) - set(local)
        raise ConfigurationError(
            f"{other}: {fields[other]!r} is not a file:// folder, but {local[0]} is. Use two file:// folders to run on "
            f"this machine, or two bucket folders to run on the server.",
            field=other,
        )
    return bool(local)


def local_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a local execution, with the defaults of local mode filled in.

    Raises:
        ConfigurationError: A folder has no path, or the input file type is missing.
    """
    from airflow_batchexec.client.local_run import local_folder  # noqa: PLC0415  few commands need it

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


def run_locally(config: ExecutionConfig, model_repository: str | None, output: Output) -> None:
    """Run an execution to completion and print its summary.

    Raises:
        typer.Exit: The execution did not finish, or was interrupted.
        BatchExecError: The execution needs something unavailable on this machine, or was refused before any file was
            touched.
    """
    from airflow_batchexec.cli.local_output import ProgressView, print_summary  # noqa: PLC0415  as above
    from airflow_batchexec.client.local_run import local_execution  # noqa: PLC0415  as above
    from airflow_batchexec.engine.running.local_execution import Observer  # noqa: PLC0415  as above

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
            manifest = execution.run(prepared).header
        except BatchExecError as error:
            failure = error
    if failure is not None:
        # The execution could not be concluded. Refusals are raised above, and reported by the caller.
        report(failure)
        raise typer.Exit(FAILED)
    if output is Output.JSON:
        sys.stdout.write(json.dumps(manifest.to_dict()) + "\n")
    else:
        print_summary(manifest)
    if not manifest.has_finished:
        raise typer.Exit(FAILED)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interrupt end the execution cleanly, and exit with the code for interrupts."""
    with signals_as_interrupts(first_only=True):
        try:
            yield
        except KeyboardInterrupt:
            typer.echo(
                "The execution was interrupted. Its pods have exited, and no partial results were left.",
                err=True,
            )
            raise typer.Exit(INTERRUPTED) from None
