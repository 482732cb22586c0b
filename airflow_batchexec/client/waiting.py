"""Waiting for the end of an execution on a server, and ending it where whoever waits is interrupted."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

from airflow_batchexec.client.interruption import ends_as_interrupts
from airflow_batchexec.client.progress import bar
from airflow_batchexec.exceptions import BatchExecError, ServerUnreachableError, WaitTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_batchexec.client.progress import Bar
    from airflow_batchexec.client.results import CancelExecutionResult, ExecutionStatusResult

__all__ = ["POLL_SECONDS", "cancel_and_say_so", "say", "wait_for_end"]

POLL_SECONDS = 5.0
"""The longest pause between two looks at an execution."""

_FIRST_PAUSE_SECONDS = 0.5
_GROWTH = 1.25
# A server that is being replaced is away for minutes, while the execution goes on.
_MOST_SECONDS_AWAY = 600.0

logger = logging.getLogger(__name__)


def wait_for_end(
    execution_id: str,
    *,
    status: Callable[[], ExecutionStatusResult],
    cancel: Callable[[], CancelExecutionResult] | None,
    timeout: float | None = None,
    poll_interval: float = POLL_SECONDS,
    progress: bool | None = None,
) -> ExecutionStatusResult:
    """Look until the execution has ended; the pauses grow.

    Args:
        execution_id: What is waited for.
        status: Looks at it.
        cancel: Ends it where this is interrupted; ``None`` leaves it alone then.
        timeout: Seconds to wait at most.
        poll_interval: The longest pause, in seconds.
        progress: Whether to draw a bar; ``None``: on a terminal.

    Returns:
        The last status; one without success where the server knows no such execution.

    Raises:
        WaitTimeoutError: It has not ended in time, and goes on.
        ServerUnreachableError: The server was away for minutes.
        KeyboardInterrupt: Somebody interrupted this.
    """
    with ends_as_interrupts():
        try:
            with bar(execution_id, wanted=progress) as view:
                return _poll(execution_id, status, view, timeout, poll_interval)
        except Exception:
            raise
        except BaseException:
            if cancel is not None:
                cancel_and_say_so(execution_id, cancel)
            raise


def _poll(
    execution_id: str,
    status: Callable[[], ExecutionStatusResult],
    view: Bar,
    timeout: float | None,
    poll_interval: float,
) -> ExecutionStatusResult:
    started = seen = time.monotonic()
    pause = min(_FIRST_PAUSE_SECONDS, poll_interval)
    while True:
        try:
            result = status()
        except ServerUnreachableError as error:
            if time.monotonic() - seen > _MOST_SECONDS_AWAY:
                raise
            logger.warning("%s Waiting goes on.", error)
        else:
            seen = time.monotonic()
            if result.ended or not result.success:
                return result
            text = f"{execution_id} {result.status.short.lower()}"
            view.show(text, result.finished_files, result.total_files)
        left = float("inf") if timeout is None else started + timeout - time.monotonic()
        if left <= 0:
            raise WaitTimeoutError(
                f"The execution {execution_id} has not ended within {timeout:g} s; it goes on.",
                execution_id=execution_id,
            )
        time.sleep(min(pause, left))
        pause = min(pause * _GROWTH, poll_interval)


def cancel_and_say_so(execution_id: str, cancel: Callable[[], CancelExecutionResult]) -> None:
    """End an execution whose owner is leaving, and tell on standard error what became of that."""
    say(f"Interrupted: cancelling the execution {execution_id}. Interrupt again to leave it as it is.")
    try:
        result = cancel()
    except BatchExecError as error:
        say(f"The execution {execution_id} could not be cancelled, and may go on. {error}")
        return
    if result.success:
        say(f"The execution {execution_id} is cancelled.")
    else:
        say(f"The execution {execution_id} was not cancelled: {result.failure_message}")


def say(text: str) -> None:
    """Tell the user, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
