"""Making a build of a user's folder: copied, checked, and then moved into the repository."""

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
from airflow_batchexec.engine.repository.builds import MLFLOW_FILE, MODEL_FILE, Build, read_build
from airflow_batchexec.engine.repository.transfer import (
    content_hash,
    copy_folder,
    place,
    temporary_sibling,
    upload,
)
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
    """Make a build of a folder: whole or not at all, and never in place of another.

    Args:
        folder: Holds a ``model.toml`` and the code, or an MLflow model.
        model_id: The model.
        build_id: The new build's id; without it, the time and the content's hash.
        root: The repository.
        storage: The storage of ``root``.
        now: The time in UTC, for the id and for whoever finds an interrupted upload.

    Raises:
        ConfigurationError: An id is malformed.
        InvalidBuildError: The folder is no build; the message names the file and key.
        BuildExistsError: The id is taken, or another publisher has claimed it.
        StorageError: The repository cannot be written.
    """
    check_id(model_id, field="model_id")
    _check_source(folder, root)
    with _staging(root, model_id) as staged:
        with disk_errors("copy", str(folder)):
            names = copy_folder(folder, staged)
            build_id = build_id or f"{now:%Y%m%d-%H%M%S}-{content_hash(staged, names)[:8]}"
        target = root.join(f"{model_id}/{build_id}")
        build = _read_folder(staged, model_id=model_id, build_id=build_id, location=target, shown=folder)
        if root.scheme is Scheme.FILE:
            with disk_errors("publish", target.uri):
                place(staged, target.path)
        else:
            publisher = {"publisher": _whoami(), "started_at": now.isoformat(timespec="seconds")}
            upload(storage=storage, staged=staged, names=names, target=target, publisher=publisher)
    return build


def _check_source(folder: Path, root: Location) -> None:
    if not folder.is_dir():
        raise InvalidBuildError(f"{folder} is no folder.", file=str(folder))
    if root.scheme is Scheme.FILE and root.path.resolve().is_relative_to(folder.resolve()):
        raise InvalidBuildError(
            f"{folder} holds the model repository {root.uri} itself. Put the model into a folder of its own.",
            file=str(folder),
        )


@contextmanager
def _staging(root: Location, model_id: str) -> Iterator[Path]:
    """A new folder, removed afterwards unless it was renamed; beside the build where that is on disk."""
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


def _read_folder(staged: Path, *, model_id: str, build_id: str, location: Location, shown: Path) -> Build:
    """Check a staged folder as a build; errors name the folder that it was copied from."""
    model_file = staged / MODEL_FILE
    mlflow = (staged / MLFLOW_FILE).is_file()
    if not mlflow and not model_file.is_file():
        raise InvalidBuildError(
            f'{shown}: a build needs a {MODEL_FILE} with entrypoint = "module:attribute", or an {MLFLOW_FILE} file.',
            file=str(shown),
        )
    build = read_build(
        model_id=model_id,
        build_id=build_id,
        location=location,
        model_toml=model_file.read_bytes() if model_file.is_file() else None,
        mlflow=mlflow,
        source=str(shown / MODEL_FILE),
    )
    if mlflow and b"python_function" not in (staged / MLFLOW_FILE).read_bytes():
        raise InvalidBuildError(
            f"{shown / MLFLOW_FILE}: there is no python_function flavor, by which MLflow models predict.",
            file=str(shown / MLFLOW_FILE),
        )
    if build.entrypoint:
        module = build.entrypoint.partition(":")[0].replace(".", "/")
        if not any((staged / name).is_file() for name in (f"{module}.py", f"{module}/__init__.py")):
            raise InvalidBuildError(
                f"{shown / MODEL_FILE}: entrypoint: {build.entrypoint!r} needs {module}.py in the folder, and there "
                f"is none.",
                file=str(shown / MODEL_FILE),
                field="entrypoint",
            )
    return build


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"
