"""Transfers of builds: copies from a user's folder, moves into the repository, and downloads to a machine's cache.

Each step is all or nothing. Publishing first copies, validates and hashes the folder, so changes to it meanwhile
cannot end up in a build unvalidated.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.config.locations import check_relative_path
from airflow_batchexec.engine.parallel import parallel_map
from airflow_batchexec.engine.repository.builds import CLAIM_FILE, MLFLOW_FILE, MODEL_FILE, PUBLISHED_FILE
from airflow_batchexec.engine.storage.disk import disk_errors, locked, make_folders, sync_folder
from airflow_batchexec.exceptions import (
    BuildExistsError,
    InvalidBuildError,
    LocationError,
    ObjectExistsError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import ObjectInfo, Storage

__all__ = ["content_hash", "copy_folder", "download", "place", "temporary_sibling", "upload"]

_THREADS = 8
"""Concurrent uploads or downloads: a build of many small files is bound by round trips."""


def copy_folder(folder: Path, target: Path) -> tuple[str, ...]:
    """Copy the files of a build into a new folder.

    Hidden files and folders and ``__pycache__`` are skipped. A symbolic link to a file in the folder is copied as a
    regular file.

    Returns:
        The relative paths of the copies, sorted.

    Raises:
        InvalidBuildError: A link points out of the folder or to a folder, or an entry is neither a file nor a folder.
    """
    root = folder.resolve()
    names = []
    for directory, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if _is_copied(name))
        parent = root.joinpath(directory)
        for name in [name for name in folders if (parent / name).is_symlink()]:
            raise _cannot_copy(parent / name, "it is a symbolic link to a folder")
        for name in filter(_is_copied, files):
            source = parent / name
            relative = source.relative_to(root)
            real = source.resolve()
            if not real.is_relative_to(root):
                raise _cannot_copy(source, f"it is a symbolic link out of the folder, to {real}")
            if not real.exists() or not stat.S_ISREG(real.stat().st_mode):
                raise _cannot_copy(source, "it is not a regular file")
            copy = target / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real, copy)
            names.append(relative.as_posix())
    return tuple(sorted(names))


def content_hash(folder: Path, names: Iterable[str]) -> str:
    """Return the SHA-256 of the files' names and contents, in hexadecimal."""
    whole = hashlib.sha256()
    for name in sorted(names):
        digest = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while block := file.read(1024 * 1024):
                digest.update(block)
        whole.update(name.encode("utf-8", "surrogateescape") + b"\0" + digest.digest())
    return whole.hexdigest()


def temporary_sibling(path: Path) -> Path:
    """Return a unique hidden name in the same folder; hidden names are never models or builds."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def place(staged: Path, target: Path) -> None:
    """Move a staged folder to its final name on disk; of several concurrent callers, exactly one succeeds.

    Raises:
        BuildExistsError: The name is taken.
    """
    _sync(staged)
    try:
        # rename(2) replaces an empty folder only.
        staged.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise BuildExistsError(_already_published(target.as_uri()), uri=target.as_uri()) from error
        raise
    sync_folder(target.parent)


def upload(
    *, storage: Storage, staged: Path, names: Iterable[str], target: Location, publisher: dict[str, Any]
) -> None:
    """Move staged files to a bucket; of several concurrent callers, exactly one succeeds and the others change nothing.

    The claim is written first, the files that make a folder a build last, then the completion marker. A failed upload
    is rolled back; if this process dies, the claim remains and informs the next publisher.

    Args:
        storage: The bucket's storage.
        staged: The folder with the files, which are consumed.
        names: The files' relative paths.
        target: The build's folder.
        publisher: The publisher and the start time, for the claim.

    Raises:
        BuildExistsError: Another caller has published the build, is publishing it, or died while doing so.
        StorageError: An upload failed.
    """
    claim = target.join(CLAIM_FILE)
    record = json.dumps(publisher).encode()
    try:
        storage.create(claim, record)
    except ObjectExistsError as error:
        raise BuildExistsError(_already_claimed(storage, target), uri=target.uri) from error
    last = [name for name in (MODEL_FILE, MLFLOW_FILE) if name in names]
    first = [name for name in names if name not in last]
    try:
        parallel_map(
            lambda name: storage.publish(staged / name, target.join(name)),
            first,
            threads=_THREADS,
            name="build",
        )
        for name in last:
            storage.publish(staged / name, target.join(name))
        storage.write(target.join(PUBLISHED_FILE), record)
    except BaseException:
        # Including Ctrl-C. If the storage is unreachable, the claim remains and shows what happened.
        with contextlib.suppress(StorageError):
            for name in (PUBLISHED_FILE, *reversed(last), *first, CLAIM_FILE):
                storage.delete(target.join(name))
        raise


def download(
    *, storage: Storage, source: Location, files: Callable[[], Iterable[ObjectInfo]], target: Path
) -> Path:
    """Download a build to this machine once, however many threads and processes request it.

    The first caller downloads to a hidden sibling, which is renamed when complete; the others wait. Leftovers of a
    crash are discarded by the next caller.

    Args:
        storage: The storage of ``source``.
        source: The build's folder.
        files: Lists the build's files; called only if a download is needed.
        target: The folder on this machine.

    Raises:
        InvalidBuildError: A file's name is not a valid path below ``target``.
        StorageError: A download failed.
    """
    if target.is_dir():
        return target
    with disk_errors("download to", str(target)):
        make_folders(target.parent)
        with locked(target.parent):
            if target.is_dir():
                return target
            partial = target.with_name(f".{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                downloads = [(info, _scratch_file(info, source, partial)) for info in files()]
                parallel_map(lambda pair: storage.fetch(*pair), downloads, threads=_THREADS, name="build")
                _sync(partial)
                partial.rename(target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    return target


def _is_copied(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"


def _cannot_copy(path: Path, problem: str) -> InvalidBuildError:
    return InvalidBuildError(
        f"{path}: {problem}. Copy the files that the model needs into its folder.", file=str(path)
    )


def _scratch_file(info: ObjectInfo, source: Location, folder: Path) -> Path:
    name = source.relative(info.location)
    try:
        # A bucket may contain any key, including "../".
        check_relative_path(name, field="key")
    except LocationError as error:
        raise InvalidBuildError(
            f"{info.location.uri}: this key is not a valid file name.", uri=source.uri
        ) from error
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _sync(folder: Path) -> None:
    for directory, _, files in os.walk(folder):
        for name in files:
            with folder.joinpath(directory, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(folder.joinpath(directory))


def _already_published(uri: str) -> str:
    return f"{uri} is already published. Builds are immutable: choose another build ID, or omit it."


def _already_claimed(storage: Storage, target: Location) -> str:
    names = {target.relative(info.location) for info in storage.list(target)}
    if PUBLISHED_FILE in names:
        return _already_published(target.uri)
    try:
        claim = json.loads(storage.read(target.join(CLAIM_FILE)))
        publisher = f"{claim['publisher']}, since {claim['started_at']}"
    except (StorageError, ValueError, KeyError, TypeError):
        publisher = "an unknown publisher"
    return (
        f"{target.uri} is being published by {publisher}, or the publishing was interrupted. If it is no longer "
        f"running, delete the folder's contents; or choose another build ID."
    )
