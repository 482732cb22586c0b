"""The worker process: loads one build, then predicts file after file until the parent closes the connection.

Requests and responses share an inherited socket: a length of four bytes (big endian), then a JSON object.

======== ================================================================ =============================================
request  its fields                                                       the response's fields
======== ================================================================ =============================================
load     kind, folder, entrypoint, requirements, threads                  seconds
predict  input, input_name, input_type, output, output_type               rows_in, rows_out, seconds, peak_memory_bytes
======== ================================================================ =============================================

A response has ``"ok": true``, or ``"ok": false`` with ``error`` (what failed: load, input, predict, result, memory,
disk_full, write, internal), ``message`` and ``traceback``. The ``seconds`` of a predict response are
``{"read", "predict", "write"}``.
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import resource
import socket
import struct
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .file_types import FileType
from .reading import UnreadableFileError, read_frame
from .results import InvalidResultError, as_result_frame
from .writing import UnwritableResultError, write_frame

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_MESSAGE_CHARACTERS = 4_000
_MAX_TRACEBACK_CHARACTERS = 40_000


class _RequestError(Exception):
    """A request failed with one of the protocol's error kinds; ``__cause__`` is the underlying exception."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Worker:
    """Handles requests: loads one build, then predicts files with it.

    Args:
        streams: The standard streams that the model prints to.
    """

    def __init__(self, *, streams: _StandardStreams) -> None:
        self._streams = streams
        self._predict: Callable[[Any], Any] | None = None
        self._threads = 1

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Handle one request; anything the model does short of ending the process becomes a response."""
        operations: dict[str, Callable[..., dict[str, Any]]] = {"load": self.load, "predict": self.predict}
        operation = operations[request.pop("op")]
        try:
            return {"ok": True, **operation(**request)}
        except _RequestError as error:
            cause = error.__cause__
            return _failure(error.kind, str(error), _model_traceback(cause) if cause else "")
        except Exception as error:  # noqa: BLE001  a file that hits a bug in the reader must not cost the predictor
            return _failure("internal", _describe(error), traceback.format_exc())

    def load(
        self, *, kind: str, folder: str, entrypoint: str | None, requirements: list[str], threads: int
    ) -> dict[str, Any]:
        """Import the build, instantiate its model and call ``initialize_model``."""
        started = time.perf_counter()
        self._threads = threads
        _check_requirements(requirements)
        _check_libraries()
        try:
            self._predict = (
                _load_mlflow(folder) if kind == "mlflow" else _load_entrypoint(folder, entrypoint or "")
            )
        except _RequestError:
            raise
        except BaseException as error:
            raise _RequestError("load", _describe(error)) from error
        self._streams.restore()
        _cap_arrow(threads)
        return {"seconds": time.perf_counter() - started}

    def predict(
        self,
        *,
        input: str,  # noqa: A002  named by the protocol
        input_name: str,
        input_type: str,
        output: str,
        output_type: str,
    ) -> dict[str, Any]:
        """Read one file, call ``predict`` on it once, and write the result."""
        assert self._predict is not None
        clock = time.perf_counter
        marks = [clock()]
        try:
            frame = read_frame(
                Path(input), FileType.parse(input_type), name=input_name, threads=self._threads
            )
        except UnreadableFileError as error:
            raise _RequestError("input", str(error)) from None
        except MemoryError as error:
            raise _RequestError("memory", f"not enough memory to read {input_name}") from error
        rows_in = len(frame)
        marks.append(clock())
        result = self._call(frame)
        self._streams.restore()
        del frame
        marks.append(clock())
        try:
            rows_out = self._write(result, output, output_type)
        except (InvalidResultError, UnwritableResultError) as error:
            raise _RequestError("result", str(error)) from None
        except MemoryError as error:
            raise _RequestError("memory", "not enough memory to write the result") from error
        except OSError as error:
            kind = "disk_full" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else "write"
            raise _RequestError(kind, f"the result cannot be written: {error.strerror or error}") from error
        marks.append(clock())
        return {
            "rows_in": rows_in,
            "rows_out": rows_out,
            "seconds": {name: marks[i + 1] - marks[i] for i, name in enumerate(("read", "predict", "write"))},
            "peak_memory_bytes": _peak_memory_bytes(),
        }

    def _call(self, frame: Any) -> Any:
        assert self._predict is not None
        try:
            return self._predict(frame)
        except MemoryError as error:
            raise _RequestError("memory", "predict ran out of memory") from error
        except SystemExit as error:
            raise _RequestError("predict", f"predict called sys.exit({error.code!r})") from error
        except BaseException as error:
            raise _RequestError("predict", _describe(error)) from error

    def _write(self, result: Any, output: str, output_type: str) -> int:
        frame = as_result_frame(result)
        write_frame(frame, Path(output), FileType.parse(output_type), threads=self._threads)
        return len(frame)


def _load_entrypoint(folder: str, entrypoint: str) -> Callable[[Any], Any]:
    """Import the entrypoint, a class, an object or a function, and return the callable that predicts."""
    module_name, _, attribute = entrypoint.partition(":")
    sys.path.insert(0, folder)
    target: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise _RequestError("load", f"module {module_name} has no attribute {attribute}") from None
    if inspect.isclass(target):
        target = target()
    elif inspect.isroutine(target):
        return target
    predict = getattr(target, "predict", None)
    if not callable(predict):
        raise _RequestError("load", f"{entrypoint} has no predict method")
    initialize = getattr(target, "initialize_model", None)
    if callable(initialize):
        initialize()
    return predict  # type: ignore[no-any-return]  # any callable


def _load_mlflow(folder: str) -> Callable[[Any], Any]:
    try:
        pyfunc = importlib.import_module("mlflow.pyfunc")
    except ModuleNotFoundError as error:
        raise _RequestError(
            "load",
            f"the build is an MLflow model, but {sys.executable} cannot import mlflow: install the extra [mlflow]",
        ) from error
    return pyfunc.load_model(folder).predict  # type: ignore[no-any-return]  # mlflow's own wrapper


def _check_requirements(requirements: list[str]) -> None:
    """Report all missing requirements at once; versions are compared if ``packaging`` is installed."""
    missing = []
    for text in requirements:
        name = re.split(r"[\s\[<>=!~;@(]", text.strip(), maxsplit=1)[0]
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(text)
            continue
        with suppress(ModuleNotFoundError):
            requirement = importlib.import_module("packaging.requirements").Requirement(text)
            if not requirement.specifier.contains(version, prereleases=True):
                missing.append(f"{text} (found {version})")
    if missing:
        raise _RequestError(
            "load", f"{sys.executable} does not meet the build's requirements: {', '.join(missing)}"
        )


def _cap_arrow(threads: int) -> None:
    """Cap Arrow's thread pools through its API; the other libraries read their caps from the environment."""
    pyarrow = importlib.import_module("pyarrow")
    pyarrow.set_cpu_count(threads)
    pyarrow.set_io_thread_count(max(1, threads))


