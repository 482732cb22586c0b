"""The execution as a task group, for any DAG, and as a DAG of its own: plan, then predict (mapped), then finish."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, TaskGroup, XComArg

from airflow_batchexec.dags.trigger_form import execution_params
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
from airflow_batchexec.names import (
    EXECUTION_DAG_ID,
    EXECUTION_KEY,
    FINISH_TASK_ID,
    PLAN_TASK_ID,
    PREDICT_TASK_ID,
    RELEASE_TASK_ID,
)
from airflow_batchexec.operators.finish_execution import FinishExecutionOperator
from airflow_batchexec.operators.plan_execution import PlanExecutionOperator
from airflow_batchexec.operators.predict_shard import PredictShardOperator
from airflow_batchexec.placement.tasks import place_tasks
from airflow_batchexec.runs.parse_time import check_literals, is_templated

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["batch_execution_group", "create_execution_dag"]

_RETRIES = 1
_MAX_ACTIVE_RUNS = 128
_RETRY_DELAY = timedelta(seconds=5)

_DOC = """
One run is one execution: every file of the source folder goes through the model's `predict`, and its result to the
destination folder. **plan** validates and lists, **predict** is mapped over the files, **finish** accounts for each
of them and writes the manifest.
"""


def batch_execution_group(
    group_id: str = "batch_execution",
    *,
    batch_execution_conn_id: str = BatchExecutionHook.default_conn_name,
    retries: int = _RETRIES,
    executor: str | None = None,
    queue: str | None = None,
    executor_config: Mapping[str, Any] | None = None,
    **fields: Any,
) -> TaskGroup:
    """An execution as a task group of any DAG, mapped once per file.

    Args:
        group_id: The group's id; it tells several executions of one run apart.
        batch_execution_conn_id: The connection.
        retries: How often a failed file is tried again.
        executor: The executor of the mapped tasks. This and the next two go before what the instance and the purchase
            option become on Airflow's executors.
        queue: The queue of the mapped tasks.
        executor_config: The mapped tasks'. A ``pod_override`` in it wins field by field.
        fields: The execution's parameters by flat name, templated. A literal ``pods`` becomes the number of mapped
            tasks that run at once.

    Raises:
        ConfigurationError: A name is unknown, or a literal value is wrong.

    Example::

        with DAG("daily_delays", schedule="@daily"):
            batch_execution_group(
                model_id="arrival_delay",
                source_folder="s3://flights/{{ ds }}",
                destination_folder="s3://delays/{{ ds }}",
            )
    """
    check_literals(fields)
    pods = fields.get("pods")
    with TaskGroup(group_id) as group:
        _tasks(
            fields=fields,
            # With the ids of the groups around it: one run may hold the same group twice.
            name=group.group_id or group_id,
            map_per_file=isinstance(pods, int),
            batch_execution_conn_id=batch_execution_conn_id,
            retries=retries,
            max_active_tis_per_dagrun=pods if isinstance(pods, int) and pods > 0 else None,
            literals={name: value for name, value in fields.items() if not is_templated(value)},
            placed={"executor": executor, "queue": queue, "executor_config": executor_config},
        )
    return group


def create_execution_dag(
    dag_id: str = EXECUTION_DAG_ID,
    *,
    batch_execution_conn_id: str = BatchExecutionHook.default_conn_name,
    retries: int = _RETRIES,
    executor: str | None = None,
    queue: str | None = None,
    executor_config: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    **dag_arguments: Any,
) -> DAG:
    """A DAG whose runs are executions; their parameters are the run's conf.

    Args:
        dag_id: The DAG's id.
        batch_execution_conn_id: The connection.
        retries: How often a failed file is tried again.
        executor: As in :func:`batch_execution_group`.
        queue: As there.
        executor_config: As there.
        defaults: Values of parameters that a run leaves out, by flat name.
        dag_arguments: More of the DAG's own arguments, such as ``max_active_tasks``: how many pods one execution may
            have at once; or ``max_active_runs``: how many executions there may be at once, 128 by default.

    Raises:
        ConfigurationError: ``defaults`` names a parameter that does not exist, or gives one a wrong value.
    """
    arguments: dict[str, Any] = {
        "catchup": False,
        # Airflow's own default, 16, would keep the others queued, with whoever waits for them.
        "max_active_runs": _MAX_ACTIVE_RUNS,
        "tags": ["batch-execution"],
        "doc_md": _DOC,
        "params": execution_params(defaults or {}),
        **dag_arguments,
    }
    with DAG(dag_id, schedule=arguments.pop("schedule", None), **arguments) as dag:
        _tasks(
            fields=None,
            name="",
            map_per_file=False,
            batch_execution_conn_id=batch_execution_conn_id,
            retries=retries,
            max_active_tis_per_dagrun=None,
            literals=defaults or {},
            placed={"executor": executor, "queue": queue, "executor_config": executor_config},
        )
    return dag


def _tasks(
    *,
    fields: Mapping[str, Any] | None,
    name: str,
    map_per_file: bool,
    batch_execution_conn_id: str,
    retries: int,
    max_active_tis_per_dagrun: int | None,
    literals: Mapping[str, Any],
    placed: Mapping[str, Any],
) -> None:
    plan = PlanExecutionOperator(
        task_id=PLAN_TASK_ID,
        fields=fields,
        name=name,
        map_per_file=map_per_file,
        batch_execution_conn_id=batch_execution_conn_id,
        retries=_RETRIES,
        retry_delay=_RETRY_DELAY,
    )
    placing, plan.placement = place_tasks(literals, like=plan, **placed)
    predict = PredictShardOperator.partial(
        task_id=PREDICT_TASK_ID,
        execution=XComArg(plan, key=EXECUTION_KEY),
        retries=retries,
        retry_delay=_RETRY_DELAY,
        max_active_tis_per_dagrun=max_active_tis_per_dagrun,
        **placing,
    ).expand(shard=plan.output)
    end: dict[str, Any] = {
        "plan_task_id": plan.task_id,
        "predict_task_id": predict.task_id,
        "name": name,
        "retries": _RETRIES,
        "retry_delay": _RETRY_DELAY,
    }
    finish = FinishExecutionOperator(task_id=FINISH_TASK_ID, **end)
    plan >> predict >> finish
    # When somebody fails a run, Airflow still runs its teardowns, so the execution is concluded and its lock released.
    # What follows a group would not wait for a teardown, so there it is a task of its own.
    if name:
        release = FinishExecutionOperator(task_id=RELEASE_TASK_ID, unless_done_by=finish.task_id, **end)
        finish >> release.as_teardown()
    else:
        finish.as_teardown(on_failure_fail_dagrun=True)
