"""Shell completion of option values. Completions never raise and load nothing slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_batchexec.exceptions import BatchExecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["complete_from", "complete_instance", "complete_status"]


def complete_from(values: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a completer for a fixed set of values, ignoring case."""

    def complete(incomplete: str) -> list[str]:
        return _matches(incomplete, values)

    return complete


def complete_instance(incomplete: str) -> list[str]:
    """Complete instance names, including those in this machine's Airflow configuration."""
    from airflow_batchexec.client.local_settings import instance_table  # noqa: PLC0415  --help works without it
    from airflow_batchexec.engine.config.instances import InstanceTable  # noqa: PLC0415  as above

    try:
        instances = instance_table()
    except BatchExecError:
        instances = InstanceTable()
    return _matches(incomplete, (instance.name for instance in instances))


def complete_status(incomplete: str) -> list[str]:
    """Complete the short names of execution statuses."""
    from airflow_batchexec.wire.values import JobStatus  # noqa: PLC0415  as above

    return _matches(incomplete, (status.short for status in JobStatus if status.number))


def _matches(incomplete: str, values: Iterable[str]) -> list[str]:
    """Return the values with this prefix, in the user's case: typer drops values whose prefix differs in case."""
    matching = (value.lower() for value in values if value.lower().startswith(incomplete.lower()))
    suffixes = (value[len(incomplete) :] for value in matching)
    return [incomplete + (suffix.upper() if incomplete.isupper() else suffix) for suffix in suffixes]
