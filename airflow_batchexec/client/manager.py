"""The client of the batch API: start executions, watch them, end them."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_batchexec.client.interruption import ends_as_interrupts
from airflow_batchexec.client.responses import (
    read_cancelled,
    read_details,
    read_page,
    read_report,
    read_started,
    read_status,
)
from airflow_batchexec.client.settings import ClientSettings
from airflow_batchexec.client.transport import Transport
from airflow_batchexec.client.waiting import POLL_SECONDS, cancel_and_say_so, say, wait_for_end
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

    What the server refuses (a wrong field, an unknown id, an execution that is running already) is a result without
    success, with the reason. What keeps it from answering is an error: nobody there, no right, no such API.

    Args:
        server: Airflow's address; else ``BATCHEXEC_SERVER``, else the client's file.
        token: A token of that Airflow; else ``BATCHEXEC_TOKEN``, else the file.
        token_file: A file that holds one.
        username: Whom to log in as, where there is no token.
        password: With which password.
        profile: The table of the client's file; ``default``.
        config_file: The client's file.
        ca_bundle: A file of certificates to trust in place of the usual ones.
        connect_timeout: Seconds until a connection must stand.
        read_timeout: Seconds that the server may say nothing.
        retries: How often a request that was not answered is sent again.
        settings: All of this as ``ClientSettings.find`` has found it, in place of the others.

    Raises:
        ConfigurationError: No server or no identity is named, or a setting is wrong.
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
        """Start an execution; it is not waited for.

        Args:
            execution_config: What is to be executed.
            idempotency_key: Two starts with one key are one execution. Without it, each call is one of its own, however
                often the network makes it be sent.

        Raises:
            ConfigurationError: The key is not of 1 to 255 visible ASCII characters.
            NotAllowedError: The user may not.
            ServerError: There is no answer, or none of this API.
        """
        response = self._transport.call(
            "POST",
            "batch-job/start-job",
            document=start_request(execution_config.fields()),
            headers={"Idempotency-Key": _key(idempotency_key)},
        )
        return read_started(response)

    def get_execution_status(self, execution_id: str) -> ExecutionStatusResult:
        """What an execution is doing, and how many of its files are finished.

        Raises:
            NotAllowedError: The user may not.
            ServerError: There is no answer, or none of this API.
        """
        return read_status(self._transport.call("GET", f"{_path(execution_id)}/status"))

    def cancel_execution(self, execution_id: str) -> CancelExecutionResult:
        """End an execution: its pods end in the seconds that follow, and results that are there stay.

        Raises:
            NotAllowedError: The user may not.
            ServerError: There is no answer, or none of this API.
        """
        response = self._transport.call("POST", f"{_path(execution_id)}/cancel")
        if response.status_code == _CONFLICT and response.tries > 1:
            # An earlier attempt whose response was lost may already have cancelled it.
            status = self.get_execution_status(execution_id)
            if status.status is JobStatus.BATCH_JOB_CANCELLED_STATUS:
                response.body.update(success=True, failure_message="")
        return read_cancelled(response)

    def get_execution_report(self, execution_id: str) -> GetExecutionReportResult:
        """The log of an execution, with the model's own lines in it.

        Raises:
            NotAllowedError: The user may not.
            ServerError: There is no answer, or none of this API.
        """
        return read_report(self._transport.call("GET", f"{_path(execution_id)}/report"))

    def get_batch_job_details(self, job_id: str) -> GetBatchJobDetailsResult:
        """An execution with its log and what became of each file.

        Raises:
            NotAllowedError: The user may not.
            ServerError: There is no answer, or none of this API.
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
        """The executions that the user may see, the newest first.

        Args:
            model_id: Those of this model alone.
            build_id: Those of this build alone.
            status: Those that do this, or have come to it.
            limit: How many at most; ``None`` for all.

        Raises:
            ConfigurationError: There is no such status, or the limit is no number above 0.
            NotAllowedError: The user may not.
            ServerError: There is no answer, or none of this API.
        """
        if limit is not None and limit < 1:
            raise ConfigurationError(f"limit: {limit!r} is no number above 0.", field="limit")
        query: dict[str, Any] = {"model_id": model_id, "build_id": build_id, "status": _status_name(status)}
        jobs: list[BatchJobSummary] = []
        entries: list[Any] = []
        cursor = ""
        while True:
            query["limit"] = _PAGE if limit is None else min(_PAGE, limit - len(jobs))
            query["cursor"] = cursor
            response = self._transport.call("GET", "batch-jobs", params=_set(query))
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
        """Wait for the end of an execution.

        Ctrl-C, and SIGTERM where nobody else handles it, cancel the execution before they go on as ``KeyboardInterrupt``;
        a second one leaves at once. A server that is away for some minutes is waited for.

        Args:
            execution_id: The execution.
            timeout: Seconds to wait at most; ``None``: however long it takes.
            poll_interval: The longest pause between two looks, in seconds. The first pauses are shorter.
            progress: Whether to draw a bar on standard error; ``None``: where that is a terminal.
            cancel_on_interrupt: Whether an interrupt cancels the execution.

        Returns:
            How it has ended; without success where the server knows no such execution.

        Raises:
            WaitTimeoutError: It has not ended in time; it goes on.
            NotAllowedError: The user may not.
            ServerError: There is no answer, or none of this API.
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
        """Start an execution and wait for its end; an interrupt cancels it from the first moment on.

        Args:
            execution_config: What is to be executed.
            timeout: As for ``wait_for_execution``.
            poll_interval: As for ``wait_for_execution``.
            progress: As for ``wait_for_execution``.
            on_started: Told of the answer to the start before the wait begins.

        Returns:
            The answer to the start, and how the execution has ended; ``None`` where it was not started.

        Raises:
            WaitTimeoutError: It has not ended in time; it goes on.
            NotAllowedError: The user may not.
            ServerError: There is no answer, or none of this API.
        """
        key = str(uuid.uuid4())
        started: StartExecutionResult | None = None
        with ends_as_interrupts():
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
        """End what an interrupted start may have started: the same key gives the same execution, and its id."""
        try:
            started = started or self.start_execution(execution_config, idempotency_key=key)
        except BatchExecError as error:
            say(f"Interrupted while the execution was being started; it may go on. {error}")
            return
        execution_id = started.execution_id
        if started.success:
            cancel_and_say_so(execution_id, lambda: self.cancel_execution(execution_id))


def _path(execution_id: str) -> str:
    # A name of dots alone would be taken for a step up.
    if not execution_id.strip("."):
        raise ConfigurationError(
            f"execution_id: {execution_id!r} is no id of an execution.", field="execution_id"
        )
    return f"batch-job/{quote(execution_id, safe='')}"


def _key(given: str | None) -> str:
    if given is None:
        return str(uuid.uuid4())
    if not _KEY.fullmatch(given):
        raise ConfigurationError(
            "idempotency_key: it should be 1 to 255 visible ASCII characters.", field="idempotency_key"
        )
    return given


def _status_name(status: JobStatus | str | None) -> str | None:
    if not status:
        return None
    try:
        return JobStatus.parse(status).value
    except ValueError:
        names = ", ".join(s.short for s in list(JobStatus)[1:])
        raise ConfigurationError(f"status: {status!r} is none of {names}.", field="status") from None


def _set(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value not in (None, "")}
