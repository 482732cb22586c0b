"""A trigger that accesses a bucket as a user's trigger would: in a thread, off the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_batchexec import BatchExecutionHook
from airflow_batchexec.engine.config.locations import Location

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["WriteFromTrigger", "WritingTrigger"]


class WritingTrigger(BaseTrigger):
    """Writes an object through a hook created with ``arguments``."""

    def __init__(self, uri: str, arguments: dict[str, str]) -> None:
        super().__init__()
        self.uri = uri
        self.arguments = arguments

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "trigger_probe.WritingTrigger", {"uri": self.uri, "arguments": self.arguments}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.to_thread(self._write)
        yield TriggerEvent(self.uri)

    def _write(self) -> None:
        location = Location.parse(self.uri)
        BatchExecutionHook(**self.arguments).open_storage(location).write(location, b"from a trigger")


class WriteFromTrigger(BaseOperator):
    """Defers to the trigger, with its arguments from the run's conf."""

    def execute(self, context: Any) -> None:
        self.defer(trigger=WritingTrigger(**context["dag_run"].conf), method_name="after")

    def after(self, context: Any, event: str) -> str:
        return event
