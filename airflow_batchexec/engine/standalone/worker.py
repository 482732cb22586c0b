"""The worker process: loads one build, then predicts file after file until its parent closes the connection.

The parent speaks over an inherited socket: four bytes of length (big endian), then a JSON object, each way.

======== ================================================================ =============================================
request  its fields                                                       the answer's fields
======== ================================================================ =============================================
load     kind, folder, entrypoint, requirements, threads                  seconds
predict  input, input_name, input_type, output, output_type               rows_in, rows_out, seconds, peak_memory_bytes
======== ================================================================ =============================================

An answer holds ``"ok": true``, or ``"ok": false`` with ``error`` (what failed: load, input, predict, result, memory,
disk_full, write, internal), ``message`` and ``traceback``. ``seconds`` of a predict request is ``{"read", "predict", "write"}``.
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
from .results import NotAResultError, as_result_frame
from .writing import UnwritableResultError, write_frame

if TYPE_CHECKING:
    from collections.abc import Callable

_MESSAGE_CHARACTERS = 4_000
_TRACEBACK_CHARACTERS = 40_000


class _RequestError(Exception):
    """A request failed in a way that has a name; ``__cause__`` is what lies behind it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Worker:
    """One loaded build and the files that go through it.

    Args:
        streams: What the model's output goes to.
    """

    def __init__(self, *, streams: _StandardStreams) -> None:
        self._streams = streams
        self._predict: Callable[[Any], Any] | None = None
        self._threads = 1

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks; whatever the model does short of ending the process becomes an answer."""
        operations: dict[str, Callable[..., dict[str, Any]]] = {"load": self.load, "predict": self.predict}
        operation = operations[request.pop("op")]
        try:
            return {"ok": True, **operation(**request)}
        except _RequestError as error:
            cause = error.__cause__
            return _failure(error.kind, str(error), _model_traceback(cause) if cause else "")
        except Exception as error:  # noqa: BLE001  a file that finds a gap in the reader must not cost the pod
            return _failure("internal", _describe(error), traceback.format_exc())

    def load(
        self, *, kind: str, folder: str, entrypoint: str | None, requirements: list[str], threads: int
    ) -> dict[str, Any]:
        """Import the build, make its model and let it initialise itself."""
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
        input: str,  # noqa: A002  the protocol's word
        input_name: str,
        input_type: str,
        output: str,
        output_type: str,
    ) -> dict[str, Any]:
        """Read one file, call ``predict`` on it once, and write what it gave."""
        assert self._predict is not None
        clock = time.perf_counter
        times = [clock()]
        try:
            frame = read_frame(
                Path(input), FileType.parse(input_type), name=input_name, threads=self._threads
            )
        except UnreadableFileError as error:
            raise _RequestError("input", str(error)) from None
        except MemoryError as error:
            raise _RequestError("memory", f"there was no memory to read {input_name}") from error
        rows_in = len(frame)
        times.append(clock())
        result = self._call(frame)
        self._streams.restore()
        del frame
        times.append(clock())
        try:
            rows_out = self._write(result, output, output_type)
        except (NotAResultError, UnwritableResultError) as error:
            raise _RequestError("result", str(error)) from None
        except MemoryError as error:
            raise _RequestError("memory", "there was no memory to write the result") from error
        except OSError as error:
            kind = "disk_full" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else "write"
            raise _RequestError(kind, f"the result cannot be written: {error.strerror or error}") from error
        times.append(clock())
        return {
            "rows_in": rows_in,
            "rows_out": rows_out,
            "seconds": {name: times[i + 1] - times[i] for i, name in enumerate(("read", "predict", "write"))},
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
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
    """The ``predict`` of a class, of an object, or of a function."""
    module_name, _, attribute = entrypoint.partition(":")
    sys.path.insert(0, folder)
    target: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise _RequestError("load", f"the module {module_name} has no {attribute}") from None
    if inspect.isclass(target):
        target = target()
    elif inspect.isroutine(target):
        return target
    predict = getattr(target, "predict", None)
    if not callable(predict):
        raise _RequestError("load", f"{entrypoint} has no method predict")
    initialize = getattr(target, "initialize_model", None)
    if callable(initialize):
        initialize()
    return predict  # type: ignore[no-any-return]  # as above


def _load_mlflow(folder: str) -> Callable[[Any], Any]:
    try:
        pyfunc = importlib.import_module("mlflow.pyfunc")
    except ModuleNotFoundError as error:
        raise _RequestError(
            "load",
            f"the build is an MLflow model, and {sys.executable} has no mlflow: install the extra [mlflow]",
        ) from error
    return pyfunc.load_model(folder).predict  # type: ignore[no-any-return]  # mlflow's own wrapper


def _check_requirements(requirements: list[str]) -> None:
    """Say at once what the interpreter lacks; versions are compared where it has ``packaging``."""
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
        raise _RequestError("load", f"{sys.executable} lacks what the build requires: {', '.join(missing)}")


def _cap_arrow(threads: int) -> None:
    """Arrow sizes its pools itself; the other libraries read their caps from the environment."""
    pyarrow = importlib.import_module("pyarrow")
    pyarrow.set_cpu_count(threads)
    pyarrow.set_io_thread_count(max(1, threads))


def _failure(kind: str, message: str, trace: str) -> dict[str, Any]:
    """An answer that a log and a record can hold: neither endless, nor with half a surrogate pair in it."""
    return {
        "ok": False,
        "error": kind,
        "message": _bounded(message, _MESSAGE_CHARACTERS),
        "traceback": _bounded(trace, _TRACEBACK_CHARACTERS),
    }


def _bounded(text: str, most: int) -> str:
    """The text's two ends: a traceback begins with where it came from, and ends with what it was."""
    if len(text) > most:
        text = f"{text[: most // 2]}\n… {len(text) - most:,} characters left out …\n{text[-most // 2 :]}"
    return text.encode("utf-8", "replace").decode()


