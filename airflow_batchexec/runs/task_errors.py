"""How the engine's errors end an Airflow task: permanent ones fail it at once, others may be retried."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_batchexec.exceptions import BatchExecError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["as_task_failure", "task_failure"]


def task_failure(error: BatchExecError) -> AirflowException:
    """The Airflow exception for an error: ``AirflowFailException`` if a retry cannot help."""
    return AirflowException(error.message) if error.retryable else AirflowFailException(error.message)


@contextmanager
def as_task_failure() -> Iterator[None]:
    """Convert the engine's errors into Airflow's."""
    try:
        yield
    except BatchExecError as error:
        raise task_failure(error) from error
