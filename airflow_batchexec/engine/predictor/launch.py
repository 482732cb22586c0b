"""Launching a predictor's supervisor, in a working folder and an environment that are both built from scratch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from airflow_batchexec.engine.standalone import supervisor
from airflow_batchexec.engine.storage.disk import disk_errors
from airflow_batchexec.exceptions import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_batchexec.engine.predictor.spec import PredictorSpec

__all__ = ["launch", "link_tree", "predictor_environment"]

_THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "ARROW_IO_THREADS",
    "LOKY_MAX_CPU_COUNT",
)


def launch(
    spec: PredictorSpec,
    arguments: Sequence[object],
    *,
    fds: Sequence[int],
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Create the working folder and start the supervisor in it, in a new session.

    Args:
        spec: What the predictor runs.
        arguments: The supervisor's arguments.
        fds: The descriptors that it inherits.
        stdout: Where it prints to.
        stderr: Where it prints errors to.

    Raises:
        ModelLoadError: The interpreter cannot be started.
        StorageError: The working folder cannot be created.
    """
    work = spec.scratch / "work"
    with disk_errors("prepare the pod in", str(spec.scratch)):
        link_tree(spec.folder, work)
        (spec.scratch / "tmp").mkdir()
    interpreter = spec.interpreter or sys.executable
    try:
        return subprocess.Popen(
            [interpreter, "-I", "-B", "-u", supervisor.__file__, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=work,
            env=predictor_environment(spec, interpreter),
            pass_fds=fds,
            start_new_session=True,
        )
    except OSError as error:
        raise ModelLoadError(
            f"Cannot start the build's interpreter {interpreter}: {error.strerror}."
        ) from error


def link_tree(build: Path, work: Path) -> None:
    """Mirror the build's folders, with symbolic links to its files.

    A model can open them by a relative path, and new files that it writes beside them do not end up in the build.
    """
    for folder, folders, files in os.walk(build):
        copy = work / Path(folder).relative_to(build)
        copy.mkdir(parents=True)
        for name in (*files, *(name for name in folders if Path(folder, name).is_symlink())):
            (copy / name).symlink_to(Path(folder, name).resolve())


def predictor_environment(spec: PredictorSpec, interpreter: str) -> dict[str, str]:
    """Return the predictor's complete environment; it does not inherit the parent's, which may contain credentials."""
    threads = str(spec.threads)
    environment = {
        **spec.parameters,
        **dict.fromkeys(_THREAD_CAPS, threads),
        "PATH": f"{Path(interpreter).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(spec.scratch),
        "TMPDIR": str(spec.scratch / "tmp"),
        "LANG": "C.UTF-8",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if spec.instance.gpu_amount:
        for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"):
            if name in os.environ:
                environment[name] = os.environ[name]
        if spec.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpus)
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment
