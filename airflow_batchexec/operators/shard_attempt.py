"""One run of an execution's mapped task: the files of a share of the plan, through one pod."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airflow_batchexec import internals
from airflow_batchexec.exceptions import (
    BatchExecError,
    ExecutionCancelledError,
    JobTimeoutError,
    ObjectNotFoundError,
)
from airflow_batchexec.operators.file_log import FileLog
from airflow_batchexec.operators.map_label import label_map_index
from airflow_batchexec.operators.task_journal import TaskJournal
from airflow_batchexec.operators.task_session import TaskPod
from airflow_batchexec.reporting.lineage import Lineage
from airflow_batchexec.runs.handle import ExecutionHandle, dag_run_start, generation, owner_state
from airflow_batchexec.runs.task_errors import task_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airflow.sdk import Context
    from airflow.sdk.types import Logger

    from airflow_batchexec.engine.execution.ledger import FileRecord, LedgerWriter
    from airflow_batchexec.engine.execution.plan import FileTask
    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.predictor.process import Pod

__all__ = ["ShareOfPlan"]


class ShareOfPlan:
    """One run of the mapped task.

    Args:
        execution: The XCom ``execution`` of the task ``plan``.
        share: One element of that task's output.
        context: The task's context.
        log: The task's log.

    Attributes:
        lineage: What has been read and written.
    """

    def __init__(self, *, execution: Any, share: Any, context: Context, log: Logger) -> None:
        self._log = log
        self._context = context
        self._ti = context["ti"]
        self._generation = generation(context)
        self._journal = TaskJournal(context, name=f"pod-{self._ti.map_index}", log=log)
        with self._journaled(goes_on=True):
            self._read_plan(execution, share)

    def _read_plan(self, execution: Any, share: Any) -> None:
        from airflow_batchexec.engine.execution.plan import Share, read_tasks  # noqa: PLC0415  as above
        from airflow_batchexec.engine.execution.spec import read_spec  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.execution.stop import StopMark, StopWatch  # noqa: PLC0415  as above

        self._handle = ExecutionHandle.from_dict(execution)
        self._hook, self._storage, folder = self._handle.open()
        self._spec: ExecutionSpec = read_spec(self._storage, folder)
        self.lineage = Lineage(self._spec)
        place = Share.from_descriptor(share)
        self._tasks = read_tasks(self._storage.read(folder.plan, start=place.offset, length=place.length))
        # Within a round a file is always in the same share, so no task need read what the others have written.
        self._ledger = folder.ledger(self._spec.round_id).join(str(self._ti.map_index))
        self._stop = StopMark(storage=self._storage, location=folder.stop(str(self._generation)))
        cancel = StopMark(storage=self._storage, location=folder.cancel)
        self._pod = TaskPod(
            name=f"pod-{self._ti.map_index}",
            log=self._log,
            batch_execution_conn_id=self._handle.batch_execution_conn_id,
            on_line=self._journal.add_line,
        )
        self._watch = StopWatch(stop=self._stop, cancel=cancel, on_cancel=self._pod.end)
        self._killed: ExecutionCancelledError | None = None
        self._mapped_per_file = place.files == 1
        name = self._tasks[0].file if place.files == 1 else f"pod {self._ti.map_index}: {place.files} files"
        label_map_index(self._context, name)

    def run(self) -> None:
        """Predict what is to be done.

        Raises:
            AirflowSkipException: The execution has ended; nothing was begun.
            AirflowException: A file failed, or the pod was ended.
        """
        with self._journaled(), self._watch as watch:
            if watch.is_set():
                self._skip_siblings()
                reason = watch.cancelled.message if watch.cancelled else "Another file has failed."
                raise AirflowSkipException(f"The execution has ended, so this was not started. {reason}")
            self._hold_lock()
            tasks = self._tasks_to_do()
            self._finished_before = len(self._tasks) - len(tasks)
            self._say_progress(0)
            if not tasks:
                self._log.info("All %d files have been finished by an earlier attempt.", len(self._tasks))
                return
            self._files = FileLog(log=self._log, files=len(tasks))
            try:
                error = self._predict(tasks)
            except BatchExecError as failure:
                error = failure
            if error is not None and "file" not in error.details:
                self._journal.add_failure(error)
            self._end(tasks, error)

    def kill(self) -> None:
        """End the pod because somebody or something ends the task; may be called from a signal handler.

        The file that it had is recorded as cancelled. Others go on: the task may be about to be tried again, on
        another worker or because it was cleared.
        """
        self._killed = ExecutionCancelledError("Its task was ended from outside.")
        self._pod.end(self._killed)

    def _end(self, tasks: Sequence[FileTask], error: BatchExecError | None) -> None:
        """Raise what the task ends with."""
        cancelled = self._watch.cancelled
        if self._killed is not None and (error is self._killed or error is None):
            if self._files.finished < len(tasks):
                self._record_end(tasks[0], self._killed)
                raise AirflowException(self._killed.message)
        elif cancelled is not None and (error is cancelled or error is None):
            self._skip_siblings()
            if self._files.finished < len(tasks):
                self._record_end(tasks[0], cancelled)
                raise AirflowFailException(f"The execution was cancelled. {cancelled.message}")
        elif error is not None:
            self._end_execution_unless_retried(error)
            raise task_failure(error) from error
        elif self._files.finished < len(tasks):
            raise AirflowFailException(
                f"{len(tasks) - self._files.finished} of {len(tasks)} files were not started: another file has "
                f"failed, and so the execution."
            )

    def _hold_lock(self) -> None:
        """Take the lock again where the execution had ended and was cleared."""
        from airflow_batchexec.engine.execution import lock  # noqa: PLC0415  not for parsing

        lock.acquire(
            storage=self._storage,
            location=self._spec.lock,
            owner=self._spec.owner,
            state_of=owner_state(self._ti),
        )

    def _tasks_to_do(self) -> Sequence[FileTask]:
        from airflow_batchexec.engine.execution.ledger import FileStatus, latest, read_ledger  # noqa: PLC0415  not for parsing

        if self._ti.try_number == 1 and self._generation == 0:
            return self._tasks
        records = latest(read_ledger(self._storage, self._ledger))

        def finished(task: FileTask) -> FileRecord | None:
            record = records.get(task.file)
            done = record is not None and record.status is FileStatus.FINISHED and record.etag == task.etag
            return record if done else None

        left = [task for task in self._tasks if finished(task) is None]
        if left:
            return left
        ours = all(
            (record := finished(task)) and record.generation == self._generation for task in self._tasks
        )
        return [] if ours or not self._execution_had_finished() else self._tasks

    def _execution_had_finished(self) -> bool:
        """Whether this is a clear of an execution that had finished; of one that had not, a clear continues it."""
        from airflow_batchexec.engine.execution.audit import ExecutionStatus  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.execution.lifecycle import read_manifest  # noqa: PLC0415  as above

        try:
            manifest = read_manifest(self._storage, self._spec.folder)
        except ObjectNotFoundError:
            return False
        return bool(manifest["status"] == ExecutionStatus.FINISHED.value)

    def _predict(self, tasks: Sequence[FileTask]) -> BatchExecError | None:
        from airflow_batchexec.engine.predictor.process import DeadlineExceeded  # noqa: PLC0415  not for parsing

        deadline = self._job_deadline()
        try:
            with self._pod.started(
                self._spec, pods_at_once=self._spec.pods_at_once, deadline=deadline
            ) as pod:
                self._journal.add("loaded", pod=pod.name, seconds=round(pod.load_seconds, 3))
                error = self._run_files(tasks, pod, deadline)
        except DeadlineExceeded:
            return self._job_timeout()
        ended = self._killed is not None or self._watch.is_set()
        if error is None and self._files.finished < len(tasks) and not ended:
            return self._job_timeout()
        return error

    def _run_files(
        self, tasks: Sequence[FileTask], pod: Pod, deadline: float | None
    ) -> BatchExecError | None:
        from airflow_batchexec.engine.execution.ledger import LedgerWriter  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.running.pipeline import FileRoute, Limits, run_files  # noqa: PLC0415  as above

        spec, ti = self._spec, self._ti
        attempt = f"{self._generation}-{ti.try_number}-{uuid.uuid4().hex[:6]}"
        ledger = LedgerWriter(storage=self._storage, folder=self._ledger, writer=attempt)
        try:
            return run_files(
                tasks=iter(tasks),
                pod=pod,
                attempt=ti.try_number,
                generation=self._generation,
                route=FileRoute.of(
                    spec,
                    source=self._hook.open_storage(spec.root),
                    destination=self._storage,
                    scratch=pod.spec.scratch,
                    name=f"{ti.map_index}-{attempt}",
                ),
                limits=Limits(
                    file_timeout=spec.config.execution.file_timeout,
                    job_timeout=spec.config.execution.job_timeout,
                    job_deadline=deadline,
                    should_stop=self._should_stop(deadline),
                ),
                record=self._recorder(ledger),
            )
        finally:
            ledger.close()

    def _job_deadline(self) -> float | None:
        """When the execution's time is over, on the monotonic clock.

        Raises:
            JobTimeoutError: It is over.
        """
        timeout = self._spec.config.execution.job_timeout
        if not timeout:
            return None
        left = dag_run_start(self._context) + timeout - time.time()
        if left <= 0:
            raise self._job_timeout()
        return time.monotonic() + left

    def _job_timeout(self) -> JobTimeoutError:
        seconds = self._spec.config.execution.job_timeout
        return JobTimeoutError(f"The execution took longer than its job_timeout of {seconds} s.")

    def _should_stop(self, deadline: float | None) -> Callable[[], bool]:
        def should_stop() -> bool:
            if self._killed is not None or self._watch.is_set():
                return True
            return deadline is not None and time.monotonic() >= deadline

        return should_stop

    def _recorder(self, ledger: LedgerWriter) -> Callable[[FileRecord], None]:
        def record(entry: FileRecord) -> None:
            ledger.add(entry)
            self._files.add(entry)
            self.lineage.add(entry)
            self._journal.add_record(entry)
            self._say_progress(self._files.finished)

        return record

    @contextmanager
    def _journaled(self, *, goes_on: bool = False) -> Iterator[None]:
        """Keep the journal up to what fails the task, or to its end."""
        try:
            yield
        except BatchExecError as error:
            self._journal.add_failure(error)
            self._journal.close()
            raise
        except BaseException:
            self._journal.close()
            raise
        if not goes_on:
            self._journal.close()

    def _say_progress(self, finished: int) -> None:
        """Say how many files have finished, of a task that has others than its one."""
        if self._spec.shares < self._spec.total_files:
            self._journal.set_progress(self._finished_before + finished)

    def _record_end(self, task: FileTask, reason: ExecutionCancelledError) -> None:
        """Where the task was ended before its pod had a file, the account would not know that it was."""
        from airflow_batchexec.engine.execution.ledger import (  # noqa: PLC0415  not for parsing
            FileRecord,
            FileStatus,
            LedgerWriter,
            now,
        )

        if self._files.begun:
            return
        writer = f"{self._generation}-{self._ti.try_number}-killed-{uuid.uuid4().hex[:6]}"
        ledger = LedgerWriter(storage=self._storage, folder=self._ledger, writer=writer)
        record = FileRecord(
            file=task.file,
            etag=task.etag,
            status=FileStatus.CANCELLED,
            pod=f"pod-{self._ti.map_index}",
            attempt=self._ti.try_number,
            at=now(),
            generation=self._generation,
            reason=f"{task.file}: {reason.message}",
            error=type(reason).__name__,
        )
        ledger.add(record)
        ledger.close()
        self._journal.add_record(record)

    def _end_execution_unless_retried(self, error: BatchExecError) -> None:
        """Where this was the last try, no further file of the execution is begun."""
        ti = self._ti
        if error.retryable and ti.try_number <= ti.max_tries:
            return
        if self._stop.set(error):
            self._skip_siblings()

    def _skip_siblings(self) -> None:
        """Skip what is not queued yet, so that it need not be started to find that the execution has ended."""
        if self._mapped_per_file:
            others = [index for index in range(self._spec.total_files) if index != self._ti.map_index]
            internals.skip_mapped_tasks(self._ti.task_id, others)
