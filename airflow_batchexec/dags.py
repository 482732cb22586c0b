"""The execution as a task group, for any DAG, and as a DAG of its own: plan, then predict (mapped), then finish."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param, TaskGroup, XComArg
from airflow.sdk.exceptions import ParamValidationError

from airflow_batchexec.config import ExecutionConfig, flat_fields
from airflow_batchexec.config_sections import SECTIONS
from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
from airflow_batchexec.operators.finish_execution import FinishExecutionOperator
from airflow_batchexec.operators.plan_execution import PlanExecutionOperator
from airflow_batchexec.operators.predict_file import PredictFileOperator

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EXECUTION_DAG_ID", "batch_execution_group", "create_execution_dag", "execution_params"]

EXECUTION_DAG_ID = "batch_execution"

# "Advanced options" stands in every trigger form already, for Airflow's own.
_FORM_SECTIONS = {
    "execution": "Execution",
    "resources": "Resources",
    "advanced_options": "Role and purchase option",
}
_RETRIES = 1
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
    **fields: Any,
) -> TaskGroup:
    """An execution as a task group of any DAG, mapped once per file.

    Args:
        group_id: The group's id; it tells several executions of one run apart.
        batch_execution_conn_id: The connection.
        retries: How often a failed file is tried again.
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
    _check_literals(fields)
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
        )
    return group


def create_execution_dag(
    dag_id: str = EXECUTION_DAG_ID,
    *,
    batch_execution_conn_id: str = BatchExecutionHook.default_conn_name,
    retries: int = _RETRIES,
    defaults: Mapping[str, Any] | None = None,
    **dag_arguments: Any,
) -> DAG:
    """A DAG whose runs are executions; their parameters are the run's conf.

    Args:
        dag_id: The DAG's id.
        batch_execution_conn_id: The connection.
        retries: How often a failed file is tried again.
        defaults: Values of parameters that a run leaves out, by flat name.
        dag_arguments: More of the DAG's own arguments, such as ``max_active_tasks``: how many pods one execution may
            have at once.

    Raises:
        ConfigurationError: ``defaults`` names a parameter that does not exist, or gives one a wrong value.
    """
    arguments: dict[str, Any] = {
        "catchup": False,
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
        )
    return dag


def execution_params(defaults: Mapping[str, Any]) -> dict[str, Param]:
    """The parameter table as the params of a DAG: its trigger form, and what Airflow's server validates.

    Raises:
        ConfigurationError: ``defaults`` names a parameter that does not exist, or gives one a wrong value.
    """
    _check_names(defaults)
    params = {name: _param(name, defaults) for name in flat_fields()}
    for name in defaults:
        try:
            params[name].resolve()
        except ParamValidationError as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(f"{name}: this cannot be its default: {reason}.", field=name) from None
    return params


def _param(name: str, defaults: Mapping[str, Any]) -> Param:
    flat = flat_fields()[name]
    schema = dict(flat.schema)
    unset = schema.pop("unset", None)
    description = schema.pop("description")
    arguments: dict[str, Any] = {
        **schema,
        "description": f"{description} Unset: {unset}." if unset else description,
        "section": _FORM_SECTIONS[flat.section],
    }
    if name in defaults:
        arguments["default"] = defaults[name]
    elif flat.required:
        arguments.pop("default", None)
        arguments["minLength"] = 1
        # Airflow parses a DAG only where every param has a value, or the DAG has no schedule.
        return Param(**arguments)
    else:
        arguments["default"] = flat.default.value if hasattr(flat.default, "value") else flat.default
    if "enum" in arguments:
        # Clients write these in either case, which JSON schema's own enum would refuse.
        words = arguments.pop("enum")
        arguments["examples"] = [word for word in words if word]
        arguments["pattern"] = f"^({'|'.join(_any_case(word) for word in words)})$"
    if arguments["type"] == "string":
        # What is empty is left out: an optional text field of the form sends null, and must be allowed to.
        arguments["type"] = ["null", "string"]
    elif arguments["type"] == "object":
        arguments["additionalProperties"] = {"type": ["string", "number", "boolean"]}
    return Param(**arguments)


def _any_case(word: str) -> str:
    """A pattern for a word in upper or lower case; its hyphen may be left out, or be an underscore."""
    return "".join("[-_]?" if letter == "-" else f"[{letter.upper()}{letter.lower()}]" for letter in word)


def _tasks(
    *,
    fields: Mapping[str, Any] | None,
    name: str,
    map_per_file: bool,
    batch_execution_conn_id: str,
    retries: int,
    max_active_tis_per_dagrun: int | None,
) -> None:
    plan = PlanExecutionOperator(
        task_id="plan",
        fields=fields,
        name=name,
        map_per_file=map_per_file,
        batch_execution_conn_id=batch_execution_conn_id,
        retries=_RETRIES,
        retry_delay=_RETRY_DELAY,
    )
    predict = PredictFileOperator.partial(
        task_id="predict",
        execution=XComArg(plan, key="execution"),
        retries=retries,
        retry_delay=_RETRY_DELAY,
        max_active_tis_per_dagrun=max_active_tis_per_dagrun,
    ).expand(share=plan.output)
    finish = FinishExecutionOperator(
        task_id="finish",
        plan_task_id=plan.task_id,
        retries=_RETRIES,
        retry_delay=_RETRY_DELAY,
    )
    plan >> predict >> finish


def _check_literals(fields: Mapping[str, Any]) -> None:
    """Refuse what is wrong already when the DAG is parsed; templated values are checked when it runs."""
    _check_names(fields)
    if not any(_is_templated(value) for value in fields.values()):
        ExecutionConfig.from_fields(**fields)
        return
    # Whether bucket and folder agree cannot be told yet, so each section is checked by itself.
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in fields.items():
        flat = flat_fields()[name]
        if not _is_templated(value):
            sections[flat.section][flat.name] = value
        elif flat.required:
            sections[flat.section][flat.name] = "templated"
    for section, values in sections.items():
        SECTIONS[section](**values)


def _is_templated(value: Any) -> bool:
    return (isinstance(value, str) and "{" in value) or hasattr(value, "resolve")


def _check_names(fields: Mapping[str, Any]) -> None:
    for name in fields:
        if name not in flat_fields():
            raise ConfigurationError(f"{name}: there is no such parameter.", field=name)
