"""``batchexec models execution start``: start an execution on the server, or run it on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_batchexec.cli.local_mode import is_local, local_fields, run_locally
from airflow_batchexec.cli.options import ModelRepositoryOption, Output, OutputOption, with_flags
from airflow_batchexec.cli.parameter_file import (
    ParameterFile,
    read_parameter_file,
    render_parameter_file,
)
from airflow_batchexec.cli.parameter_flags import collect_parameters, flag_for, parameter_flags
from airflow_batchexec.cli.server import ServerOptions, with_server_options
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.engine.config.values import read_parameters
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["start"]


@with_server_options
@with_flags("given", parameter_flags(), collect_parameters)
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
            help="A YAML file of parameters, in the sections execution, resources and advanced_options; - reads "
            "standard input. Flags override it.",
        ),
    ] = None,
    out_conf: Annotated[
        bool, typer.Option("--out-conf", help="Print these parameters as such a file; start nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the execution to end; Ctrl-C cancels it.")
    ] = False,
    output: OutputOption = Output.TEXT,
    model_repository: ModelRepositoryOption = None,
    server: ServerOptions,
) -> None:
    """Start an execution.

    On the server, the execution runs on its own: the command prints its ID and exits, unless --wait is given. If both
    folders are file:// folders, the execution runs on this machine until it ends.

    Exits with 0 if the execution was started or has finished, 1 if it failed, 2 if it was refused, 3 if the server
    cannot be reached, and 4 if the user may not start it.
    """
    file = read_parameter_file(from_file) if from_file is not None else ParameterFile({}, {})
    fields = _merged(file.fields, given)
    _require_fields(fields)
    local = is_local(fields)
    config = _configuration(local_fields(fields) if local else fields, file, given)
    if out_conf:
        typer.echo(render_parameter_file(config), nl=False)
    elif local:
        _reject_flags(server.flags(), "executions over file:// folders run on this machine, without a server")
        run_locally(config, model_repository, output)
    else:
        if _is_on_command_line(ctx, "model_repository"):
            _reject_flags(["--model-repository"], "the server uses its own model repository")
        from airflow_batchexec.cli.remote import start_on_server  # noqa: PLC0415  the client is slow to import

        start_on_server(ctx, config, server, output, wait=wait)


def _merged(file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the flags over the fields of the file; model parameters are merged one by one."""
    merged = {**file, **given}
    if "parameters" in file and "parameters" in given:
        merged["parameters"] = {**read_parameters(file["parameters"]), **given["parameters"]}
    return {name: value.strip() if isinstance(value, str) else value for name, value in merged.items()}


def _require_fields(fields: Mapping[str, Any]) -> None:
    for name, field in flat_fields().items():
        if field.required and not fields.get(name):
            raise ConfigurationError(
                f"{name}: it is required. Pass {flag_for(name)}, or set it in the file of --from-file.",
                field=name,
            )


def _configuration(
    fields: Mapping[str, Any], file: ParameterFile, given: Mapping[str, Any]
) -> ExecutionConfig:
    try:
        return ExecutionConfig.from_fields(**fields)
    except ConfigurationError as error:
        position = file.positions.get(error.details.get("field", ""))
        if position is None or error.details["field"] in given:
            raise
        raise type(error)(f"{position}: {error.message}", **error.details) from error


def _is_on_command_line(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _reject_flags(flags: Any, reason: str) -> None:
    for name in flags:
        raise ConfigurationError(f"{name}: {reason}.", field=name)
