"""The pods that the tasks of one execution share on this machine."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.predictor.shared_child import SharedChild, launch_shared
from airflow_batchexec.engine.running.predictor_spec import predictor_spec, threads_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_batchexec.engine.machine.pod_folder import PodNote
    from airflow_batchexec.engine.machine.pods import ClaimedPod, Machine
    from airflow_batchexec.engine.predictor.shared_child import LaunchedPod
    from airflow_batchexec.engine.predictor.spec import PredictorSpec
    from airflow_batchexec.engine.running.predictor_spec import Workload

__all__ = ["SharedPods", "end_idle_pods", "find_notes"]

_DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPods:
    """The pods of one execution on this machine.

    Attributes:
        machine: The machine.
        workload: What the pods run.
        owner: What the pods serve: the execution, or several of single files that follow each other.
        idle_seconds: After how many seconds without a user a pod ends.
        load_timeout_seconds: The maximum time to load the build.
        note: What to leave in the pods for later users: see :func:`find_notes`.
    """

    machine: Machine
    workload: Workload
    owner: tuple[str, ...]
    idle_seconds: float
    load_timeout_seconds: float
    note: PodNote | None = None

    def claim_idle(self) -> ClaimedPod | None:
        """Claim a pod that exists and is idle; ``None`` if there is none."""
        pod = self.machine.claim_idle(self._key)
        if pod is not None and self.note is not None:
            # It may have been started before there was this note. If it cannot be written, later users do without it.
            with suppress(OSError):
                pod.folder.leave(self.note)
        return pod

    def claim_new(self) -> ClaimedPod | None:
        """Claim room for a new pod; ``None`` if the machine has none now.

        Raises:
            PodError: The machine never has room for it.
            StorageError: The pod's folder cannot be made.
        """
        return self.machine.claim_new(self._key, self.workload.instance, self.note)

    def predictor_spec(self, pod: ClaimedPod, build_folder: Path | None) -> PredictorSpec:
        """What a claimed pod runs; without a build folder, one that exists."""
        scratch = pod.folder.scratch
        return predictor_spec(
            self.workload,
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
        """Start pods that will be used soon, so that they begin to load; those that are idle already count.

        Args:
            count: The number of pods to have, if the machine has room for them.
            build_folder: The local folder of the build.

        Returns:
            How many were started.

        Raises:
            BatchExecError: A pod cannot be started.
        """
        pods: list[ClaimedPod] = []
        launched: list[LaunchedPod] = []
        try:
            while len(pods) < count and (pod := self.claim_idle()) is not None:
                pods.append(pod)
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

    @property
    def _threads(self) -> int:
        # The pod's cores are reserved for it.
        return threads_for(self.workload.instance, 1)

    @property
    def _key(self) -> str:
        """Pods with the same key are interchangeable: they run the same for the same owner."""
        workload = self.workload
        runs = [
            workload.build.to_dict(),
            asdict(workload.instance),
            dict(workload.parameters),
            self._threads,
        ]
        return f"{_digest(self.owner)}-{_digest(runs)}"


def find_notes(machine: Machine, owner: tuple[str, ...], name: str) -> Iterator[bytes]:
    """The notes of a name that users of an owner's pods have left on a machine.

    Raises:
        OSError: The folder of the pods cannot be read.
    """
    return machine.notes(f"{_digest(owner)}-", name)


def end_idle_pods(machine: Machine, owner: tuple[str, ...]) -> None:
    """End the pods of an owner on a machine that nothing uses.

    Raises:
        StorageError: The folder of the pods cannot be used.
    """
    machine.end(f"{_digest(owner)}-")


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH]