def _failure(kind: str, message: str, trace: str) -> dict[str, Any]:
    """An error response, safe for logs and records: bounded in length, and without lone surrogates."""
    return {
        "ok": False,
        "error": kind,
        "message": _truncate(message, _MAX_MESSAGE_CHARACTERS),
        "traceback": _truncate(trace, _MAX_TRACEBACK_CHARACTERS),
    }


def _truncate(text: str, limit: int) -> str:
    """Cut out the middle: a traceback starts with where the error came from, and ends with what it was."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}\n… {len(text) - limit:,} characters omitted …\n{text[-limit // 2 :]}"
    return text.encode("utf-8", "replace").decode()


def _describe(error: BaseException) -> str:
    """The exception's type and message, as in the last line of a traceback."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  a model's exception may raise in its own __str__
        text = "(str() of this exception failed)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _model_traceback(error: BaseException) -> str:
    """The model's part of a traceback, without the worker's and importlib's frames at its head."""
    frames = error.__traceback__
    while frames is not None and _is_loader_file(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _is_loader_file(filename: str) -> bool:
    return filename in {__file__, importlib.__file__} or filename.startswith("<frozen importlib")


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


def _check_libraries() -> None:
    for name in ("pandas", "pyarrow"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise _RequestError(
                "load", f"{sys.executable} cannot import {name}, which every build needs: {error}"
            ) from error


def _peak_memory_bytes() -> int:
    """The peak memory use of this process, in bytes.

    Not ``ru_maxrss``, which a process inherits from the one that started it, even across ``exec``.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _StandardStreams:
    """The process's stdout and stderr, whatever the model does to them."""

    def __init__(self) -> None:
        self._copies = {fd: os.dup(fd) for fd in (1, 2)}

    def restore(self) -> None:
        """Reopen what a model has closed: otherwise the next opened file would get the descriptor, and the output."""
        for fd, copy in self._copies.items():
            try:
                os.fstat(fd)
            except OSError:
                os.dup2(copy, fd)

    def flush(self) -> None:
        """Flush Python's buffers, so that a file's output precedes its response; with -u, C's stdio has none."""
        for stream in (sys.stdout, sys.stderr):
            # A model may have closed the streams, or replaced them with any object.
            with suppress(Exception):
                stream.flush()


def main(connection_fd: int) -> None:
    """Handle requests until the parent closes the connection, then exit."""
    connection = socket.socket(fileno=connection_fd)
    streams = _StandardStreams()
    worker = Worker(streams=streams)
    while True:
        header = _read_exactly(connection, 4)
        if len(header) < 4:  # noqa: PLR2004  the length prefix
            break
        response = worker.handle(json.loads(_read_exactly(connection, struct.unpack(">I", header)[0])))
        streams.flush()
        data = json.dumps(response).encode()
        connection.sendall(struct.pack(">I", len(data)) + data)
    # Skip the model's threads and exit handlers, which could delay the exit.
    streams.flush()
    os._exit(0)
