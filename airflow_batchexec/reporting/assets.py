"""The asset that an execution updates: its destination folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from airflow_batchexec.engine.execution.manifest import ManifestHeader

__all__ = ["execution_alias", "update_asset"]


def execution_alias(operator: BaseOperator, name: str) -> AssetAlias:
    """The alias for an execution's results, whatever their destination.

    Args:
        operator: A task of the execution, in a DAG.
        name: Distinguishes several executions in one run; empty if the run is the execution.

    Returns:
        An alias with the id of the DAG as its name; in a task group, ``<dag>.<group>``.
    """
    return AssetAlias(f"{operator.dag_id}.{name}" if name else operator.dag_id)


def _asset_uri(destination: str) -> str:
    """The asset URI of a destination folder.

    Airflow keeps asset URIs unchanged except for trailing slashes, which it strips. Characters that it would parse as
    the start of a query or a fragment are percent-encoded here.
    """
    return destination.replace("#", "%23").replace("?", "%3F")


def update_asset(context: Context, manifest: ManifestHeader) -> None:
    """Emit an asset event for the results of an execution; Airflow registers it when the task succeeds.

    The event updates the asset that a DAG declares for the folder, whatever its name, or else a new one named after the
    URI. It goes only through the alias: an outlet for the asset itself would cause a second event.

    Args:
        context: The context of a task with the execution's alias as an outlet; without one, this does nothing.
        manifest: The manifest of an execution that has finished.

    Raises:
        AirflowRuntimeError: The lookup of the asset fails.
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
        # Longer than 1,500 characters, or not ASCII with MySQL as Airflow's database.
        context["task"].log.warning("%s is not a valid asset URI, so no asset is updated: %s", uri, error)
        return
    try:
        # The protocol in airflow.sdk.types declares only assets; the implementation accepts references as well.
        events.add(Asset.ref(uri=asset.uri), extra=extra)  # type: ignore[arg-type]  # see above
    except AirflowRuntimeError as error:
        if error.error.error is not ErrorType.ASSET_NOT_FOUND:
            raise
        events.add(asset, extra=extra)
