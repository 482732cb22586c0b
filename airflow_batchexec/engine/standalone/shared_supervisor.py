"""The supervisor of a pod that several tasks use, one after the other.

No process owns such a pod. Its supervisor takes users on a socket, one at a time, and passes each the worker's socket
and the ends of its output pipes. As long as the user stays connected, the pod is its own. A user that leaves without
saying so, because it was killed or wants the pod to end, ends the pod.

Messages on the connection of a user, one packet each:

=========== ======= ====================================================================================
message     sender  meaning
=========== ======= ====================================================================================
hello JSON  pod     ``pid`` of the supervisor, ``load_seconds`` if the build is loaded; with the descriptors
loaded N    user    The build was loaded, in N seconds; its response has been read.
terminate   user    End the processes by SIGTERM.
release     user    The worker is idle, and may be used by others.
exited N    pod     The worker has exited with this status; negative for a signal.
=========== ======= ====================================================================================

The pod ends when its worker exits, when nothing has used it for some time, or when its folder has been removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import termios
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from . import supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence

_TICK_SECONDS = 1.0
_MAX_PACKET_BYTES = 4096
_PIPE_BYTES = 1 << 20


def fork_worker(
    connection: int, client: str, stdout: str, stderr: str, listener: str, alive: str, folder: str, idle: str
) -> None:
    """Become a session of its own, and fork the worker. Returns only in the worker.

    Args:
        connection: The worker's socket.
        client: The other end of it, for the pod's users.
        stdout: The end of the worker's output that its users read.
        stderr: The same for its errors.
        listener: The socket that users connect to.
        alive: Holds the lock of the file ``alive`` as long as it is open.
        folder: The pod's folder; the supervisor removes it.
        idle: After how many seconds without a user the pod ends.
    """
    # The pod must not end with the process that starts it, nor become its zombie.
    if os.fork():
        os._exit(0)
    os.setsid()
    shared = tuple(map(int, (client, stdout, stderr)))
    worker = supervisor.fork(close_in_worker=(*shared, int(listener), int(alive)))
    if worker is None:
        return
    os.close(connection)
    _SharedSupervisor(
        worker,
        shared=shared,
        listener=socket.socket(fileno=int(listener)),
        folder=folder,
        idle_seconds=float(idle),
    ).run()


class _SharedSupervisor:
    def __init__(
        self,
        worker: supervisor.WorkerProcess,
        *,
        shared: Sequence[int],
        listener: socket.socket,
        folder: str,
        idle_seconds: float,
    ) -> None:
        self._worker = worker
        self._shared = shared
        self._outputs = shared[1:]
        self._listener = listener
        self._folder = folder
        self._idle_seconds = idle_seconds
        self._idle_since = time.monotonic()
        self._user: socket.socket | None = None
        self._load_seconds: float | None = None
        self._busy = os.open(f"{folder}/busy", os.O_RDWR)
        listener.setblocking(False)
        for output in self._outputs:
            with suppress(OSError):
                fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def run(self) -> NoReturn:
        while True:
            readable = self._wait()
            if self._worker.exited in readable:
                status = self._worker.reap()
                if status is not None:
                    self._end(status)
            if self._user is not None and self._user.fileno() in readable:
                self._receive(self._user)
            elif self._user is None and self._listener.fileno() in readable:
                self._accept()
            if not os.access(self._folder, os.F_OK) or self._is_unused():
                self._end(self._worker.kill())

    def _wait(self) -> set[int]:
        """Wait for the next event, a second at most."""
        poll = select.poll()
        poll.register(self._worker.exited, select.POLLIN)
        poll.register(self._listener if self._user is None else self._user, select.POLLIN)
        seconds = _TICK_SECONDS
        if self._user is None:
            seconds = min(seconds, max(0.01, self._idle_since + self._idle_seconds - time.monotonic()))
        readable = {fd for fd, _ in poll.poll(seconds * 1000)}
        if self._user is None and not readable:
            for output in self._outputs:
                _drain(output)
        return readable

    def _accept(self) -> None:
        with suppress(OSError):
            user, _ = self._listener.accept()
            _, uid, _ = struct.unpack("3i", user.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != os.getuid():
                user.close()
                return
            hello = {"pid": os.getpid(), "load_seconds": self._load_seconds}
            self._user = user
            user.setblocking(True)
            with suppress(OSError):
                socket.send_fds(user, [b"hello " + json.dumps(hello).encode()], list(self._shared))

    def _receive(self, user: socket.socket) -> None:
        try:
            message, _, value = user.recv(_MAX_PACKET_BYTES).partition(b" ")
        except OSError:
            message = b""
        if message == b"loaded":
            self._load_seconds = float(value)
        elif message == b"terminate":
            os.killpg(0, signal.SIGTERM)
        elif message == b"release":
            user.close()
            self._user = None
            self._idle_since = time.monotonic()
        else:
            self._end(self._worker.kill())

    def _is_unused(self) -> bool:
        """Whether nothing has used the pod for too long, and nothing is about to."""
        if self._user is not None or time.monotonic() < self._idle_since + self._idle_seconds:
            return False
        try:
            # Kept until the end, so that nobody claims the pod any more.
            fcntl.flock(self._busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # A user has claimed it and will connect.
            self._idle_since = time.monotonic()
            return False
        return True

    def _end(self, status: int) -> NoReturn:
        """End what the model has started, tell the user, and remove the pod's folder."""
        self._worker.kill_descendants()
        if self._user is not None:
            with suppress(OSError):
                self._user.send(b"exited %d" % os.waitstatus_to_exitcode(status))
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(0)


def _drain(output: int) -> None:
    """Discard the older part of what the model has printed while nobody reads it, before it fills the pipe."""
    unread = struct.unpack("i", fcntl.ioctl(output, termios.FIONREAD, b"\0" * 4))[0]
    size = fcntl.fcntl(output, fcntl.F_GETPIPE_SZ)
    if unread > size // 2:
        os.read(output, unread - size // 4)
