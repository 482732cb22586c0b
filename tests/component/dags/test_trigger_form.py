"""The params of the execution DAG: what the form draws, and what Airflow's server takes after it has stored the DAG."""

from __future__ import annotations

import json
from copy import copy

import jsonschema
import pytest
from airflow.exceptions import ParamValidationError
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.dags.trigger_form import execution_params
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.exceptions import ConfigurationError

REQUIRED = {"model_id": "delay", "source_folder": "s3://flights/in", "destination_folder": "s3://flights/out"}
CHOICES = {"input_file_type", "output_file_type", "instance", "purchase_option"}


def stored_params():
    """The params as the server has them."""
    with DAG("form", schedule=None, params=execution_params({})) as dag:
        pass
    return DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag)))).params


STORED = stored_params()


def server_takes(name: str, value) -> bool:
    param = copy(STORED.get_param(name))
    param.value = value
    try:
        param.resolve(raises=True)
    except jsonschema.ValidationError:
        return False
    return True


def configuration_takes(**fields) -> bool:
    try:
        ExecutionConfig.from_fields(**{**REQUIRED, **fields})
    except ConfigurationError:
        return False
    return True


def test_only_what_is_required_must_be_filled_in():
    for name, flat in flat_fields().items():
        assert ("null" in execution_params({})[name].schema["type"]) != flat.required
        assert server_takes(name, None) != flat.required


def test_every_parameter_has_a_section_but_those_that_are_open_at_first():
    sections = {name: param.schema.get("section") for name, param in execution_params({}).items()}

    assert {name for name, section in sections.items() if not section} >= set(REQUIRED)
    # Airflow's own section of this name stands in every form.
    assert "Advanced Options" not in sections.values()


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_list_of_choices_shows_a_label_for_each_and_its_default(name: str):
    param = execution_params({})[name]

    shown = {"null" if value is None else value for value in param.schema["enum"]}
    assert shown == set(param.schema["values_display"])
    assert param.value in param.schema["enum"]


def test_the_choices_are_those_of_the_closed_sets_and_no_others():
    assert {name for name, param in execution_params({}).items() if "enum" in param.schema} == CHOICES


@pytest.mark.parametrize("wrong", ["xml", "", "CSV,PARQUET", 7, ["CSV"]])
def test_the_server_refuses_what_is_no_file_type_in_any_case(wrong):
    for written in ("csv", "Csv", "CSV", "parquet", "fEATHER"):
        assert server_takes("input_file_type", written)
    assert not server_takes("input_file_type", wrong)


def test_the_refusal_of_a_wrong_choice_names_the_right_ones():
    with pytest.raises(ParamValidationError, match=r"'gift' is not one of \['spot', 'on-demand'\]"):
        STORED.deep_merge({**REQUIRED, "purchase_option": "gift"}).validate()


@given(
    name=st.sampled_from(
        ["model_id", "build_id", "access_token_name", "service_account_key_secret_name", "iam_role_arn"]
    ),
    text=st.text(max_size=8)
    | st.from_regex(r"[A-Za-z0-9._ /-]{0,130}", fullmatch=True)
    | st.from_regex(r" ?arn:aws:iam::[0-9]{11,12}:role/[a-z/ ]{0,4}", fullmatch=True),
)
def test_the_server_takes_a_text_where_the_configuration_takes_it(name: str, text: str):
    taken = configuration_takes(**{name: text})

    # Which other characters are white space, that may stand around a text, is seen in several ways.
    if taken or (text.isascii() and text.isprintable()):
        assert server_takes(name, text) == taken


_NAMES = st.from_regex(r"[A-Za-z0-9_ ]{0,4}", fullmatch=True) | st.sampled_from(
    ["PATH", "Ld_Preload", "PYTHONX"]
)
_VALUES = st.text("ab =\0\n\t", max_size=4) | st.integers() | st.booleans() | st.none() | st.just(["x"])


@given(st.dictionaries(_NAMES, _VALUES, max_size=3))
def test_the_server_takes_an_object_of_parameters_where_the_configuration_takes_it(parameters):
    assert server_takes("parameters", parameters) == configuration_takes(parameters=parameters)


_LINES = [" ", "A=1", " B= x=y ", "_c=", "A", "=x", "2A=x", "A B=x", "path=x", "\tHOME=x", "D=\0"]


@given(st.lists(st.sampled_from(_LINES), max_size=4, unique=True), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_the_server_takes_lines_of_parameters_where_the_configuration_takes_them(lines, end: str):
    text = end.join(lines)

    assert server_takes("parameters", text) == configuration_takes(parameters=text)


@given(
    st.sampled_from(["bucket", "source_bucket", "destination_bucket"]), st.text("abA_.-/: s3", max_size=12)
)
def test_the_server_takes_every_bucket_that_the_configuration_takes(name: str, bucket: str):
    fields = {"bucket": "b", "source_folder": "in", "destination_folder": "out", name: bucket}

    if configuration_takes(**fields):
        assert server_takes(name, bucket)


# ---- instances and defaults


def test_the_instances_of_the_deployment_are_offered(monkeypatch):
    extra = {
        "wide": {"cpus": 4, "memory_gib": 6},
        "t4": {"cpus": 0.5, "memory_gib": 14, "gpu_type": "T4", "gpu_amount": 2},
    }
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__INSTANCES", json.dumps(extra))

    params = execution_params({})

    labels = params["instance"].schema["values_display"]
    assert labels["wide"] == "wide: 4 CPUs, 6 GiB"
    assert labels["t4"] == "t4: 0.5 CPUs, 14 GiB, 2 x T4"
    assert labels["tiny"] == "tiny: 1 CPU, 2 GiB"
    assert "T4" in params["gpu_type"].schema["examples"]


def test_an_instance_that_is_not_offered_is_left_to_the_plan():
    assert server_takes("instance", "of-the-workers")


def test_wrong_instances_of_the_deployment_are_refused_when_the_dag_is_parsed(monkeypatch):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__INSTANCES", "wide")

    with pytest.raises(ConfigurationError, match=r"^instances: ") as caught:
        execution_params({})

    assert caught.value.details["field"] == "instances"


@pytest.mark.parametrize(
    ("name", "written", "shown"),
    [
        ("instance", "Small", "small"),
        ("purchase_option", "ONDEMAND", "on-demand"),
        ("output_file_type", "parquet", "PARQUET"),
        ("instance", "", None),
        ("instance", "of-the-workers", "of-the-workers"),
    ],
)
def test_a_default_is_one_of_the_choices_however_it_is_written(name: str, written: str, shown):
    param = execution_params({name: written})[name]

    assert param.value == shown
    assert shown in param.schema["enum"]
