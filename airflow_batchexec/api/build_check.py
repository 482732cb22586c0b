"""Early check that a model and build exist, if the API server can reach the repository. The plan checks again anyway."""

from __future__ import annotations

import logging
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Thread
from typing import TYPE_CHECKING

from airflow_batchexec import settings
from airflow_batchexec.engine.config.locations import Scheme
from airflow_batchexec.exceptions import BatchExecError, RepositoryError
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook

if TYPE_CHECKING:
    from airflow_batchexec.engine.config.model import ExecutionConfig

__all__ = ["check_build"]

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 5.0
_MAX_CONCURRENT = 4
_slots = BoundedSemaphore(_MAX_CONCURRENT)


def check_build(config: ExecutionConfig, *, batch_execution_conn_id: str) -> None:
    """Refuse an execution whose model or build is not in the repository.

    If this server cannot reach the repository, or not in time, nothing is refused: workers may well reach it.

    Args:
        config: The execution's configuration.
        batch_execution_conn_id: The connection for a repository in a bucket; empty for the default one.

    Raises:
        RepositoryError: The model or build does not exist, or no build is live.
        ConfigurationError: An ID is malformed.
    """
    if not _slots.acquire(blocking=False):
        # The maximum number of checks is already waiting for an unresponsive repository.
        return
    results: SimpleQueue[BatchExecError | None] = SimpleQueue()

    def check() -> None:
        try:
            results.put(_check(config, batch_execution_conn_id))
        finally:
            _slots.release()

    # A daemon, so that it cannot delay the server's shutdown.
    Thread(target=check, name="batchexec-builds", daemon=True).start()
    try:
        error = results.get(timeout=_TIMEOUT_SECONDS)
    except Empty:
        log.info(
            "The model repository did not respond within %g s; leaving the check to the plan",
            _TIMEOUT_SECONDS,
        )
        return
    if error is not None:
        raise error


def _check(config: ExecutionConfig, batch_execution_conn_id: str) -> BatchExecError | None:
    """The reason to refuse the execution; ``None`` also if the repository cannot be reached."""
    try:
        hook = BatchExecutionHook(batch_execution_conn_id or BatchExecutionHook.default_conn_name)
        repository = settings.model_repository(hook.open_storage)
        if repository.root.scheme is Scheme.FILE and not repository.root.path.is_dir():
            return None
        repository.resolve(config.execution.model_id, config.execution.build_id or None)
    except RepositoryError as error:
        return error
    except BatchExecError as error:
        log.info(
            "Cannot reach the model repository from the API server; leaving the check to the plan: %s", error
        )
    return None
