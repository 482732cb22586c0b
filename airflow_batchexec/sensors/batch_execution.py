"""The sensor that waits for an execution."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseSensorOperator, PokeReturnValue, conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.names import ENDED_RUN_STATES, EXECUTION_DAG_ID
from airflow_batchexec.reporting.links import ExecutionLink, ResultsLink
from airflow_batchexec.runs.control import check_run_state, end_of, publish_run_link
from airflow_batchexec.runs.task_errors import as_task_failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

__all__ = ["BatchExecutionSensor"]


class BatchExecutionSensor(BaseSensorOperator):
    """Waits for the end of an execution, and fails unless it finished.

    The sensor does not own the execution: ending the sensor does not cancel it.

    Args:
        execution_id: The execution: its id, or what ``BatchExecutionOperator`` returns. Templated.
        execution_dag_id: The execution DAG. Templated.
        deferrable: Whether to wait in the triggerer instead of a worker; default: ``[operators] default_deferrable``.
        kwargs: The arguments of every sensor: ``poke_interval``, ``timeout`` (both in seconds), ``soft_fail``, ``mode`` ….

    Returns:
        The execution's summary: ``status``, file counts, ``rows``, ``seconds`` and the URI of the ``manifest``.

    Raises:
        AirflowFailException: The execution ended as FAILED, CANCELLED or TIMEOUT, with its reason; or it does not
            exist.
        AirflowSkipException: The same, with ``soft_fail``.
    """

    template_fields: Sequence[str] = ("execution_id", "execution_dag_id")
    operator_extra_links = (ExecutionLink(), ResultsLink())

    def __init__(
        self,
        *,
        execution_id: str | Mapping[str, Any],
        execution_dag_id: str = EXECUTION_DAG_ID,
        poke_interval: float = 5.0,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.execution_id = execution_id
        self.execution_dag_id = execution_dag_id
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Wait for the execution."""
        with as_task_failure():
            publish_run_link(context, dag_id=self.execution_dag_id, run_id=self._run_id())
        if not self.deferrable:
            return super().execute(context)
        try:
            seen = self.poke(context)
        except AirflowFailException as error:
            if self.soft_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        if not isinstance(seen, PokeReturnValue):
            self._defer()
        return seen.xcom_value

    def _defer(self) -> NoReturn:
        from airflow_batchexec.triggers.batch_execution import (  # noqa: PLC0415  not for parsing
            BatchExecutionTrigger,
        )

        trigger = BatchExecutionTrigger(
            dag_id=self.execution_dag_id, run_id=self._run_id(), poll_interval=self.poke_interval
        )
        self.defer(trigger=trigger, method_name="resume", timeout=timedelta(seconds=self.timeout))

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Check once."""
        run_id = self._run_id()
        with as_task_failure():
            state = check_run_state(self.execution_dag_id, run_id)
        return self._result(context, state) if state in ENDED_RUN_STATES else False

    def resume(self, context: Context, event: dict[str, Any]) -> Any:
        """Continue after the trigger has seen the end."""
        run_id = self._run_id()
        if event["state"] == "missing":
            raise AirflowFailException(f"The execution {run_id} was deleted while this task waited for it.")
        return self._result(context, event["state"]).xcom_value

    def _result(self, context: Context, state: str) -> PokeReturnValue:
        end = end_of(context, dag_id=self.execution_dag_id, run_id=self._run_id(), state=state)
        if end.failure:
            raise AirflowFailException(end.failure)
        return PokeReturnValue(is_done=True, xcom_value=end.summary.to_dict())

    def _run_id(self) -> str:
        value = self.execution_id
        run_id: Any = value.get("execution_id") if isinstance(value, dict) else value
        if not run_id or not isinstance(run_id, str):
            raise ConfigurationError(
                f"execution_id: {value!r} is neither an execution id nor what BatchExecutionOperator returns.",
                field="execution_id",
            )
        return run_id
