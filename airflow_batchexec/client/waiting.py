"""Waits for an execution on a server to end, and cancels it on an interrupt."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

from airflow_batchexec.client.interruption import signals_as_interrupts
from airflow_batchexec.client.progress import progress_bar
from airflow_batchexec.exceptions import BatchExecError, ServerUnreachableError, WaitTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_batchexec.client.progress import Bar
    from airflow_batchexec.client.results import CancelExecutionResult, ExecutionStatusResult

__all__ = ["POLL_SECONDS", "cancel_and_report", "notify", "wait_for_end"]

POLL_SECONDS = 5.0
"""The maximum interval between two polls, in seconds."""

_INITIAL_POLL_SECONDS = 0.5
_BACKOFF_FACTOR = 1.25
# A server that is being redeployed is unreachable for minutes, while the execution continues.
_MAX_SECONDS_UNREACHABLE = 600.0

log = logging.getLogger(__name__)


def wait_for_end(
    execution_id: str,
    *,
    status: Callable[[], ExecutionStatusResult],
    cancel: Callable[[], CancelExecutionResult] | None,
    timeout: float | None = None,
    poll_interval: float = POLL_SECONDS,
    progress: bool | None = None,
) -> ExecutionStatusResult:
    """Poll an execution until it ends, at growing intervals.

    Args:
        execution_id: The execution to wait for.
        status: Gets its status.
        cancel: Cancels it on an interrupt; ``None`` leaves it alone.
        timeout: The maximum time to wait, in seconds; ``None`` for no limit.
        poll_interval: The maximum interval between polls, in seconds.
        progress: Whether to draw a bar; ``None``: only on a terminal.

    Returns:
        The final status; with ``success=False`` if the server does not know the execution.

    Raises:
        WaitTimeoutError: The timeout expired; the execution continues.
        ServerUnreachableError: The server was unreachable for minutes.
        KeyboardInterrupt: The wait was interrupted.
    """
    with signals_as_interrupts():
        try:
            with progress_bar(execution_id, enabled=progress) as view:
                return _poll(execution_id, status, view, timeout, poll_interval)
        except Exception:
            raise
        except BaseException:
            if cancel is not None:
                cancel_and_report(execution_id, cancel)
            raise


def _poll(
    execution_id: str,
    status: Callable[[], ExecutionStatusResult],
    view: Bar,
    timeout: float | None,
    poll_interval: float,
) -> ExecutionStatusResult:
    started = last_response = time.monotonic()
    interval = min(_INITIAL_POLL_SECONDS, poll_interval)
    while True:
        try:
            result = status()
        except ServerUnreachableError as error:
            if time.monotonic() - last_response > _MAX_SECONDS_UNREACHABLE:
                raise
            log.warning("%s Still waiting.", error)
        else:
            last_response = time.monotonic()
            if result.ended or not result.success:
                return result
            text = f"{execution_id} {result.status.short.lower()}"
            view.show(text, result.finished_files, result.total_files)
        left = float("inf") if timeout is None else started + timeout - time.monotonic()
        if left <= 0:
            raise WaitTimeoutError(
                f"Execution {execution_id} did not end within {timeout:g} s; it is still running.",
                execution_id=execution_id,
            )
        time.sleep(min(interval, left))
        interval = min(interval * _BACKOFF_FACTOR, poll_interval)


def cancel_and_report(execution_id: str, cancel: Callable[[], CancelExecutionResult]) -> None:
    """Cancel an execution after an interrupt, and report the outcome on standard error."""
    notify(f"Interrupted: cancelling execution {execution_id}. Interrupt again to exit without waiting.")
    try:
        result = cancel()
    except BatchExecError as error:
        notify(f"Execution {execution_id} could not be cancelled, and may still be running. {error}")
        return
    if result.success:
        notify(f"Execution {execution_id} is cancelled.")
    else:
        notify(f"Execution {execution_id} was not cancelled: {result.failure_message}")


def notify(text: str) -> None:
    """Print a message for the user to standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
