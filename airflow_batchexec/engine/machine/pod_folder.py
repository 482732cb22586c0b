"""The folder of a pod that tasks share; ``pods.py`` lists its files."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["PodFolder", "PodNote", "short_path"]

_NEW_NOTE = ".new-note"


@dataclass(frozen=True, slots=True)
class PodNote:
    """What a user of a pod leaves in its folder for later users of any pod, so that they need not find it out again.

    Attributes:
        name: Its name, which identifies its content.
        content: Its content.
    """

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class PodFolder:
    """The files of a pod."""

    path: Path

    @property
    def key(self) -> str:
        """What the pod serves; pods with the same key are interchangeable."""
        return self.path.name.rpartition(".")[0]

    @property
    def details(self) -> Path:
        """What the pod occupies, as JSON."""
        return self.path / "pod.json"

    @property
    def alive(self) -> Path:
        """The file that the pod's supervisor locks."""
        return self.path / "alive"

    @property
    def busy(self) -> Path:
        """The file that the pod's user locks."""
        return self.path / "busy"

    @property
    def address(self) -> Path:
        """The socket on which the supervisor takes the next user."""
        return self.path / "socket"

    @property
    def scratch(self) -> Path:
        """The folder of the pod's own files."""
        return self.path / "scratch"

    def leave(self, note: PodNote) -> None:
        """Leave a note, unless there is one of this name. Only for the pod's user, or before the pod can be found.

        Raises:
            OSError: It cannot be written, or the pod has ended.
        """
        path = self._note(note.name)
        if path.exists():
            return
        new = self.path / _NEW_NOTE
        new.write_bytes(note.content)
        # So that no reader finds half of it.
        new.rename(path)

    def read_note(self, name: str) -> bytes:
        """The content of a note.

        Raises:
            OSError: There is none of this name, or the pod has ended.
        """
        return self._note(name).read_bytes()

    def connect(self) -> socket.socket:
        """Connect to the pod's supervisor.

        Raises:
            OSError: The pod has ended.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with short_path(self.path) as folder:
                connection.connect(f"{folder}/{self.address.name}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _note(self, name: str) -> Path:
        return self.path / f"note-{name}.json"


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """A short path of a folder: that of a socket may have 107 characters."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
