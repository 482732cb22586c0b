"""A predictor's processes, as their user sees them: messages, memory, and the end.

They are a tree: the supervisor, which outlives the others; the worker, which the supervisor forks and the user
communicates with; and all processes that the model starts. ``own_child.py`` and ``shared_child.py`` start them.
"""

from __future__ import annotations

import json
import math
import select
import signal
import struct
import time
from abc import ABC, abstractmethod
from typing import IO, TYPE_CHECKING, Any

from airflow_batchexec.exceptions import PodMemoryError

if TYPE_CHECKING:
    import socket

    from airflow_batchexec.engine.config.instances import Instance
    from airflow_batchexec.engine.predictor.memory import MemoryWatch

__all__ = ["GRACE_SECONDS", "Child", "DeadlineExceeded", "encode", "how_it_ended", "is_readable"]

#: How long a process may take to exit before the next, stronger means is used.
GRACE_SECONDS = 2.0

_POLL_SECONDS = 0.1


class DeadlineExceeded(Exception):  # noqa: N818  a signal to the caller, who knows which timeout it was
    """The deadline of a request passed; the predictor was terminated."""


class Child(ABC):
    """The processes of one predictor.

    Args:
        name: The predictor's name, for messages.
        instance: The resources that they may use.

    Attributes:
        load_seconds: The time that loading the build took, in seconds; ``None`` until it is loaded.
        is_shared: Whether an idle predictor is left to others instead of ended.
    """

    is_shared = False

    def __init__(self, *, name: str, instance: Instance) -> None:
        self.load_seconds: float | None = None
        self._name = name
        self._instance = instance
        self._connection: socket.socket | None = None
        self._watch: MemoryWatch | None = None

    @abstractmethod
    def start(self, *, deadline: float) -> None:
        """Start the processes and request loading the build, or connect to processes that exist.

        If ``load_seconds`` is then still ``None``, the first response is that to the load request.

        Args:
            deadline: When to give up, on ``time.monotonic``'s clock.

        Raises:
            ModelLoadError: The interpreter cannot be started.
            StorageError: The working folder cannot be created.
            DeadlineExceeded: The deadline passed.
            OSError: The processes have exited.
        """

    @property
    @abstractmethod
    def is_running(self) -> bool:
        """Whether the processes were started and have not exited."""

    @property
    @abstractmethod
    def outputs(self) -> dict[str, IO[bytes]]:
        """The started process's ``stdout`` and ``stderr``."""

    @abstractmethod
    def loaded(self, seconds: float) -> None:
        """Note that the build was loaded, in this many seconds."""

    @abstractmethod
    def describe_exit(self) -> str:
        """Describe how the process ended, after its connection broke, as the end of a sentence."""

    @abstractmethod
    def shut_down(self) -> None:
        """Have an idle worker exit, and wait for that; or leave a shared one to others."""

    @abstractmethod
    def terminate(self) -> None:
        """Terminate all processes, by SIGTERM, then SIGKILL. May be called twice, or before the start."""

    @abstractmethod
    def close(self) -> None:
        """Close this side's file descriptors, except for the outputs."""

    def send(self, request: dict[str, Any]) -> None:
        """Send a request to the worker.

        Args:
            request: The request, see ``engine/standalone/worker.py``.

        Raises:
            OSError: The connection broke.
        """
        assert self._connection is not None
        self._connection.sendall(encode(request))

    def receive(self, *, deadline: float | None) -> dict[str, Any]:
        """Wait for the worker's next response.

        Args:
            deadline: When to give up, on ``time.monotonic``'s clock.

        Raises:
            OSError: The connection broke, or the process exited.
            ValueError: The response is malformed.
            PodMemoryError: The processes use more memory than the instance has.
            DeadlineExceeded: The deadline passed.
        """
        connection = self._connection
        assert connection is not None
        size = struct.unpack(">I", self._receive(connection, 4, deadline))[0]
        response: dict[str, Any] = json.loads(self._receive(connection, size, deadline))
        return response

    def check_memory(self) -> None:
        """Raise a ``PodMemoryError`` if the processes use more memory than the instance has."""
        assert self._watch is not None
        used_bytes = self._watch.excess_bytes()
        if not used_bytes:
            return
        instance = self._instance
        raise PodMemoryError(
            f"The pod {self._name} used {used_bytes / 2**30:.2f} GiB of memory, more than its instance {instance.name} "
            f"has ({instance.memory_bytes / 2**30:.2f} GiB). Use a larger instance, or split the input into smaller "
            f"files.",
            used_bytes=used_bytes,
        )

    def _receive(self, connection: socket.socket, size: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(connection, deadline)
            piece = connection.recv(size - len(data))
            if not piece:
                raise ConnectionResetError
            data += piece
        return bytes(data)

    def _wait(self, connection: socket.socket, deadline: float | None) -> None:
        """Wait until the connection is readable; meanwhile watch the process, its memory and the deadline."""
        while True:
            remaining = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if is_readable(connection, within_seconds=max(0.0, min(remaining, _POLL_SECONDS))):
                return
            # A process that the model started may keep the connection open.
            if not self.is_running and not is_readable(connection, within_seconds=0):
                raise ConnectionResetError
            if self._watch is not None:
                self.check_memory()
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceeded


def encode(request: dict[str, Any]) -> bytes:
    """A request as the worker reads it."""
    data = json.dumps(request).encode()
    return struct.pack(">I", len(data)) + data


def how_it_ended(status: int) -> str:
    """Describe an exit status, or a negative signal number, as the end of a sentence."""
    if status >= 0:
        return f"exited with status {status}: the model, or a library it uses, ended the process"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    hint = " (often because the machine ran out of memory)" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def is_readable(connection: socket.socket, *, within_seconds: float) -> bool:
    """Wait until a connection can be read, or has ended; return whether it can."""
    # Not select, which cannot handle descriptors above 1023.
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(math.ceil(within_seconds * 1000)))
