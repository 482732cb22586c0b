"""The mapped task of an execution: the files of one shard of its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_batchexec import internals
from airflow_batchexec.operators.shard_attempt import ShardAttempt
from airflow_batchexec.reporting.lineage import facets_of
from airflow_batchexec.runs.task_errors import as_task_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

__all__ = ["PredictShardOperator"]


class PredictShardOperator(BaseOperator):
    """Sends the files of one shard of an execution's plan through a model's ``predict``, in one predictor.

    ``create_execution_dag`` and ``batch_execution_group`` map it over the plan: one task per file, or per pod. A retry
    predicts only the files without a result. So does a clear in an execution that has failed: it continues it. In one
    that has finished, a clear predicts its files again.

    Args:
        plan_task_id: The task that planned the execution. Its XCom ``execution`` is only pulled if no task before has
            left it in a pod on this machine.
        shard: One element of that task's output.
        name: Distinguishes several executions in one run; empty if the run is the execution.

    Raises:
        AirflowFailException: A file failed, and a retry cannot help; or another task's file has, and some of this
            task's were not started; or the execution was cancelled.
        AirflowException: A file failed, and a retry may help; or the task was terminated.
        AirflowSkipException: The execution has ended already; nothing was started.
    """

    template_fields: Sequence[str] = ("shard",)

    def __init__(self, *, plan_task_id: str, shard: Any, name: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan_task_id = plan_task_id
        self.shard = shard
        self.name = name
        self._attempt: ShardAttempt | None = None

    def execute(self, context: Context) -> None:
        """Predict the files of the shard."""
        internals.die_with_supervisor()
        with as_task_failure():
            self._attempt = ShardAttempt(
                plan_task_id=self.plan_task_id,
                name=self.name,
                shard=self.shard,
                context=context,
                log=self.log,
            )
            self._attempt.run()

    def get_openlineage_facets_on_complete(
        self,
        task_instance: RuntimeTaskInstanceProtocol,  # noqa: ARG002  the provider's signature
    ) -> Any:
        """Report to OpenLineage the files that have finished, also if others have failed."""
        return facets_of(self._attempt.lineage if self._attempt else None)

    def on_kill(self) -> None:
        """End the predictor; the file that it had is recorded as cancelled."""
        if self._attempt is not None:
            self._attempt.kill()
