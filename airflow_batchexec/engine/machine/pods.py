"""The pods on this machine that tasks share, and the resources that they occupy.

Each pod has a folder::

    <machine folder>/lock          held while pods are counted, and a new one is added
    <machine folder>/pods/<key>.<number>/
        pod.json                   what it occupies
        note-<name>.json           what its users know and later ones may read; complete, and never changed
        alive                      locked by its supervisor as long as the pod exists
        busy                       locked by the process that uses it
        socket                     where its supervisor takes the next user
        scratch/                   the pod's own files
        files-<number>/            the files of its present user

The kernel releases a lock when its holder dies, so a killed process occupies nothing. A pod's supervisor removes the pod's
folder. If the supervisor was killed, the next process that starts a pod or ends an execution on this machine does.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from airflow_batchexec.engine.machine.files import is_locked, locked, try_lock
from airflow_batchexec.engine.machine.leftovers import kill_processes_at_home
from airflow_batchexec.engine.machine.pod_folder import PodFolder
from airflow_batchexec.engine.machine.resources import Reservation
from airflow_batchexec.engine.storage.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_batchexec.engine.config.instances import Instance
    from airflow_batchexec.engine.machine.pod_folder import PodNote
    from airflow_batchexec.engine.machine.resources import MachineResources

__all__ = ["ClaimedPod", "Machine"]

_NEW = ".new-"
_END_SECONDS = 5.0
_MAX_PACKET_BYTES = 4096


class ClaimedPod:
    """A pod that this process may use, until :meth:`release`.

    Attributes:
        folder: The pod's files.
        reservation: What it occupies.
        is_new: Whether its claimer must start it.
        alive: The descriptor that holds its lock ``alive``; ``None`` if its supervisor does.
    """

    def __init__(
        self, folder: PodFolder, reservation: Reservation, *, busy: int, alive: int | None = None
    ) -> None:
        self.folder = folder
        self.reservation = reservation
        self.is_new = alive is not None
        self.alive = alive
        self._busy = busy

    def supervised(self) -> None:
        """Leave the lock ``alive`` to the pod's supervisor, which has inherited it."""
        if self.alive is not None:
            os.close(self.alive)
            self.alive = None

    def release(self) -> None:
        """Let others use the pod, or remove it if it was not started; may be called twice."""
        if self.alive is not None:
            shutil.rmtree(self.folder.path, ignore_errors=True)
            self.supervised()
        if self._busy >= 0:
            os.close(self._busy)
            self._busy = -1


