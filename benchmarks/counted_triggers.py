"""The triggers that ``waiting_sensors`` compares, instrumented to count starts, queries and events.

Each count is the size of a file, ``started``, ``queries`` or ``fired``, in the folder ``BATCHEXEC_BENCHMARK_COUNTS``. Its
triggerer imports this module.
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


def count(name: str) -> None:
    if name not in _FILES:
        path = Path(os.environ["BATCHEXEC_BENCHMARK_COUNTS"]) / name
        _FILES[name] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_FILES[name], b".")


def counted(query: Callable[..., Any]) -> staticmethod[..., Any]:
    def counting(*args: Any, **kwargs: Any) -> Any:
        count("queries")
        return query(*args, **kwargs)

    return staticmethod(counting)


# The queries that either trigger sends to Airflow.
RuntimeTaskInstance.get_dr_count = counted(RuntimeTaskInstance.get_dr_count)  # type: ignore[method-assign]  # to count
RuntimeTaskInstance.get_dagrun_state = counted(RuntimeTaskInstance.get_dagrun_state)  # type: ignore[method-assign]  # to count


class Ours(BatchExecutionTrigger):
    async def run(self) -> AsyncIterator[TriggerEvent]:
        count("started")
        async for event in super().run():
            count("fired")
            yield event


class Peer(DagStateTrigger):
    async def run(self) -> AsyncIterator[TriggerEvent]:
        count("started")
        async for event in super().run():
            count("fired")
            yield event
