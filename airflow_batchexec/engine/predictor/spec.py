"""What a predictor runs, and the working folder and environment that it runs in, both built from scratch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_batchexec.engine.config.instances import Instance

__all__ = ["PredictorSpec", "link_tree", "predictor_environment"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorSpec:
    """What a predictor runs, and with which resources.

    Attributes:
        kind: ``python`` or ``mlflow``.
        folder: The build's folder on this machine; never written to.
        entrypoint: ``module:attribute``; ``None`` for MLflow.
        interpreter: The Python interpreter that runs the build; ``None`` for this process's.
        requirements: The packages that must be installed there.
        instance: The cpus, memory and GPUs that the predictor may use.
        threads: The number of threads that its libraries may use; at most the instance's cpus.
        parameters: The execution's parameters, passed as environment variables.
        scratch: A folder for this predictor alone, with its home and temporary folder. It is removed with the
            predictor, even if the parent is killed.
        load_timeout_seconds: The maximum duration of loading the build.
    """

    kind: str
    folder: Path
    entrypoint: str | None
    interpreter: str | None
    requirements: tuple[str, ...]
    instance: Instance
    threads: int
    parameters: Mapping[str, str]
    scratch: Path
    load_timeout_seconds: float = 1800.0


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
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment
