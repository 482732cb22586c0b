"""The root of a pod's processes: starts the worker, and leaves nothing behind when the worker or the parent ends.

It does nothing else, so nothing that a model does keeps it from that: no hang in C code that holds the interpreter's
lock, no child in a session of its own, no ``os._exit``. On Linux it is the subreaper of all that the model starts: a
process whose own parent has ended becomes the supervisor's child, and is ended and reaped with the rest.

Run as a script by the build's interpreter. The worker is forked from it, before anything heavy is imported, and told
apart by nothing but its parent.
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
    from types import ModuleType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PF_EXITING = 0x4
_PACKAGE = "batchexec_standalone"


def fork_worker(*, connection: int, lifeline: int, scratch: str, parent: int) -> None:
    """Return in the worker alone; the supervisor waits in here, and ends the way the worker has ended.

    Args:
        connection: The worker's socket, which the supervisor gives up, so that the worker's end closes it.
        lifeline: A pipe whose other end only the parent holds: it breaks when the parent ends, or cuts it.
        scratch: The pod's folder, which a parent that was killed cannot remove.
        parent: The process that has started the supervisor; it may be gone already.
    """
    child_ended, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    adopts = _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    supervisor = os.getpid()
    worker = os.fork()
    if worker == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in (child_ended, woken, lifeline):
            os.close(fd)
        _die_with(supervisor)
        return
    os.close(connection)
    # They end the worker, and its end the supervisor.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    status = _wait(worker, child_ended=child_ended, lifeline=lifeline)
    if adopts:
        _end_descendants()
    if _is_gone(parent):
        shutil.rmtree(scratch, ignore_errors=True)
    _exit_as(os.waitstatus_to_exitcode(status))


def _wait(worker: int, *, child_ended: int, lifeline: int) -> int:
    """The worker's status, when it has ended by itself or because the lifeline broke."""
    while True:
        readable, _, _ = select.select([child_ended, lifeline], [], [])
        if lifeline in readable:
            os.kill(worker, signal.SIGKILL)
            return os.waitpid(worker, 0)[1]
        os.read(child_ended, 1024)
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == worker:
                    return status
                if pid == 0:
                    break


def _end_descendants() -> None:
    """End and reap children until there are none: those of a child that has ended become children themselves."""
    with suppress(ChildProcessError):
        while True:
            for pid in _children():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> list[int]:
    own = os.getpid()
    with open(f"/proc/{own}/task/{own}/children") as file:  # noqa: PTH123  pathlib is not worth its memory here
        return [int(pid) for pid in file.read().split()]


def _exit_as(code: int) -> None:
    """End like the worker did, so that the parent is told of its exit status or signal."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _is_gone(parent: int) -> bool:
    """Whether the parent has ended, or is about to.

    A process that is killed closes its files, the lifeline among them, before its children are given to another.
    """
    if os.getppid() != parent:
        return True
    try:
        with open(f"/proc/{parent}/stat") as file:  # noqa: PTH123  as above
            flags = int(file.read().rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _PF_EXITING)


def _die_with(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> bool:
    """Ask Linux; other systems have no such call."""
    try:
        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def _load_worker() -> ModuleType:
    """The worker's module, of this folder as a package: its parent packages are not installed here."""
    folder = os.path.dirname(__file__)  # noqa: PTH120  as above
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[_PACKAGE] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return importlib.import_module(f"{_PACKAGE}.worker")


if __name__ == "__main__":
    connection_fd, lifeline_fd = int(sys.argv[1]), int(sys.argv[2])
    fork_worker(connection=connection_fd, lifeline=lifeline_fd, scratch=sys.argv[3], parent=int(sys.argv[4]))
    os.set_inheritable(connection_fd, False)
    _load_worker().main(connection_fd)
