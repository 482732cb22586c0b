"""The last task of an execution, which always runs: audits the files and ends the execution."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_batchexec import internals, settings
from airflow_batchexec.exceptions import BatchExecError, ExecutionCancelledError, JobTimeoutError
from airflow_batchexec.names import CANCELLED_ROW, ENDED_ROW, EXECUTION_KEY, REFUSED_KEY, SUMMARY_KEY
from airflow_batchexec.operators.pods_ahead import end_pods
from airflow_batchexec.operators.task_journal import TaskJournal
from airflow_batchexec.operators.unfinished_plan import UnfinishedPlan
from airflow_batchexec.reporting.assets import execution_alias, update_asset
from airflow_batchexec.reporting.lineage import Lineage, facets_of
from airflow_batchexec.reporting.links import ResultsLink
from airflow_batchexec.runs.handle import ExecutionHandle, dag_run_start, execution_id_of, generation
from airflow_batchexec.runs.task_errors import as_task_failure

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

    from airflow_batchexec.engine.execution.conclusion import Conclusion
    from airflow_batchexec.engine.execution.manifest import ExecutionStatus, Summary
    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.execution.stop import StopMark
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["FinishExecutionOperator"]

_TERMINATED_EXTERNALLY = "Its run, or some of its tasks, were terminated externally."
_MAX_USER_NAME_LENGTH = 200


class FinishExecutionOperator(BaseOperator):
    """Audits an execution, writes its manifest and releases its lock.

    If the execution has finished, the asset of its destination folder is updated.

    Args:
        plan_task_id: The task that planned the execution. Its XComs are pulled at run time: an execution that was
            refused has only a reason.
        predict_task_id: The task that is mapped over the files.
        name: Distinguishes several executions in one run; empty if the run is the execution.
        unless_done_by: Another task of this type. This one does its work only if that one did not, because it was
            skipped when the run was terminated.

    Returns:
        The summary: the manifest without its lists of files. It is also the XCom ``summary``, which is pushed however
        the execution ended: ``status`` and ``reason`` always, the counts if there was a plan.

    Raises:
        AirflowFailException: The execution did not finish; the message is its summary.
    """

    operator_extra_links = (ResultsLink(),)

    def __init__(
        self,
        *,
        plan_task_id: str,
        predict_task_id: str,
        name: str = "",
        unless_done_by: str = "",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("trigger_rule", "all_done")
        super().__init__(**kwargs)
        self.plan_task_id = plan_task_id
        self.predict_task_id = predict_task_id
        self.name = name
        self.unless_done_by = unless_done_by
        self._concluded: tuple[ExecutionSpec, Conclusion] | None = None
        if not unless_done_by:
            self.add_outlets([execution_alias(self, name)])

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Audit the execution."""
        from airflow_batchexec.engine.execution.manifest import Summary  # noqa: PLC0415  not for parsing

        internals.die_with_supervisor()
        ti = context["ti"]
        if self.unless_done_by:
            done = ti.xcom_pull(task_ids=self.unless_done_by, key=SUMMARY_KEY)
            if done and Summary.read(done).generation == generation(context):
                return None
        journal = TaskJournal(context, name=self.task_id, log=self.log)
        try:
            summary = self._end(context, cancelled=_cancelled_by(journal, context), journal=journal)
        except BatchExecError as error:
            journal.add_failure(error)
            with as_task_failure():
                raise
        finally:
            journal.close()
        value = summary.to_dict()
        ti.xcom_push(SUMMARY_KEY, value)
        if summary.header is None or not summary.has_finished:
            raise AirflowFailException(_describe(summary))
        self.log.info("%s", _describe(summary))
        update_asset(context, summary.header)
        return value

    def get_openlineage_facets_on_complete(
        self,
        task_instance: RuntimeTaskInstanceProtocol,  # noqa: ARG002  the provider's signature
    ) -> Any:
        """The facets for OpenLineage, also if the execution failed."""
        if self._concluded is None:
            return facets_of(None)
        spec, conclusion = self._concluded
        return facets_of(Lineage.of_execution(spec, conclusion.audit))

    def _end(self, context: Context, *, cancelled: str, journal: TaskJournal) -> Summary:
        """Conclude the execution and return its summary."""
        execution = self._pull_execution(context, cancelled=cancelled)
        if execution:
            summary = self._conclude(ExecutionHandle.from_dict(execution), context, cancelled, journal)
        else:
            summary = self._summarize_unplanned(context, cancelled)
        _report_end(journal, context, summary, self._concluded[1] if self._concluded else None)
        return summary

    def _pull_execution(self, context: Context, *, cancelled: str) -> Any:
        """The XCom ``execution`` of this generation's plan; ``None`` if there was no plan."""
        if _count_tasks(context, self.plan_task_id, "skipped"):
            # Any XCom is left over from an earlier generation.
            return None
        plan = UnfinishedPlan(context, task_id=self.plan_task_id, name=self.name, log=self.log)
        if cancelled and not plan.has_ended() and _count_tasks(context, self.plan_task_id, "failed"):
            return plan.end(cancelled)
        return plan.pull(EXECUTION_KEY)

    def _summarize_unplanned(self, context: Context, cancelled: str) -> Summary:
        """The summary of an execution without a plan."""
        from airflow_batchexec.engine.execution.manifest import (  # noqa: PLC0415  not for parsing
            ExecutionStatus,
            Summary,
        )

        ti = context["ti"]
        skipped = _count_tasks(context, self.plan_task_id, "skipped")
        refused = None if skipped else ti.xcom_pull(task_ids=self.plan_task_id, key=REFUSED_KEY)
        if not refused:
            reason = (
                cancelled or f"It was terminated before it was planned; see the log of {self.plan_task_id}."
            )
            refused = {
                "error": "ExecutionCancelledError" if skipped or cancelled else "",
                "reason": reason,
            }
        was_cancelled = refused["error"] == "ExecutionCancelledError"
        return Summary(
            execution_id=execution_id_of(ti, self.name),
            status=ExecutionStatus.CANCELLED if was_cancelled else ExecutionStatus.FAILED,
            reason=refused["reason"],
            generation=generation(context),
        )

    def _conclude(
        self, handle: ExecutionHandle, context: Context, cancelled: str, journal: TaskJournal
    ) -> Summary:
        from airflow_batchexec.engine.execution.conclusion import conclude  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.execution.spec import read_spec  # noqa: PLC0415  not for parsing

        _, storage, folder = handle.open()
        spec = read_spec(storage, folder)
        ResultsLink.show(
            context["ti"], spec.destination.uri, batch_execution_conn_id=handle.batch_execution_conn_id
        )
        status, reason = self._end_status(spec, storage, context, cancelled)
        end_pods(spec.pods_owner, log=self.log)
        conclusion = conclude(
            spec=spec,
            storage=storage,
            ended_at=time.time(),
            end_status=status,
            end_reason=reason,
            scratch_root=settings.scratch_folder(),
        )
        self._concluded = spec, conclusion
        manifest = conclusion.header
        journal.add(
            "audited",
            finished=manifest.finished_files,
            failed=manifest.failed_files,
            not_started=manifest.not_started_files,
            rows=manifest.rows,
        )
        return manifest.summary(generation=generation(context))

    def _end_status(
        self, spec: ExecutionSpec, storage: Storage, context: Context, cancelled_by: str = ""
    ) -> tuple[ExecutionStatus | None, str]:
        """The status and reason, if the files' records alone do not determine them.

        Args:
            spec: The execution.
            storage: The destination's storage.
            context: The task's context.
            cancelled_by: The reason of a cancellation through the REST API, as a sentence; empty if there was none.
        """
        from airflow_batchexec.engine.execution.manifest import ExecutionStatus  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.execution.stop import StopMark  # noqa: PLC0415  as above

        cancel = StopMark(storage=storage, location=spec.folder.cancel)
        if cancelled_by:
            self._end_pods(spec, storage, cancel, context, cancelled_by)
            return ExecutionStatus.CANCELLED, cancelled_by
        cancelled = cancel.read()
        # A mark that this task set itself is left over from an earlier try that was lost while waiting for pods.
        if cancelled is not None and cancelled["reason"] != _TERMINATED_EXTERNALLY:
            return ExecutionStatus.CANCELLED, cancelled["reason"]
        mark = StopMark(storage=storage, location=spec.folder.stop(str(generation(context)))).read()
        if mark is None:
            return self._external_end_status(spec, storage, cancel, context)
        if mark["error"] == "JobTimeoutError":
            return ExecutionStatus.TIMEOUT, JobTimeoutError.after(spec.config.execution.job_timeout).message
        return (None, "") if mark["file"] else (ExecutionStatus.FAILED, mark["reason"])

    def _external_end_status(
        self, spec: ExecutionSpec, storage: Storage, cancel: StopMark, context: Context
    ) -> tuple[ExecutionStatus | None, str]:
        """The status and reason if no pod failed; pods may be lost, or the run or its tasks terminated."""
        from airflow_batchexec.engine.execution.manifest import ExecutionStatus  # noqa: PLC0415  not for parsing

        # A single request in the common case.
        ended = _count_tasks(context, self.predict_task_id, "skipped", "failed")
        skipped = ended and _count_tasks(context, self.predict_task_id, "skipped")
        if ended:
            self._end_pods(spec, storage, cancel, context, _TERMINATED_EXTERNALLY)
        timeout = spec.config.execution.job_timeout
        if timeout and time.time() > dag_run_start(context) + timeout:
            return ExecutionStatus.TIMEOUT, JobTimeoutError.after(spec.config.execution.job_timeout).message
        # Without a mark, pods do not skip their tasks, so something external did.
        return (ExecutionStatus.CANCELLED, _TERMINATED_EXTERNALLY) if skipped else (None, "")

    def _end_pods(
        self, spec: ExecutionSpec, storage: Storage, cancel: StopMark, context: Context, reason: str
    ) -> None:
        """Terminate pods whose tasks have failed, as their processes may not notice until their next heartbeat."""
        from airflow_batchexec.engine.execution.conclusion import wait_for_pods  # noqa: PLC0415  not for parsing

        failed = _count_tasks(context, self.predict_task_id, "failed")
        if failed:
            cancel.set(ExecutionCancelledError(reason))
            wait_for_pods(
                spec=spec,
                storage=storage,
                generation=generation(context),
                pods=failed,
                seconds=settings.task_end_seconds(),
            )
            cancel.remove()


