"""What a pod is made of, and what it finds around it: a working folder and an environment, both made from nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_batchexec.engine.config.instances import Instance

__all__ = ["PodSpec", "link_tree", "pod_environment"]

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
class PodSpec:
    """What a pod is made of.

    Attributes:
        kind: ``python`` or ``mlflow``.
        folder: The build's folder on this machine; it is only read.
        entrypoint: ``module:attribute``; ``None`` for MLflow.
        interpreter: The Python that runs the build; ``None`` for this process's own.
        requirements: What must be installed there.
        instance: The cpus, memory and GPUs it may use.
        threads: Threads that its libraries may use; never more than the instance's cpus.
        parameters: The execution's parameters, its environment variables.
        scratch: A folder of its own, which is removed with the pod, even where its parent is killed; its home and
            temporary folder lie there.
        load_timeout_seconds: How long loading the build may take.
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
    """Folders like the build's, with links to its files: a model may open them by a relative path, and what it
    writes beside them does not land in the build.
    """
    for folder, folders, files in os.walk(build):
        copy = work / Path(folder).relative_to(build)
        copy.mkdir(parents=True)
        for name in (*files, *(name for name in folders if Path(folder, name).is_symlink())):
            (copy / name).symlink_to(Path(folder, name).resolve())


def pod_environment(spec: PodSpec, interpreter: str) -> dict[str, str]:
    """The pod's whole environment: nothing of the parent's, which may hold credentials."""
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
