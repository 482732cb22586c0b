"""The operator that starts an execution from any DAG, and waits for it."""

from __future__ import annotations

import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator, conf
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRuntimeError,
    AirflowTaskTimeout,
)

from airflow_batchexec import internals, settings
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.engine.execution.ids import operator_id
from airflow_batchexec.exceptions import ConfigurationError, ExecutionCancelledError
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
from airflow_batchexec.names import ENDED_RUN_STATES, EXECUTION_DAG_ID, STARTED_ROW
from airflow_batchexec.reporting.links import ExecutionLink, ResultsLink
from airflow_batchexec.runs.control import cancel, end_of, is_still_active, publish_run_link
from airflow_batchexec.runs.handle import ExecutionHandle
from airflow_batchexec.runs.parse_time import check_literals, given
from airflow_batchexec.runs.task_errors import as_task_failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

    from airflow_batchexec.engine.execution.stop import StopMark

__all__ = ["BatchExecutionOperator"]

# Airflow kills a terminated process after 5 seconds: how soon it notices, and how long it may query Airflow then.
_POLL_SECONDS = 0.5
_QUERY_SECONDS = 2.5


class BatchExecutionOperator(BaseOperator):
    """Starts an execution as a run of an execution DAG, and waits for it.

    Literal values are validated when the DAG is parsed, templates when they are rendered. A retry finds the execution
    that an earlier try started and waits for it; it starts another one only if that ended without success. A clear
    starts a new one. While the operator waits, it owns the execution: if a user marks or clears the task, ends its run,
    or the task exceeds its ``execution_timeout``, the execution is cancelled. If only its worker stops or is lost, the
    execution continues, and a retry waits for it.

    The parameters of the execution, all templated, are described in
    :class:`~airflow_batchexec.engine.config.model.ExecutionConfig`. ``None`` or an empty rendered value means unset.

    Args:
        wait_for_completion: Whether to wait for the end of the execution, and to fail unless it finished.
        deferrable: Whether to wait in the triggerer instead of a worker; default: ``[operators] default_deferrable``.
        poll_interval: Seconds between two checks.
        execution_dag_id: The execution DAG. Templated.
        batch_execution_conn_id: The connection used to cancel; should be the execution DAG's.

    Returns:
        A dictionary with the ``execution_id`` and, if it waited, the execution's summary: ``status``, file counts,
        ``rows``, ``seconds`` and the URI of the ``manifest``.

    Raises:
        ConfigurationError: While parsing: a literal value is wrong; ``details["field"]`` names it.
        AirflowFailException: A value is wrong, or the execution was refused or cancelled.
        AirflowException: The execution ended as FAILED or TIMEOUT.
    """

    template_fields: Sequence[str] = (*flat_fields(), "execution_dag_id", "batch_execution_conn_id")
    operator_extra_links = (ExecutionLink(), ResultsLink())

    def __init__(
        self,
        *,
        model_id: str,
        source_folder: str,
        destination_folder: str,
        build_id: str | None = None,
        branch: str | None = None,
        bucket: str | None = None,
        source_bucket: str | None = None,
        destination_bucket: str | None = None,
        input_file_type: str | None = None,
        output_file_type: str | None = None,
        access_token_name: str | None = None,
        access_secret_name: str | None = None,
        job_timeout: int | str | None = None,
        file_timeout: int | str | None = None,
        parameters: Mapping[str, Any] | str | None = None,
        service_account_key_secret_name: str | None = None,
        pods: int | str | None = None,
        instance: str | None = None,
        cpus: float | str | None = None,
        memory: int | str | None = None,
        gpu_type: str | None = None,
        gpu_amount: int | str | None = None,
        iam_role_arn: str | None = None,
        purchase_option: str | None = None,
        wait_for_completion: bool = True,
        deferrable: bool | None = None,
        poll_interval: float = 5.0,
        execution_dag_id: str = EXECUTION_DAG_ID,
        batch_execution_conn_id: str = BatchExecutionHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_id = model_id
        self.build_id = build_id
        self.branch = branch
        self.bucket = bucket
        self.source_bucket = source_bucket
        self.source_folder = source_folder
        self.destination_bucket = destination_bucket
        self.destination_folder = destination_folder
        self.input_file_type = input_file_type
        self.output_file_type = output_file_type
        self.access_token_name = access_token_name
        self.access_secret_name = access_secret_name
        self.job_timeout = job_timeout
        self.file_timeout = file_timeout
        self.parameters = parameters
        self.service_account_key_secret_name = service_account_key_secret_name
        self.pods = pods
        self.instance = instance
        self.cpus = cpus
        self.memory = memory
        self.gpu_type = gpu_type
        self.gpu_amount = gpu_amount
        self.iam_role_arn = iam_role_arn
        self.purchase_option = purchase_option
        self.wait_for_completion = wait_for_completion
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.execution_dag_id = execution_dag_id
        self.batch_execution_conn_id = batch_execution_conn_id
        self._cancel_mark: StopMark | None = None
        self._killed = False
        self._decided = False
        if not poll_interval > 0:
            raise ConfigurationError(
                f"poll_interval: {poll_interval} is not a number of seconds above 0.", field="poll_interval"
            )
        check_literals(self._fields())

    def execute(self, context: Context) -> dict[str, Any]:
        """Start the execution or find it again, and wait for it."""
        with as_task_failure():
            if self.wait_for_completion:
                self._end_execution_before_clear(context)
            handle = self._begin(context)
        run_id = handle.execution_id
        context["task_state_store"].set(
            STARTED_ROW, {"max_tries": context["ti"].max_tries, **handle.to_dict()}
        )
        publish_run_link(context, dag_id=self.execution_dag_id, run_id=run_id)
        if not self.wait_for_completion:
            return {"execution_id": run_id}
        try:
            if self.deferrable:
                self._check_alive(context, run_id)
                self._defer(context, handle)
            return self._wait(context, run_id)
        except AirflowTaskTimeout:
            self._decided = True
            # It may have interrupted a query, so Airflow is not queried again.
            if self._cancel_mark is not None:
                self._cancel_mark.set(
                    ExecutionCancelledError("The task that started it exceeded its execution_timeout.")
                )
            raise

    def resume(self, context: Context, event: dict[str, Any], run_id: str) -> dict[str, Any]:
        """Continue after the trigger has seen the end."""
        state = event["state"]
        if state == "timeout":
            raise AirflowException(
                f"The execution {run_id} is being cancelled: its operator exceeded its execution_timeout."
            )
        return self._result(context, run_id, None if state == "missing" else state)

    def on_kill(self) -> None:
        """Note that this process is being terminated; a signal handler must not do more.

        If Airflow does not answer in time whether the task is still active elsewhere, the execution is cancelled: an
        execution without an owner is worse than one that is started again.
        """
        self._killed = True
        if self._cancel_mark is not None and not self._decided:
            timer = threading.Timer(_QUERY_SECONDS, self._cancel_without_an_answer)
            timer.daemon = True
            timer.start()

    def _cancel_without_an_answer(self) -> None:
        if self._cancel_mark is not None and not self._decided:
            self._cancel_mark.set(ExecutionCancelledError("The task that started it was terminated."))

    def _fields(self) -> dict[str, Any]:
        return given({name: getattr(self, name) for name in flat_fields()})

    def _begin(self, context: Context) -> ExecutionHandle:
        """Start the execution, unless an earlier try did."""
        ti = context["ti"]
        config = ExecutionConfig.from_fields(**self._fields())
        allowed = settings.allowed_locations()
        allowed.check(config.source, field="source_folder")
        allowed.check(config.destination, field="destination_folder")
        for attempt in count(1):
            handle = ExecutionHandle(
                execution_id=operator_id(
                    dag_id=ti.dag_id,
                    task_id=ti.task_id,
                    run_id=ti.run_id,
                    map_index=ti.map_index,
                    max_tries=ti.max_tries,
                    attempt=attempt,
                ),
                destination=config.destination.uri,
                fields=config.fields(),
                batch_execution_conn_id=self.batch_execution_conn_id,
            )
            # Even if nothing is ever cancelled: a missing secret is found before anything is started.
            self._cancel_mark = handle.cancel_mark()
            state = internals.dag_run_state(self.execution_dag_id, handle.execution_id)
            if state is None:
                self._start(ti, handle)
                break
            if self._is_ours(state, self._cancel_mark):
                self.log.info(
                    "Execution %s was started by an earlier try; it is %s.", handle.execution_id, state
                )
                break
            self.log.info("Execution %s of an earlier try has ended.", handle.execution_id)
        return handle

    def _end_execution_before_clear(self, context: Context) -> None:
        """Cancel the execution of a task that was cleared while it waited: its trigger may not have done so.

        A triggerer whose trigger is dropped cannot distinguish a task that was cleared, and deferred again, from one
        whose trigger another triggerer has taken over.
        """
        state: Any = context["task_state_store"].get(STARTED_ROW)
        if not state or state.pop("max_tries") == context["ti"].max_tries:
            return
        old = ExecutionHandle.from_dict(state)
        reason = "The task that started it was cleared."
        if internals.dag_run_state(self.execution_dag_id, old.execution_id) is not None:
            cancel(old.cancel_mark(), dag_id=self.execution_dag_id, run_id=old.execution_id, reason=reason)

    def _is_ours(self, state: str, cancel: StopMark) -> bool:
        """Whether the execution of an earlier try is the one to wait for."""
        if state in ENDED_RUN_STATES:
            return state == "success" or not self.wait_for_completion
        return cancel.read() is None

    def _start(self, ti: RuntimeTaskInstanceProtocol, handle: ExecutionHandle) -> None:
        dag_id = self.execution_dag_id
        try:
            is_paused = internals.is_dag_paused(dag_id)
        except AirflowRuntimeError as error:
            raise ConfigurationError(
                f"execution_dag_id: the DAG {dag_id!r} does not exist.", field="execution_dag_id"
            ) from error
        if is_paused:
            raise ConfigurationError(
                f"execution_dag_id: the DAG {dag_id} is paused, so its runs would stay queued. Unpause it.",
                field="execution_dag_id",
            )
        note = f"Started by {ti.dag_id}.{ti.task_id}, run {ti.run_id}."
        internals.begin_dag_run(dag_id=dag_id, run_id=handle.execution_id, conf=handle.fields, note=note)
        self.log.info("Started execution %s as a run of %s.", handle.execution_id, dag_id)

    def _defer(self, context: Context, handle: ExecutionHandle) -> NoReturn:
        from airflow_batchexec.triggers.batch_execution import (  # noqa: PLC0415  not for parsing
            BatchExecutionTrigger,
        )

        give_up_at = None
        if self.execution_timeout is not None:
            started = context["ti"].start_date
            give_up_at = started.timestamp() + self.execution_timeout.total_seconds()
        self.defer(
            trigger=BatchExecutionTrigger(
                dag_id=self.execution_dag_id,
                run_id=handle.execution_id,
                poll_interval=self.poll_interval,
                execution=handle.to_dict(),
                give_up_at=give_up_at,
            ),
            method_name="resume",
            kwargs={"run_id": handle.execution_id},
        )

    def _wait(self, context: Context, run_id: str) -> dict[str, Any]:
        while True:
            state = internals.dag_run_state(self.execution_dag_id, run_id)
            if state is None or state in ENDED_RUN_STATES:
                return self._result(context, run_id, state)
            self._pause()
            self._check_alive(context, run_id)

    def _pause(self) -> None:
        until = time.monotonic() + self.poll_interval
        while not self._killed and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_SECONDS))

    def _check_alive(self, context: Context, run_id: str) -> None:
        """Cancel the execution if this process is being terminated and the task is not active elsewhere.

        Raises:
            AirflowException: The process is being terminated.
        """
        if not self._killed:
            return
        if is_still_active(context["ti"]):
            self._decided = True
            raise AirflowException(f"This process is being terminated. The execution {run_id} continues.")
        if self._cancel_mark is not None:
            reason = "The task that started it was terminated or cleared."
            cancel(self._cancel_mark, dag_id=self.execution_dag_id, run_id=run_id, reason=reason)
        self._decided = True
        raise AirflowException(f"The execution {run_id} is being cancelled because this task was terminated.")

    def _result(self, context: Context, run_id: str, state: str | None) -> dict[str, Any]:
        if state is None:
            raise AirflowFailException(f"The execution {run_id} was deleted while this task waited for it.")
        end = end_of(context, dag_id=self.execution_dag_id, run_id=run_id, state=state)
        if end.failure:
            raise AirflowFailException(end.failure) if end.is_final else AirflowException(end.failure)
        return {"execution_id": run_id, **end.summary.to_dict()}