def _describe(error: BaseException) -> str:
    """The kind of an exception and what it says, on one line where it can be."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  a model's own exception may fail at its own text
        text = "(its text cannot be made)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _model_traceback(error: BaseException) -> str:
    """The model's part of a traceback: the frames at its head that led to it say nothing to the model's author."""
    frames = error.__traceback__
    while frames is not None and _leads_to_model(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _leads_to_model(filename: str) -> bool:
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


class _StandardStreams:
    """The pod's stdout and stderr, whatever a model does to them."""

    def __init__(self) -> None:
        self._copies = {fd: os.dup(fd) for fd in (1, 2)}

    def restore(self) -> None:
        """Open again what a model has closed: the next file to be opened would get the number, and the output."""
        for fd, copy in self._copies.items():
            try:
                os.fstat(fd)
            except OSError:
                os.dup2(copy, fd)

    def flush(self) -> None:
        """Pass on what Python still holds of a file's output; what C code prints is not held, as Python runs with -u."""
        for stream in (sys.stdout, sys.stderr):
            # A model may have closed them, or put anything in their place.
            with suppress(Exception):
                stream.flush()


def main(connection_fd: int) -> None:
    """Serve until the parent closes the connection, then end the process."""
    connection = socket.socket(fileno=connection_fd)
    streams = _StandardStreams()
    worker = Worker(streams=streams)
    while True:
        header = _read_exactly(connection, 4)
        if len(header) < 4:  # noqa: PLR2004  the length prefix
            break
        answer = worker.answer(json.loads(_read_exactly(connection, struct.unpack(">I", header)[0])))
        streams.flush()
        data = json.dumps(answer).encode()
        connection.sendall(struct.pack(">I", len(data)) + data)
    # A model's own threads and exit handlers must not keep a pod that is done.
    streams.flush()
    os._exit(0)
