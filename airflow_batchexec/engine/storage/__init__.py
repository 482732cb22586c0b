"""Storages: where inputs are read and results are published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_batchexec.engine.locations import Location, Scheme
from airflow_batchexec.engine.storage.base import ObjectInfo, Storage
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_batchexec.engine.storage.s3 import S3Access

__all__ = ["LocalStorage", "ObjectInfo", "Storage", "open_storage"]


def open_storage(place: Location | Scheme, *, s3: S3Access | None = None) -> Storage:
    """The storage for a location, or for every location of a scheme.

    boto3 is imported only when a bucket is opened: on disk, an execution starts without it.

    Args:
        place: A location, or the scheme alone.
        s3: Keys, endpoint and region for ``s3://``; ``None`` leaves them to boto3's default chain.

    Raises:
        ConfigurationError: The scheme is not supported, or the S3 client cannot be set up as ``s3`` says.
    """
    scheme = place.scheme if isinstance(place, Location) else place
    if scheme is Scheme.FILE:
        return LocalStorage()
    if scheme is Scheme.S3:
        from airflow_batchexec.engine.storage.s3 import connect  # noqa: PLC0415  boto3 takes 0.3 s to import

        return connect(s3)
    raise ConfigurationError(
        f"{scheme.value}:// is not supported by this version. Use s3:// or file://.", uri=str(place)
    )
