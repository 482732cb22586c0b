"""The last task of an execution, which always runs: the account of every file, and the execution's end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_batchexec.operators.handle import ExecutionHandle, dag_run_start, generation
from airflow_batchexec.task_errors import as_task_failure

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_batchexec.engine.audit import ExecutionStatus
    from airflow_batchexec.engine.specification import ExecutionSpec

__all__ = ["FinishExecutionOperator"]


class FinishExecutionOperator(BaseOperator):
    """Audits an execution, writes its manifest, releases its lock.

    Args:
        plan_task_id: The task that planned it. What that task left is looked up while this one runs: of an execution
            that was refused there is only the reason.

    Returns:
        The manifest without its list of files.

    Raises:
        AirflowFailException: The execution has not finished; the message is its summary.
    """

    def __init__(self, *, plan_task_id: str, **kwargs: Any) -> None:
        kwargs.setdefault("trigger_rule", "all_done")
        super().__init__(**kwargs)
        self.plan_task_id = plan_task_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Audit the execution."""
        from airflow_batchexec.engine.execution import conclude  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.specification import read_spec  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.stop import StopMark  # noqa: PLC0415  as above

        ti = context["ti"]
        execution = ti.xcom_pull(task_ids=self.plan_task_id, key="execution")
        if not execution:
            reason = ti.xcom_pull(task_ids=self.plan_task_id, key="refused")
            raise AirflowFailException(
                f"The execution was refused: {reason or f'see the log of {self.plan_task_id}.'}"
            )
        with as_task_failure():
            _, storage, folder = ExecutionHandle.from_dict(execution).open()
            spec = read_spec(storage, folder)
            mark = StopMark(storage=storage, location=folder.stop(str(generation(context)))).read()
            status, reason = _ended(mark, spec, context)
            manifest = conclude(
                spec=spec, storage=storage, ended_at=time.time(), ended_as=status, ended_because=reason
            )
        summary = {name: value for name, value in manifest.items() if name not in {"files", "skipped"}}
        text = _text(summary)
        if summary["status"] != "FINISHED":
            raise AirflowFailException(text)
        self.log.info("%s", text)
        return summary


def _ended(
    mark: dict[str, Any] | None, spec: ExecutionSpec, context: Context
) -> tuple[ExecutionStatus | None, str]:
    """The status and reason that the files' records alone do not give."""
    from airflow_batchexec.engine.audit import ExecutionStatus  # noqa: PLC0415  not for parsing

    timeout = spec.config.execution.job_timeout
    timed_out = mark is not None and mark["error"] == "JobTimeoutError"
    if timed_out or (mark is None and timeout and time.time() > dag_run_start(context) + timeout):
        return ExecutionStatus.TIMEOUT, f"The job_timeout of {timeout} s is over."
    if mark is not None and not mark["file"]:
        return ExecutionStatus.FAILED, mark["reason"]
    return None, ""


def _text(summary: dict[str, Any]) -> str:
    counts = (
        f"{summary['finished_files']} of {summary['total_files']} files finished, {summary['failed_files']} failed, "
        f"{summary['not_started_files']} were not started, {summary['skipped_files']} skipped; "
        f"{summary['rows']:,} rows in {summary['seconds']:.1f} s"
    )
    reason = f" {summary['reason']}" if summary["reason"] else ""
    return f"Execution {summary['execution_id']} {summary['status']}: {counts}.{reason} See {summary['manifest']}."
