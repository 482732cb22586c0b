"""The triggers that ``waiting_sensors`` compares, with a byte in a file for each that starts, asks, or fires.

For a triggerer: ``BATCHEXEC_BENCHMARK_NOTES`` names the folder of the files ``started``, ``questions`` and ``fired``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.triggers.external_task import DagStateTrigger
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from airflow_batchexec.triggers.batch_execution import BatchExecutionTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from airflow.triggers.base import TriggerEvent

_FILES: dict[str, int] = {}


def note(what: str) -> None:
    if what not in _FILES:
        path = Path(os.environ["BATCHEXEC_BENCHMARK_NOTES"]) / what
        _FILES[what] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_FILES[what], b".")


def counted(ask: Callable[..., Any]) -> staticmethod[..., Any]:
    def asked(*args: Any, **kwargs: Any) -> Any:
        note("questions")
        return ask(*args, **kwargs)

    return staticmethod(asked)


# What either trigger may ask of Airflow.
RuntimeTaskInstance.get_dr_count = counted(RuntimeTaskInstance.get_dr_count)  # type: ignore[method-assign]  # to count
RuntimeTaskInstance.get_dagrun_state = counted(RuntimeTaskInstance.get_dagrun_state)  # type: ignore[method-assign]  # ditto


class Ours(BatchExecutionTrigger):
    async def run(self) -> AsyncIterator[TriggerEvent]:
        note("started")
        async for event in super().run():
            note("fired")
            yield event


class Peer(DagStateTrigger):
    async def run(self) -> AsyncIterator[TriggerEvent]:
        note("started")
        async for event in super().run():
            note("fired")
            yield event