class Machine:
    """The pods on this machine.

    Args:
        folder: The folder that all processes on this machine use, as made by ``private_folder``.
        resources: What the pods may occupy together.
    """

    def __init__(self, *, folder: Path, resources: MachineResources) -> None:
        self._folder = folder
        self._pods = folder / "pods"
        self.resources = resources

    def claim_idle(self, key: str) -> ClaimedPod | None:
        """Claim an idle pod; return ``None`` if none is idle."""
        for pod in self._find(f"{key}."):
            busy = try_lock(pod.busy)
            if busy is None:
                continue
            try:
                if is_locked(pod.alive):
                    return ClaimedPod(pod, _read_reservation(pod), busy=busy)
            except (OSError, ValueError):
                pass
            os.close(busy)
        return None

    def claim_new(self, key: str, instance: Instance, note: PodNote | None = None) -> ClaimedPod | None:
        """Reserve the resources of a new pod; ``None`` if the machine has no room for it now.

        Idle pods with other keys are ended if that makes room; call again then.

        Args:
            key: What the pod serves.
            instance: What it occupies.
            note: A note that is in its folder from the beginning.

        Raises:
            PodError: The machine never has room for it.
            StorageError: The pod's folder cannot be made.
        """
        with disk_errors("make a pod in", str(self._pods)):
            self._pods.mkdir(mode=0o700, exist_ok=True)
            with locked(self._folder / "lock"):
                occupied = self._occupied()
                reservation = self.resources.reserve(instance, occupied.values())
                if reservation is not None:
                    return self._add(key, reservation, note)
                self._make_room(key, instance, occupied)
        return None

    def notes(self, prefix: str, name: str) -> Iterator[bytes]:
        """The notes of a name in the pods whose keys start with a prefix.

        Raises:
            OSError: The folder of the pods cannot be read.
        """
        for pod in self._find(prefix):
            try:
                content = pod.read_note(name)
            except OSError:
                # It has none, or has ended.
                continue
            yield content

    def end(self, prefix: str) -> None:
        """End the idle pods whose keys start with a prefix, and remove what killed ones have left.

        Returns when they have ended.
        """
        if not self._pods.exists():
            return
        with disk_errors("end pods in", str(self._pods)), ExitStack() as stack:
            with locked(self._folder / "lock"):
                ending = [_end_if_idle(pod) for pod in self._living() if pod.key.startswith(prefix)]
            for connection in filter(None, ending):
                stack.enter_context(connection)
            for connection in filter(None, ending):
                _wait_for_end(connection)

    def _find(self, prefix: str) -> list[PodFolder]:
        try:
            names = os.listdir(self._pods)  # noqa: PTH208  once for each task: a list of names is enough
        except FileNotFoundError:
            return []
        return [PodFolder(self._pods / name) for name in sorted(names) if name.startswith(prefix)]

    def _living(self) -> list[PodFolder]:
        """The pods that exist; removes what is left of others. Requires the lock."""
        living = []
        for pod in self._find(""):
            alive = try_lock(pod.alive)
            if alive is None and pod.alive.exists():
                living.append(pod)
                continue
            kill_processes_at_home(pod.scratch)
            shutil.rmtree(pod.path, ignore_errors=True)
            if alive is not None:
                os.close(alive)
        return living

    def _occupied(self) -> dict[PodFolder, Reservation]:
        occupied = {}
        for pod in self._living():
            # A pod that is removing its folder has ended all its processes.
            with suppress(FileNotFoundError):
                occupied[pod] = _read_reservation(pod)
        return occupied

    def _add(self, key: str, reservation: Reservation, note: PodNote | None) -> ClaimedPod:
        name = f"{key}.{secrets.token_hex(4)}"
        new, pod = PodFolder(self._pods / f"{_NEW}{name}"), PodFolder(self._pods / name)
        new.path.mkdir(mode=0o700)
        new.details.write_text(json.dumps(asdict(reservation)))
        if note is not None:
            new.leave(note)
        alive, busy = try_lock(new.alive, create=True), try_lock(new.busy, create=True)
        assert alive is not None
        assert busy is not None
        new.path.rename(pod.path)
        return ClaimedPod(pod, reservation, busy=busy, alive=alive)

    def _make_room(self, key: str, instance: Instance, occupied: dict[PodFolder, Reservation]) -> None:
        """End idle pods of others, the fewest that make room; none if that is not enough."""
        left = dict(occupied)
        idle = [pod for pod in occupied if pod.key != key and not is_locked(pod.busy)]
        for number, pod in enumerate(idle, start=1):
            del left[pod]
            if self.resources.reserve(instance, left.values()) is not None:
                for unneeded in idle[:number]:
                    if connection := _end_if_idle(unneeded):
                        connection.close()
                return


def _read_reservation(pod: PodFolder) -> Reservation:
    values = json.loads(pod.details.read_text())
    return Reservation(values["cpus"], values["memory_bytes"], tuple(values["gpus"]))


def _end_if_idle(pod: PodFolder) -> socket.socket | None:
    """End a pod unless it is used: a supervisor ends its pod when a user leaves it without a word.

    Returns:
        A connection that breaks when the pod has ended.
    """
    busy = try_lock(pod.busy)
    if busy is None:
        return None
    try:
        connection = pod.connect()
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return None
    else:
        return connection
    finally:
        os.close(busy)


def _wait_for_end(connection: socket.socket) -> None:
    connection.settimeout(_END_SECONDS)
    with suppress(OSError):
        while connection.recv(_MAX_PACKET_BYTES):
            # The descriptors that come with the greeting are dropped.
            pass
