"""The pods that the tasks of one execution share on this machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.predictor.shared_child import SharedChild, launch_shared
from airflow_batchexec.engine.running.predictor_spec import predictor_spec, threads_for

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.machine.pods import ClaimedPod, Machine
    from airflow_batchexec.engine.predictor.shared_child import LaunchedPod
    from airflow_batchexec.engine.predictor.spec import PredictorSpec

__all__ = ["SharedPods"]

_DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPods:
    """The pods of one execution on this machine.

    Attributes:
        machine: The machine.
        spec: The execution.
        owner: What the pods serve: the execution, or several of single files that follow each other.
        idle_seconds: After how many seconds without a user a pod ends.
        load_timeout_seconds: The maximum time to load the build.
    """

    machine: Machine
    spec: ExecutionSpec
    owner: tuple[str, ...]
    idle_seconds: float
    load_timeout_seconds: float

    def claim_idle(self) -> ClaimedPod | None:
        """Claim a pod that exists and is idle; ``None`` if there is none."""
        return self.machine.claim_idle(self._key)

    def claim_new(self) -> ClaimedPod | None:
        """Claim room for a new pod; ``None`` if the machine has none now.

        Raises:
            PodError: The machine never has room for it.
            StorageError: The pod's folder cannot be made.
        """
        return self.machine.claim_new(self._key, self.spec.instance)

    def predictor_spec(self, pod: ClaimedPod, build_folder: Path | None) -> PredictorSpec:
        """What a claimed pod runs; without a build folder, one that exists."""
        scratch = pod.folder.scratch
        return predictor_spec(
            self.spec,
            build_folder=build_folder or scratch / "work",
            scratch=scratch,
            threads=self._threads,
            load_timeout_seconds=self.load_timeout_seconds,
            gpus=pod.reservation.gpus,
        )

    def child(self, pod: ClaimedPod, spec: PredictorSpec, *, name: str) -> SharedChild:
        """The processes of a claimed pod."""
        return SharedChild(spec=spec, name=name, pod=pod, idle_seconds=self.idle_seconds)

    def start_ahead(self, count: int, build_folder: Path) -> int:
        """Start pods that will be used soon, at most as many as the machine has room for; they begin to load.

        Returns:
            How many were started.

        Raises:
            BatchExecError: A pod cannot be started.
        """
        pods: list[ClaimedPod] = []
        launched: list[LaunchedPod] = []
        try:
            while len(pods) < count and (pod := self.claim_new()) is not None:
                pods.append(pod)
                spec = self.predictor_spec(pod, build_folder)
                launched.append(launch_shared(spec, pod, idle_seconds=self.idle_seconds))
        finally:
            for start in launched:
                start.close()
            for pod in pods:
                pod.release()
        return len(launched)

    def end(self) -> None:
        """End the pods that are idle."""
        self.machine.end(_digest(self.owner))

    @property
    def _threads(self) -> int:
        # The pod's cores are reserved for it.
        return threads_for(self.spec.instance, 1)

    @property
    def _key(self) -> str:
        """Pods with the same key are interchangeable: they run the same for the same owner."""
        spec = self.spec
        runs = [
            spec.build.to_dict(),
            asdict(spec.instance),
            dict(spec.config.execution.parameters),
            self._threads,
        ]
        return f"{_digest(self.owner)}-{_digest(runs)}"


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH]