def _cancelled_by(journal: TaskJournal, context: Context) -> str:
    """The reason of a cancellation through the REST API, as a sentence; empty if there was none."""
    row = journal.get(CANCELLED_ROW)
    if not isinstance(row, dict) or row.get("generation") != generation(context):
        return ""
    by = "".join(
        letter if letter.isprintable() else " " for letter in str(row.get("by") or "an unknown user")
    )
    return f"It was cancelled by {by[:_MAX_USER_NAME_LENGTH]}."


def _report_end(
    journal: TaskJournal, context: Context, summary: Summary, conclusion: Conclusion | None
) -> None:
    """Write the row ``ended`` and the journal entry for the end."""
    from airflow_batchexec.engine.journal.listed_files import listed_unfinished  # noqa: PLC0415  not for parsing
    from airflow_batchexec.engine.journal.packing import pack  # noqa: PLC0415  as above

    manifest = conclusion.header if conclusion else None
    row: dict[str, Any] = {
        "generation": summary.generation,
        "status": summary.status.value,
        "reason": summary.reason,
    }
    if conclusion is not None and manifest is not None:
        unfinished = {file: status.value for file, status in conclusion.audit.unfinished.items()}
        row |= {
            "total_files": manifest.total_files,
            "finished_files": manifest.finished_files,
            "rows": manifest.rows,
            "not_finished": pack(listed_unfinished(unfinished, total_files=manifest.total_files)),
        }
    journal.put(ENDED_ROW, row)
    journal.add(
        "ended",
        status=summary.status.value,
        reason=summary.reason,
        manifest=manifest.manifest if manifest else "",
        seconds=manifest.seconds if manifest else round(time.time() - dag_run_start(context), 3),
    )


def _count_tasks(context: Context, task_id: str, *states: str) -> int:
    """Count the instances of a task of this run in the given states."""
    ti = context["ti"]
    count: int = ti.get_ti_count(
        dag_id=ti.dag_id, task_ids=[task_id], run_ids=[ti.run_id], states=list(states)
    )
    return count


def _describe(summary: Summary) -> str:
    header = summary.header
    start = f"Execution {summary.execution_id}"
    if header is None:
        return f"{start} {'was refused' if summary.status == 'FAILED' else summary.status}: {summary.reason}"
    counts = (
        f"{header.finished_files} of {header.total_files} files finished, {header.failed_files} failed, "
        f"{header.not_started_files} were not started, {header.skipped_files} skipped; "
        f"{header.rows:,} rows in {header.seconds:.1f} s"
    )
    reason = f" {summary.reason}" if summary.reason else ""
    return f"{start} {summary.status}: {counts}.{reason} See {header.manifest}."
