"""A predictor's child process: starting it, exchanging messages with it, watching it, and terminating it.

The child is a tree of processes: the supervisor, which the parent starts and which outlives the others; the worker,
which the supervisor forks and the parent communicates with; and all processes that the model starts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from airflow_batchexec.engine.predictor.memory import MemoryWatch, process_tree
from airflow_batchexec.engine.predictor.spec import link_tree, predictor_environment
from airflow_batchexec.engine.standalone import supervisor
from airflow_batchexec.engine.storage.disk import disk_errors
from airflow_batchexec.exceptions import ModelLoadError, PodMemoryError

if TYPE_CHECKING:
    from airflow_batchexec.engine.predictor.spec import PredictorSpec

__all__ = ["GRACE_SECONDS", "ChildProcess", "DeadlineExceeded"]

#: How long a process may take to exit before the next, stronger means is used.
GRACE_SECONDS = 2.0

_SUPERVISOR = supervisor.__file__
_POLL_SECONDS = 0.1


class DeadlineExceeded(Exception):  # noqa: N818  a signal to the caller, who knows which timeout it was
    """The deadline of a request passed; the predictor was terminated."""


class ChildProcess:
    """The processes of one predictor.

    Args:
        spec: What the predictor runs, and with which resources.
        name: The predictor's name, for messages.
    """

    def __init__(self, *, spec: PredictorSpec, name: str) -> None:
        self._spec = spec
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._lifeline = -1
        self._watch: MemoryWatch | None = None

    def start(self) -> None:
        """Create the working folder and start the supervisor.

        Raises:
            ModelLoadError: The interpreter cannot be started.
            StorageError: The working folder cannot be created.
        """
        spec = self._spec
        work = spec.scratch / "work"
        with disk_errors("prepare the pod in", str(spec.scratch)):
            link_tree(spec.folder, work)
            (spec.scratch / "tmp").mkdir()
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        interpreter = spec.interpreter or sys.executable
        fds = (theirs.fileno(), lifeline)
        arguments = (*map(str, fds), str(spec.scratch), str(os.getpid()))
        try:
            self._process = subprocess.Popen(
                [interpreter, "-I", "-B", "-u", _SUPERVISOR, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=work,
                env=predictor_environment(spec, interpreter),
                pass_fds=fds,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise ModelLoadError(
                f"Cannot start the build's interpreter {interpreter}: {error.strerror}."
            ) from error
        finally:
            theirs.close()
            os.close(lifeline)
        self._connection = ours
        self._watch = MemoryWatch(pid=self._process.pid, limit_bytes=spec.instance.memory_bytes)

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not exited."""
        return self._process is not None and self._process.poll() is None

    @property
    def outputs(self) -> dict[str, IO[bytes]]:
        """The started process's ``stdout`` and ``stderr``."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        return {"stdout": self._process.stdout, "stderr": self._process.stderr}

    def send(self, request: dict[str, Any]) -> None:
        """Send a request to the worker.

        Args:
            request: The request, see ``engine/standalone/worker.py``.

        Raises:
            OSError: The connection broke.
        """
        assert self._connection is not None
        data = json.dumps(request).encode()
        self._connection.sendall(struct.pack(">I", len(data)) + data)

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
        instance = self._spec.instance
        raise PodMemoryError(
            f"The pod {self._name} used {used_bytes / 2**30:.2f} GiB of memory, more than its instance {instance.name} "
            f"has ({instance.memory_bytes / 2**30:.2f} GiB). Use a larger instance, or split the input into smaller "
            f"files.",
            used_bytes=used_bytes,
        )

    def describe_exit(self) -> str:
        """Describe how the process ended, after its connection broke, as the end of a sentence."""
        assert self._process is not None
        if not _has_exited(self._process, within_seconds=GRACE_SECONDS):
            return "closed its connection"
        status = self._process.returncode
        if status >= 0:
            return f"exited with status {status}: the model, or a library it uses, ended the process"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        hint = " (often because the machine ran out of memory)" if -status == signal.SIGKILL else ""
        return f"was killed by {name}{hint}"

    def shut_down(self) -> None:
        """Close the connection of an idle worker, which then exits, and wait for the process to exit."""
        if self._process is None or self._connection is None:
            return
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        _has_exited(self._process, within_seconds=GRACE_SECONDS)

    def terminate(self) -> None:
        """Terminate all processes, by SIGTERM, then SIGKILL. May be called twice, or before the start."""
        if self._process is None:
            return
        if not _has_exited(self._process, within_seconds=0):
            _signal_group(self._process.pid, signal.SIGTERM)
        if not _has_exited(self._process, within_seconds=GRACE_SECONDS):
            self._cut_lifeline()
        if not _has_exited(self._process, within_seconds=GRACE_SECONDS):
            for process in process_tree(self._process.pid):
                process.kill()
        # A supervisor that was itself killed has not terminated the others.
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Close the parent's file descriptors, except for the outputs."""
        if self._connection is not None:
            self._connection.close()
        self._cut_lifeline()

    def _cut_lifeline(self) -> None:
        """Have the supervisor kill the worker."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

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
        assert self._process is not None
        while True:
            remaining = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if _is_readable(connection, within_seconds=max(0.0, min(remaining, _POLL_SECONDS))):
                return
            # A process that the model started may keep the connection open.
            if self._process.poll() is not None and not _is_readable(connection, within_seconds=0):
                raise ConnectionResetError
            self.check_memory()
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceeded


def _is_readable(connection: socket.socket, *, within_seconds: float) -> bool:
    # Not select, which cannot handle descriptors above 1023.
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(math.ceil(within_seconds * 1000)))


def _has_exited(process: subprocess.Popen[bytes], *, within_seconds: float) -> bool:
    try:
        process.wait(timeout=within_seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
