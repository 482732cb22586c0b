"""Servers that all processes of a test run share: each starts on the first request for it, and stops with the run.

The main pytest process owns them, whether it runs the tests itself or through workers. Tests request them over a socket,
with :func:`shared`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SharedServers", "StartError", "shared", "shared_folder"]

# Without the prefix BATCHEXEC_: some tests remove all such variables.
_SOCKET = "TESTS_SHARED_SERVERS"
_MAX_SERVERS = 16


def shared_folder() -> Path | None:
    """A folder that the main process removes at the end of the run; ``None`` in the main process itself."""
    return Path(os.environ[_SOCKET]).parent if _SOCKET in os.environ else None


class StartError(Exception):
    """A server did not start."""


def shared(name: str) -> Any:
    """Return the description of a server, starting it unless it is running.

    Raises:
        StartError: The server did not start, now or on an earlier request.
    """
    with Client(os.environ[_SOCKET]) as connection:
        connection.send(name)
        answer = connection.recv()
    if isinstance(answer, StartError):
        raise answer
    return answer


class SharedServers:
    """Starts servers on request, and stops them.

    Args:
        starters: A function for each server, by name. It starts the server, registers the clean-up with the stack, and
            returns a picklable description for tests.

    Attributes:
        folder: The folder of the servers' files.
        interrupted: Whether to stop the servers without a long grace period.
    """

    def __init__(self, starters: Mapping[str, Callable[[SharedServers, ExitStack], Any]]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="batchexec-tests-"))
        self.interrupted = False
        self._starters = starters
        self._started: dict[str, Future[Any]] = {}
        self._stacks: list[ExitStack] = []
        self._lock = Lock()
        # The kernel terminates a server when the thread that started it exits, so these threads outlive the servers.
        self._threads = ThreadPoolExecutor(_MAX_SERVERS)
        self._listener = Listener(str(self.folder / "socket"))
        self._accepting = Thread(target=self._accept, daemon=True)
        self._accepting.start()
        os.environ[_SOCKET] = str(self._listener.address)

    @property
    def used(self) -> bool:
        """Whether any server was started."""
        return bool(self._started)

    def get(self, name: str) -> Any:
        """Like :func:`shared`, for starters that depend on another server."""
        with self._lock:
            if name not in self._started:
                self._started[name] = self._threads.submit(self._start, name)
        return self._started[name].result()

    def close(self, *, keep_files: bool) -> None:
        """Stop all servers, in parallel."""
        with suppress(OSError), Client(str(self._listener.address)) as connection:
            connection.send("")
        self._accepting.join()
        self._listener.close()
        del os.environ[_SOCKET]
        closings = [self._threads.submit(stack.close) for stack in self._stacks]
        self._threads.shutdown()
        if not keep_files:
            shutil.rmtree(self.folder, ignore_errors=True)
        for closing in closings:
            closing.result()

    def _start(self, name: str) -> Any:
        stack = ExitStack()
        self._stacks.append(stack)
        return self._starters[name](self, stack)

    def _accept(self) -> None:
        while True:
            connection = self._listener.accept()
            name = connection.recv()
            if not name:
                connection.close()
                return
            Thread(target=self._answer, args=(connection, name), daemon=True).start()

    def _answer(self, connection: Connection, name: str) -> None:
        with connection:
            try:
                answer = self.get(name)
            except Exception as error:  # noqa: BLE001  re-raised in the test that requested it
                answer = StartError(f"{name} did not start: {error!r}")
            with suppress(OSError):
                connection.send(answer)
