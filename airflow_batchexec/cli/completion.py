"""What the shell is told when the user presses the tabulator in a value: never an error, never anything slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_batchexec.exceptions import BatchExecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["among", "complete_instance", "complete_status"]


def among(values: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion from a closed set, in any case."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(incomplete, values)

    return complete


def complete_instance(incomplete: str) -> list[str]:
    """The names of instances, with those of this machine's configuration of Airflow."""
    from airflow_batchexec.client.local_settings import instance_table  # noqa: PLC0415  --help starts without it
    from airflow_batchexec.engine.config.instances import InstanceTable  # noqa: PLC0415  as above

    try:
        instances = instance_table()
    except BatchExecError:
        instances = InstanceTable()
    return _beginning(incomplete, (instance.name for instance in instances))


def complete_status(incomplete: str) -> list[str]:
    """The statuses of executions, in short."""
    from airflow_batchexec.wire.values import JobStatus  # noqa: PLC0415  as above

    return _beginning(incomplete, (status.short for status in JobStatus if status.number))


def _beginning(incomplete: str, values: Iterable[str]) -> list[str]:
    """The values that begin so, in the user's own case: typer drops what does not begin with the very letters."""
    found = (value.lower() for value in values if value.lower().startswith(incomplete.lower()))
    rests = (value[len(incomplete) :] for value in found)
    return [incomplete + (rest.upper() if incomplete.isupper() else rest) for rest in rests]
