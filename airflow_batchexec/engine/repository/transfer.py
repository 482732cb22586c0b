"""Builds on the move: out of a user's folder, into the repository, and down to a machine's cache.

Each step is all or nothing. What is published is a copy that was taken, checked and hashed first, so a folder that
changes meanwhile cannot give a build that nobody checked.
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
"""Uploads and downloads at once: a build of many small files is bound by round trips."""


def copy_folder(folder: Path, target: Path) -> tuple[str, ...]:
    """Copy what belongs to a build into a new folder.

    Hidden files and folders and ``__pycache__`` stay behind. A symbolic link to a file in the folder is copied as
    that file.

    Returns:
        The relative paths of the copies, sorted.

    Raises:
        InvalidBuildError: A link leads out of the folder or to a folder, or something is neither file nor folder.
    """
    root = folder.resolve()
    names = []
    for directory, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if _belongs(name))
        here = root.joinpath(directory)
        for name in [name for name in folders if (here / name).is_symlink()]:
            raise _not_copied(here / name, "it is a symbolic link to a folder")
        for name in filter(_belongs, files):
            source = here / name
            relative = source.relative_to(root)
            real = source.resolve()
            if not real.is_relative_to(root):
                raise _not_copied(source, f"it is a symbolic link out of the folder, to {real}")
            if not real.exists() or not stat.S_ISREG(real.stat().st_mode):
                raise _not_copied(source, "it is no file")
            copy = target / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real, copy)
            names.append(relative.as_posix())
    return tuple(sorted(names))


def content_hash(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over the names and contents of files, as hexadecimal digits."""
    whole = hashlib.sha256()
    for name in sorted(names):
        digest = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while block := file.read(1024 * 1024):
                digest.update(block)
        whole.update(name.encode("utf-8", "surrogateescape") + b"\0" + digest.digest())
    return whole.hexdigest()


def temporary_sibling(path: Path) -> Path:
    """A hidden name in the same folder that nobody else has; hidden names are no models or builds."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def place(staged: Path, target: Path) -> None:
    """Give a staged folder its final name on disk; of several callers at once, one succeeds.

    Raises:
        BuildExistsError: The name is taken.
    """
    _sync(staged)
    try:
        # rename(2) replaces an empty folder only.
        staged.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise BuildExistsError(_taken(target.as_uri()), uri=target.as_uri()) from error
        raise
    sync_folder(target.parent)


def upload(
    *, storage: Storage, staged: Path, names: Iterable[str], target: Location, publisher: dict[str, Any]
) -> None:
    """Move staged files into a bucket; of several callers at once, one succeeds and the others change nothing.

    The claim comes first and the files that make a folder a build come last, then the mark that it is whole. Where
    the upload fails, all is taken back; where this process dies, the claim stays and tells the next publisher.

    Args:
        storage: The bucket's storage.
        staged: The folder of the files; they are consumed.
        names: Their relative paths.
        target: The build's folder.
        publisher: Who publishes and when, for the claim.

    Raises:
        BuildExistsError: Another caller has published the build, is doing so, or died while doing so.
        StorageError: An upload failed.
    """
    claim = target.join(CLAIM_FILE)
    record = json.dumps(publisher).encode()
    try:
        storage.create(claim, record)
    except ObjectExistsError as error:
        raise BuildExistsError(_claimed(storage, target), uri=target.uri) from error
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
        # Ctrl-C too. Where the storage is out of reach, the claim stays and says what happened.
        with contextlib.suppress(StorageError):
            for name in (PUBLISHED_FILE, *reversed(last), *first, CLAIM_FILE):
                storage.delete(target.join(name))
        raise


def download(
    *, storage: Storage, source: Location, files: Callable[[], Iterable[ObjectInfo]], target: Path
) -> Path:
    """Bring a build to this machine once, however many threads and processes ask for it.

    The first caller downloads into a hidden sibling, which is renamed when it is whole; the others wait for it. What
    a crash has left is thrown away by the next caller.

    Args:
        storage: The storage of ``source``.
        source: The build's folder.
        files: Lists what is in it; called only where there is something to download.
        target: The folder on this machine.

    Raises:
        InvalidBuildError: A file's name is no path that may be written below ``target``.
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
                wanted = [(info, _scratch_file(info, source, partial)) for info in files()]
                parallel_map(lambda pair: storage.fetch(*pair), wanted, threads=_THREADS, name="build")
                _sync(partial)
                partial.rename(target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    return target


def _belongs(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"


def _not_copied(path: Path, problem: str) -> InvalidBuildError:
    return InvalidBuildError(f"{path}: {problem}. Copy what the model needs into its folder.", file=str(path))


def _scratch_file(info: ObjectInfo, source: Location, folder: Path) -> Path:
    name = source.relative(info.location)
    try:
        # A bucket may hold any key, "../" included.
        check_relative_path(name, field="key")
    except LocationError as error:
        raise InvalidBuildError(
            f"{info.location.uri}: this name cannot be a file's.", uri=source.uri
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


def _taken(uri: str) -> str:
    return f"{uri} is published already. Builds are immutable: choose another build id, or leave it out."


def _claimed(storage: Storage, target: Location) -> str:
    names = {target.relative(info.location) for info in storage.list(target)}
    if PUBLISHED_FILE in names:
        return _taken(target.uri)
    try:
        claim = json.loads(storage.read(target.join(CLAIM_FILE)))
        who = f"{claim['publisher']}, since {claim['started_at']}"
    except (StorageError, ValueError, KeyError, TypeError):
        who = "an unknown publisher"
    return (
        f"{target.uri} is being published by {who}, or that was interrupted. If nobody is at it any more, delete what "
        f"is in that folder; or choose another build id."
    )
