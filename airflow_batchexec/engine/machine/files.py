"""Private folders and the kernel's file locks, which end with their holder."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batchexec.engine.storage.disk import disk_errors
from airflow_batchexec.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["is_locked", "locked", "private_folder", "try_lock"]


def private_folder(root: Path | None) -> Path:
    """Return this user's folder for what processes on this machine share; create it if needed.

    Its name is short, because it contains the paths of sockets.

    Args:
        root: Where it is; ``None`` for the system's temporary folder.

    Raises:
        StorageError: It cannot be created, or other users may write to it.
    """
    folder = (root or Path(tempfile.gettempdir())) / f"batchexec-{os.getuid()}"
    with disk_errors("make the folder", str(folder)):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StorageError(
            f"{folder} is not a private folder of this user: another user may have made it. Remove it, or set "
            f"[batchexec] scratch_folder."
        )
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is created if needed; waits for other holders."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def try_lock(path: Path, *, create: bool = False) -> int | None:
    """Lock a file.

    Returns:
        The descriptor that holds the lock until it and its duplicates are closed; ``None`` if the file is locked or
        does not exist.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return None
        raise
    return fd


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file."""
    fd = try_lock(path)
    if fd is None:
        return path.exists()
    os.close(fd)
    return False
