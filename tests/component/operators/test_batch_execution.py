"""The operator and the sensor at DAG parse time; integration tests cover how they run in a real Airflow."""

from __future__ import annotations

import inspect
import re

import pytest
from airflow.sdk import DAG, XComArg, task

from airflow_batchexec import (
    BatchExecutionOperator,
    BatchExecutionSensor,
    batch_execution_group,
    create_execution_dag,
)
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.sensors.batch_execution import BatchExecutionSensor as Sensor

FOLDERS = {"source_folder": "s3://b/in", "destination_folder": "s3://b/out"}


def operator(**arguments):
    with DAG("parsed", schedule=None):
        return BatchExecutionOperator(**{"task_id": "run", "model_id": "m", **FOLDERS, **arguments})


def test_every_parameter_of_the_table_is_an_argument_and_templated():
    arguments = set(inspect.signature(BatchExecutionOperator.__init__).parameters)
    assert set(flat_fields()) <= arguments
    assert set(flat_fields()) <= set(BatchExecutionOperator.template_fields)


def test_required_parameters_are_required_and_the_others_are_not():
    parameters = inspect.signature(BatchExecutionOperator.__init__).parameters
    required = {name for name in flat_fields() if parameters[name].default is inspect.Parameter.empty}
    assert required == {name for name, field in flat_fields().items() if field.required}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pods", -1),
        ("pods", "many"),
        ("input_file_type", "xml"),
        ("purchase_option", "cheap"),
        ("iam_role_arn", "role"),
        ("parameters", {"1": "x"}),
        ("source_folder", "in"),
        ("source_folder", "ftp://x/y"),
        ("model_id", "../m"),
        ("poll_interval", 0),
        ("poll_interval", float("nan")),
    ],
)
def test_an_invalid_literal_is_a_dag_error_that_names_it(field, value):
    with pytest.raises(ConfigurationError, match=re.escape(field)) as refused:
        operator(**{field: value})
    # A folder without a bucket can be fixed in either field.
    assert refused.value.details["field"] in {field, "source_bucket"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"pods": "{{ params.pods }}"},
        {"parameters": {"RATE": "{{ ds }}"}},
        {"bucket": "{{ params.bucket }}", "source_folder": "in", "destination_folder": "out"},
        {"model_id": "{{ params.model }}"},
        {"input_file_type": "{% if params.x %}csv{% else %}parquet{% endif %}"},
    ],
)
def test_a_template_is_checked_when_it_is_rendered(arguments):
    for name, value in arguments.items():
        assert getattr(operator(**arguments), name) == value


def test_a_literal_beside_a_template_is_still_checked():
    with pytest.raises(ConfigurationError, match="pods"):
        operator(model_id="{{ params.model }}", pods=-1)


def test_another_tasks_output_is_treated_as_a_template():
    with DAG("parsed", schedule=None):

        @task
        def choose():
            return "m"

        chosen = choose()
        run = BatchExecutionOperator(task_id="run", model_id=chosen, **FOLDERS)
        watch = BatchExecutionSensor(task_id="watch", execution_id=run.output)
    assert isinstance(run.model_id, XComArg)
    assert run.upstream_task_ids == {"choose"}
    assert watch.upstream_task_ids == {"run"}


def test_an_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="modle_id"):
        operator(modle_id="m")


@pytest.mark.parametrize("value", [None, "", 3, {}, {"id": "x"}])
def test_a_sensor_needs_an_execution_id(value):
    with DAG("parsed", schedule=None):
        sensor = Sensor(task_id="watch", execution_id=value)
    with pytest.raises(ConfigurationError, match="execution_id"):
        sensor._run_id()


def test_the_last_task_of_an_execution_dag_is_a_teardown_that_fails_its_run():
    finish = create_execution_dag("made").get_task("finish")
    assert finish.is_teardown
    assert finish.on_failure_fail_dagrun


def test_downstream_tasks_wait_for_the_finish_of_a_group_and_a_teardown_replaces_a_skipped_one():
    with DAG("grouped", schedule=None) as dag:
        group = batch_execution_group("g", model_id="m", **FOLDERS)

        @task
        def after():
            pass

        group >> after()
    assert dag.get_task("after").upstream_task_ids == {"g.finish"}
    assert not dag.get_task("g.finish").is_teardown
    assert dag.get_task("g.release").is_teardown
    assert dag.get_task("g.release").unless_done_by == "g.finish"
