"""Objects on this machine's disk, or on a file system that several machines mount.

Publishing is a rename and creating is a hard link, so a named file is complete at every moment, even after a crash.
Conditions on a document (``create``, ``replace``, ``delete``) are checked while its folder is locked.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from airflow_batchexec.engine.config.locations import Location, Scheme
from airflow_batchexec.engine.storage.base import ObjectInfo, Storage
from airflow_batchexec.engine.storage.disk import (
    disk_errors,
    is_temporary,
    locked,
    make_folders,
    new_file,
    open_regular,
    sync_folder,
    write_durably,
)
from airflow_batchexec.exceptions import (
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LocalStorage"]

_NOT_FOUND = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}
_COPY_BYTES = 1024 * 1024


class LocalStorage(Storage):
    """``file://`` locations. An etag is a file's modification time, size and inode number."""

    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        """List regular files, including hidden ones and targets of symbolic links, but not files still being written.

        Links to folders are followed, except to a folder that contains the link.
        """
        status = _stat(folder)
        pending = [] if status is None else [(folder, status, frozenset[tuple[int, int]]())]
        while pending:
            location, status, parents = pending.pop()
            if stat.S_ISREG(status.st_mode):
                yield _info(location, status)
                continue
            identity = (status.st_dev, status.st_ino)
            if stat.S_ISDIR(status.st_mode) and identity not in parents:
                pending.extend(
                    (child, found, parents | {identity}) for child, found in reversed(_scan(location))
                )

    def stat(self, location: Location) -> ObjectInfo:
        """Return the current state of the file."""
        status = _stat(location)
        if status is None or not stat.S_ISREG(status.st_mode):
            raise _not_found(location)
        return _info(location, status)

    def read(self, location: Location, *, start: int = 0, length: int | None = None) -> bytes:
        """Read the content, or a range of it; empty past the end."""
        with _reading("read", location) as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def read_with_etag(self, location: Location) -> tuple[bytes, str]:
        """Read the content and its etag; raises ``ObjectChangedError`` if the file is modified in place meanwhile."""
        with _reading("read", location) as file:
            before = _etag(os.fstat(file.fileno()))
            data = file.read()
            if _etag(os.fstat(file.fileno())) != before:
                raise ObjectChangedError(f"{location.uri} changed while it was read.", uri=location.uri)
            return data, before

    def fetch(self, info: ObjectInfo, scratch_file: Path) -> Path:  # noqa: ARG002  files are used in place
        """Return the path of the file itself, if it is unchanged since it was listed and can be read."""
        with _reading("fetch", info.location) as file:
            if _etag(os.fstat(file.fileno())) != info.etag:
                raise _changed(info.location)
        return info.location.path

    def publish(self, path: Path, location: Location) -> ObjectInfo:
        """Rename the file, or, across file systems, copy it next to its final name and rename the copy."""
        target = location.path
        folder = target.parent
        with (
            disk_errors(f"publish {path} as", location.uri),
            open_regular(path, follow_links=False) as source,
        ):
            make_folders(folder)
            os.fsync(source.fileno())
            status = os.fstat(source.fileno())
            try:
                path.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                status = _copy(source, target)
                path.unlink()
            sync_folder(folder)
        return _info(location, status)

    def write(self, location: Location, data: bytes) -> ObjectInfo:
        """Write while the folder is locked, so that a concurrent ``replace`` cannot overwrite it unnoticed."""
        target = location.path
        with disk_errors("write", location.uri):
            make_folders(target.parent)
            with new_file(target.parent) as file:
                status = write_durably(file.descriptor, data)
                with locked(target.parent):
                    file.replace(target)
        return _info(location, status)

    def create(self, location: Location, data: bytes) -> ObjectInfo:
        """Hard-link a complete file, which fails if the name exists, on every machine that mounts the folder.

        Without hard links, the final name is created exclusively instead; a reader without the lock can then see the
        document before it is complete.
        """
        target = location.path
        with disk_errors("create", location.uri):
            make_folders(target.parent)
            with new_file(target.parent) as file:
                status = write_durably(file.descriptor, data)
                with locked(target.parent):
                    try:
                        file.link(target)
                    except FileExistsError as error:
                        raise _exists(location) from error
                    except OSError as error:
                        if error.errno not in _NO_HARD_LINKS:
                            raise
                        status = _create_without_links(location, data)
        return _info(location, status)

    def replace(self, location: Location, data: bytes, *, etag: str) -> ObjectInfo:
        """Compare and rename while the folder is locked."""
        target = location.path
        _check_unchanged(location, etag)
        with disk_errors("replace", location.uri), new_file(target.parent) as file:
            status = write_durably(file.descriptor, data)
            with locked(target.parent):
                _check_unchanged(location, etag)
                file.replace(target)
        return _info(location, status)

    def delete(self, location: Location, *, etag: str | None = None) -> None:
        """Compare and delete while the folder is locked. A folder is not an object and is left alone."""
        target = location.path
        if not _is_deletable(target):
            return
        with disk_errors("delete", location.uri), locked(target.parent):
            if not _is_deletable(target):
                return
            if etag is not None:
                _check_unchanged(location, etag)
            target.unlink()

    def staging(self, folder: Location) -> Path | None:
        """Return ``staging`` in the folder itself, which is on the same disk as the results."""
        return folder.path / "staging"


