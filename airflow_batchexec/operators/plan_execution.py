"""The first task of an execution: validates and plans everything before any file is touched."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_batchexec import internals, settings
from airflow_batchexec.engine.execution.lock import LockOwner
from airflow_batchexec.exceptions import BatchExecError
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
from airflow_batchexec.names import CLIENT_KEY, EXECUTION_KEY, FILES_ROWS, PLANNED_ROW, REFUSED_KEY
from airflow_batchexec.operators.pods_ahead import PodsAhead
from airflow_batchexec.operators.task_journal import TaskJournal
from airflow_batchexec.placement.tasks import Placement, admission
from airflow_batchexec.runs.handle import (
    ExecutionHandle,
    dag_run_start,
    execution_id_of,
    generation,
    owner_state,
)
from airflow_batchexec.runs.task_errors import task_failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from airflow_batchexec.engine.execution.preparation import Prepared
    from airflow_batchexec.engine.execution.resolution import Resolution

__all__ = ["PlanExecutionOperator"]

# Airflow warns about values above 64 KiB.
_MAX_ROW_BYTES = 47 * 1024


class PlanExecutionOperator(BaseOperator):
    """Plans an execution, and returns a small descriptor for each mapped task.

    Args:
        fields: The execution's parameters by flat name, templated; ``None`` takes the run's params.
        name: Distinguishes several executions in one run; empty if the run is the execution.
        map_per_file: One mapped task per file regardless of ``pods``, as the DAG limits how many run at once.
        batch_execution_conn_id: The connection.

    Attributes:
        placement: What the machines of the mapped tasks were chosen for; an execution that needs more is refused.

    Returns:
        The descriptors, one for each shard of the plan. The XCom ``execution`` has the handle for the other tasks.

    Raises:
        AirflowFailException: The execution is refused; the XCom ``refused`` says why (``error``, ``reason``).
    """

    template_fields: Sequence[str] = ("fields", "batch_execution_conn_id")

    def __init__(
        self,
        *,
        fields: Mapping[str, Any] | None = None,
        name: str = "",
        map_per_file: bool = False,
        batch_execution_conn_id: str = BatchExecutionHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fields = fields
        self.name = name
        self.map_per_file = map_per_file
        self.batch_execution_conn_id = batch_execution_conn_id
        self.placement: Placement | None = None

    def execute(self, context: Context) -> list[list[int | str]]:
        """Plan the execution."""
        internals.die_with_supervisor()
        ti = context["ti"]
        journal = TaskJournal(context, name=self.task_id, log=self.log)
        try:
            return self._plan(context, journal)
        except BatchExecError as error:
            ti.xcom_push(REFUSED_KEY, {"error": type(error).__name__, "reason": error.message})
            journal.add("refused", error=type(error).__name__, reason=error.message)
            raise task_failure(error) from error
        finally:
            journal.close()

    def fields_of_run(self, context: Context) -> dict[str, Any]:
        """The execution's parameters by flat name, from the run."""
        if self.fields is not None:
            return dict(self.fields)
        fields = dict(context["params"])
        if isinstance(fields.get(CLIENT_KEY), dict):
            del fields[CLIENT_KEY]
        return fields

    def _plan(self, context: Context, journal: TaskJournal) -> list[list[int | str]]:
        ti = context["ti"]
        execution_id = execution_id_of(ti, self.name)
        owner = LockOwner(
            execution_id, deployment=settings.deployment_name(), dag_id=ti.dag_id, run_id=ti.run_id
        )
        conn_id = self.batch_execution_conn_id
        with PodsAhead(owner.pods_owner, batch_execution_conn_id=conn_id, log=self.log) as pods:
            prepared = self._prepare(context, owner, pods)
            spec = prepared.spec
            self._log_plan(prepared)
            handle = ExecutionHandle(
                execution_id=spec.execution_id,
                destination=spec.destination.uri,
                fields=spec.config.fields(),
                batch_execution_conn_id=conn_id,
            )
            ti.xcom_push(EXECUTION_KEY, handle.to_dict())
            pods.complete(spec)
        _report(journal, prepared, generation(context))
        return [shard.to_descriptor() for shard in prepared.plan.shards]

    def _prepare(self, context: Context, owner: LockOwner, pods: PodsAhead) -> Prepared:
        from airflow_batchexec.engine.config.model import ExecutionConfig  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.execution.preparation import prepare  # noqa: PLC0415  as above
        from airflow_batchexec.engine.running.predictor_spec import Workload  # noqa: PLC0415  as above

        config = ExecutionConfig.from_fields(**self.fields_of_run(context))
        hook = BatchExecutionHook.for_execution(config, batch_execution_conn_id=self.batch_execution_conn_id)
        builds = BatchExecutionHook(self.batch_execution_conn_id)

        def begin_pods(resolved: Resolution) -> None:
            parameters = config.execution.parameters
            pods.begin(Workload(build=resolved.build, instance=resolved.instance, parameters=parameters))

        return prepare(
            config=config,
            owner=owner,
            owner_state=owner_state(context["ti"]),
            round_id=uuid.uuid4().hex[:12],
            started_at=dag_run_start(context),
            repository=settings.model_repository(builds.open_storage),
            instances=settings.instance_table(),
            open_storage=hook.open_storage,
            allowed=settings.allowed_locations(),
            default_pods=0,
            max_shards=settings.max_mapped_tasks(),
            map_per_file=self.map_per_file,
            default_purchase_option=settings.default_purchase_option(),
            admit=admission(self.placement, config),
            on_resolved=begin_pods,
            scratch_root=settings.scratch_folder(),
        )

    def _log_plan(self, prepared: Prepared) -> None:
        spec, plan = prepared.spec, prepared.plan
        self.log.info(
            "Execution %s: %d files, %s bytes, model %s build %s, instance %s%s, %d mapped tasks.",
            spec.execution_id,
            spec.total_files,
            f"{spec.total_bytes:,}",
            spec.build.model_id,
            spec.build.build_id,
            spec.instance,
            f", {spec.purchase_option}" if spec.purchase_option else "",
            len(plan.shards),
        )
        for file in plan.named_skipped:
            self.log.info("Skipped %s: it %s.", file.file, file.reason)
        if plan.unnamed_skipped:
            self.log.info(
                "%d more files were skipped; see %s.", plan.unnamed_skipped, spec.folder.skipped.uri
            )


