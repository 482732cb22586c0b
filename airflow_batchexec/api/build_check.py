"""Whether a model and its build exist, where that can be found out from here: the plan looks again in any case."""

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

_SECONDS = 5.0
_AT_ONCE = 4
_free = BoundedSemaphore(_AT_ONCE)


def check_build(config: ExecutionConfig, *, batch_execution_conn_id: str) -> None:
    """Refuse an execution of a model or build that the repository does not have.

    A repository that this server does not reach, or not soon, refuses nothing: workers may well reach it.

    Args:
        config: The execution's configuration.
        batch_execution_conn_id: The connection that reaches a repository in a bucket; empty for the default one.

    Raises:
        RepositoryError: There is no such model or build, or none is live.
        ConfigurationError: An id is malformed.
    """
    if not _free.acquire(blocking=False):
        # As many as there may be are waiting for a repository that does not answer.
        return
    answers: SimpleQueue[BatchExecError | None] = SimpleQueue()

    def look() -> None:
        try:
            answers.put(_look(config, batch_execution_conn_id))
        finally:
            _free.release()

    # A daemon: the server is not to wait for it when it ends.
    Thread(target=look, name="batchexec-builds", daemon=True).start()
    try:
        error = answers.get(timeout=_SECONDS)
    except Empty:
        log.info("The model repository did not answer within %g s; the plan will look.", _SECONDS)
        return
    if error is not None:
        raise error


def _look(config: ExecutionConfig, batch_execution_conn_id: str) -> BatchExecError | None:
    """What the repository says against the execution; ``None`` also where it cannot be asked."""
    try:
        hook = BatchExecutionHook(batch_execution_conn_id or BatchExecutionHook.default_conn_name)
        repository = settings.model_repository(hook.open_storage)
        if repository.root.scheme is Scheme.FILE and not repository.root.path.is_dir():
            return None
        repository.resolve(config.execution.model_id, config.execution.build_id or None)
    except RepositoryError as error:
        return error
    except BatchExecError as error:
        log.info("The model repository cannot be reached from here, so the plan will look: %s", error)
    return None
