"""Executions on this machine, without a server: the command line's local file mode.

One thread per pod takes file tasks from the plan, largest first, so that no pod is idle while files are left.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.execution.conclusion import conclude
from airflow_batchexec.engine.execution.ledger import FileStatus, LedgerWriter, now
from airflow_batchexec.engine.execution.lock import LockOwner, local_owner_state
from airflow_batchexec.engine.execution.manifest import ExecutionStatus
from airflow_batchexec.engine.execution.preparation import Prepared, prepare
from airflow_batchexec.engine.running.deadline import JobDeadline
from airflow_batchexec.engine.running.local_gpus import reserved_gpus
from airflow_batchexec.engine.running.pipeline import FileRoute
from airflow_batchexec.engine.running.planned_tasks import PlannedTasks
from airflow_batchexec.engine.running.session import PredictorSession
from airflow_batchexec.exceptions import BatchExecError, ExecutionCancelledError, JobTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from airflow_batchexec.engine.config.instances import InstanceTable
    from airflow_batchexec.engine.config.locations import AllowedLocations, Location
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.execution.conclusion import Conclusion
    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.repository.repository import ModelRepository
    from airflow_batchexec.engine.storage.base import Storage

__all__ = ["LocalExecution", "Observer"]

_LOOK_AHEAD_FILES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Callbacks for the progress of an execution; called from the pods' threads.

    Attributes:
        planned: Called when the execution is prepared, before its pods start.
        recorded: Called when a file has started or ended.
        printed: Called for each line that a pod prints, with (pod, stream, line).
    """

    planned: Callable[[Prepared], None] = lambda _: None
    recorded: Callable[[FileRecord], None] = lambda _: None
    printed: Callable[[str, str, str], None] = lambda _pod, _stream, _line: None