def _report(journal: TaskJournal, prepared: Prepared, generation: int) -> None:
    """Report the plan. The row ``planned`` is written last, after the rows that it refers to."""
    from airflow_batchexec.engine.journal.listed_files import are_listed  # noqa: PLC0415  not for parsing
    from airflow_batchexec.engine.journal.packing import pack_in_rows  # noqa: PLC0415  as above

    spec, plan = prepared.spec, prepared.plan
    build = {"model_id": spec.build.model_id, "build_id": spec.build.build_id}
    journal.add(
        "planned",
        files=spec.total_files,
        bytes=spec.total_bytes,
        **build,
        instance=spec.instance.name,
        purchase_option=spec.purchase_option,
        shares=spec.shards,
        pods=spec.pods,
        source=spec.root.uri,
        destination=spec.destination.uri,
        generation=generation,
    )
    for skipped in plan.named_skipped:
        journal.add("skipped", file=skipped.file, reason=skipped.reason)
    if plan.unnamed_skipped:
        journal.add("skipped_more", count=plan.unnamed_skipped)
    rows: list[str] = []
    if are_listed(spec.total_files):
        rows = pack_in_rows(plan.listed_files, max_bytes=_MAX_ROW_BYTES)
    else:
        journal.add("unlisted", files=spec.total_files, plan=spec.folder.plan.uri)
    planned = {
        "generation": generation,
        "total_files": spec.total_files,
        "shares": spec.shards,
        **build,
        "files_rows": len(rows),
    }
    if all(journal.put(f"{FILES_ROWS}{number:03d}", row) for number, row in enumerate(rows)):
        journal.put(PLANNED_ROW, planned)
