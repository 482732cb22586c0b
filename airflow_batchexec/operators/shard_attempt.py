"""One attempt of a mapped task of an execution: sends the files of a shard through one predictor."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airflow_batchexec import internals
from airflow_batchexec.exceptions import BatchExecError, ExecutionCancelledError, ObjectNotFoundError
from airflow_batchexec.operators.planned_execution import find_execution
from airflow_batchexec.operators.shard_steps import Fail, Finish, Predict, Read, Seen, Skip, next_step
from airflow_batchexec.operators.task_display import FileLog, label_map_index
from airflow_batchexec.operators.task_journal import TaskJournal
from airflow_batchexec.operators.task_session import TaskSession
from airflow_batchexec.reporting.lineage import Lineage
from airflow_batchexec.runs.handle import dag_run_start, generation, owner_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk import Context
    from airflow.sdk.types import Logger

    from airflow_batchexec.engine.execution.ledger import FileRecord, LedgerWriter
    from airflow_batchexec.engine.execution.plan import FileTask
    from airflow_batchexec.engine.running.session import PredictorSession

__all__ = ["ShardAttempt"]


class ShardAttempt:
    """One attempt of a mapped task: performs the steps that ``shard_steps`` decides on.

    Args:
        plan_task_id: The task that planned the execution.
        name: Distinguishes several executions in one run; empty if the run is the execution.
        shard: One element of the output of the task that planned the execution.
        context: The task's context.
        log: The task's log.

    Attributes:
        lineage: The lineage of the files read and written.
    """

    def __init__(self, *, plan_task_id: str, name: str, shard: Any, context: Context, log: Logger) -> None:
        self._log = log
        self._context = context
        self._ti = context["ti"]
        self._generation = generation(context)
        self._journal = TaskJournal(context, name=f"pod-{self._ti.map_index}", log=log)
        with self._journal.reporting(close=False):
            self._read_plan(plan_task_id, name, shard)

    def _read_plan(self, plan_task_id: str, name: str, shard: Any) -> None:
        from airflow_batchexec.engine.execution.plan import Shard, read_tasks  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.execution.stop import StopMark, StopWatch  # noqa: PLC0415  as above
        from airflow_batchexec.engine.journal.listed_files import are_listed  # noqa: PLC0415  as above

        lines = Shard.from_descriptor(shard)
        planned = find_execution(self._ti, round_id=lines.round_id, plan_task_id=plan_task_id, name=name)
        self._spec, self._hook, self._storage = planned.spec, planned.hook, planned.storage
        self._note = planned.note
        folder = self._spec.folder
        if not are_listed(self._spec.total_files):
            self._journal.omit_files()
        self.lineage = Lineage(self._spec)
        tasks = read_tasks(self._storage.read(folder.plan, start=lines.offset, length=lines.length))
        # Within a round, a file is always in the same shard, so a task needs only its own records.
        self._ledger = folder.ledger(self._spec.round_id).join(str(self._ti.map_index))
        self._stop = StopMark(storage=self._storage, location=folder.stop(str(self._generation)))
        cancel = StopMark(storage=self._storage, location=folder.cancel)
        self._session = TaskSession(
            name=f"pod-{self._ti.map_index}",
            log=self._log,
            batch_execution_conn_id=self._hook.batch_execution_conn_id,
            on_line=self._journal.add_line,
        )
        self._watch = StopWatch(stop=self._stop, cancel=cancel, on_cancel=self._session.end)
        self._killed: ExecutionCancelledError | None = None
        self._files = FileLog(log=self._log, files=len(tasks))
        self._finished_before = 0
        self._seen = Seen(
            files=tasks,
            generation=self._generation,
            may_retry=self._ti.try_number <= self._ti.max_tries,
            job_timeout=self._spec.config.execution.job_timeout,
            started_at=dag_run_start(self._context),
        )
        self._mapped_per_file = lines.files == 1
        label = tasks[0].file if lines.files == 1 else f"pod {self._ti.map_index}: {lines.files} files"
        label_map_index(self._context, label)

    def run(self) -> None:
        """Predict the files that have no result yet.

        Raises:
            AirflowSkipException: The execution has ended; no file was started.
            AirflowException: A file failed, or the task was terminated.
        """
        with self._journal.reporting(), self._watch:
            while True:
                step = next_step(self._current_state(), now=time.time())
                if isinstance(step, Read):
                    self._read()
                elif isinstance(step, Predict):
                    self._predict(step.files)
                else:
                    self._end(step)
                    return

    def kill(self) -> None:
        """End the predictor because the task is being terminated; may be called from a signal handler.

        Its current file is recorded as cancelled. Other tasks continue: this one may be about to run again, on another
        worker or because it was cleared.
        """
        self._killed = ExecutionCancelledError("Its task was terminated.")
        self._session.end(self._killed)

    def _current_state(self) -> Seen:
        """The input for the next decision."""
        return replace(
            self._seen,
            stopped=self._watch.is_set(),
            cancelled=self._watch.cancelled,
            killed=self._killed,
            finished=self._files.finished,
        )

    def _read(self) -> None:
        """Read the records of earlier attempts; reacquire the lock in case the execution had ended and was cleared."""
        if self._ti.try_number == 1 and self._generation == 0:
            # The lock is still that of plan.
            self._seen = replace(self._seen, records={})
            return
        from airflow_batchexec.engine.execution import lock  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.execution.ledger import latest, read_ledger  # noqa: PLC0415  as above

        lock.acquire(
            storage=self._storage,
            location=self._spec.lock,
            owner=self._spec.owner,
            state_of=owner_state(self._ti),
        )
        records = latest(read_ledger(self._storage, self._ledger))
        self._seen = replace(
            self._seen,
            records=records,
            execution_finished=self._generation > 0 and self._execution_finished(),
        )

    def _execution_finished(self) -> bool:
        """Whether the execution had finished before it was cleared."""
        from airflow_batchexec.engine.execution.conclusion import read_header  # noqa: PLC0415  not for parsing

        try:
            return read_header(self._storage, self._spec.folder).has_finished
        except ObjectNotFoundError:
            return False

    def _predict(self, tasks: Sequence[FileTask]) -> None:
        from airflow_batchexec.engine.running.deadline import JobDeadline  # noqa: PLC0415  not for parsing

        self._finished_before = len(self._seen.files) - len(tasks)
        self._files = FileLog(log=self._log, files=len(tasks))
        self._report_progress(0)
        elapsed = time.time() - self._seen.started_at
        deadline = JobDeadline.of(self._seen.job_timeout, elapsed=elapsed)
        try:
            with self._session.started(
                self._spec,
                owner=self._spec.pods_owner,
                note=self._note,
                deadline=deadline,
                should_stop=self._watch.is_set,
            ) as session:
                if session is None:
                    return
                if session.load_seconds:
                    self._log.info("The build was loaded in %.2f s.", session.load_seconds)
                    self._journal.add("loaded", pod=session.name, seconds=round(session.load_seconds, 3))
                error = self._run_files(tasks, session)
        except BatchExecError as failure:
            error = failure
        self._seen = replace(self._seen, tried=tasks, error=error)

    def _run_files(self, tasks: Sequence[FileTask], session: PredictorSession) -> BatchExecError | None:
        from airflow_batchexec.engine.execution.ledger import LedgerWriter  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.running.pipeline import FileRoute  # noqa: PLC0415  as above

        writer = self._writer_name()
        ledger = LedgerWriter(storage=self._storage, folder=self._ledger, writer=writer)
        route = FileRoute.of(
            self._spec,
            source=self._hook.open_storage(self._spec.root),
            destination=self._storage,
            scratch=session.scratch,
            name=f"{self._ti.map_index}-{writer}",
        )
        try:
            return session.run(
                iter(tasks),
                route=route,
                record=self._recorder(ledger),
                attempt=self._ti.try_number,
                generation=self._generation,
                should_stop=lambda: self._killed is not None or self._watch.is_set(),
            )
        finally:
            ledger.close()

    def _recorder(self, ledger: LedgerWriter) -> Callable[[FileRecord], None]:
        def record(entry: FileRecord) -> None:
            ledger.add(entry)
            self._files.add(entry)
            self.lineage.add(entry)
            self._journal.add_record(entry)
            self._report_progress(self._files.finished)

        return record

    def _end(self, step: Skip | Finish | Fail) -> None:
        """Raise the exception that the task ends with, unless it succeeded."""
        if isinstance(step, Skip):
            self._skip_siblings()
            raise AirflowSkipException(step.reason)
        if step.skip_siblings:
            self._skip_siblings()
        if isinstance(step, Finish):
            if self._seen.tried is None:
                self._report_progress(len(self._seen.files))
                self._log.info("All %d files were finished by earlier attempts.", len(self._seen.files))
            return
        self._journal_failure(step)
        if step.record_cancelled and step.error is not None:
            self._record_cancelled(step.error)
        if step.end_execution and step.error is not None and self._stop.set(step.error):
            self._skip_siblings()
        raise (AirflowException if step.retry else AirflowFailException)(step.message) from step.error

    def _journal_failure(self, step: Fail) -> None:
        """Add a failure that no file's record contains, unless the task was merely terminated."""
        if step.error is None or "file" in step.error.details:
            return
        if self._seen.error is not None or not step.record_cancelled:
            self._journal.add_failure(step.error)

    def _record_cancelled(self, reason: BatchExecError) -> None:
        """Record a task that was terminated before it started a file, which the audit could not see otherwise."""
        from airflow_batchexec.engine.execution.ledger import (  # noqa: PLC0415  not for parsing
            FileRecord,
            FileStatus,
            LedgerWriter,
            now,
        )

        if self._files.started:
            return
        tried = self._seen.tried or self._seen.files
        record = FileRecord(
            file=tried[0].file,
            etag=tried[0].etag,
            status=FileStatus.CANCELLED,
            pod=f"pod-{self._ti.map_index}",
            attempt=self._ti.try_number,
            at=now(),
            generation=self._generation,
            reason=f"{tried[0].file}: {reason.message}",
            error=type(reason).__name__,
        )
        ledger = LedgerWriter(storage=self._storage, folder=self._ledger, writer=self._writer_name("killed"))
        ledger.add(record)
        ledger.close()
        self._journal.add_record(record)

    def _writer_name(self, *parts: str) -> str:
        """A name unique among all writers of this shard's ledger."""
        return "-".join([str(self._generation), str(self._ti.try_number), *parts, uuid.uuid4().hex[:6]])

    def _report_progress(self, finished: int) -> None:
        """Report the number of finished files, unless every task has a single file."""
        if self._spec.shards < self._spec.total_files:
            self._journal.set_progress(self._finished_before + finished)

    def _skip_siblings(self) -> None:
        """Skip tasks that are not queued yet, which would otherwise start only to find that the execution has ended."""
        if self._mapped_per_file:
            others = [index for index in range(self._spec.total_files) if index != self._ti.map_index]
            internals.skip_mapped_tasks(self._ti.task_id, others)
