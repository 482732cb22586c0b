"""``batchexec models execution start``: an execution on the server, or on this machine where its folders are here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_batchexec.cli.parameter_file import (
    ConfigurationFile,
    configuration_yaml,
    read_configuration_file,
)
from airflow_batchexec.cli.local_mode import is_local, local_fields, run_here
from airflow_batchexec.cli.options import ModelRepositoryOption, Output, OutputOption, with_flags
from airflow_batchexec.cli.parameter_flags import flag_of, given_parameters, parameter_flags
from airflow_batchexec.cli.server import ServerOptions, takes_server
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.engine.config.values import read_parameters
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["start"]


@takes_server
@with_flags("given", parameter_flags(), given_parameters)
def start(
    ctx: typer.Context,
    *,
    given: dict[str, Any],
    from_file: Annotated[
        str | None,
        typer.Option(
            "-f",
            "--from-file",
            metavar="PATH",
            help="A YAML file of the parameters, in the sections execution, resources and advanced_options; - is "
            "standard input. Flags go before it.",
        ),
    ] = None,
    out_conf: Annotated[
        bool, typer.Option("--out-conf", help="Print that file for these parameters, and start nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the execution has ended; Ctrl-C cancels it.")
    ] = False,
    output: OutputOption = Output.TEXT,
    model_repository: ModelRepositoryOption = None,
    server: ServerOptions,
) -> None:
    """Start an execution.

    On the server it goes on by itself: the command gives its id and ends, unless it is to wait. Where both folders are
    file:// folders, the execution runs on this machine, and the command ends with it.

    Ends with 0 where it was started, or has finished; 1 where the execution failed; 2 where it was refused; 3 where the
    server cannot be reached; 4 where the user may not start it.
    """
    file = read_configuration_file(from_file) if from_file is not None else ConfigurationFile({}, {})
    fields = _merged(file.fields, given)
    _check_required(fields)
    local = is_local(fields)
    config = _configuration(local_fields(fields) if local else fields, file, given)
    if out_conf:
        typer.echo(configuration_yaml(config), nl=False)
    elif local:
        _refuse(server.given(), "an execution over file:// folders runs on this machine, without a server")
        run_here(config, model_repository, output)
    else:
        if _is_on_command_line(ctx, "model_repository"):
            _refuse(["--model-repository"], "the server takes builds from the repository of its own")
        from airflow_batchexec.cli.remote import start_there  # noqa: PLC0415  the client takes its time

        start_there(ctx, config, server, output, wait=wait)


def _merged(file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The file's fields, and over them what the command line gives; of the model's parameters, each by itself."""
    merged = {**file, **given}
    if "parameters" in file and "parameters" in given:
        merged["parameters"] = {**read_parameters(file["parameters"]), **given["parameters"]}
    return {name: value.strip() if isinstance(value, str) else value for name, value in merged.items()}


def _check_required(fields: Mapping[str, Any]) -> None:
    for name, field in flat_fields().items():
        if field.required and not fields.get(name):
            raise ConfigurationError(
                f"{name}: it is required. Give {flag_of(name)}, or write it into the file of --from-file.",
                field=name,
            )


def _configuration(
    fields: Mapping[str, Any], file: ConfigurationFile, given: Mapping[str, Any]
) -> ExecutionConfig:
    try:
        return ExecutionConfig.from_fields(**fields)
    except ConfigurationError as error:
        place = file.places.get(error.details.get("field", ""))
        if place is None or error.details["field"] in given:
            raise
        raise type(error)(f"{place}: {error.message}", **error.details) from error


def _is_on_command_line(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse(flags: Any, reason: str) -> None:
    for name in flags:
        raise ConfigurationError(f"{name}: {reason}.", field=name)
