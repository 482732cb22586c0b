"""Objects on this machine's disk, or on a file system that several machines mount.

What is published appears by a rename, what is created by a hard link: both are whole at every moment, also after a
crash, and a file has no name before it is whole. Conditions on a document (``create``, ``replace``, ``delete``) are checked under a lock on its folder.
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

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}
_COPY_BYTES = 1024 * 1024


class LocalStorage(Storage):
    """``file://`` locations. An etag is a file's time of change, size and number."""

    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        """Regular files, those behind symbolic links too; hidden names are listed, what is being written is not.

        Links to folders are followed, except into a folder that the link itself lies in.
        """
        status = _look(folder)
        waiting = [] if status is None else [(folder, status, frozenset[tuple[int, int]]())]
        while waiting:
            here, status, above = waiting.pop()
            if stat.S_ISREG(status.st_mode):
                yield _info(here, status)
                continue
            identity = (status.st_dev, status.st_ino)
            if stat.S_ISDIR(status.st_mode) and identity not in above:
                waiting.extend((inner, found, above | {identity}) for inner, found in reversed(_scan(here)))

    def stat(self, location: Location) -> ObjectInfo:
        """The file as it is now."""
        status = _look(location)
        if status is None or not stat.S_ISREG(status.st_mode):
            raise ObjectNotFoundError(f"There is no file {location.uri}.", uri=location.uri)
        return _info(location, status)

    def read(self, location: Location, *, start: int = 0, length: int | None = None) -> bytes:
        """The content, or a range of it; what lies beyond the end is empty."""
        with _reading("read", location) as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def read_with_etag(self, location: Location) -> tuple[bytes, str]:
        """The content and its etag; a file that is written in place meanwhile is refused."""
        with _reading("read", location) as file:
            before = _etag(os.fstat(file.fileno()))
            data = file.read()
            if _etag(os.fstat(file.fileno())) != before:
                raise ObjectChangedError(f"{location.uri} changed while it was read.", uri=location.uri)
            return data, before

    def fetch(self, info: ObjectInfo, scratch_file: Path) -> Path:  # noqa: ARG002  a file is used where it lies
        """The path of the file itself, if it is the one that was listed and may be read."""
        with _reading("fetch", info.location) as file:
            if _etag(os.fstat(file.fileno())) != info.etag:
                raise _changed(info.location)
        return info.location.path

    def publish(self, path: Path, location: Location) -> ObjectInfo:
        """A rename where that is possible, else a copy beside the final name and a rename of that."""
        target = location.path
        with (
            disk_errors(f"publish {path} as", location.uri),
            open_regular(path, follow_links=False) as source,
        ):
            make_folders(target.parent)
            os.fsync(source.fileno())
            status = os.fstat(source.fileno())
            try:
                path.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                status = _copy(source, target)
                path.unlink()
            sync_folder(target.parent)
        return _info(location, status)

    def write(self, location: Location, data: bytes) -> ObjectInfo:
        """Under the folder's lock, so that no ``replace`` can overwrite it unseen."""
        target = location.path
        with disk_errors("write", location.uri):
            make_folders(target.parent)
            with new_file(target.parent) as file:
                status = write_durably(file.descriptor, data)
                with locked(target.parent):
                    file.replace(target)
        return _info(location, status)

    def create(self, location: Location, data: bytes) -> ObjectInfo:
        """A hard link to a whole file: it fails where there is one, on every machine that mounts the folder.

        Where the file system knows no hard links, the final name is made exclusively instead; a reader without
        the lock can then see the document before it is complete.
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
        """Compared and renamed under the folder's lock."""
        target = location.path
        _check_unchanged(location, etag)
        with disk_errors("replace", location.uri), new_file(target.parent) as file:
            status = write_durably(file.descriptor, data)
            with locked(target.parent):
                _check_unchanged(location, etag)
                file.replace(target)
        return _info(location, status)

    def delete(self, location: Location, *, etag: str | None = None) -> None:
        """Compared and deleted under the folder's lock. A folder is no object, and stays."""
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
        """``staging`` in the folder itself, which is on the disk that the results go to."""
        return folder.path / "staging"


def _look(location: Location) -> os.stat_result | None:
    with disk_errors("look at", location.uri):
        try:
            return location.path.stat()
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise


def _scan(folder: Location) -> list[tuple[Location, os.stat_result]]:
    """What lies in a folder, in the order of the keys below it: ``a-b`` comes before ``a/x``."""
    with disk_errors("list", folder.uri):
        try:
            names = os.listdir(folder.path)  # noqa: PTH208  names, for keys: no path is made of them
        except FileNotFoundError:
            return []
    prefix = folder.key.rstrip("/")
    found = []
    for name in names:
        inner = Location(Scheme.FILE, "", f"{prefix}/{name}")
        status = None if is_temporary(name) else _look(inner)
        if status is not None:
            found.append((inner, status))
    return sorted(found, key=lambda item: item[0].key + ("/" if stat.S_ISDIR(item[1].st_mode) else ""))


def _info(location: Location, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(location, status.st_size, _etag(status))


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


def _changed(location: Location) -> ObjectChangedError:
    return ObjectChangedError(
        f"{location.uri} is no longer what it was when it was listed or read.", uri=location.uri
    )


def _exists(location: Location) -> ObjectExistsError:
    return ObjectExistsError(f"Cannot create {location.uri}: it exists already.", uri=location.uri)


def _check_unchanged(location: Location, etag: str) -> None:
    status = _look(location)
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
            raise ObjectNotFoundError(f"There is no file {location.uri}.", uri=location.uri) from error


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