class LocalExecution:
    """One execution on this machine.

    Args:
        execution_id: The execution id.
        config: The request.
        repository: The model repository.
        instances: The available instances.
        open_storage: Opens the storage of a location.
        allowed: The locations that the execution may use.
        observer: Callbacks for its progress.
    """

    def __init__(
        self,
        *,
        execution_id: str,
        config: ExecutionConfig,
        repository: ModelRepository,
        instances: InstanceTable,
        open_storage: Callable[[Location], Storage],
        allowed: AllowedLocations,
        observer: Observer | None = None,
    ) -> None:
        self.execution_id = execution_id
        self._config = config
        self._repository = repository
        self._instances = instances
        self._open_storage = open_storage
        self._allowed = allowed
        self._observer = observer or Observer()
        self._lock = threading.Lock()
        self._finished_files = 0
        self._error: BatchExecError | None = None
        self._crash: BaseException | None = None
        self._stopping = threading.Event()

    def prepare(self) -> Prepared:
        """Validate the request and write the plan; touches no input and no result.

        Raises:
            BatchExecError: The execution is refused.
        """
        return prepare(
            config=self._config,
            owner=LockOwner.this_process(self.execution_id),
            owner_state=local_owner_state,
            round_id="0",
            started_at=now(),
            repository=self._repository,
            instances=self._instances,
            open_storage=self._open_storage,
            allowed=self._allowed,
            default_pods=1,
            max_shards=1,
        )

    def run(self, prepared: Prepared) -> Conclusion:
        """Predict all files and conclude the execution. A file that fails ends the execution without raising.

        A ``KeyboardInterrupt`` cancels the execution: its pods are terminated, no partial result is left, and the
        manifest is written with the status CANCELLED. Then the interrupt is raised again.
        """
        spec = prepared.spec
        storage = self._open_storage(spec.destination)
        interrupt: BaseException | None = None
        try:
            self._observer.planned(prepared)
            self._predict(prepared)
        except BatchExecError as error:
            self._stop(error)
        except BaseException as error:  # noqa: BLE001  raised again below, after the execution is concluded
            self._stop(_as_batch_exec_error(error))
            interrupt = error
        status, reason = self._end_status()
        conclusion = conclude(
            spec=spec, storage=storage, ended_at=now(), end_status=status, end_reason=reason
        )
        for exception in (interrupt, self._crash):
            if exception is not None:
                raise exception
        return conclusion

    def _predict(self, prepared: Prepared) -> None:
        spec = prepared.spec
        deadline = JobDeadline.of(spec.config.execution.job_timeout)
        build_folder = self._repository.fetch(spec.build)
        tasks = PlannedTasks(storage=self._open_storage(spec.destination), spec=spec)
        count = spec.pods_at_once
        sessions = [
            PredictorSession(
                spec,
                name=f"pod-{number}",
                on_line=self._printer(f"pod-{number}"),
                deadline=deadline,
            )
            for number in range(count)
        ]
        with ThreadPoolExecutor(count, thread_name_prefix="pod") as threads:
            try:
                # Not Thread.join: before Python 3.13, an interrupted join treats the thread as ended.
                wait([threads.submit(self._guard, session, build_folder, tasks) for session in sessions])
            except BaseException as error:
                self._end_sessions(sessions, _as_batch_exec_error(error))
                raise
        if self._error is None and deadline.has_passed() and self._finished_files < spec.total_files:
            self._stop(deadline.error())

    def _end_sessions(self, sessions: Sequence[PredictorSession], error: BatchExecError) -> None:
        self._stop(error)
        # In parallel, because each may take a while to end.
        threads = [
            threading.Thread(target=session.end, args=[error], name=f"end-{session.name}")
            for session in sessions
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _stop(self, error: BatchExecError) -> None:
        with self._lock:
            self._error = self._error or error
        self._stopping.set()

    def _end_status(self) -> tuple[ExecutionStatus | None, str]:
        """The status and reason, if the records alone do not determine them."""
        error = self._error
        if isinstance(error, JobTimeoutError):
            # Without the file at which it was noticed.
            timeout = self._config.execution.job_timeout
            return ExecutionStatus.TIMEOUT, JobTimeoutError.after(timeout).message
        if isinstance(error, ExecutionCancelledError):
            return ExecutionStatus.CANCELLED, error.message
        if error is not None and "file" not in error.details:
            return ExecutionStatus.FAILED, error.message
        return None, ""

    def _guard(self, session: PredictorSession, *args: Any) -> None:
        """Run a predictor's thread: any exception ends the execution, and none is swallowed."""
        try:
            error = self._work(session, *args)
            if error is not None:
                self._stop(error)
        except BatchExecError as error:
            self._stop(error)
        except BaseException as error:  # noqa: BLE001  raised again by the waiting thread
            self._crash = error
            self._stop(_as_batch_exec_error(error))

    def _work(
        self, session: PredictorSession, build_folder: Path, tasks: PlannedTasks
    ) -> BatchExecError | None:
        """Start the predictor and process file tasks until none is left or one fails; return the error of that one."""
        spec, name = session.spec, session.name
        storage = self._open_storage(spec.destination)
        if self._stopping.is_set():
            return None
        ledger = LedgerWriter(storage=storage, folder=spec.folder.ledger(spec.round_id), writer=name)

        def record(entry: FileRecord) -> None:
            ledger.add(entry)
            if entry.status is FileStatus.FINISHED:
                with self._lock:
                    self._finished_files += 1
            elif entry.status is not FileStatus.STARTED:
                self._stopping.set()
            self._observer.recorded(entry)

        def should_stop() -> bool:
            return self._stopping.is_set() or not tasks.left

        try:
            with reserved_gpus(spec.instance, should_stop=should_stop) as gpus:
                if gpus is None:
                    return None
                with session.started(build_folder, predictors_on_machine=spec.pods_at_once, gpus=gpus):
                    route = FileRoute.of(
                        spec,
                        source=self._open_storage(spec.root),
                        destination=storage,
                        scratch=session.scratch,
                        name=name,
                    )
                    return session.run(
                        tasks,
                        route=route,
                        record=record,
                        should_stop=self._stopping.is_set,
                        # Near the end, another pod may be free first.
                        may_look_ahead=lambda: tasks.left > _LOOK_AHEAD_FILES * spec.pods_at_once,
                    )
        finally:
            ledger.close()

    def _printer(self, pod: str) -> Callable[[str, str, str], None]:
        return lambda _file, stream, line: self._observer.printed(pod, stream, line)


def _as_batch_exec_error(error: BaseException) -> BatchExecError:
    if isinstance(error, KeyboardInterrupt):
        return ExecutionCancelledError("It was interrupted.")
    return BatchExecError(f"{type(error).__name__}: {error}")
