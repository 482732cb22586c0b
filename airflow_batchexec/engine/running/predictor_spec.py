"""What the predictors of an execution run."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batchexec.engine.predictor.spec import PredictorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airflow_batchexec.engine.config.instances import Instance
    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.repository.builds import Build

__all__ = ["Workload", "predictor_spec", "threads_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What all predictors of an execution run; known before its files are.

    Attributes:
        build: The build.
        instance: The instance of each predictor.
        parameters: The build's environment variables.
    """

    build: Build
    instance: Instance
    parameters: Mapping[str, str]

    @classmethod
    def of(cls, spec: ExecutionSpec) -> Workload:
        """The workload of a planned execution."""
        return cls(build=spec.build, instance=spec.instance, parameters=spec.config.execution.parameters)


def predictor_spec(
    workload: Workload,
    *,
    build_folder: Path,
    scratch: Path,
    threads: int,
    load_timeout_seconds: float,
    gpus: tuple[str, ...] = (),
) -> PredictorSpec:
    """What a predictor of an execution runs.

    Args:
        workload: What the execution's predictors run.
        build_folder: The local folder of its build.
        scratch: The folder for the predictor alone.
        threads: The number of threads that its libraries may use.
        load_timeout_seconds: The maximum time to load the build.
        gpus: The ids of its GPUs; empty for all that this process may use.
    """
    return PredictorSpec(
        kind=workload.build.kind.value,
        folder=build_folder,
        entrypoint=workload.build.entrypoint,
        interpreter=workload.build.interpreter,
        requirements=workload.build.requirements,
        instance=workload.instance,
        threads=threads,
        parameters=workload.parameters,
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
