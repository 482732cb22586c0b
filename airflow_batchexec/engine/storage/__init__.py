"""Storage backends: inputs are read from them, results are published to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import Scheme
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import Storage
    from airflow_batchexec.engine.storage.gcs.access import GcsAccess
    from airflow_batchexec.engine.storage.s3.session import S3Access

__all__ = ["open_storage"]


def open_storage(location: Location, *, s3: S3Access | None = None, gcs: GcsAccess | None = None) -> Storage:
    """Open the storage for a location; it serves every location of that scheme.

    boto3 and Google's libraries are imported only when one of their buckets is opened, so executions on disk start
    without them.

    Args:
        location: A location in the storage.
        s3: Credentials, endpoint and region for ``s3://``; ``None`` uses boto3's default chain.
        gcs: Service account key and endpoint for ``gs://``; ``None`` uses Google's default chain.

    Raises:
        ConfigurationError: The client cannot be set up from ``s3`` or ``gcs``, or its library is not installed.
    """
    if location.scheme is Scheme.S3:
        from airflow_batchexec.engine.storage.s3.storage import connect  # noqa: PLC0415  boto3 takes 0.3 s to import

        return connect(s3)
    if location.scheme is Scheme.GS:
        return _open_gcs(gcs)
    return LocalStorage()


def _open_gcs(access: GcsAccess | None) -> Storage:
    try:
        from airflow_batchexec.engine.storage.gcs.storage import connect  # noqa: PLC0415  an extra, and slow to import
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("google"):
            raise
        raise ConfigurationError(
            f"gs:// requires {error.name}, which is not installed. "
            f'Run pip install "airflow-provider-batchexec[gcs]" wherever executions run.'
        ) from error
    return connect(access)
