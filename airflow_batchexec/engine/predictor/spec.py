"""What a predictor runs, and with which resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airflow_batchexec.engine.config.instances import Instance

__all__ = ["PredictorSpec"]


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
        gpus: The ids of its GPUs; empty for all that this process may use.
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
    gpus: tuple[str, ...] = ()

    def load_request(self) -> dict[str, Any]:
        """The request to load the build, see ``engine/standalone/worker.py``."""
        return {
            "op": "load",
            "kind": self.kind,
            "folder": str(self.folder),
            "entrypoint": self.entrypoint,
            "requirements": list(self.requirements),
            "threads": self.threads,
        }
