"""``batchexec models``: publish, deploy and list builds."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_batchexec.cli.options import PLAIN, ModelRepositoryOption, Output, OutputOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_batchexec.engine.repository.repository import ModelRepository, ModelSummary

__all__ = ["models_app"]

models_app = typer.Typer(
    help="Publish, deploy and list builds of models, and run executions.",
    no_args_is_help=True,
    rich_markup_mode=PLAIN,
)


ModelIdOption = Annotated[str, typer.Option("--model-id", metavar="M", help="The model.", show_default=False)]


@models_app.command("build")
def build_model(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help='A folder with a model.toml (entrypoint = "module:attribute") and its code, or an MLflow model.',
            show_default=False,
        ),
    ],
    *,
    model_id: ModelIdOption,
    build_id: Annotated[
        str | None,
        typer.Option(
            "--build-id",
            metavar="B",
            help="The ID of the new build. Default: the time and a hash of the content.",
            show_default=False,
        ),
    ] = None,
    model_repository: ModelRepositoryOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Publish a folder as a new build. Builds are immutable: a build ID cannot be reused."""
    build = _repository(model_repository).publish(folder, model_id=model_id, build_id=build_id)
    if output is Output.JSON:
        typer.echo(json.dumps(build.to_dict()))
        return
    typer.echo(f"Published build {build.build_id} of model {model_id} at {build.location.uri}")
    typer.echo(f"Make it live: batchexec models deploy --model-id {model_id} --build-id {build.build_id}")


@models_app.command("deploy")
def deploy_build(
    *,
    model_id: ModelIdOption,
    build_id: Annotated[
        str, typer.Option("--build-id", metavar="B", help="The build to make live.", show_default=False)
    ],
    pods: Annotated[
        int | None,
        typer.Option("--pods", metavar="N", help="Maximum number of pods per execution.", show_default=False),
    ] = None,
    instance: Annotated[
        str | None,
        typer.Option("--instance", metavar="I", help="The instance of each pod.", show_default=False),
    ] = None,
    purchase_option: Annotated[
        str | None,
        typer.Option("--purchase-option", metavar="P", help="spot or on-demand.", show_default=False),
    ] = None,
    model_repository: ModelRepositoryOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make a build live, with defaults for its executions. They replace those of the previous live build."""
    from airflow_batchexec.client.local_settings import instance_table  # noqa: PLC0415  --help works without it

    deployment = _repository(model_repository).deploy(
        model_id,
        build_id,
        pods=pods,
        instance=instance_table().get(instance).name if instance is not None else None,
        purchase_option=purchase_option,
    )
    if output is Output.JSON:
        typer.echo(json.dumps({"model_id": model_id, **deployment.to_dict()}))
        return
    defaults = ", ".join(
        f"{key} {value}"
        for key, value in deployment.to_dict().items()
        if key != "build_id" and value is not None
    )
    typer.echo(f"Build {build_id} of model {model_id} is live{f' ({defaults})' if defaults else ''}.")


@models_app.command("list")
def list_models(
    *,
    model_id: Annotated[
        str | None, typer.Option("--model-id", metavar="M", help="Only this model.", show_default=False)
    ] = None,
    model_repository: ModelRepositoryOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List models with their builds and the live build."""
    models = _repository(model_repository)
    summaries = [models.model(model_id)] if model_id is not None else models.models()
    if output is Output.JSON:
        typer.echo(
            json.dumps({"model_repository": models.root.uri, "models": [_as_dict(s) for s in summaries]})
        )
    elif summaries:
        _print_table(summaries)
    else:
        typer.echo(f"There are no models in {models.root.uri}.")


def _repository(uri: str | None) -> ModelRepository:
    from airflow_batchexec.client.local_settings import repository  # noqa: PLC0415  as above

    return repository(uri)


def _as_dict(summary: ModelSummary) -> dict[str, Any]:
    return {
        "model_id": summary.model_id,
        "builds": list(summary.builds),
        "live": summary.live.to_dict() if summary.live else None,
    }


def _print_table(summaries: Sequence[ModelSummary]) -> None:
    from rich.console import Console  # noqa: PLC0415  the other commands work without it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "live build", "pods", "instance", "purchase option", "builds"):
        # Folded, not truncated: users copy IDs from the table.
        table.add_column(heading, overflow="fold")
    for summary in summaries:
        live = summary.live.to_dict() if summary.live else {}
        defaults = [live.get(key) for key in ("build_id", "pods", "instance", "purchase_option")]
        cells = [summary.model_id, *("-" if value is None else str(value) for value in defaults)]
        table.add_row(*(Text(cell) for cell in (*cells, " ".join(summary.builds))))
    Console().print(table)
