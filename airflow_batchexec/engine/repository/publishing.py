"""Publishes a user's folder as a build: copies it, validates the copy, and moves that into the repository."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import Location, Scheme, check_id
from airflow_batchexec.engine.repository.build_transfer import (
    content_hash,
    copy_folder,
    place,
    temporary_sibling,
    upload,
)
from airflow_batchexec.engine.repository.builds import MLFLOW_FILE, MODEL_FILE, Build, read_build
from airflow_batchexec.engine.storage.disk import disk_errors, make_folders
from airflow_batchexec.exceptions import InvalidBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["publish_folder"]


def publish_folder(
    folder: Path, *, model_id: str, build_id: str | None, root: Location, storage: Storage, now: datetime
) -> Build:
    """Publish a folder as a build: atomically, and never replacing another.

    Args:
        folder: A folder with a ``model.toml`` and the code, or an MLflow model.
        model_id: The model.
        build_id: The new build's ID; defaults to the time and the content's hash.
        root: The repository.
        storage: The storage of ``root``.
        now: The time in UTC, for the ID and for the claim that an interrupted upload leaves behind.

    Raises:
        ConfigurationError: An ID is malformed.
        InvalidBuildError: The folder is not a valid build; the message names the file and key.
        BuildExistsError: The ID is taken, or another publisher has claimed it.
        StorageError: The repository cannot be written.
    """
    check_id(model_id, field="model_id")
    _check_source(folder, root)
    with _staging(root, model_id) as staged:
        with disk_errors("copy", str(folder)):
            names = copy_folder(folder, staged)
            build_id = build_id or f"{now:%Y%m%d-%H%M%S}-{content_hash(staged, names)[:8]}"
        target = root.join(f"{model_id}/{build_id}")
        build = _read_folder(staged, model_id=model_id, build_id=build_id, location=target, original=folder)
        if root.scheme is Scheme.FILE:
            with disk_errors("publish", target.uri):
                place(staged, target.path)
        else:
            publisher = {"publisher": _publisher_name(), "started_at": now.isoformat(timespec="seconds")}
            upload(storage=storage, staged=staged, names=names, target=target, publisher=publisher)
    return build


def _check_source(folder: Path, root: Location) -> None:
    if not folder.is_dir():
        raise InvalidBuildError(f"{folder} is not a directory.", file=str(folder))
    if root.scheme is Scheme.FILE and root.path.resolve().is_relative_to(folder.resolve()):
        raise InvalidBuildError(
            f"{folder} contains the model repository {root.uri}. Put the model in a separate folder.",
            file=str(folder),
        )


@contextmanager
def _staging(root: Location, model_id: str) -> Iterator[Path]:
    """Create a folder, removed afterwards unless it was renamed; on disk, it is next to the final build."""
    if root.scheme is Scheme.FILE:
        model = root.join(model_id).path
        staged = temporary_sibling(model / "build")
        with disk_errors("publish into", root.uri):
            make_folders(model)
            staged.mkdir()
    else:
        staged = Path(tempfile.mkdtemp(prefix="batchexec-build-"))
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _read_folder(staged: Path, *, model_id: str, build_id: str, location: Location, original: Path) -> Build:
    """Validate a staged folder as a build; errors name the original folder."""
    model_file = staged / MODEL_FILE
    mlflow = (staged / MLFLOW_FILE).is_file()
    if not mlflow and not model_file.is_file():
        raise InvalidBuildError(
            f'{original}: a build needs a {MODEL_FILE} with entrypoint = "module:attribute", or an {MLFLOW_FILE} file.',
            file=str(original),
        )
    build = read_build(
        model_id=model_id,
        build_id=build_id,
        location=location,
        model_toml=model_file.read_bytes() if model_file.is_file() else None,
        mlflow=mlflow,
        source=str(original / MODEL_FILE),
    )
    if mlflow and b"python_function" not in (staged / MLFLOW_FILE).read_bytes():
        raise InvalidBuildError(
            f"{original / MLFLOW_FILE}: the model has no python_function flavor, which prediction requires.",
            file=str(original / MLFLOW_FILE),
        )
    if build.entrypoint:
        module = build.entrypoint.partition(":")[0].replace(".", "/")
        if not any((staged / name).is_file() for name in (f"{module}.py", f"{module}/__init__.py")):
            raise InvalidBuildError(
                f"{original / MODEL_FILE}: entrypoint: {build.entrypoint!r} needs {module}.py, which is not in the "
                f"folder.",
                file=str(original / MODEL_FILE),
                field="entrypoint",
            )
    return build


def _publisher_name() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"
