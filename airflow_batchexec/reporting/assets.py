"""The asset that an execution updates: its destination folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from airflow_batchexec.engine.execution.manifest import ManifestHeader

__all__ = ["execution_alias", "update_asset"]


def execution_alias(operator: BaseOperator, name: str) -> AssetAlias:
    """The alias that stands for an execution's results wherever they go.

    Args:
        operator: A task of the execution, in a DAG.
        name: What tells several executions of one run apart; empty where the run is the execution.

    Returns:
        An alias by the name of the DAG, in a task group ``<dag>.<group>``.
    """
    return AssetAlias(f"{operator.dag_id}.{name}" if name else operator.dag_id)


def _asset_uri(destination: str) -> str:
    """A destination folder's URI as that of an asset.

    Airflow keeps an asset's URI as it is written, but for slashes at its end, which it takes away; what it would take
    for a query or a fragment is quoted here.
    """
    return destination.replace("#", "%23").replace("?", "%3F")


def update_asset(context: Context, manifest: ManifestHeader) -> None:
    """Tell Airflow that the results of an execution are there; it takes note when the task has succeeded.

    The event goes to the asset that some DAG declares for the folder, whatever its name, else to one by the name of the
    URI. It goes through the alias alone: an event of an outlet and one of an alias would be two.

    Args:
        context: The context of a task that has the execution's alias as an outlet; of another it does nothing.
        manifest: The manifest of an execution that has finished.

    Raises:
        AirflowRuntimeError: Airflow does not say whether there is such an asset.
    """
    extra = {
        "execution_id": manifest.execution_id,
        "files": manifest.finished_files,
        "rows": manifest.rows,
        "manifest": manifest.manifest,
    }
    for outlet in context["task"].outlets:
        if isinstance(outlet, AssetAlias):
            _add_event(context, outlet, _asset_uri(manifest.destination), extra)


def _add_event(context: Context, alias: AssetAlias, uri: str, extra: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType  # noqa: PLC0415  not for parsing

    events = context["outlet_events"][alias]
    try:
        asset = Asset(uri=uri)
    except ValueError as error:
        # Longer than 1,500 characters, or not in ASCII where Airflow's database is MySQL.
        context["task"].log.warning("%s cannot be an asset, so none is updated: %s", uri, error)
        return
    try:
        # The protocol in airflow.sdk.types knows of assets only; what is behind it takes references as well.
        events.add(Asset.ref(uri=asset.uri), extra=extra)  # type: ignore[arg-type]  # as said
    except AirflowRuntimeError as error:
        if error.error.error is not ErrorType.ASSET_NOT_FOUND:
            raise
        events.add(asset, extra=extra)
