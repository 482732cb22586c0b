"""The client for the REST API: start, monitor and cancel executions."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_batchexec.client.client_settings import ClientSettings
from airflow_batchexec.client.interruption import signals_as_interrupts
from airflow_batchexec.client.parsing import (
    read_cancelled,
    read_details,
    read_page,
    read_report,
    read_started,
    read_status,
)
from airflow_batchexec.client.transport import Transport
from airflow_batchexec.client.waiting import POLL_SECONDS, cancel_and_report, notify, wait_for_end
from airflow_batchexec.exceptions import BatchExecError, ConfigurationError
from airflow_batchexec.wire.request import start_request
from airflow_batchexec.wire.values import JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

    from airflow_batchexec.client.results import (
        BatchJobSummary,
        CancelExecutionResult,
        ExecutionStatusResult,
        GetBatchJobDetailsResult,
        GetExecutionReportResult,
        ListBatchJobsResult,
        StartExecutionResult,
    )
    from airflow_batchexec.engine.config.model import ExecutionConfig

__all__ = ["BatchJobManagerClient"]

_PAGE = 500
_CONFLICT = 409
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class BatchJobManagerClient:
    """Executions on a server.

    A call that the server refuses (an invalid field, an unknown ID, an execution that is already running) returns a
    result with ``success=False`` and the reason. Other failures raise: the server is unreachable, the user lacks the
    permission, or the response is not from this API.

    Args:
        server: Airflow's URL; defaults to ``BATCHEXEC_SERVER``, then to the configuration file.
        token: An Airflow API token; defaults to ``BATCHEXEC_TOKEN``, then to the configuration file.
        token_file: A file that contains a token.
        username: The user to log in as, if there is no token.
        password: The password of that user.
        profile: The table of the configuration file to use; defaults to ``default``.
        config_file: The configuration file.
        ca_bundle: A file of CA certificates to trust instead of the default ones.
        connect_timeout: The timeout for connecting, in seconds.
        read_timeout: The maximum time without data from the server, in seconds.
        retries: How often to retry a request that got no response.
        settings: The settings as returned by ``ClientSettings.find``; all other arguments are then ignored.

    Raises:
        ConfigurationError: No server or credentials are configured, or a setting is invalid.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        token: str | None = None,
        token_file: str | Path | None = None,
        username: str | None = None,
        password: str | None = None,
        profile: str | None = None,
        config_file: str | Path | None = None,
        ca_bundle: str | Path | None = None,
        connect_timeout: float | None = None,
        read_timeout: float | None = None,
        retries: int | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self.settings = settings or ClientSettings.find(
            profile=profile,
            config_file=config_file,
            server=server,
            token=token,
            token_file=str(token_file) if token_file else None,
            username=username,
            password=password,
            ca_bundle=str(ca_bundle) if ca_bundle else None,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries=retries,
        )
        self._transport = Transport(self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the server."""
        self._transport.close()

    def start_execution(
        self, execution_config: ExecutionConfig, *, idempotency_key: str | None = None
    ) -> StartExecutionResult:
        """Start an execution without waiting for it.

        Args:
            execution_config: The configuration of the execution.
            idempotency_key: Starts with the same key are the same execution. By default, each call starts its own
                execution, however often the request is retried.

        Raises:
            ConfigurationError: The key is not 1 to 255 visible ASCII characters.
            NotAllowedError: The user lacks the permission.
            ServerError: The server did not respond, or the response is not from this API.
        """
        response = self._transport.call(
            "POST",
            "batch-job/start-job",
            document=start_request(execution_config.fields()),
            headers={"Idempotency-Key": _key(idempotency_key)},
        )
        return read_started(response)

    def get_execution_status(self, execution_id: str) -> ExecutionStatusResult:
        """Get the status of an execution, and how many of its files are finished.

        Raises:
            NotAllowedError: The user lacks the permission.
            ServerError: The server did not respond, or the response is not from this API.
        """
        return read_status(self._transport.call("GET", f"{_path(execution_id)}/status"))

    def cancel_execution(self, execution_id: str) -> CancelExecutionResult:
        """Cancel an execution. Its pods exit within seconds; existing results stay.

        Raises:
            NotAllowedError: The user lacks the permission.
            ServerError: The server did not respond, or the response is not from this API.
        """
        response = self._transport.call("POST", f"{_path(execution_id)}/cancel")
        if response.status_code == _CONFLICT and response.attempts > 1:
            # An earlier attempt whose response was lost may already have cancelled it.
            status = self.get_execution_status(execution_id)
            if status.status is JobStatus.BATCH_JOB_CANCELLED_STATUS:
                response.body.update(success=True, failure_message="")
        return read_cancelled(response)

    def get_execution_report(self, execution_id: str) -> GetExecutionReportResult:
        """Get the log of an execution, including the lines that the model printed.

        Raises:
            NotAllowedError: The user lacks the permission.
            ServerError: The server did not respond, or the response is not from this API.
        """
        return read_report(self._transport.call("GET", f"{_path(execution_id)}/report"))

    def get_batch_job_details(self, job_id: str) -> GetBatchJobDetailsResult:
        """Get an execution with its log and the outcome of each file.

        Raises:
            NotAllowedError: The user lacks the permission.
            ServerError: The server did not respond, or the response is not from this API.
        """
        return read_details(self._transport.call("GET", _path(job_id)))

    def list_batch_jobs(
        self,
        model_id: str | None = None,
        build_id: str | None = None,
        *,
        status: JobStatus | str | None = None,
        limit: int | None = None,
    ) -> ListBatchJobsResult:
        """List the executions that the user may see, newest first.

        Args:
            model_id: Only list executions of this model.
            build_id: Only list executions of this build.
            status: Only list executions in this status.
            limit: The maximum number of executions; ``None`` for all.

        Raises:
            ConfigurationError: The status does not exist, or the limit is not positive.
            NotAllowedError: The user lacks the permission.
            ServerError: The server did not respond, or the response is not from this API.
        """
        if limit is not None and limit < 1:
            raise ConfigurationError(f"limit: {limit!r} is not a positive number.", field="limit")
        query: dict[str, Any] = {"model_id": model_id, "build_id": build_id, "status": _status_name(status)}
        jobs: list[BatchJobSummary] = []
        entries: list[Any] = []
        cursor = ""
        while True:
            query["limit"] = _PAGE if limit is None else min(_PAGE, limit - len(jobs))
            query["cursor"] = cursor
            response = self._transport.call("GET", "batch-jobs", params=_without_unset(query))
            page, cursor = read_page(response)
            jobs += page.batch_jobs
            entries += page.wire.get("batch_jobs") or []
            if not page.success or not page.batch_jobs or not cursor or len(jobs) == limit:
                return replace(page, batch_jobs=jobs, wire={**page.wire, "batch_jobs": entries})

    def wait_for_execution(
        self,
        execution_id: str,
        timeout: float | None = None,
        *,
        poll_interval: float = POLL_SECONDS,
        progress: bool | None = None,
        cancel_on_interrupt: bool = True,
    ) -> ExecutionStatusResult:
        """Wait for an execution to end.

        Ctrl-C, as well as SIGTERM and SIGHUP if the program does not handle them, cancel the execution and then raise
        ``KeyboardInterrupt``; a second one exits at once. The server may be unreachable for some minutes.

        Args:
            execution_id: The execution.
            timeout: The maximum time to wait in seconds; ``None`` for no limit.
            poll_interval: The maximum interval between polls, in seconds. The first intervals are shorter.
            progress: Whether to draw a bar on standard error; ``None``: only if it is a terminal.
            cancel_on_interrupt: Whether an interrupt cancels the execution.

        Returns:
            The final status; with ``success=False`` if the server does not know the execution.

        Raises:
            WaitTimeoutError: The timeout expired; the execution continues.
            NotAllowedError: The user lacks the permission.
            ServerError: The server did not respond, or the response is not from this API.
        """
        return wait_for_end(
            execution_id,
            status=lambda: self.get_execution_status(execution_id),
            cancel=(lambda: self.cancel_execution(execution_id)) if cancel_on_interrupt else None,
            timeout=timeout,
            poll_interval=poll_interval,
            progress=progress,
        )

    def run_execution(
        self,
        execution_config: ExecutionConfig,
        timeout: float | None = None,
        *,
        poll_interval: float = POLL_SECONDS,
        progress: bool | None = None,
        on_started: Callable[[StartExecutionResult], None] = lambda _: None,
    ) -> tuple[StartExecutionResult, ExecutionStatusResult | None]:
        """Start an execution and wait for it to end. An interrupt at any point cancels it.

        Args:
            execution_config: The configuration of the execution.
            timeout: As for ``wait_for_execution``.
            poll_interval: As for ``wait_for_execution``.
            progress: As for ``wait_for_execution``.
            on_started: Called with the result of the start before the wait.

        Returns:
            The result of the start, and the final status; ``None`` if the execution was not started.

        Raises:
            WaitTimeoutError: The timeout expired; the execution continues.
            NotAllowedError: The user lacks the permission.
            ServerError: The server did not respond, or the response is not from this API.
        """
        key = str(uuid.uuid4())
        started: StartExecutionResult | None = None
        with signals_as_interrupts():
            try:
                started = self.start_execution(execution_config, idempotency_key=key)
                on_started(started)
            except Exception:
                raise
            except BaseException:
                self._cancel_started(started, execution_config, key)
                raise
            if not started.success:
                return started, None
            ended = self.wait_for_execution(
                started.execution_id, timeout, poll_interval=poll_interval, progress=progress
            )
        return started, ended

    def _cancel_started(
        self, started: StartExecutionResult | None, execution_config: ExecutionConfig, key: str
    ) -> None:
        """Cancel what an interrupted start may have started. Repeating it with the same key returns its ID."""
        try:
            started = started or self.start_execution(execution_config, idempotency_key=key)
        except BatchExecError as error:
            notify(f"Interrupted while starting the execution; it may be running. {error}")
            return
        execution_id = started.execution_id
        if started.success:
            cancel_and_report(execution_id, lambda: self.cancel_execution(execution_id))


def _path(execution_id: str) -> str:
    # URL normalization would remove a path segment of dots only.
    if not execution_id.strip("."):
        raise ConfigurationError(
            f"execution_id: {execution_id!r} is not a valid execution ID.", field="execution_id"
        )
    return f"batch-job/{quote(execution_id, safe='')}"


def _key(given: str | None) -> str:
    if given is None:
        return str(uuid.uuid4())
    if not _KEY.fullmatch(given):
        raise ConfigurationError(
            "idempotency_key: it must be 1 to 255 visible ASCII characters.", field="idempotency_key"
        )
    return given


def _status_name(status: JobStatus | str | None) -> str | None:
    if not status:
        return None
    try:
        return JobStatus.parse(status).value
    except ValueError:
        names = ", ".join(s.short for s in list(JobStatus)[1:])
        raise ConfigurationError(f"status: {status!r} is not one of {names}.", field="status") from None


def _without_unset(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value not in (None, "")}
