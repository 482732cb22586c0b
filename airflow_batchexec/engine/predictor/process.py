"""The parent's side of a pod: starts it, asks it, watches it, and ends it.

A pod is a tree of processes: the supervisor, which this starts and which outlives no end of the others; the worker,
which the supervisor forks and this speaks with; and whatever the model starts.

Whatever happens in the pod ends in an answer or in one clear error here: a hang (also inside C code) by the deadline
that each request carries, too much memory by a watch over the pod's process tree, an exit or a kill by the end of the
process. After an error that is a ``PodError``, a deadline or a cancel, no process of the pod is left.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.predictor.memory import MemoryWatch, process_tree
from airflow_batchexec.engine.predictor.output import LineForwarder
from airflow_batchexec.engine.predictor.spec import link_tree, pod_environment
from airflow_batchexec.engine.standalone import supervisor
from airflow_batchexec.engine.storage.disk import disk_errors
from airflow_batchexec.exceptions import (
    DiskFullError,
    FileTaskError,
    InputFileError,
    ModelLoadError,
    PodDiedError,
    PodMemoryError,
    PredictError,
    ResultError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from airflow_batchexec.engine.config.instances import Instance
    from airflow_batchexec.engine.predictor.spec import PodSpec
    from airflow_batchexec.engine.standalone.file_types import FileType
    from airflow_batchexec.exceptions import BatchExecError

__all__ = ["Answer", "DeadlineExceeded", "Pod"]

_SUPERVISOR = supervisor.__file__
_WATCH_SECONDS = 0.1
_GRACE_SECONDS = 2.0
_ERRORS: dict[str, type[BatchExecError]] = {
    "load": ModelLoadError,
    "input": InputFileError,
    "predict": PredictError,
    "result": ResultError,
    "memory": PodMemoryError,
    "disk_full": DiskFullError,
    "write": StorageError,
    "internal": FileTaskError,
}


class DeadlineExceeded(Exception):  # noqa: N818  a signal to the caller, who knows which timeout it was
    """The deadline of a request passed; the pod has been ended."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a pod says of one predicted file.

    Attributes:
        rows_in: Rows read.
        rows_out: Rows written.
        seconds: ``read``, ``predict`` and ``write``.
        peak_memory_bytes: The most memory the pod's process has used so far.
    """

    rows_in: int
    rows_out: int
    seconds: dict[str, float]
    peak_memory_bytes: int


class Pod:
    """One predictor process. Used by one thread, which also closes it; only :meth:`end` may be called from another.

    Args:
        spec: What it is made of.
        name: How logs and records call it.
        on_line: Is given what the model prints, as (stream, line), from threads of the pod's own or from the pod's
            user's; never two lines of one stream at once.

    Attributes:
        file: The file that it predicts, or has predicted last; empty until the first. What is passed to ``on_line``
            was printed for that file.
    """

    def __init__(self, *, spec: PodSpec, name: str, on_line: Callable[[str, str], None]) -> None:
        self.spec = spec
        self.name = name
        self.load_seconds = 0.0
        self.file = ""
        self._on_line = on_line
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._lifeline = -1
        self._forwarders: list[LineForwarder] = []
        self._watch: MemoryWatch | None = None
        self._ended_by: BatchExecError | None = None
        # Reentrant: a signal handler may end the pod while its own thread is ending it.
        self._lock = threading.RLock()

    def start(self, *, deadline: float | None = None) -> None:
        """Start the process and load the build.

        Args:
            deadline: When to give up, on ``time.monotonic``'s clock; ``load_timeout_seconds`` applies as well.

        Raises:
            ModelLoadError: The interpreter is missing, or the build does not load in time or at all.
            PodMemoryError: Loading took more memory than the instance has.
            PodDiedError: The process ended while it loaded.
            DeadlineExceeded: The caller's deadline passed.
        """
        spec = self.spec
        self._spawn()
        limit = time.monotonic() + spec.load_timeout_seconds
        request = {
            "op": "load",
            "kind": spec.kind,
            "folder": str(spec.folder),
            "entrypoint": spec.entrypoint,
            "requirements": list(spec.requirements),
            "threads": spec.threads,
        }
        try:
            answer = self._ask(request, deadline=limit if deadline is None else min(limit, deadline))
        except DeadlineExceeded:
            if deadline is not None and deadline <= limit:
                raise
            raise ModelLoadError(
                f"The build did not load within {spec.load_timeout_seconds:g} s ({spec.folder})."
            ) from None
        finally:
            self._end_output()
        if not answer["ok"]:
            error = _error(answer, prefix="The build does not load: ")
            self.end(error)
            raise error
        self.load_seconds = answer["seconds"]

    def predict(
        self,
        *,
        input_path: Path,
        input_name: str,
        input_type: FileType,
        output_path: Path,
        output_type: FileType,
        deadline: float | None = None,
    ) -> Answer:
        """Send one file through ``predict``.

        The pod stays usable after an error that is no ``PodError``.

        Args:
            input_path: The file to read.
            input_name: Its name in the source folder, for messages and its suffix.
            input_type: How to read it.
            output_path: The file to write. After an error it may be there in part.
            output_type: How to write it.
            deadline: When to end the pod, on ``time.monotonic``'s clock.

        Raises:
            InputFileError: The file is not of its type.
            PredictError: ``predict`` raised.
            ResultError: What it returned is no result.
            DiskFullError: There was no room for the result.
            PodMemoryError: The pod used more memory than its instance has.
            PodDiedError: The pod ended.
            DeadlineExceeded: The deadline passed; the pod has been ended.
        """
        # What a thread of the model has printed since the last file.
        self._end_output()
        self.file = input_name
        request = {
            "op": "predict",
            "input": str(input_path),
            "input_name": input_name,
            "input_type": input_type.value,
            "output": str(output_path),
            "output_type": output_type.value,
        }
        try:
            answer = self._ask(request, deadline=deadline)
        finally:
            self._end_output()
        if not answer["ok"]:
            error = _error(answer, prefix=f"{input_name}: ", file=input_name)
            if isinstance(error, PodMemoryError):
                self.end(error)
            raise error
        return Answer(answer["rows_in"], answer["rows_out"], answer["seconds"], answer["peak_memory_bytes"])

    @property
    def alive(self) -> bool:
        """Whether it can take another file."""
        return self._process is not None and self._ended_by is None and self._process.poll() is None

    def close(self) -> None:
        """Let an idle pod end by itself, at once; end it where it does not. Nothing of it is left afterwards."""
        if self.alive and self._process is not None and self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_GRACE_SECONDS)
        self.end()
        self._clean_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def end(self, reason: BatchExecError | None = None) -> None:
        """End every process of the pod, by SIGTERM, then SIGKILL; may be called from any thread, and twice.

        Whatever the model has started ends with it, also what has left the process group.

        Args:
            reason: What a request that is under way raises in its own thread.
        """
        with self._lock:
            if self._ended_by is None:
                self._ended_by = reason or PodDiedError(f"The pod {self.name} has been ended.")
            if self._process is None:
                return
            if not _has_ended(self._process, within_seconds=0):
                _signal_group(self._process.pid, signal.SIGTERM)
            if not _has_ended(self._process, within_seconds=_GRACE_SECONDS):
                self._cut_lifeline()
            if not _has_ended(self._process, within_seconds=_GRACE_SECONDS):
                for process in process_tree(self._process.pid):
                    process.kill()
            # A supervisor that was itself killed has ended nothing.
            _signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _cut_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _spawn(self) -> None:
        spec = self.spec
        work = spec.scratch / "work"
        with disk_errors("prepare the pod in", str(spec.scratch)):
            link_tree(spec.folder, work)
            (spec.scratch / "tmp").mkdir()
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        interpreter = spec.interpreter or sys.executable
        fds = (theirs.fileno(), lifeline)
        try:
            self._process = subprocess.Popen(
                [
                    interpreter,
                    "-I",
                    "-B",
                    "-u",
                    _SUPERVISOR,
                    *map(str, fds),
                    str(spec.scratch),
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=work,
                env=pod_environment(spec, interpreter),
                pass_fds=fds,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise ModelLoadError(
                f"The build's interpreter {interpreter} cannot be started: {error.strerror}."
            ) from error
        finally:
            theirs.close()
            os.close(lifeline)
        self._connection = ours
        self._watch = MemoryWatch(pid=self._process.pid, limit_bytes=spec.instance.memory_bytes)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._forwarders = [
            LineForwarder(stream=self._process.stdout, name="stdout", on_line=self._on_line),
            LineForwarder(stream=self._process.stderr, name="stderr", on_line=self._on_line),
        ]

    def _end_output(self) -> None:
        """Pass on what the model has printed for the file.

        The worker flushes before it answers, and prints nothing until it is asked again: what is in the pipes by then
        is the file's, and all of it.
        """
        for forwarder in self._forwarders:
            forwarder.end_file()

    def _ask(self, request: dict[str, Any], *, deadline: float | None) -> dict[str, Any]:
        connection = self._connection
        if self._ended_by is not None:
            # It may have been ended from another thread while it was being started.
            self.end()
            raise self._ended_by
        assert connection is not None
        data = json.dumps(request).encode()
        try:
            connection.sendall(struct.pack(">I", len(data)) + data)
            size = struct.unpack(">I", self._receive(connection, 4, deadline))[0]
            answer: dict[str, Any] = json.loads(self._receive(connection, size, deadline))
        except (OSError, ValueError):
            raise self._death() from None
        return answer

    def _receive(self, connection: socket.socket, size: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(connection, deadline)
            piece = connection.recv(size - len(data))
            if not piece:
                raise self._death()
            data += piece
        return bytes(data)

    def _wait(self, connection: socket.socket, deadline: float | None) -> None:
        """Return when the connection can be read; meanwhile watch the process, its memory and the clock."""
        assert self._process is not None
        assert self._watch is not None
        while True:
            remaining = _WATCH_SECONDS if deadline is None else deadline - time.monotonic()
            if _is_readable(connection, within_seconds=max(0.0, min(remaining, _WATCH_SECONDS))):
                return
            if self._process.poll() is not None and not _is_readable(connection, within_seconds=0):
                # A process that the pod has started may hold the connection open.
                raise self._death()
            used = self._watch.excess_bytes()
            if used:
                error = _memory_error(self.name, used, self.spec.instance)
                self.end(error)
                raise error
            if deadline is not None and time.monotonic() >= deadline:
                self.end()
                raise DeadlineExceeded

    def _death(self) -> BatchExecError:
        """Why the connection broke: what we did to the pod, else how its process ended."""
        if self._ended_by is not None:
            return self._ended_by
        assert self._process is not None
        try:
            status = self._process.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            error = PodDiedError(f"The pod {self.name} closed its connection.")
        else:
            error = PodDiedError(f"The pod {self.name} {_ending(status)}.")
        self.end(error)
        return error

    def _clean_up(self) -> None:
        """Release what the parent holds; the pod's processes are gone."""
        for forwarder in self._forwarders:
            forwarder.join(_GRACE_SECONDS)
        if self._connection is not None:
            self._connection.close()
        self._cut_lifeline()
        shutil.rmtree(self.spec.scratch, ignore_errors=True)


def _is_readable(connection: socket.socket, *, within_seconds: float) -> bool:
    # Not select: it takes no descriptor above 1023.
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(math.ceil(within_seconds * 1000)))


def _has_ended(process: subprocess.Popen[bytes], *, within_seconds: float) -> bool:
    try:
        process.wait(timeout=within_seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _memory_error(pod: str, used_bytes: int, instance: Instance) -> PodMemoryError:
    return PodMemoryError(
        f"The pod {pod} used {used_bytes / 2**30:.2f} GiB of memory, more than its instance {instance.name} has "
        f"({instance.memory_bytes / 2**30:.2f} GiB). Take a larger instance, or split the input into smaller files.",
        used_bytes=used_bytes,
    )


def _error(answer: dict[str, Any], *, prefix: str, **details: Any) -> BatchExecError:
    # What the reader says begins with the file's name as well.
    message = answer["message"].rstrip().removeprefix(f"{details.get('file')} ")
    kind = _ERRORS[answer["error"]]
    return kind(
        f"{prefix}{message}{'' if message.endswith('.') else '.'}", traceback=answer["traceback"], **details
    )


def _ending(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}: the model, or a library it uses, ended the process"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    hint = " (often because the machine ran out of memory)" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
