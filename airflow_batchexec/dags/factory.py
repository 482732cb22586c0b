"""Executions as task groups and as DAGs: plan, then predict (mapped), then finish."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, TaskGroup

from airflow_batchexec import settings
from airflow_batchexec.dags.trigger_form import execution_params
from airflow_batchexec.engine.config.sections import Resources
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
from airflow_batchexec.names import (
    EXECUTION_DAG_ID,
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
Each run is one execution: it passes every file in the source folder through the model's `predict` and writes the
result to the destination folder. **plan** validates the parameters and lists the files, **predict** is mapped over the
files, and **finish** accounts for each file and writes the manifest.
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
    """Create a task group that runs an execution in any DAG, with one mapped task per file.

    Args:
        group_id: The group's ID; it distinguishes the executions in one DAG run.
        batch_execution_conn_id: The connection.
        retries: The number of retries of a failed file.
        executor: The executor of the mapped tasks. This and the next two arguments take precedence over the values
            derived from the instance and the purchase option.
        queue: The queue of the mapped tasks.
        executor_config: The executor config of the mapped tasks. A ``pod_override`` in it takes precedence field by
            field.
        fields: The execution's parameters by flat name, templated. A literal ``pods`` limits how many mapped tasks run
            concurrently.

    Raises:
        ConfigurationError: A name is unknown, or a literal value is invalid.

    Example::

        with DAG("daily_delays", schedule="@daily"):
            batch_execution_group(
                model_id="arrival_delay",
                source_folder="s3://flights/{{ ds }}",
                destination_folder="s3://delays/{{ ds }}",
            )
    """
    check_literals(fields)
    literals = {name: value for name, value in fields.items() if not is_templated(value)}
    pods = _resources(literals).pods
    with TaskGroup(group_id) as group:
        _add_tasks(
            fields=fields,
            # The ID includes the enclosing groups: a DAG may contain groups with the same last name.
            name=group.group_id or group_id,
            map_per_file=bool(pods),
            batch_execution_conn_id=batch_execution_conn_id,
            retries=retries,
            max_active_tis_per_dagrun=pods or _max_tasks(literals),
            literals=literals,
            executor_args={"executor": executor, "queue": queue, "executor_config": executor_config},
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
    """Create a DAG in which each run is an execution, with the run's conf as its parameters.

    Args:
        dag_id: The DAG's ID.
        batch_execution_conn_id: The connection.
        retries: The number of retries of a failed file.
        executor: As for :func:`batch_execution_group`.
        queue: As for :func:`batch_execution_group`.
        executor_config: As for :func:`batch_execution_group`.
        defaults: Default values of parameters, by flat name.
        dag_arguments: Other arguments of the DAG, such as ``max_active_tasks``, which limits one execution's concurrent
            tasks (default: Airflow's, and with LocalExecutor what the machine has a use for), or ``max_active_runs``,
            which limits concurrent executions (default: 128).

    Raises:
        ConfigurationError: ``defaults`` names an unknown parameter or contains an invalid value.
    """
    arguments: dict[str, Any] = {
        "catchup": False,
        # Beyond Airflow's default of 16, runs and the tasks waiting for them would stay queued.
        "max_active_runs": _MAX_ACTIVE_RUNS,
        "tags": ["batch-execution"],
        "doc_md": _DOC,
        "params": execution_params(defaults or {}),
        **dag_arguments,
    }
    with DAG(dag_id, schedule=arguments.pop("schedule", None), **arguments) as dag:
        _add_tasks(
            fields=None,
            name="",
            map_per_file=False,
            batch_execution_conn_id=batch_execution_conn_id,
            retries=retries,
            max_active_tis_per_dagrun=(
                None if "max_active_tasks" in arguments else _max_tasks(defaults or {})
            ),
            literals=defaults or {},
            executor_args={"executor": executor, "queue": queue, "executor_config": executor_config},
        )
    return dag


def _max_tasks(literals: Mapping[str, Any]) -> int | None:
    resources = _resources(literals)
    limit = settings.max_tasks_at_once(cpus=resources.cpus)
    return limit and max(limit, resources.pods)


def _resources(literals: Mapping[str, Any]) -> Resources:
    return Resources(pods=literals.get("pods"), cpus=literals.get("cpus"))


def _add_tasks(
    *,
    fields: Mapping[str, Any] | None,
    name: str,
    map_per_file: bool,
    batch_execution_conn_id: str,
    retries: int,
    max_active_tis_per_dagrun: int | None,
    literals: Mapping[str, Any],
    executor_args: Mapping[str, Any],
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
    placement_args, plan.placement = place_tasks(literals, sibling=plan, **executor_args)
    predict = PredictShardOperator.partial(
        task_id=PREDICT_TASK_ID,
        plan_task_id=plan.task_id,
        name=name,
        retries=retries,
        retry_delay=_RETRY_DELAY,
        max_active_tis_per_dagrun=max_active_tis_per_dagrun,
        **placement_args,
    ).expand(shard=plan.output)
    finish_args: dict[str, Any] = {
        "plan_task_id": plan.task_id,
        "predict_task_id": predict.task_id,
        "name": name,
        "retries": _RETRIES,
        "retry_delay": _RETRY_DELAY,
    }
    finish = FinishExecutionOperator(task_id=FINISH_TASK_ID, **finish_args)
    plan >> predict >> finish
    # Airflow runs teardowns even if a user marks the run as failed, so the execution is still concluded and its lock
    # released. Tasks downstream of a group do not wait for teardowns, so in a group finish is an ordinary task.
    if name:
        release = FinishExecutionOperator(
            task_id=RELEASE_TASK_ID, unless_done_by=finish.task_id, **finish_args
        )
        finish >> release.as_teardown()
    else:
        finish.as_teardown(on_failure_fail_dagrun=True)
