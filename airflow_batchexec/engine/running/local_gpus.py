"""GPUs for pods that are not shared: each gets devices that no other pod on this machine uses."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_batchexec.engine.machine.files import private_folder
from airflow_batchexec.engine.machine.pods import Machine
from airflow_batchexec.engine.machine.resources import MachineResources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_batchexec.engine.config.instances import Instance

__all__ = ["reserved_gpus"]

_POLL_SECONDS = 0.2


@contextmanager
def reserved_gpus(instance: Instance, *, should_stop: Callable[[], bool]) -> Iterator[tuple[str, ...] | None]:
    """Reserve the GPUs of an instance, as soon as enough of them are free, until the block ends or the process does.

    Args:
        instance: The instance.
        should_stop: Whether to stop waiting.

    Yields:
        Their ids; empty if the instance has none, or none are found here; ``None`` if it was time to stop.

    Raises:
        PodError: The machine has GPUs, but fewer than the instance.
        StorageError: The folder in which pods are counted cannot be used.
    """
    if not instance.gpu_amount:
        yield ()
        return
    machine = Machine(folder=private_folder(None), resources=MachineResources())
    # Local mode shares the machine's cores and memory as its user has decided.
    gpus_only = replace(instance, cpus=0.0, memory_bytes=0)
    while (claimed := machine.claim_new(f"local-{os.getpid()}", gpus_only)) is None:
        if should_stop():
            yield None
            return
        time.sleep(_POLL_SECONDS)
    try:
        yield claimed.reservation.gpus
    finally:
        claimed.release()
