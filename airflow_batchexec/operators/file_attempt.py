"""One attempt of a task that predicts one file: all that an execution does for a file, without an execution."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException

from airflow_batchexec import settings
from airflow_batchexec.engine.execution.ids import single_file_id
from airflow_batchexec.exceptions import ExecutionCancelledError, ObjectChangedError
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
from airflow_batchexec.operators.task_display import FileLog, label_map_index
from airflow_batchexec.operators.task_session import TaskSession
from airflow_batchexec.reporting.lineage import Lineage
from airflow_batchexec.runs.handle import generation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context
    from airflow.sdk.types import Logger

    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.running.single_file import PreparedFile

__all__ = ["FileAttempt"]


class FileAttempt:
    """One attempt of the task.

    Args:
        fields: The parameters that are set, by flat name, with ``file`` for the source.
        batch_execution_conn_id: The connection.
        context: The task's context.
        log: The task's log.

    Attributes:
        lineage: What has been read and written; ``None`` until the request has been accepted.
    """

    def __init__(
        self, *, fields: Mapping[str, Any], batch_execution_conn_id: str, context: Context, log: Logger
    ) -> None:
        self._fields = fields
        self._batch_execution_conn_id = batch_execution_conn_id
        self._context = context
        self._ti = context["ti"]
        self._log = log
        # Airflow uses -1 for an unmapped task.
        self._map_index = -1 if self._ti.map_index is None else self._ti.map_index
        self._session = TaskSession(
            name=f"pod-{max(0, self._map_index)}", log=log, batch_execution_conn_id=batch_execution_conn_id
        )
        self.lineage: Lineage | None = None
        label_map_index(context, str(fields.get("file", "")).rstrip("/").rpartition("/")[2])

    def run(self) -> dict[str, Any]:
        """Predict the file.

        Returns:
            ``input`` and ``output`` (``uri``, ``size_bytes``, ``etag``, ``rows``), ``seconds`` by step, ``model_id``
            and ``build_id``.

        Raises:
            BatchExecError: The request is refused, or the file has no result.
            AirflowException: The task was terminated, or the file changed meanwhile.
        """
        from airflow_batchexec.engine.running.single_file import predict_file  # noqa: PLC0415  not for parsing

        prepared, hook = self._prepare()
        spec = prepared.spec
        files = FileLog(log=self._log, files=1)
        self.lineage = lineage = Lineage(spec)

        def record(entry: FileRecord) -> None:
            files.add(entry)
            lineage.add(entry)

        try:
            with self._session.started(spec, owner=self._pods_owner()) as session:
                assert session is not None
                if session.load_seconds:
                    self._log.info("The build was loaded in %.2f s.", session.load_seconds)
                end = predict_file(
                    prepared,
                    session=session,
                    attempt=self._ti.try_number,
                    generation=generation(self._context),
                    source=hook.open_storage(spec.source),
                    destination=hook.open_storage(spec.destination),
                    record=record,
                ).to_dict()
        except (ExecutionCancelledError, ObjectChangedError) as error:
            # Airflow may try the task again, and the next try takes the file as it is then.
            raise AirflowException(error.message) from error
        return {
            "input": end["input"],
            "output": end["output"],
            "seconds": {"load": round(session.load_seconds, 6), **end["seconds"]},
            "model_id": spec.build.model_id,
            "build_id": spec.build.build_id,
        }

    def kill(self) -> None:
        """End the predictor because the task is being terminated; may be called from a signal handler."""
        self._session.end(ExecutionCancelledError("Its task was terminated."))

    def _prepare(self) -> tuple[PreparedFile, BatchExecutionHook]:
        from airflow_batchexec.engine.config.file_request import file_config  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.execution.lock import LockOwner  # noqa: PLC0415  as above
        from airflow_batchexec.engine.running.single_file import prepare_file  # noqa: PLC0415  as above

        ti, conn_id = self._ti, self._batch_execution_conn_id
        config = file_config(self._fields)
        hook = BatchExecutionHook.for_execution(config, batch_execution_conn_id=conn_id)
        prepared = prepare_file(
            config=config,
            owner=LockOwner(
                single_file_id(
                    dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=self._map_index
                ),
                deployment=settings.deployment_name(),
                dag_id=ti.dag_id,
                run_id=ti.run_id,
            ),
            started_at=time.time(),
            repository=settings.model_repository(BatchExecutionHook(conn_id).open_storage),
            instances=settings.instance_table(),
            open_storage=hook.open_storage,
            allowed=settings.allowed_locations(),
        )
        spec = prepared.spec
        self._log.info(
            "%s: %s bytes, model %s build %s, instance %s.",
            spec.source.uri,
            f"{spec.total_bytes:,}",
            spec.build.model_id,
            spec.build.build_id,
            spec.instance,
        )
        return prepared, hook

    def _pods_owner(self) -> tuple[str, ...]:
        """The mapped instances of a task share pods."""
        ti = self._ti
        return (settings.deployment_name(), ti.dag_id, str(ti.run_id), ti.task_id)
