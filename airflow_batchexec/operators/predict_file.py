"""The mapped task of an execution: one file, or the files of one pod, through ``predict``."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_batchexec import internals, settings
from airflow_batchexec.exceptions import (
    BatchExecError,
    ExecutionCancelledError,
    JobTimeoutError,
    ObjectNotFoundError,
)
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
from airflow_batchexec.operators.file_log import FileLog
from airflow_batchexec.operators.handle import ExecutionHandle, dag_run_start, generation, owner_state
from airflow_batchexec.task_errors import as_task_failure, task_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from airflow.sdk import Context

    from airflow_batchexec.engine.ledger import FileRecord, LedgerWriter
    from airflow_batchexec.engine.plan import FileTask
    from airflow_batchexec.engine.predictor.process import Pod
    from airflow_batchexec.engine.specification import ExecutionSpec
    from airflow_batchexec.engine.stop import StopMark

__all__ = ["PredictFileOperator"]


class PredictFileOperator(BaseOperator):
    """Sends the files of one share of the plan through one pod; mapped over the output of the task ``plan``.

    A retry does only what is not done yet. So does a clear in an execution that has failed: it continues it. In one
    that has finished, a clear does its files again.

    Args:
        execution: The XCom ``execution`` of the task ``plan``.
        share: One element of that task's output.

    Raises:
        AirflowFailException: A file failed, and trying again cannot help; or another pod's file has, and some of this
            pod's were not started.
        AirflowException: A file failed, and may be tried again.
        AirflowSkipException: Another file has failed for good, and so the execution; this one is not begun.
    """

    template_fields: Sequence[str] = ("execution", "share")

    def __init__(self, *, execution: Any, share: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.execution = execution
        self.share = share
        self._pod: Pod | None = None

    def execute(self, context: Context) -> None:
        """Predict the share's files."""
        with as_task_failure():
            share = _Share(self, context)
            share.run()

    def on_kill(self) -> None:
        """End the pod; the file that it had is recorded as cancelled."""
        if self._pod is not None:
            self._pod.end(ExecutionCancelledError("Its task was ended from outside."))


