"""This machine's own disk: what its errors mean, and files that are written whole.

All storages stand on it: one keeps its objects here, the others their scratch files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from airflow_batchexec.exceptions import AccessDeniedError, DiskFullError, ObjectNotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "NewFile",
    "disk_errors",
    "is_temporary",
    "locked",
    "make_folders",
    "new_file",
    "open_regular",
    "scratch",
    "sync_folder",
    "write_all",
    "write_durably",
]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_PREFIX, _SUFFIX = ".batchexec-", ".tmp"
# The name of a complete file on its way to the place of another, which only a rename can take. It exists under the
# folder's lock alone.
_REPLACEMENT = f"{_PREFIX}replacement{_SUFFIX}"
# Without it, opening the folder fails with EISDIR, as it does where the kernel does not know it.
_O_TMPFILE: int = getattr(os, "O_TMPFILE", 0)
_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


@contextmanager
def disk_errors(doing: str, what: str) -> Iterator[None]:
    """Turn what the operating system says into the error tree.

    Args:
        doing: The verb of the message: "publish", "fetch" ….
        what: The URI or path that the message names.

    Raises:
        DiskFullError: There is no room, or a quota or size limit is reached.
        AccessDeniedError: The permission is missing, or the file system is read-only.
        ObjectNotFoundError: Something that should be there is not.
        StorageError: Anything else.
    """
    try:
        yield
    except OSError as error:
        reason = f"Cannot {doing} {what}: {error.strerror or error}"
        if error.errno in _FULL:
            raise DiskFullError(f"{reason}. Free some space, or use another disk.", uri=what) from error
        if error.errno in _DENIED:
            raise AccessDeniedError(f"{reason}. Check the permissions of the folder.", uri=what) from error
        if error.errno == errno.ENOENT:
            raise ObjectNotFoundError(f"{reason}.", uri=what) from error
        if error.errno in {errno.ENOTDIR, errno.EEXIST}:
            raise StorageError(f"{reason}. A part of the path is a file, not a folder.", uri=what) from error
        if error.errno == errno.EISDIR:
            raise StorageError(f"{reason}. There is a folder of that name.", uri=what) from error
        raise StorageError(f"{reason}.", uri=what) from error


@contextmanager
def open_regular(path: Path, *, follow_links: bool) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    A file that a model wrote is opened without following links: a link in its place would publish a file that the
    model was never given. Opening does not block, so that a fifo is refused rather than waited for.

    Raises:
        ObjectNotFoundError: What lies there is no regular file.
        OSError: It cannot be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        file = open(path, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115  Path.open takes no opener; closed below
    except OSError as error:
        if error.errno == errno.EISDIR:
            raise ObjectNotFoundError(f"{path} is a folder, not a file.", uri=str(path)) from error
        if error.errno == errno.ELOOP and not follow_links:
            raise ObjectNotFoundError(f"{path} is a symbolic link, not a file.", uri=str(path)) from error
        raise
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ObjectNotFoundError(f"{path} is no regular file.", uri=str(path))
        yield file


class NewFile:
    """A file that has no name until it is complete: a process that is killed while it writes leaves nothing behind.

    Where the file system has no such files (NFS, most of FUSE), it has a hidden name meanwhile, which a kill leaves.

    Attributes:
        descriptor: The file, open for reading and writing.
    """

    def __init__(self, descriptor: int, name: Path | None) -> None:
        self.descriptor = descriptor
        self._name = name

    def link(self, target: Path) -> None:
        """Give it its name, unless there is a file of that name.

        Raises:
            FileExistsError: There is one.
            OSError: The file system has no hard links, among other things.
        """
        if self._name is not None:
            os.link(self._name, target)
            return
        # Only linkat follows the link in /proc to the file, and Python calls that where it is given a descriptor.
        os.link(f"/proc/self/fd/{self.descriptor}", target, src_dir_fd=self.descriptor, follow_symlinks=True)

    def replace(self, target: Path) -> None:
        """Give it its name; a file of that name is replaced. The caller holds the lock of the folder."""
        if self._name is not None:
            self._name.replace(target)
            return
        linked = target.with_name(_REPLACEMENT)
        # What a process has left that was killed between these two steps.
        linked.unlink(missing_ok=True)
        self.link(linked)
        try:
            linked.replace(target)
        except OSError:
            linked.unlink()
            raise


@contextmanager
def new_file(folder: Path) -> Iterator[NewFile]:
    """A file in ``folder`` that is gone afterwards, unless it was given its name."""
    named = None
    try:
        descriptor = os.open(folder, os.O_RDWR | _O_TMPFILE | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
        named = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        descriptor = os.open(named, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        yield NewFile(descriptor, named)
    finally:
        os.close(descriptor)
        if named is not None:
            named.unlink(missing_ok=True)


@contextmanager
def scratch(path: Path) -> Iterator[int]:
    """A new, empty file to write to, as a descriptor; where the block raises, the file is removed.

    Raises:
        OSError: It cannot be created.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except BaseException:
        path.unlink()
        raise


def is_temporary(name: str) -> bool:
    """Whether a file of this name is still being written, and so is no object yet."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def write_all(descriptor: int, data: bytes, position: int | None = None) -> None:
    """Write all of ``data``; a single ``write`` may take a part of it.

    Args:
        descriptor: The file.
        data: What to write.
        position: The byte to begin at, which leaves the file's own position alone; ``None`` for that position.

    Raises:
        OSError: The disk did not take it.
    """
    rest = memoryview(data)
    while rest:
        if position is None:
            written = os.write(descriptor, rest)
        else:
            written = os.pwrite(descriptor, rest, position)
            position += written
        rest = rest[written:]


def write_durably(descriptor: int, data: bytes) -> os.stat_result:
    """Write a document to the disk itself; its status afterwards.

    The time of change is set to the clock's own resolution: the kernel's is some milliseconds, within which a
    document that is deleted and made again could get the number, size and time of the one before.
    """
    write_all(descriptor, data)
    now = time.time_ns()
    os.utime(descriptor, ns=(now, now))
    os.fsync(descriptor)
    return os.fstat(descriptor)


def make_folders(folder: Path) -> None:
    """Make a folder and what is missing above it, durably."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other thread and process out that asks for the same folder; its names are durable afterwards.

    The lock is given up by name and not just by closing: a process that was forked meanwhile holds a copy of the
    descriptor, and would keep the lock for as long as it lives.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
            os.fsync(descriptor)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
