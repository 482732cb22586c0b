"""The root of a predictor's process tree: starts the worker, and cleans up when the worker or the parent exits.

It does nothing else, so a model cannot interfere with it: not by hanging in C code that holds the GIL, not by starting
a child in another session, not by calling ``os._exit``. On Linux it is the subreaper of every process that the model
starts: orphans are reparented to the supervisor, which kills and reaps them with the rest.

The build's interpreter runs it as a script. It forks the worker before importing anything heavy; only their parent
process distinguishes the two. With the argument ``shared``, it hands over to ``shared_supervisor``.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import resource
import select
import shutil
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PF_EXITING = 0x4
_PACKAGE = "batchexec_standalone"


def fork_worker(*, connection: int, lifeline: int, scratch: str, parent: int) -> None:
    """Fork the worker. Returns only in the worker; the supervisor waits here and exits the way the worker exited.

    Args:
        connection: The worker's socket; the supervisor closes its copy, so that it closes when the worker exits.
        lifeline: A pipe whose other end only the parent holds: it breaks when the parent exits or closes it.
        scratch: The predictor's folder, removed here if the parent was killed and cannot remove it.
        parent: The process that started the supervisor; it may already have exited.
    """
    worker = fork(close_in_worker=(lifeline,))
    if worker is None:
        return
    os.close(connection)
    status = _wait_for_worker(worker, lifeline=lifeline)
    worker.kill_descendants()
    if _has_exited(parent):
        shutil.rmtree(scratch, ignore_errors=True)
    _exit_as(os.waitstatus_to_exitcode(status))


class WorkerProcess:
    """The worker, as its supervisor sees it.

    Attributes:
        exited: A descriptor that becomes readable when a child of the supervisor has exited.
    """

    def __init__(self, pid: int, *, exited: int, is_subreaper: bool) -> None:
        self.exited = exited
        self._pid = pid
        self._is_subreaper = is_subreaper

    def reap(self) -> int | None:
        """Reap the children that have exited; return the worker's wait status if it is one of them."""
        with suppress(BlockingIOError):
            os.read(self.exited, 1024)
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == self._pid:
                    return status
                if pid == 0:
                    break
        return None

    def kill(self) -> int:
        """Kill the worker and return its wait status."""
        os.kill(self._pid, signal.SIGKILL)
        return os.waitpid(self._pid, 0)[1]

    def kill_descendants(self) -> None:
        """Kill all other processes that the model has started."""
        if self._is_subreaper:
            _kill_descendants()


def fork(*, close_in_worker: Iterable[int]) -> WorkerProcess | None:
    """Fork the worker; returns ``None`` in the worker.

    Args:
        close_in_worker: Descriptors that are the supervisor's alone.
    """
    child_exited, wakeup = os.pipe()
    for fd in (child_exited, wakeup):
        os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup)
    is_subreaper = _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    supervisor = os.getpid()
    worker = os.fork()
    if worker == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in (child_exited, wakeup, *close_in_worker):
            os.close(fd)
        _exit_with_parent(supervisor)
        return None
    # Signals to the process group end the worker, and the supervisor exits after it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return WorkerProcess(worker, exited=child_exited, is_subreaper=is_subreaper)


def _wait_for_worker(worker: WorkerProcess, *, lifeline: int) -> int:
    """Wait until the worker exits, killing it if the lifeline breaks; return its wait status."""
    while True:
        readable, _, _ = select.select([worker.exited, lifeline], [], [])
        if lifeline in readable:
            return worker.kill()
        status = worker.reap()
        if status is not None:
            return status


def _kill_descendants() -> None:
    """Kill and reap children until none are left; orphaned grandchildren become children on the way."""
    with suppress(ChildProcessError):
        while True:
            for pid in _children():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> list[int]:
    own = os.getpid()
    with open(f"/proc/{own}/task/{own}/children") as file:  # noqa: PTH123  importing pathlib costs memory
        return [int(pid) for pid in file.read().split()]


def _exit_as(code: int) -> None:
    """Exit the way the worker did, so that the parent sees the worker's exit status or signal."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _has_exited(parent: int) -> bool:
    """Whether the parent has exited or is exiting.

    A killed process closes its files, including the lifeline, before its children are reparented.
    """
    if os.getppid() != parent:
        return True
    try:
        with open(f"/proc/{parent}/stat") as file:  # noqa: PTH123  as above
            flags = int(file.read().rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _PF_EXITING)


def _exit_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent exits."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> bool:
    """Call ``prctl`` and return whether it succeeded; only Linux has it."""
    try:
        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def _load(name: str) -> ModuleType:
    """Import a module of this folder as a top-level package: its parent packages are not installed here."""
    folder = os.path.dirname(__file__)  # noqa: PTH120  as above
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    if _PACKAGE not in sys.modules:
        sys.modules[_PACKAGE] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(f"{_PACKAGE}.{name}")


if __name__ == "__main__":
    connection_fd = int(sys.argv[2])
    if sys.argv[1] == "shared":
        _load("shared_supervisor").fork_worker(connection_fd, *sys.argv[3:])
    else:
        fork_worker(
            connection=connection_fd, lifeline=int(sys.argv[3]), scratch=sys.argv[4], parent=int(sys.argv[5])
        )
    os.set_inheritable(connection_fd, False)
    _load("worker").main(connection_fd)