class _Share:
    """One run of the operator."""

    def __init__(self, operator: PredictFileOperator, context: Context) -> None:
        from airflow_batchexec.engine.plan import Share, read_tasks  # noqa: PLC0415  as above
        from airflow_batchexec.engine.specification import read_spec  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.stop import StopMark  # noqa: PLC0415  as above

        self._operator = operator
        self._log = operator.log
        self._context = context
        self._ti = context["ti"]
        self._generation = generation(context)
        handle = ExecutionHandle.from_dict(operator.execution)
        self._hook, self._storage, folder = handle.open()
        self._spec: ExecutionSpec = read_spec(self._storage, folder)
        place = Share.from_descriptor(operator.share)
        self._tasks = read_tasks(self._storage.read(folder.plan, start=place.offset, length=place.length))
        # Within a round a file is always in the same share, so no task need read what the others have written.
        self._ledger = folder.ledger(self._spec.round_id).join(str(self._ti.map_index))
        self._stop: StopMark = StopMark(storage=self._storage, location=folder.stop(str(self._generation)))
        self._mapped_per_file = place.files == 1
        name = self._tasks[0].file if place.files == 1 else f"pod {self._ti.map_index}: {place.files} files"
        context["file"] = name  # type: ignore[typeddict-unknown-key]  # a key of ours
        # Shown in place of the map index. Airflow reads the template of the mapped operator, which does not have the
        # defaults of this class, so that one of its own would never be used.
        if context["map_index_template"] is None:
            context["map_index_template"] = "{{ file }}"

    def run(self) -> None:
        if self._stop.is_set():
            raise AirflowSkipException("Another file has failed, and so the execution: this was not started.")
        self._hold_lock()
        tasks = self._tasks_to_do()
        if not tasks:
            self._log.info("All %d files have been finished by an earlier attempt.", len(self._tasks))
            return
        self._files = FileLog(log=self._log, files=len(tasks))
        try:
            error = self._predict(tasks)
        except BatchExecError as failure:
            error = failure
        if error is not None:
            self._end_execution_unless_retried(error)
            raise task_failure(error) from error
        if self._files.finished < len(tasks):
            raise AirflowFailException(
                f"{len(tasks) - self._files.finished} of {len(tasks)} files were not started: another file has failed, "
                f"and so the execution."
            )

    def _hold_lock(self) -> None:
        """Take the lock again where the execution had ended and was cleared."""
        from airflow_batchexec.engine import lock  # noqa: PLC0415  not for parsing

        lock.acquire(
            storage=self._storage,
            location=self._spec.lock,
            owner=self._spec.owner,
            state_of=owner_state(self._ti),
        )

    def _tasks_to_do(self) -> Sequence[FileTask]:
        from airflow_batchexec.engine.ledger import FileStatus, latest, read_ledger  # noqa: PLC0415  not for parsing

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
        from airflow_batchexec.engine.audit import ExecutionStatus  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.execution import read_manifest  # noqa: PLC0415  as above

        try:
            manifest = read_manifest(self._storage, self._spec.folder)
        except ObjectNotFoundError:
            return False
        return bool(manifest["status"] == ExecutionStatus.FINISHED.value)

    def _predict(self, tasks: Sequence[FileTask]) -> BatchExecError | None:
        from airflow_batchexec.engine.predictor.process import DeadlineExceeded  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.run import scratch_folder  # noqa: PLC0415  as above

        deadline = self._job_deadline()
        try:
            with (
                scratch_folder(settings.scratch_folder()) as scratch,
                self._start_pod(scratch, deadline) as pod,
            ):
                error = self._run_files(tasks, pod, deadline)
        except DeadlineExceeded:
            return self._job_timeout()
        if error is None and self._files.finished < len(tasks) and not self._stop.is_set():
            return self._job_timeout()
        return error

    @contextmanager
    def _start_pod(self, scratch: Path, deadline: float | None) -> Iterator[Pod]:
        from airflow_batchexec.engine.predictor.process import Pod  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.run import pod_spec  # noqa: PLC0415  as above

        builds = BatchExecutionHook(self._operator.execution["batch_execution_conn_id"])
        spec = pod_spec(
            self._spec,
            build_folder=settings.model_repository(builds.open_storage).fetch(self._spec.build),
            scratch=scratch,
            share_of_machine=settings.machine_is_shared(),
            load_timeout_seconds=settings.load_timeout_seconds(),
        )
        with Pod(spec=spec, name=f"pod-{self._ti.map_index}", on_line=self._print) as pod:
            self._operator._pod = pod  # noqa: SLF001  the operator's on_kill ends it
            pod.start(deadline=deadline)
            self._log.info("The build was loaded in %.2f s.", pod.load_seconds)
            yield pod

    def _run_files(
        self, tasks: Sequence[FileTask], pod: Pod, deadline: float | None
    ) -> BatchExecError | None:
        from airflow_batchexec.engine.ledger import LedgerWriter  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.run import FileRoute, Limits, run_files  # noqa: PLC0415  as above

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
            return self._stop.is_set() or (deadline is not None and time.monotonic() >= deadline)

        return should_stop

    def _recorder(self, ledger: LedgerWriter) -> Callable[[FileRecord], None]:
        def record(entry: FileRecord) -> None:
            ledger.add(entry)
            self._files.add(entry)

        return record

    def _print(self, stream: str, line: str) -> None:
        self._log.info("[%s] %s", stream, line)

    def _end_execution_unless_retried(self, error: BatchExecError) -> None:
        """Where this was the last try, no further file of the execution is begun."""
        ti = self._ti
        if error.retryable and ti.try_number <= ti.max_tries:
            return
        if self._stop.set(error) and self._mapped_per_file:
            others = [index for index in range(self._spec.total_files) if index != ti.map_index]
            internals.skip_mapped_tasks(ti.task_id, others)
