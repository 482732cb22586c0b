"""A predictor that processes on this machine share, one after the other."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from typing import IO, TYPE_CHECKING

from airflow_batchexec.engine.machine.leftovers import kill_processes_at_home
from airflow_batchexec.engine.machine.pod_folder import short_path
from airflow_batchexec.engine.predictor.child import (
    GRACE_SECONDS,
    Child,
    DeadlineExceeded,
    encode,
    how_it_ended,
    is_readable,
)
from airflow_batchexec.engine.predictor.launch import launch
from airflow_batchexec.engine.predictor.memory import MemoryWatch, process_tree
from airflow_batchexec.engine.storage.disk import disk_errors
from airflow_batchexec.exceptions import ModelLoadError

if TYPE_CHECKING:
    import subprocess

    from airflow_batchexec.engine.machine.pods import ClaimedPod
    from airflow_batchexec.engine.predictor.spec import PredictorSpec

__all__ = ["LaunchedPod", "SharedChild", "launch_shared"]

_MAX_PACKET_BYTES = 4096
_MAX_STDERR_BYTES = 4096
_POLL_SECONDS = 0.1
_OUTPUTS = ("stdout", "stderr")


class SharedChild(Child):
    """The processes of a pod that this process has claimed. Unless they are terminated, they are left to the next user.

    The messages are those of ``engine/standalone/shared_supervisor.py``.

    Args:
        spec: What the predictor runs; for a pod that exists, only its instance matters.
        name: The predictor's name, for messages.
        pod: The claimed pod; released by :meth:`close`.
        idle_seconds: After how many seconds without a user a new pod ends.
    """

    is_shared = True

    def __init__(self, *, spec: PredictorSpec, name: str, pod: ClaimedPod, idle_seconds: float) -> None:
        super().__init__(name=name, instance=spec.instance)
        self._spec = spec
        self._pod = pod
        self._idle_seconds = idle_seconds
        self._launched: LaunchedPod | None = None
        self._control: socket.socket | None = None
        self._outputs: dict[str, IO[bytes]] = {}
        self._supervisor = 0
        self._has_ended = False
        self._exit: int | None = None

    def start(self, *, deadline: float) -> None:
        """Connect to the pod; start it before, if it is new."""
        if self._pod.is_new:
            self._launched = launch_shared(self._spec, self._pod, idle_seconds=self._idle_seconds)
        try:
            self._control = control = self._pod.folder.connect()
            while not is_readable(control, within_seconds=_POLL_SECONDS):
                if time.monotonic() >= deadline:
                    raise DeadlineExceeded
            # Three descriptors, in this order: the worker's connection and its outputs.
            hello, fds, _, _ = socket.recv_fds(control, _MAX_PACKET_BYTES, 3)
            if not hello:
                raise ConnectionResetError
        except OSError:
            self._has_ended = True
            if self._launched is not None:
                raise self._launched.error() from None
            raise
        connection, *outputs = fds
        self._connection = socket.socket(fileno=connection)
        self._outputs = {name: os.fdopen(fd, "rb") for name, fd in zip(_OUTPUTS, outputs, strict=True)}
        state = json.loads(hello.removeprefix(b"hello "))
        self._supervisor = state["pid"]
        self.load_seconds = state["load_seconds"]
        self._watch = MemoryWatch(pid=self._supervisor, limit_bytes=self._instance.memory_bytes)

    @property
    def is_running(self) -> bool:
        """Whether the pod was started and has not ended."""
        if self._control is None or self._has_ended:
            return False
        self._read_messages(within_seconds=0)
        return not self._has_ended

    @property
    def outputs(self) -> dict[str, IO[bytes]]:
        """The pod's ``stdout`` and ``stderr``."""
        return self._outputs

    def loaded(self, seconds: float) -> None:
        """Tell the next users that the build was loaded."""
        self.load_seconds = seconds
        self._tell(f"loaded {seconds:.6f}")

    def describe_exit(self) -> str:
        """Describe how the worker ended, after its connection broke, as the end of a sentence."""
        self._read_messages(within_seconds=GRACE_SECONDS)
        if self._exit is not None:
            return how_it_ended(self._exit)
        return "lost its supervisor, which was killed"

    def shut_down(self) -> None:
        """Leave the idle pod to the next user."""
        # First, so that a signal handler that calls terminate() meanwhile does not end a pod that another has taken.
        control, self._control = self._control, None
        if control is not None:
            with control, contextlib.suppress(OSError):
                control.send(b"release")

    def terminate(self) -> None:
        """Terminate all processes of the pod; it ends even if this process is killed meanwhile."""
        control = self._control
        if control is None:
            return
        if not self._has_ended:
            self._tell("terminate")
            self._read_messages(within_seconds=GRACE_SECONDS)
        if not self._has_ended:
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_WR)
            self._read_messages(within_seconds=GRACE_SECONDS)
        if not self._has_ended:
            for process in process_tree(self._supervisor):
                process.kill()
            self._read_messages(within_seconds=GRACE_SECONDS)
        if self._exit is None:
            # A supervisor that was itself killed has not terminated the others.
            kill_processes_at_home(self._pod.folder.scratch)
        self._close_control()

    def close(self) -> None:
        """Close this side's file descriptors, except for the outputs, and release the pod."""
        self._close_control()
        if self._connection is not None:
            self._connection.close()
        if self._launched is not None:
            self._launched.close()
        self._pod.release()

    def _tell(self, message: str) -> None:
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(message.encode())

    def _read_messages(self, *, within_seconds: float) -> None:
        """Read what the supervisor has to say until it ends, for at most this long."""
        control = self._control
        limit = time.monotonic() + within_seconds
        while control is not None and not self._has_ended:
            if not is_readable(control, within_seconds=max(0.0, limit - time.monotonic())):
                return
            try:
                kind, _, value = control.recv(_MAX_PACKET_BYTES).partition(b" ")
            except OSError:
                kind = b""
            if kind == b"exited":
                self._exit = int(value)
            else:
                self._has_ended = True

    def _close_control(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.close()


class LaunchedPod:
    """The start of a pod's processes.

    Args:
        interpreter: The interpreter, for messages.
        process: Exits as soon as the pod runs on its own.
        stderr: What its start prints.
    """

    def __init__(self, interpreter: str, process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
        self._interpreter = interpreter
        self._process = process
        self._stderr = stderr

    def error(self) -> ModelLoadError:
        """Why the pod does not run, after its socket was closed."""
        self._process.wait()
        # No other process has the pipe any more.
        output = self._stderr.read(_MAX_STDERR_BYTES).decode(errors="replace")
        status = self._process.returncode
        return ModelLoadError(
            f"The build's interpreter {self._interpreter} cannot run the pod: it exited with status {status}.",
            traceback=output,
        )

    def close(self) -> None:
        """Wait until the pod runs on its own."""
        self._process.wait()
        self._stderr.close()


def launch_shared(spec: PredictorSpec, pod: ClaimedPod, *, idle_seconds: float) -> LaunchedPod:
    """Start a new pod, which begins to load its build. No process owns it.

    Args:
        spec: What the predictor runs, and with which resources.
        pod: The claimed pod.
        idle_seconds: After how many seconds without a user it ends.

    Raises:
        ModelLoadError: The interpreter cannot be started.
        StorageError: The working folder or the socket cannot be created.
    """
    folder, alive = pod.folder, pod.alive
    assert alive is not None
    with disk_errors("start a pod in", str(folder.path)), contextlib.ExitStack() as stack:
        client, worker = map(stack.enter_context, socket.socketpair())
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        with short_path(folder.path) as path:
            listener.bind(f"{path}/{folder.address.name}")
        listener.listen()
        client.sendall(encode(spec.load_request()))
        pipes = [_open_pipe(stack) for _ in _OUTPUTS]
        readers = [reader.fileno() for reader, _ in pipes]
        fds = (worker.fileno(), client.fileno(), *readers, listener.fileno(), alive)
        process = launch(
            spec,
            ("shared", *fds, folder.path, idle_seconds),
            fds=fds,
            stdout=pipes[0][1],
            stderr=pipes[1][1],
        )
        pod.supervised()
        return LaunchedPod(spec.interpreter or sys.executable, process, os.fdopen(os.dup(readers[1]), "rb"))


def _open_pipe(stack: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    reader, writer = os.pipe()
    return stack.enter_context(os.fdopen(reader, "rb")), stack.enter_context(os.fdopen(writer, "wb"))
