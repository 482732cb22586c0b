"""The configuration: the guide's table, valid values, and conversions."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields as dataclass_fields
from dataclasses import replace

import jsonschema
import pytest
from execution_fields import VALUES, valid_fields
from hypothesis import given
from pydantic import ValidationError

from airflow_batchexec.engine.config.locations import Scheme
from airflow_batchexec.engine.config.model import ExecutionConfig, Identity
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.exceptions import ConfigurationError, LocationError

REQUIRED = {"model_id": "delay", "source_folder": "s3://flights/in", "destination_folder": "s3://flights/out"}

# The guide's rows: title, flat name, default, and what applies if unset.
GUIDE = [
    ("Model ID", "model_id", None, None),
    ("Build ID", "build_id", "", "the deployed build"),
    ("Bucket", "bucket", "", None),
    ("Source bucket", "source_bucket", "", "Bucket"),
    ("Destination bucket", "destination_bucket", "", "Bucket"),
    ("Source folder", "source_folder", None, None),
    ("Destination folder", "destination_folder", None, None),
    ("Input file type", "input_file_type", "CSV", None),
    ("Output file type", "output_file_type", "CSV", None),
    ("Access token name", "access_token_name", "", None),
    ("Access secret name", "access_secret_name", "", None),
    ("Job timeout", "job_timeout", 0, "0 - no timeout"),
    ("File timeout", "file_timeout", 0, "0 - no timeout"),
    ("IAM role ARN", "iam_role_arn", "", None),
    ("Pods", "pods", 0, "the deployment's"),
    ("Instance", "instance", "", "the deployment's, else small"),
    ("Parameters", "parameters", {}, None),
    ("Service account key secret name", "service_account_key_secret_name", "", None),
]
# What existing clients send beyond the guide's table.
CLIENT_NAMES = {"branch", "cpus", "memory", "gpu_type", "gpu_amount", "purchase_option"}


def config(**fields):
    return ExecutionConfig.from_fields(**{**REQUIRED, **fields})


def refused_field(**fields):
    with pytest.raises(ConfigurationError) as caught:
        config(**fields)
    assert caught.value.details["field"] in caught.value.message
    return caught.value.details["field"]


# ---- the table


@pytest.mark.parametrize(("title", "name", "default", "unset"), GUIDE, ids=[row[1] for row in GUIDE])
def test_every_row_of_the_guide_is_a_field(title, name, default, unset):
    field = flat_fields()[name]
    assert field.schema["title"] == title
    assert field.schema["description"].endswith(".")
    assert field.required is (default is None)
    assert field.default == default
    assert field.schema.get("unset") == unset


def test_fields_are_those_of_the_guide_and_of_existing_clients():
    assert set(flat_fields()) == {name for _, name, _, _ in GUIDE} | CLIENT_NAMES


def test_schemas_are_json():
    for field in flat_fields().values():
        assert json.loads(json.dumps(field.schema)) == field.schema


@pytest.mark.parametrize("name", flat_fields())
def test_schema_accepts_the_fields_default_and_examples(name):
    field = flat_fields()[name]
    jsonschema.Draft202012Validator.check_schema(field.schema)
    defaults = (
        []
        if field.required
        else [field.default.value if name.endswith("_type") and field.default else field.default]
    )
    for value in [*defaults, *field.schema.get("examples", [])]:
        jsonschema.validate(value, field.schema)


@pytest.mark.parametrize("name", ["job_timeout", "file_timeout", "pods", "cpus", "memory", "gpu_amount"])
def test_schema_and_configuration_reject_the_same_numbers(name):
    for value in (-1, 2**31):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, flat_fields()[name].schema)
        assert refused_field(**{name: value}) == name


def test_table_is_read_only():
    with pytest.raises(TypeError):
        flat_fields()["pods"] = None


# ---- required, unset, unknown


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("nothing", [None, ""])
def test_required_field_must_be_set(name, nothing):
    assert refused_field(**{name: nothing}) == name


def test_none_means_unset():
    assert config(**{name: None for name in flat_fields() if name not in REQUIRED}) == config()


@pytest.mark.parametrize("name", ["task_timeout", "instance_size", "custom_iam_role_arn", "execution", ""])
def test_unknown_flat_name_is_rejected(name):
    with pytest.raises(ConfigurationError) as caught:
        config(**{name: "x"})
    assert caught.value.details["field"] == name


def test_error_in_a_nested_section_names_the_flat_field():
    with pytest.raises(ConfigurationError) as caught:
        ExecutionConfig(execution=REQUIRED, resources={"instance_size": 7})
    assert caught.value.details["field"] == "instance"


def test_error_for_a_field_in_the_wrong_section_names_the_right_one():
    with pytest.raises(ConfigurationError, match="pods: it belongs in section resources"):
        ExecutionConfig.Execution(**REQUIRED, pods=3)


# ---- values


@pytest.mark.parametrize("text", ["parquet", "Parquet", "PARQUET", " parquet "])
def test_file_types_are_case_insensitive(text):
    execution = config(input_file_type=text, output_file_type="feather").execution
    assert (execution.input_file_type, execution.output_file_type) == (FileType.PARQUET, FileType.FEATHER)


def test_error_for_an_unknown_file_type_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"output_file_type: 'orc' .* CSV, PARQUET, FEATHER"):
        config(output_file_type="orc")


def test_numeric_strings_are_converted():
    c = config(pods="4", cpus="1.5", memory="512", job_timeout="60", file_timeout="5")
    assert (c.resources.pods, c.resources.cpus, c.resources.memory) == (4, 1.5, 512)
    assert (c.execution.job_timeout, c.execution.file_timeout) == (60, 5)


@pytest.mark.parametrize("value", ["many", 1.5, True, "", "nan", [1]])
def test_count_must_be_a_whole_number(value):
    assert refused_field(pods=value) == "pods"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "inf", True])
def test_amount_must_be_a_finite_number(value):
    assert refused_field(cpus=value) == "cpus"


@pytest.mark.parametrize(
    ("spelling", "option"),
    [
        ("spot", "spot"),
        ("SPOT", "spot"),
        ("on-demand", "on-demand"),
        ("ondemand", "on-demand"),
        ("ONDEMAND", "on-demand"),
        ("On-Demand", "on-demand"),
        ("Spot", "spot"),
        ("On_Demand", "on-demand"),
        ("", ""),
    ],
)
def test_purchase_option_accepts_the_spellings_of_clients(spelling, option):
    assert config(purchase_option=spelling).advanced_options.purchase_option == option


def test_unknown_purchase_option_is_rejected():
    assert refused_field(purchase_option="reserved") == "purchase_option"


@pytest.mark.parametrize(
    "arn", ["arn:aws:iam::123456789012:role/reader", "arn:aws-cn:iam::123456789012:role/a/b+c=d@e"]
)
def test_valid_role_is_accepted(arn):
    assert config(iam_role_arn=arn).advanced_options.custom_iam_role_arn == arn


@pytest.mark.parametrize("arn", ["reader", "arn:aws:iam::1:role/x", "arn:aws:iam::123456789012:user/x"])
def test_error_for_an_invalid_role_names_the_flat_field(arn):
    assert refused_field(iam_role_arn=arn) == "iam_role_arn"


@pytest.mark.parametrize(
    "name", ["access_token_name", "access_secret_name", "service_account_key_secret_name"]
)
def test_secret_in_place_of_its_name_is_rejected_and_not_repeated(name):
    with pytest.raises(ConfigurationError) as caught:
        config(**{name: '{"private_key": "hunter2"}'})
    assert caught.value.details["field"] == name
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.details)


@pytest.mark.parametrize("name", ["model_id", "build_id"])
@pytest.mark.parametrize("value", ["../other", "/etc", "a/b", "..", "a\0b", "x" * 129, "ünï"])
def test_malformed_id_is_rejected(name, value):
    assert refused_field(**{name: value}) == name


# ---- buckets and folders


@pytest.mark.parametrize(
    ("fields", "source", "destination"),
    [
        ({"bucket": "b"}, "s3://b/in", "s3://b/out"),
        ({"source_bucket": "x", "destination_bucket": "y"}, "s3://x/in", "s3://y/out"),
        ({"bucket": "b", "destination_bucket": "y"}, "s3://b/in", "s3://y/out"),
        ({"bucket": "b", "source_bucket": "x"}, "s3://x/in", "s3://b/out"),
        ({"bucket": "s3://b/", "source_folder": "in/"}, "s3://b/in", "s3://b/out"),
        ({"source_folder": "file:///in", "destination_bucket": "y"}, "file:///in", "s3://y/out"),
        ({"bucket": "b", "source_folder": "file:///in/"}, "file:///in", "s3://b/out"),
        ({"bucket": "b", "service_account_key_secret_name": "key"}, "gs://b/in", "gs://b/out"),
    ],
)
def test_bucket_and_folder_are_combined_to_a_location(fields, source, destination):
    c = config(**{"source_folder": "in", "destination_folder": "out", **fields})
    assert (c.source.uri, c.destination.uri) == (source, destination)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "source_bucket"),
        ({"destination_bucket": "b"}, "source_bucket"),
        ({"source_bucket": "b"}, "destination_bucket"),
        ({"bucket": "no bucket"}, "source_bucket"),
        ({"source_folder": "s3://b/in"}, "destination_bucket"),
    ],
)
def test_folder_that_is_not_a_uri_needs_a_bucket(fields, field):
    assert refused_field(**{"source_folder": "in", "destination_folder": "out", **fields}) == field


@pytest.mark.parametrize("name", ["source_folder", "destination_folder"])
@pytest.mark.parametrize(
    "folder",
    ["../x", "a/../../x", "/etc", "a//b", "./a", "s3://flights/../x", "file://relative", "a\0b", "ftp://b/x"],
)
def test_escaping_or_malformed_folder_is_rejected(name, folder):
    with pytest.raises(LocationError) as caught:
        config(bucket="flights", **{name: folder})
    assert caught.value.details["field"] == name


def test_conflicting_uri_and_bucket_are_rejected():
    assert refused_field(source_bucket="other") == "source_folder"


# ---- parameters


@pytest.mark.parametrize(
    "name",
    [
        *(
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "LD_AUDIT",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "PATH",
            "HOME",
            "TMPDIR",
        ),
        *(
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "POLARS_MAX_THREADS",
            "ARROW_IO_THREADS",
        ),
        *(
            "BATCHEXEC_SOCKET",
            "BASH_ENV",
            "IFS",
            "MALLOC_ARENA_MAX",
            "GCONV_PATH",
            "OPENSSL_CONF",
            "ld_preload",
        ),
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "BASH_FUNC_ls"),
    ],
)
def test_reserved_parameter_name_is_rejected(name):
    with pytest.raises(ConfigurationError, match=f"parameters: '{name}' is reserved") as caught:
        config(parameters={name: "x"})
    assert caught.value.details["field"] == "parameters"


@pytest.mark.parametrize(
    "name",
    [
        "LDAP_URL",
        "ENV",
        "PATHOLOGY",
        "HOMEPAGE",
        "MY_PATH",
        "PYTHIA",
        "OMP",
        "NUM_THREADS",
        "threshold",
        "_x",
        "LD",
        "A1",
    ],
)
def test_ordinary_parameter_name_is_accepted(name):
    assert config(parameters={name: "x"}).execution.parameters == {name: "x"}


@pytest.mark.parametrize("value", ["a=b=c", "", "  padded\t", "line\nline", "ünï ☃", "{{ ds }}"])
def test_parameter_value_is_kept_unchanged(value):
    assert config(parameters={"A": value}).execution.parameters == {"A": value}


def test_numbers_and_booleans_are_converted_to_strings():
    assert config(parameters={"A": 1, "B": 0.5, "C": True, "D": False}).execution.parameters == {
        "A": "1",
        "B": "0.5",
        "C": "true",
        "D": "false",
    }


@pytest.mark.parametrize(
    "parameters",
    [
        {"A": "a\0b"},
        {"A": None},
        {"A": ["x"]},
        {"A": "\udc80"},
        {"": "x"},
        {"1A": "x"},
        {"A B": "x"},
        {" A": "x"},
        {"A=B": "x"},
        {"Ä": "x"},
        {"A\n": "x"},
        {1: "x"},
        "A",
        "A=b\nC",
        "A = b",
        "A=b\nA=c",
        "PATH=b",
        [("A", "b")],
    ],
)
def test_invalid_environment_variables_are_rejected(parameters):
    assert refused_field(parameters=parameters) == "parameters"


@pytest.mark.parametrize(
    ("lines", "parameters"),
    [
        ("A=b", {"A": "b"}),
        ("A=b\n\n  C=\r\n", {"A": "b", "C": ""}),
        ("URL=s3://x?y=1 ", {"URL": "s3://x?y=1 "}),
        ("", {}),
        (" \n ", {}),
    ],
)
def test_parameters_may_be_name_value_lines(lines, parameters):
    assert config(parameters=lines).execution.parameters == parameters


# ---- sections, copies


def test_sections_dictionaries_and_flat_fields_are_equivalent():
    execution = {**REQUIRED, "file_timeout": 5, "parameters": {"A": "b"}}
    by_class = ExecutionConfig(
        execution=ExecutionConfig.Execution(**execution),
        resources=ExecutionConfig.Resources(pods=2, instance_size="medium"),
        advanced_options=ExecutionConfig.AdvancedOptions(purchase_option="spot"),
    )
    nested = {
        "execution": execution,
        "resources": {"pods": 2, "instance_size": "medium"},
        "advanced_options": {"purchase_option": "spot"},
    }
    assert ExecutionConfig(**nested) == by_class
    assert ExecutionConfig.model_validate(nested) == by_class
    assert ExecutionConfig.model_validate_json(by_class.model_dump_json()) == by_class
    flat = {**execution, "pods": 2, "instance": "medium", "purchase_option": "spot"}
    assert ExecutionConfig.from_fields(**flat) == by_class


@pytest.mark.parametrize(
    "names",
    [
        {"instance": "medium"},
        {"instance": "medium", "instance_size": "medium"},
        {"instance": " Medium ", "instance_size": "medium"},
        {"instance": None, "instance_size": "medium"},
        {"instance": "medium", "instance_size": ""},
        {"instance": "", "instance_size": "medium"},
    ],
)
def test_instance_is_an_alias_of_instance_size(names):
    resources = ExecutionConfig.Resources(pods=2, **names)
    assert resources == ExecutionConfig.Resources(pods=2, instance_size="medium")
    assert ExecutionConfig(execution=REQUIRED, resources={"pods": 2, **names}).resources == resources


def test_conflicting_instance_names_are_rejected():
    with pytest.raises(
        ConfigurationError, match="instance: 'small' conflicts with instance_size 'medium'"
    ) as caught:
        ExecutionConfig.Resources(instance="small", instance_size="medium")
    assert caught.value.details["field"] == "instance"


def test_instance_must_be_a_string_under_either_name():
    for name in ("instance", "instance_size"):
        with pytest.raises(ConfigurationError, match="instance: input should be a valid string"):
            ExecutionConfig.Resources(**{name: 7})


OPTIONS = {"purchase_option": "spot", "custom_iam_role_arn": "arn:aws:iam::123456789012:role/reader"}


@pytest.mark.parametrize("options", [OPTIONS, ExecutionConfig.AdvancedOptions(**OPTIONS)])
def test_advanced_options_may_be_passed_to_the_execution_as_in_the_guide(options):
    apart = ExecutionConfig(execution=REQUIRED, advanced_options=OPTIONS)
    execution = ExecutionConfig.Execution(**REQUIRED, advanced_options=options)

    for c in (
        ExecutionConfig(execution=execution),
        ExecutionConfig(execution=execution, advanced_options=None),
        ExecutionConfig(execution={**REQUIRED, "advanced_options": options}),
        ExecutionConfig.model_validate({"execution": {**REQUIRED, "advanced_options": options}}),
        pickle.loads(pickle.dumps(ExecutionConfig(execution=pickle.loads(pickle.dumps(execution))))),
    ):
        assert c == apart
        assert (c.fields(), c.model_dump()) == (apart.fields(), apart.model_dump())


def test_execution_without_advanced_options_keeps_those_of_the_configuration():
    execution = ExecutionConfig.Execution(**REQUIRED, advanced_options=None)
    assert ExecutionConfig(execution=execution, advanced_options=OPTIONS) == ExecutionConfig(
        execution=REQUIRED, advanced_options=OPTIONS
    )


def test_execution_can_be_reused_for_several_configurations():
    execution = ExecutionConfig.Execution(**REQUIRED, advanced_options=OPTIONS)
    assert ExecutionConfig(execution=execution) == ExecutionConfig(execution=execution)


def test_advanced_options_on_both_levels_are_rejected():
    execution = ExecutionConfig.Execution(**REQUIRED, advanced_options=OPTIONS)
    with pytest.raises(ConfigurationError, match=r"advanced_options: .* set them only once") as caught:
        ExecutionConfig(execution=execution, advanced_options=OPTIONS)
    assert caught.value.details["field"] == "advanced_options"


@pytest.mark.parametrize("options", ["spot", [], ExecutionConfig.Resources(pods=2)])
def test_advanced_options_of_another_type_are_rejected(options):
    with pytest.raises(
        ConfigurationError, match="advanced_options: input should be AdvancedOptions"
    ) as caught:
        ExecutionConfig.Execution(**REQUIRED, advanced_options=options)
    assert caught.value.details["field"] == "advanced_options"


@pytest.mark.parametrize("options", [{"purchase_option": "reserved"}, {"pods": 3}])
def test_invalid_advanced_options_give_the_same_error_in_the_execution(options):
    with pytest.raises(ConfigurationError) as apart:
        ExecutionConfig.AdvancedOptions(**options)
    with pytest.raises(ConfigurationError) as together:
        ExecutionConfig.Execution(**REQUIRED, advanced_options=options)
    assert together.value.details == apart.value.details


def test_aliases_are_not_fields_of_the_schema():
    assert "advanced_options" not in ExecutionConfig.Execution.model_json_schema()["properties"]
    assert "instance" not in ExecutionConfig.Resources.model_json_schema()["properties"]


def test_section_of_another_type_is_rejected():
    with pytest.raises(ConfigurationError, match="execution: input should be"):
        ExecutionConfig(execution=ExecutionConfig.Resources(pods=2))
    with pytest.raises(ConfigurationError, match="execution: it is required"):
        ExecutionConfig()


@pytest.mark.parametrize("cls", [ExecutionConfig, ExecutionConfig.Execution, ExecutionConfig.Resources])
def test_arguments_are_keyword_only(cls):
    with pytest.raises(TypeError, match="positional argument"):
        cls("delay")


def test_configuration_is_immutable():
    c = config(parameters={"A": "b"})
    with pytest.raises(ValidationError, match="frozen"):
        c.execution.model_id = "other"
    c.fields()["parameters"]["A"] = "changed"
    assert c.execution.parameters == {"A": "b"}


def test_copies_and_pickles_are_equal():
    c = config(pods=3, parameters={"A": "b"})
    assert c.model_copy() == c
    assert c.model_copy(deep=True) == c
    assert pickle.loads(pickle.dumps(c)) == c
    more = c.model_copy(update={"resources": ExecutionConfig.Resources(pods=4)})
    assert (more.resources.pods, c.resources.pods) == (4, 3)


def test_google_key_may_be_set_in_either_section():
    advanced = ExecutionConfig.AdvancedOptions(service_account_key_secret_name="key")
    execution = {**REQUIRED, "source_folder": "in", "bucket": "b", "destination_folder": "out"}
    c = ExecutionConfig(execution=execution, advanced_options=advanced)
    assert c.service_account_key_secret_name == "key"
    assert c.source.scheme is Scheme.GS
    assert ExecutionConfig.from_fields(**c.fields()).fields() == c.fields()


def test_strategies_cover_every_field():
    assert set(VALUES) == set(flat_fields())


@given(valid_fields)
def test_flat_fields_round_trip(fields):
    c = ExecutionConfig.from_fields(**fields)
    flat = c.fields()
    assert ExecutionConfig.from_fields(**flat) == c
    assert ExecutionConfig.from_fields(**json.loads(json.dumps(flat))) == c
    assert all(flat[name] != flat_fields()[name].default for name in flat)
    for name, value in flat.items():
        jsonschema.validate(value, flat_fields()[name].schema)


# ---- identity

SIX = Identity("m", "b", "s3://x", "in", "s3://y", "out")


def test_identity_has_the_six_values_of_the_guide():
    assert [field.name for field in dataclass_fields(Identity)] == [
        "model_id",
        "build_id",
        "source_bucket",
        "source_folder",
        "destination_bucket",
        "destination_folder",
    ]


@pytest.mark.parametrize("name", [field.name for field in dataclass_fields(Identity)])
def test_identity_depends_on_each_of_the_six_values(name):
    other = replace(SIX, **{name: getattr(SIX, name) + "x"})
    assert other != SIX
    assert other.digest != SIX.digest


def test_adjacent_values_do_not_collide():
    assert replace(SIX, model_id="mb", build_id="").digest != replace(SIX, model_id="m", build_id="b").digest


@pytest.mark.parametrize(
    "fields",
    [
        {"source_folder": "in", "source_bucket": "flights"},
        {"source_folder": "s3://flights/in/"},
        {"source_folder": "S3A://flights/in"},
        {"source_folder": "in/", "source_bucket": "s3://flights"},
        {"file_timeout": 7, "pods": 3, "parameters": {"A": "b"}, "input_file_type": "feather"},
    ],
)
def test_equivalent_locations_have_the_same_identity(fields):
    assert config(**fields).identity(build_id="1").digest == config().identity(build_id="1").digest


def test_local_folder_and_bucket_have_different_identities():
    on_disk = config(source_folder="file:///flights/in").identity(build_id="1")
    assert on_disk.digest != config().identity(build_id="1").digest
    assert (on_disk.source_bucket, on_disk.source_folder) == ("file://", "/flights/in")
