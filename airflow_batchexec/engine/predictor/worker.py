"""The pod's own side: loads one build, then predicts file after file until its parent is done with it.

Run as a script by the build's interpreter, which may be another Python with nothing but pandas and pyarrow. So this
file and ``formats.py``, which it loads by path, import the standard library, pandas and pyarrow only.

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

import ctypes
import errno
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_PR_SET_PDEATHSIG = 1


class _RequestError(Exception):
    """A request failed in a way that has a name; ``__cause__`` is what lies behind it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Worker:
    """One loaded build and the files that go through it."""

    def __init__(self, *, formats: ModuleType) -> None:
        self._formats = formats
        self._predict: Callable[[Any], Any] | None = None
        self._threads = 1

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks; whatever the model does short of ending the process becomes an answer."""
        operation = {"load": self.load, "predict": self.predict}[request.pop("op")]
        try:
            return {"ok": True, **operation(**request)}
        except _RequestError as error:
            cause = error.__cause__
            return {
                "ok": False,
                "error": error.kind,
                "message": str(error),
                "traceback": _model_traceback(cause) if cause else "",
            }
        except Exception as error:  # noqa: BLE001  a file that finds a gap in the reader must not cost the pod
            return {
                "ok": False,
                "error": "internal",
                "message": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }

    def load(
        self, *, kind: str, folder: str, entrypoint: str | None, requirements: list[str], threads: int
    ) -> dict[str, Any]:
        """Import the build, make its model and let it initialise itself."""
        started = time.perf_counter()
        self._threads = threads
        _check_requirements(requirements)
        try:
            self._predict = (
                _load_mlflow(folder) if kind == "mlflow" else _load_entrypoint(folder, entrypoint or "")
            )
        except _RequestError:
            raise
        except BaseException as error:
            raise _RequestError("load", f"{type(error).__name__}: {error}") from error
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
        formats = self._formats
        assert self._predict is not None
        clock = time.perf_counter
        times = [clock()]
        try:
            frame = formats.read_frame(Path(input), formats.FileType.parse(input_type), name=input_name)
        except formats.UnreadableFileError as error:
            raise _RequestError("input", str(error)) from None
        except MemoryError as error:
            raise _RequestError("memory", f"there was no memory to read {input_name}") from error
        rows_in = len(frame)
        times.append(clock())
        result = self._call(frame)
        del frame
        times.append(clock())
        try:
            rows_out = self._write(result, output, output_type)
        except (formats.NotAResultError, formats.UnwritableResultError) as error:
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
            raise _RequestError("predict", f"{type(error).__name__}: {error}") from error

    def _write(self, result: Any, output: str, output_type: str) -> int:
        formats = self._formats
        frame = formats.as_result_frame(result)
        formats.write_frame(frame, Path(output), formats.FileType.parse(output_type), threads=self._threads)
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
        return target  # type: ignore[no-any-return]  whatever is callable here is a predict function
    predict = getattr(target, "predict", None)
    if not callable(predict):
        raise _RequestError("load", f"{entrypoint} has no method predict")
    initialize = getattr(target, "initialize_model", None)
    if callable(initialize):
        initialize()
    return predict  # type: ignore[no-any-return]  as above


def _load_mlflow(folder: str) -> Callable[[Any], Any]:
    try:
        pyfunc = importlib.import_module("mlflow.pyfunc")
    except ModuleNotFoundError as error:
        raise _RequestError(
            "load",
            f"the build is an MLflow model, and {sys.executable} has no mlflow: install the extra [mlflow]",
        ) from error
    return pyfunc.load_model(folder).predict  # type: ignore[no-any-return]  mlflow's own wrapper


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


def _model_traceback(error: BaseException) -> str:
    """The model's part of a traceback: this file's own frames at its head say nothing to the model's author."""
    frames = error.__traceback__
    while (
        frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename == __file__
    ):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _follow_parent(parent: int, lifeline: int) -> None:
    """Never outlive the parent, however it ends.

    The kernel's death signal also ends a hang in C code that holds the interpreter lock; the lifeline, a pipe whose
    other end only the parent holds, also takes the processes that the model has started.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)

    def wait() -> None:
        with suppress(OSError):
            os.read(lifeline, 1)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


def _load_file(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("batchexec_formats", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main(connection_fd: int, lifeline_fd: int, parent: int, formats_path: str) -> None:
    """Serve until the parent closes the connection."""
    for fd in (connection_fd, lifeline_fd):
        os.set_inheritable(fd, False)
    _follow_parent(parent, lifeline_fd)
    connection = socket.socket(fileno=connection_fd)
    worker = Worker(formats=_load_file(formats_path))
    while True:
        header = _read_exactly(connection, 4)
        if len(header) < 4:  # noqa: PLR2004  the length prefix
            break
        answer = worker.answer(json.loads(_read_exactly(connection, struct.unpack(">I", header)[0])))
        for stream in (sys.stdout, sys.stderr):
            # A model may have closed or replaced them.
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        data = json.dumps(answer).encode()
        connection.sendall(struct.pack(">I", len(data)) + data)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    # A model's own threads and exit handlers must not keep a pod that is done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
