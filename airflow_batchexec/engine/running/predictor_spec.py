"""What the predictors of an execution run."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from airflow_batchexec.engine.predictor.spec import PredictorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_batchexec.engine.config.instances import Instance
    from airflow_batchexec.engine.execution.spec import ExecutionSpec

__all__ = ["predictor_spec", "threads_for"]


def predictor_spec(
    spec: ExecutionSpec,
    *,
    build_folder: Path,
    scratch: Path,
    threads: int,
    load_timeout_seconds: float,
    gpus: tuple[str, ...] = (),
) -> PredictorSpec:
    """What a predictor of an execution runs.

    Args:
        spec: The execution.
        build_folder: The local folder of its build.
        scratch: The folder for the predictor alone.
        threads: The number of threads that its libraries may use.
        load_timeout_seconds: The maximum time to load the build.
        gpus: The ids of its GPUs; empty for all that this process may use.
    """
    return PredictorSpec(
        kind=spec.build.kind.value,
        folder=build_folder,
        entrypoint=spec.build.entrypoint,
        interpreter=spec.build.interpreter,
        requirements=spec.build.requirements,
        instance=spec.instance,
        threads=threads,
        parameters=spec.config.execution.parameters,
        scratch=scratch,
        load_timeout_seconds=load_timeout_seconds,
        gpus=gpus,
    )


def threads_for(instance: Instance, predictors_on_machine: int | None) -> int:
    """The number of threads for a predictor's libraries: oversubscribed cores would slow down every predictor.

    Args:
        instance: The predictor's instance.
        predictors_on_machine: The number of predictors that share this machine's cores; ``None`` if the instance's
            cores are reserved for this one.
    """
    threads = math.ceil(instance.cpus)
    if predictors_on_machine is not None:
        threads = min(threads, len(os.sched_getaffinity(0)) // predictors_on_machine)
    return max(1, threads)