def _stat(location: Location) -> os.stat_result | None:
    with disk_errors("stat", location.uri):
        try:
            return location.path.stat()
        except OSError as error:
            if error.errno in _NOT_FOUND:
                return None
            raise


def _scan(folder: Location) -> list[tuple[Location, os.stat_result]]:
    """List a folder in the order of the keys below it: ``a-b`` comes before ``a/x``."""
    with disk_errors("list", folder.uri):
        try:
            names = os.listdir(folder.path)  # noqa: PTH208  names become keys, not paths
        except FileNotFoundError:
            return []
    prefix = folder.key.rstrip("/")
    children = []
    for name in names:
        child = Location(Scheme.FILE, "", f"{prefix}/{name}")
        status = None if is_temporary(name) else _stat(child)
        if status is not None:
            children.append((child, status))
    return sorted(children, key=lambda item: item[0].key + ("/" if stat.S_ISDIR(item[1].st_mode) else ""))


def _info(location: Location, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(location, status.st_size, _etag(status))


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


def _not_found(location: Location) -> ObjectNotFoundError:
    return ObjectNotFoundError(f"File {location.uri} does not exist.", uri=location.uri)


def _changed(location: Location) -> ObjectChangedError:
    return ObjectChangedError(f"{location.uri} has changed since it was listed or read.", uri=location.uri)


def _exists(location: Location) -> ObjectExistsError:
    return ObjectExistsError(f"Cannot create {location.uri}: it already exists.", uri=location.uri)


def _check_unchanged(location: Location, etag: str) -> None:
    status = _stat(location)
    if status is None or _etag(status) != etag:
        raise _changed(location)


def _is_deletable(path: Path) -> bool:
    return os.path.lexists(path) and not path.is_dir()


@contextmanager
def _reading(doing: str, location: Location) -> Iterator[BinaryIO]:
    with disk_errors(doing, location.uri):
        try:
            with open_regular(location.path, follow_links=True) as file:
                yield file
        except NotADirectoryError as error:
            raise _not_found(location) from error


def _copy(source: BinaryIO, target: Path) -> os.stat_result:
    with new_file(target.parent) as file:
        with os.fdopen(file.descriptor, "wb", closefd=False) as copy:
            shutil.copyfileobj(source, copy, _COPY_BYTES)
        os.fsync(file.descriptor)
        status = os.fstat(file.descriptor)
        if status.st_size != os.fstat(source.fileno()).st_size:
            raise StorageError(f"{source.name} changed while it was copied to {target}.", uri=str(target))
        with locked(target.parent):
            file.replace(target)
    return status


def _create_without_links(location: Location, data: bytes) -> os.stat_result:
    target = location.path
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError as error:
        raise _exists(location) from error
    try:
        return write_durably(descriptor, data)
    except BaseException:
        target.unlink()
        raise
    finally:
        os.close(descriptor)
