"""Opens the model repository that a user or the environment names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.storage import open_storage
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_batchexec.engine.storage.s3.session import S3Access

__all__ = ["REPOSITORY_VARIABLE", "default_cache", "open_repository"]

REPOSITORY_VARIABLE = "BATCHEXEC_MODEL_REPOSITORY"
"""The environment variable that names the model repository."""


def open_repository(
    uri: str | None = None, *, cache: Path | None = None, s3: S3Access | None = None
) -> ModelRepository:
    """Open the model repository at a URI or path.

    Args:
        uri: ``s3://…``, ``file://…`` or a path; defaults to the environment variable ``BATCHEXEC_MODEL_REPOSITORY``.
        cache: The folder that builds in a bucket are downloaded to; defaults to :func:`default_cache`.
        s3: Credentials and endpoint for a bucket.

    Raises:
        ConfigurationError: No repository is set, or the URI is malformed.
    """
    uri = uri or os.environ.get(REPOSITORY_VARIABLE)
    if not uri:
        raise ConfigurationError(
            f"model_repository: no model repository is set. Pass --model-repository, or set {REPOSITORY_VARIABLE}, or "
            f"model_repository under [batchexec] in Airflow's configuration.",
            field="model_repository",
        )
    if "://" not in uri:
        # Not resolve(): if a symbolic link is changed to point to another repository, later executions must follow it.
        uri = f"file://{os.path.abspath(os.path.expanduser(uri))}"  # noqa: PTH100, PTH111  Path keeps ".." parts
    root = Location.parse(uri, field="model_repository")
    return ModelRepository(root=root, storage=open_storage(root, s3=s3), cache=cache or default_cache())


def default_cache() -> Path:
    """Return ``batchexec/builds`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # XDG Base Directory Specification: relative paths are ignored.
    return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "batchexec" / "builds"
