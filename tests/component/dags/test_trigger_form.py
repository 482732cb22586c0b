"""The params of the execution DAG: the trigger form, and what Airflow's server accepts once it has stored the DAG."""

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
    """The params as the server sees them."""
    with DAG("form", schedule=None, params=execution_params({})) as dag:
        pass
    return DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag)))).params


STORED = stored_params()


def server_accepts(name: str, value) -> bool:
    param = copy(STORED.get_param(name))
    param.value = value
    try:
        param.resolve(raises=True)
    except jsonschema.ValidationError:
        return False
    return True


def configuration_accepts(**fields) -> bool:
    try:
        ExecutionConfig.from_fields(**{**REQUIRED, **fields})
    except ConfigurationError:
        return False
    return True


def test_only_required_params_must_be_filled_in():
    for name, flat in flat_fields().items():
        assert ("null" in execution_params({})[name].schema["type"]) != flat.required
        assert server_accepts(name, None) != flat.required


def test_every_param_has_a_section_except_the_initially_expanded_ones():
    sections = {name: param.schema.get("section") for name, param in execution_params({}).items()}

    assert {name for name, section in sections.items() if not section} >= set(REQUIRED)
    # Every form already has an Airflow section of this name.
    assert "Advanced Options" not in sections.values()


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_every_choice_has_a_label_and_the_default_is_a_choice(name: str):
    param = execution_params({})[name]

    shown = {"null" if value is None else value for value in param.schema["enum"]}
    assert shown == set(param.schema["values_display"])
    assert param.value in param.schema["enum"]


def test_only_closed_sets_have_choices():
    assert {name for name, param in execution_params({}).items() if "enum" in param.schema} == CHOICES


@pytest.mark.parametrize("wrong", ["xml", "", "CSV,PARQUET", 7, ["CSV"]])
def test_server_accepts_file_types_in_any_case_and_rejects_other_values(wrong):
    for written in ("csv", "Csv", "CSV", "parquet", "fEATHER"):
        assert server_accepts("input_file_type", written)
    assert not server_accepts("input_file_type", wrong)


def test_error_for_an_invalid_choice_lists_the_valid_ones():
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
def test_server_and_configuration_accept_the_same_strings(name: str, text: str):
    taken = configuration_accepts(**{name: text})

    # Implementations disagree on which other characters are whitespace.
    if taken or (text.isascii() and text.isprintable()):
        assert server_accepts(name, text) == taken


_NAMES = st.from_regex(r"[A-Za-z0-9_ ]{0,4}", fullmatch=True) | st.sampled_from(
    ["PATH", "Ld_Preload", "PYTHONX"]
)
_VALUES = st.text("ab =\0\n\t", max_size=4) | st.integers() | st.booleans() | st.none() | st.just(["x"])


@given(st.dictionaries(_NAMES, _VALUES, max_size=3))
def test_server_and_configuration_accept_the_same_parameter_objects(parameters):
    assert server_accepts("parameters", parameters) == configuration_accepts(parameters=parameters)


_LINES = [" ", "A=1", " B= x=y ", "_c=", "A", "=x", "2A=x", "A B=x", "path=x", "\tHOME=x", "D=\0"]


@given(st.lists(st.sampled_from(_LINES), max_size=4, unique=True), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_server_and_configuration_accept_the_same_parameter_lines(lines, end: str):
    text = end.join(lines)

    assert server_accepts("parameters", text) == configuration_accepts(parameters=text)


@given(
    st.sampled_from(["bucket", "source_bucket", "destination_bucket"]), st.text("abA_.-/: s3", max_size=12)
)
def test_server_accepts_every_bucket_that_the_configuration_accepts(name: str, bucket: str):
    fields = {"bucket": "b", "source_folder": "in", "destination_folder": "out", name: bucket}

    if configuration_accepts(**fields):
        assert server_accepts(name, bucket)


# ---- instances and defaults


def test_configured_instances_are_offered(monkeypatch):
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


def test_unlisted_instance_is_left_to_the_plan():
    assert server_accepts("instance", "of-the-workers")


def test_invalid_configured_instances_are_rejected_at_parse_time(monkeypatch):
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
def test_default_is_one_of_the_choices_in_any_spelling(name: str, written: str, shown):
    param = execution_params({name: written})[name]

    assert param.value == shown
    assert shown in param.schema["enum"]
