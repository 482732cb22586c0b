"""The parent's side of a predictor: starts it, sends it files, and ends it.

Every failure of a predictor becomes one exception here. A hang, even in C code, ends at the request's deadline;
excessive memory use is detected by watching the process tree, and an exit or a kill by the broken connection. After a
``PodError``, a deadline or a cancellation, no process of the predictor is left.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.predictor.child import GRACE_SECONDS, DeadlineExceeded
from airflow_batchexec.engine.predictor.output import LineForwarder
from airflow_batchexec.engine.predictor.own_child import OwnChild
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

    from airflow_batchexec.engine.predictor.child import Child
    from airflow_batchexec.engine.predictor.spec import PredictorSpec
    from airflow_batchexec.engine.standalone.file_types import FileType
    from airflow_batchexec.exceptions import BatchExecError

__all__ = ["Prediction", "Predictor"]

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


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a predictor reports about one predicted file.

    Attributes:
        rows_in: Rows read.
        rows_out: Rows written.
        seconds: Durations of ``read``, ``predict`` and ``write``.
        peak_memory_bytes: The peak memory use of the worker process so far.
    """

    rows_in: int
    rows_out: int
    seconds: dict[str, float]
    peak_memory_bytes: int


class Predictor:
    """One predictor process. Not thread-safe: a single thread uses and closes it; others may only call :meth:`end`.

    Args:
        spec: What the predictor runs, and with which resources.
        name: Its name in logs and records.
        on_line: Receives what the model prints, as (stream, line), from the predictor's own threads or its user's;
            never concurrently for the same stream.
        child: Its processes; by default new ones that end with this process.

    Attributes:
        file: The file being predicted, or predicted last; empty before the first. Lines passed to ``on_line`` belong
            to this file.
    """

    def __init__(
        self,
        *,
        spec: PredictorSpec,
        name: str,
        on_line: Callable[[str, str], None],
        child: Child | None = None,
    ) -> None:
        self.spec = spec
        self.name = name
        self.load_seconds = 0.0
        self.file = ""
        self._on_line = on_line
        self._child = child or OwnChild(spec=spec, name=name)
        self._forwarders: list[LineForwarder] = []
        self._ended_by: BatchExecError | None = None
        # Whether a response is outstanding, so that the worker is not idle.
        self._is_waiting = False
        # Reentrant: a signal handler may call end() while the same thread is in it.
        self._lock = threading.RLock()

    def start(self, *, deadline: float | None = None) -> None:
        """Start the process and load the build.

        Args:
            deadline: When to give up, on ``time.monotonic``'s clock; ``load_timeout_seconds`` applies as well.

        Raises:
            ModelLoadError: The interpreter is missing, or the build failed to load, or did not load in time.
            PodMemoryError: Loading used more memory than the instance has.
            PodDiedError: The process exited while loading.
            DeadlineExceeded: The caller's deadline passed.
            StorageError: The scratch folder cannot be prepared.
        """
        limit = time.monotonic() + self.spec.load_timeout_seconds
        try:
            self._child.start(deadline=limit if deadline is None else min(limit, deadline))
            self._forwarders = [
                LineForwarder(stream=stream, name=name, on_line=self._on_line)
                for name, stream in self._child.outputs.items()
            ]
            self._check_not_ended()
            if self._child.load_seconds is None:
                self._wait_until_loaded(deadline=limit if deadline is None else min(limit, deadline))
        except DeadlineExceeded:
            self.end()
            if deadline is not None and deadline <= limit:
                raise
            raise ModelLoadError(
                f"The build did not load within {self.spec.load_timeout_seconds:g} s ({self.spec.folder})."
            ) from None

    def _wait_until_loaded(self, *, deadline: float) -> None:
        try:
            response = self._receive(deadline=deadline)
        finally:
            self._end_output()
        if not response["ok"]:
            error = _error_from_response(response, prefix="The build failed to load: ")
            self.end(error)
            raise error
        try:
            # It may have loaded faster than its memory is watched.
            self._child.check_memory()
        except PodMemoryError as error:
            self.end(error)
            raise
        self.load_seconds = response["seconds"]
        self._child.loaded(self.load_seconds)

    def send(
        self,
        *,
        input_path: Path,
        input_name: str,
        input_type: FileType,
        output_path: Path,
        output_type: FileType,
    ) -> None:
        """Send one file to be predicted; call :meth:`receive` before the next.

        Args:
            input_path: The file to read.
            input_name: Its name in the source folder, used in messages and for its suffix.
            input_type: The type to read it as.
            output_path: The file to write. After an error it may exist in part.
            output_type: The type to write.

        Raises:
            PodDiedError: The process exited.
        """
        # The model's threads may have printed something since the last file.
        self._end_output()
        self.file = input_name
        self._send(
            {
                "op": "predict",
                "input": str(input_path),
                "input_name": input_name,
                "input_type": input_type.value,
                "output": str(output_path),
                "output_type": output_type.value,
            }
        )

    def receive(self, *, deadline: float | None = None) -> Prediction:
        """Wait until the file that was sent last has been predicted.

        After an error other than a ``PodError``, the predictor can take another file.

        Args:
            deadline: When to terminate the predictor, on ``time.monotonic``'s clock.

        Raises:
            InputFileError: The file is not a valid file of its type.
            PredictError: ``predict`` raised.
            ResultError: The return value of ``predict`` is not a valid result.
            DiskFullError: There is not enough disk space for the result.
            PodMemoryError: The predictor used more memory than its instance has.
            PodDiedError: The process exited.
            DeadlineExceeded: The deadline passed; the predictor was terminated.
        """
        try:
            response = self._receive(deadline=deadline)
        finally:
            self._end_output()
        if not response["ok"]:
            error = _error_from_response(response, prefix=f"{self.file}: ", file=self.file)
            if isinstance(error, PodMemoryError):
                self.end(error)
            raise error
        return Prediction(
            rows_in=response["rows_in"],
            rows_out=response["rows_out"],
            seconds=response["seconds"],
            peak_memory_bytes=response["peak_memory_bytes"],
        )

    @property
    def alive(self) -> bool:
        """Whether it can take another file."""
        return self._ended_by is None and self._child.is_running

    def close(self) -> None:
        """Let an idle predictor exit by itself, or leave a shared one to others; terminate any other.

        Releases all resources.
        """
        if self._child.is_shared:
            for forwarder in self._forwarders:
                # The next user reads what is printed from now on.
                forwarder.stop()
        with self._lock:
            is_idle = self.alive and not self._is_waiting
            if is_idle:
                self._child.shut_down()
            if not (is_idle and self._child.is_shared):
                self.end()
        for forwarder in self._forwarders:
            forwarder.join(GRACE_SECONDS)
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def end(self, reason: BatchExecError | None = None) -> None:
        """Terminate all processes of the predictor. May be called from any thread, and more than once.

        This includes every process that the model started, even outside of the process group.

        Args:
            reason: The exception that a pending request raises in its own thread.
        """
        with self._lock:
            if self._ended_by is None:
                self._ended_by = reason or PodDiedError(f"The pod {self.name} was terminated.")
            self._child.terminate()

    def _end_output(self) -> None:
        """Pass on what the model has printed for the current file.

        The worker flushes before it responds, and prints nothing until the next request: whatever is in the pipes now
        is the complete output of this file.
        """
        for forwarder in self._forwarders:
            forwarder.end_file()

    def _send(self, request: dict[str, Any]) -> None:
        self._check_not_ended()
        self._is_waiting = True
        try:
            self._child.send(request)
        except OSError:
            raise self._connection_error() from None

    def _receive(self, *, deadline: float | None) -> dict[str, Any]:
        self._check_not_ended()
        self._is_waiting = True
        try:
            response = self._child.receive(deadline=deadline)
        except DeadlineExceeded:
            self.end()
            raise
        except PodMemoryError as error:
            self.end(error)
            raise
        except (OSError, ValueError):
            raise self._connection_error() from None
        self._is_waiting = False
        return response

    def _check_not_ended(self) -> None:
        if self._ended_by is not None:
            # Another thread may have called end() before the process was started.
            self.end()
            raise self._ended_by

    def _connection_error(self) -> BatchExecError:
        """Return why the connection broke: the reason passed to :meth:`end`, or how the process exited."""
        if self._ended_by is not None:
            return self._ended_by
        error = PodDiedError(f"The pod {self.name} {self._child.describe_exit()}.")
        self.end(error)
        return error


def _error_from_response(response: dict[str, Any], *, prefix: str, **details: Any) -> BatchExecError:
    # Messages about the input start with the file's name, as does the prefix.
    message = response["message"].rstrip().removeprefix(f"{details.get('file')} ")
    cls = _ERRORS[response["error"]]
    return cls(
        f"{prefix}{message}{'' if message.endswith('.') else '.'}", traceback=response["traceback"], **details
    )
