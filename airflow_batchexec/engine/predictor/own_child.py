"""A predictor that ends with the process that starts it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from typing import IO, TYPE_CHECKING

from airflow_batchexec.engine.predictor.child import GRACE_SECONDS, Child, encode, how_it_ended
from airflow_batchexec.engine.predictor.launch import launch
from airflow_batchexec.engine.predictor.memory import MemoryWatch, process_tree

if TYPE_CHECKING:
    from airflow_batchexec.engine.predictor.spec import PredictorSpec

__all__ = ["OwnChild"]


class OwnChild(Child):
    """The processes of a predictor that belongs to this process.

    Args:
        spec: What the predictor runs, and with which resources.
        name: The predictor's name, for messages.
    """

    def __init__(self, *, spec: PredictorSpec, name: str) -> None:
        super().__init__(name=name, instance=spec.instance)
        self._spec = spec
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1

    def start(self, *, deadline: float) -> None:  # noqa: ARG002  nothing here takes long
        """Create the working folder, start the supervisor, and request loading the build."""
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = launch(
                self._spec,
                ("own", theirs.fileno(), lifeline, self._spec.scratch, os.getpid()),
                fds=(theirs.fileno(), lifeline),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        self._connection = ours
        self._watch = MemoryWatch(pid=self._process.pid, limit_bytes=self._instance.memory_bytes)
        # If the process has exited, the wait for the response finds out how.
        with contextlib.suppress(OSError):
            ours.sendall(encode(self._spec.load_request()))

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

    def loaded(self, seconds: float) -> None:
        """Note that the build was loaded."""
        self.load_seconds = seconds

    def describe_exit(self) -> str:
        """Describe how the process ended, after its connection broke, as the end of a sentence."""
        assert self._process is not None
        if not _has_exited(self._process, within_seconds=GRACE_SECONDS):
            return "closed its connection"
        return how_it_ended(self._process.returncode)

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
        """Close this side's file descriptors, except for the outputs, and remove the scratch folder."""
        if self._connection is not None:
            self._connection.close()
        self._cut_lifeline()
        shutil.rmtree(self._spec.scratch, ignore_errors=True)

    def _cut_lifeline(self) -> None:
        """Have the supervisor kill the worker."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _has_exited(process: subprocess.Popen[bytes], *, within_seconds: float) -> bool:
    try:
        process.wait(timeout=within_seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
