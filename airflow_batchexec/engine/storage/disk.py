"""This machine's disk: error mapping, and atomic and durable writes.

All storages use it: the local one for its objects, the others for their scratch files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from airflow_batchexec.exceptions import AccessDeniedError, DiskFullError, ObjectNotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "NewFile",
    "disk_errors",
    "is_temporary",
    "locked",
    "make_folders",
    "new_file",
    "open_regular",
    "scratch",
    "scratch_folder",
    "sync_folder",
    "write_all",
    "write_durably",
]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_PREFIX, _SUFFIX = ".batchexec-", ".tmp"
# The name of a complete file until it is renamed over another: an unnamed file can be linked but not renamed. It exists
# only while the folder is locked.
_REPLACEMENT = f"{_PREFIX}replacement{_SUFFIX}"
# If the platform lacks O_TMPFILE, opening the folder fails with EISDIR, as it does on kernels without support.
_O_TMPFILE: int = getattr(os, "O_TMPFILE", 0)
_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


@contextmanager
def disk_errors(doing: str, what: str) -> Iterator[None]:
    """Map the operating system's errors to the error tree.

    Args:
        doing: The verb of the message: "publish", "fetch" ….
        what: The URI or path that the message names.

    Raises:
        DiskFullError: The disk is full, or a quota or size limit is reached.
        AccessDeniedError: Permission is missing, or the file system is read-only.
        ObjectNotFoundError: A file or folder does not exist.
        StorageError: Anything else.
    """
    try:
        yield
    except OSError as error:
        reason = f"Cannot {doing} {what}: {error.strerror or error}"
        if error.errno in _DISK_FULL:
            raise DiskFullError(f"{reason}. Free up space, or use another disk.", uri=what) from error
        if error.errno in _DENIED:
            raise AccessDeniedError(f"{reason}. Check the folder's permissions.", uri=what) from error
        if error.errno == errno.ENOENT:
            raise ObjectNotFoundError(f"{reason}.", uri=what) from error
        if error.errno in {errno.ENOTDIR, errno.EEXIST}:
            raise StorageError(f"{reason}. Part of the path is a file, not a folder.", uri=what) from error
        if error.errno == errno.EISDIR:
            raise StorageError(f"{reason}. A folder with that name exists.", uri=what) from error
        raise StorageError(f"{reason}.", uri=what) from error


@contextmanager
def open_regular(path: Path, *, follow_links: bool) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Do not follow links for a file that a model wrote: a link would publish a file that the model was never given.
    Opening does not block, so a FIFO is rejected immediately.

    Raises:
        ObjectNotFoundError: The path is not a regular file.
        OSError: The file cannot be opened.
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
            raise ObjectNotFoundError(f"{path} is not a regular file.", uri=str(path))
        yield file


class NewFile:
    """A file without a name until it is complete: a process killed while writing leaves nothing behind.

    On file systems without unnamed files (NFS, most of FUSE), it has a hidden name until then, which a kill leaves
    behind.

    Attributes:
        descriptor: The file descriptor, open for reading and writing.
    """

    def __init__(self, descriptor: int, name: Path | None) -> None:
        self.descriptor = descriptor
        self._name = name

    def link(self, target: Path) -> None:
        """Give the file its name if the name is free.

        Raises:
            FileExistsError: The name is taken.
            OSError: For example, the file system does not support hard links.
        """
        if self._name is not None:
            os.link(self._name, target)
            return
        # Only linkat follows the link in /proc to the file, and Python calls it only if given a descriptor.
        os.link(f"/proc/self/fd/{self.descriptor}", target, src_dir_fd=self.descriptor, follow_symlinks=True)

    def replace(self, target: Path) -> None:
        """Give the file its name, replacing any file that has it. The caller holds the folder's lock."""
        if self._name is not None:
            self._name.replace(target)
            return
        linked = target.with_name(_REPLACEMENT)
        # Left behind by a process that was killed between link and replace.
        linked.unlink(missing_ok=True)
        self.link(linked)
        try:
            linked.replace(target)
        except OSError:
            linked.unlink()
            raise


@contextmanager
def new_file(folder: Path) -> Iterator[NewFile]:
    """Create a file in ``folder`` that is discarded afterwards unless it was given a name."""
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
    """Open a new, empty file for writing, as a descriptor; the file is removed if the block raises.

    Raises:
        OSError: The file cannot be created.
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


@contextmanager
def scratch_folder(root: Path | None = None, *, prefix: str = "batchexec-") -> Iterator[Path]:
    """Create a local folder that is removed on exit.

    Args:
        root: Where to create it; ``None`` for the system's temporary folder.
        prefix: The start of its name.

    Raises:
        StorageError: The folder cannot be created.
    """
    with disk_errors("make a scratch folder in", str(root or tempfile.gettempdir())):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_temporary(name: str) -> bool:
    """Whether a file with this name is still being written, and so is not an object yet."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def write_all(descriptor: int, data: bytes, position: int | None = None) -> None:
    """Write all of ``data``, even if a single ``write`` takes only part of it.

    Args:
        descriptor: The file descriptor.
        data: The bytes to write.
        position: The offset to write at, without moving the file position; ``None`` for the current position.

    Raises:
        OSError: The write failed.
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
    """Write a document, sync it to disk, and return its status.

    The modification time is set with the clock's full resolution: the kernel's is a few milliseconds, within which a
    document that is deleted and recreated could get the same inode number, size and time.
    """
    write_all(descriptor, data)
    now = time.time_ns()
    os.utime(descriptor, ns=(now, now))
    os.fsync(descriptor)
    return os.fstat(descriptor)


def make_folders(folder: Path) -> None:
    """Durably create a folder and its missing parents."""
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
    """Sync the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, across threads and processes; on success, its names are synced to disk.

    The lock is released explicitly, not just by closing: a process forked meanwhile holds a copy of the descriptor,
    and would keep the lock for as long as it lives.
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
