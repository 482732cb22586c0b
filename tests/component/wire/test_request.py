"""Start requests are read like protobuf reads them, and protobuf reads what is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from execution_fields import valid_fields
from google.protobuf import json_format
from hypothesis import assume, example, given
from hypothesis import strategies as st
from wire_service import NotOfTheWireError, enum_numbers, message_class, parse_response

from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.wire.request import StartRequest, read_start_request, start_request
from airflow_batchexec.wire.values import InputFileType, JobStatus, MemoryUnit, OutputFileType, TaskStatus

REQUEST = message_class("StartBatchJobRequest")

# ---- generated requests and their JSON

_SCALARS = {
    "CPPTYPE_INT32": st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, -(2**31), 2**31 - 1]),
    "CPPTYPE_INT64": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -(2**63), 2**63 - 1]),
    "CPPTYPE_DOUBLE": st.floats(allow_nan=False, allow_infinity=False),
    "CPPTYPE_STRING": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
}


def _scalars(field) -> st.SearchStrategy:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    kind = next(name for name in _SCALARS if getattr(field, name) == field.cpp_type)
    return _SCALARS[kind]


@st.composite
def messages(draw, descriptor=REQUEST.DESCRIPTOR):
    """Generate any message, with any fields set, and at most one of each oneof."""
    message = message_class(descriptor.name)()
    chosen = {
        draw(st.sampled_from([f.name for f in oneof.fields])): oneof.name for oneof in descriptor.oneofs
    }
    for field in descriptor.fields:
        if field.containing_oneof is not None and field.name not in chosen:
            continue
        if draw(st.booleans()):
            continue
        if field.is_repeated:
            keys = draw(st.lists(_SCALARS["CPPTYPE_STRING"], max_size=3, unique=True))
            for key in keys:
                getattr(message, field.name).add(key=key, value=draw(_SCALARS["CPPTYPE_STRING"]))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(messages(field.message_type)))
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, draw(_scalars(field)))
    return message


renderings = st.fixed_dictionaries(
    {
        "preserving_proto_field_name": st.booleans(),
        "use_integers_for_enums": st.booleans(),
        "always_print_fields_with_no_presence": st.booleans(),
    }
)


def rendered(message, **rendering) -> Any:
    return json.loads(json_format.MessageToJson(message, **rendering))


def expected_fields(message) -> dict[str, Any]:
    """The fields of a message, read through protobuf only."""
    job = message.batch_job_request
    model, data, execution = job.model_details, job.data_details, job.execution_details
    source, destination = data.source_path, data.destination_path
    sizes = (execution.batch_job_deployment_size, message.batch_job_deployment_size)
    nested, flat = (size.client_pod_compute_resources for size in sizes)
    cpu_places = (nested.cpu_resources, sizes[0], flat.cpu_resources, sizes[1])
    gpu_places = (nested.gpu_resources, sizes[0].gpu_resources, flat.gpu_resources, sizes[1].gpu_resources)
    advanced = (execution.advanced_deployment_options, message.advanced_deployment_options)
    input_type = source.input_file_type or message.input_file_type
    output_type = destination.output_file_type or message.output_file_type

    def first(name, places):
        return next((value for place in places if (value := getattr(place, name))), None)

    memory = next((p for p in cpu_places if p.memory_amount), sizes[0])
    fields = {
        "model_id": first("model_id", (model, message)),
        "branch": first("branch_id", (model, message)),
        "build_id": first("build_id", (model, message)),
        "source_bucket": first("source_bucket", (source, message)),
        "source_folder": first("source_folder", (source, message)),
        "destination_bucket": first("destination_bucket", (destination, message)),
        "destination_folder": first("destination_folder", (destination, message)),
        "input_file_type": ["", "CSV", "FEATHER", "PARQUET"][input_type],
        "output_file_type": ["", "CSV", "FEATHER", "PARQUET"][output_type],
        "access_token_name": first("token_secret", (data, message)),
        "access_secret_name": first("secret_secret", (data, message)),
        "job_timeout": first("job_timeout", (execution, message)),
        "file_timeout": first("task_timeout", (execution, message)),
        "pods": first("number_of_pods", sizes),
        "cpus": first("cpu", cpu_places),
        "memory": memory.memory_amount * (1024 if memory.memory_units == 2 else 1),
        "gpu_type": first("gpu_type", gpu_places),
        "gpu_amount": first("gpu_amount", gpu_places),
        "instance": first("template_id", (nested.template_spec, flat.template_spec)),
        "iam_role_arn": first("custom_iam_role_arn", advanced),
        "purchase_option": first("purchase_option", advanced),
        "service_account_key_secret_name": advanced[0].service_account_key_secret_name
        or data.service_account_json_key_secret
        or advanced[1].service_account_key_secret_name,
        "parameters": {p.key: p.value for p in execution.parameters or message.parameters},
    }
    return {name: value for name, value in fields.items() if value}


@given(message=messages(), rendering=renderings)
def test_requests_are_read_like_protobuf_in_every_spelling(message, rendering):
    body = rendered(message, **rendering)
    request = read_start_request(body)

    assert request.fields == expected_fields(message)
    assert not [warning for warning in request.warnings if "unknown" in warning]
    assert request.paths.keys() == request.fields.keys()
    for path in request.paths.values():
        value_at(body, path)


@given(message=messages(), rendering=renderings, data=st.data())
def test_null_is_the_same_as_unset(message, rendering, data):
    body = rendered(message, **rendering)
    path = data.draw(st.sampled_from([*leaves(body), ""]))
    assume(path and "[" not in path)
    without, with_null = json.loads(json.dumps(body)), json.loads(json.dumps(body))
    folder, _, name = path.rpartition(".")
    del value_at(without, folder)[name]
    value_at(with_null, folder)[name] = None
    assert read_start_request(with_null) == read_start_request(without)


@given(fields=valid_fields, rendering=renderings)
def test_written_requests_round_trip_through_protobuf(fields, rendering):
    config = ExecutionConfig.from_fields(**fields)
    body = json.loads(json.dumps(start_request(config.fields())))

    message = json_format.ParseDict(body, REQUEST(), ignore_unknown_fields=False)
    assert rendered(message, preserving_proto_field_name=True) == as_protobuf_writes(body)

    expected = config.fields()
    # The wire has no common bucket, and cannot express an empty branch.
    bucket = expected.pop("bucket")
    expected = {"source_bucket": bucket, "destination_bucket": bucket, **expected}
    if not expected.get("branch"):
        expected.pop("branch", None)
    for read in (read_start_request(body), read_start_request(rendered(message, **rendering))):
        assert (read.fields, read.warnings) == (expected, [])
        again = ExecutionConfig.from_fields(**read.fields)
        assert again.identity(build_id="") == config.identity(build_id="")


def as_protobuf_writes(body: Any, name: str = "") -> Any:
    """A request as protobuf renders it: 64-bit integers as strings, and no empty strings."""
    if isinstance(body, dict):
        return {key: as_protobuf_writes(value, key) for key, value in body.items() if value != ""}
    if isinstance(body, list):
        return [as_protobuf_writes(value) for value in body]
    return str(body) if name in {"job_timeout", "task_timeout", "memory_amount"} else body


def test_writing_an_unknown_field_is_refused():
    with pytest.raises(ConfigurationError, match="colour: unknown field") as caught:
        start_request({"model_id": "m", "colour": "red"})
    assert caught.value.details["field"] == "colour"


def test_writing_an_unknown_file_type_is_refused():
    with pytest.raises(ConfigurationError, match="input_file_type") as caught:
        start_request({"model_id": "m", "input_file_type": "orc"})
    assert caught.value.details["field"] == "input_file_type"


def test_writing_does_not_modify_its_input():
    fields = {"model_id": "m", "bucket": "b", "memory": 512, "parameters": {"A": "b"}}
    start_request(fields)
    assert fields == {"model_id": "m", "bucket": "b", "memory": 512, "parameters": {"A": "b"}}


# ---- requests as clients send them

GUIDE = {
    "model_id": "delay",
    "source_bucket": "flights",
    "destination_bucket": "flights",
    "source_folder": "batch_execution/my_model/input",
    "destination_folder": "batch_execution/my_model/output",
    "batch_job_deployment_size": {
        "number_of_pods": 4,
        "cpu": 1.0,
        "memory_amount": 512,
        "memory_units": "MIB",
    },
    "input_file_type": "PARQUET_INPUT_FILE_TYPE",
    "output_file_type": "PARQUET_OUTPUT_FILE_TYPE",
    "advanced_deployment_options": {"custom_iam_role_arn": "arn:aws:iam::123456789012:role/batch"},
}


def test_the_request_of_the_guide_is_read():
    assert read_start_request(GUIDE) == StartRequest(
        fields={
            "model_id": "delay",
            "source_bucket": "flights",
            "destination_bucket": "flights",
            "source_folder": "batch_execution/my_model/input",
            "destination_folder": "batch_execution/my_model/output",
            "pods": 4,
            "cpus": 1.0,
            "memory": 512,
            "input_file_type": "PARQUET",
            "output_file_type": "PARQUET",
            "iam_role_arn": "arn:aws:iam::123456789012:role/batch",
        },
        warnings=[],
        paths={
            "model_id": "model_id",
            "source_bucket": "source_bucket",
            "destination_bucket": "destination_bucket",
            "source_folder": "source_folder",
            "destination_folder": "destination_folder",
            "pods": "batch_job_deployment_size.number_of_pods",
            "cpus": "batch_job_deployment_size.cpu",
            "memory": "batch_job_deployment_size.memory_amount",
            "input_file_type": "input_file_type",
            "output_file_type": "output_file_type",
            "iam_role_arn": "advanced_deployment_options.custom_iam_role_arn",
        },
    )


def nested(**details: Any) -> dict[str, Any]:
    return {"batch_job_request": details}


def test_a_nested_field_overrides_a_different_flat_one_with_a_warning():
    request = read_start_request(
        {"model_id": "flat", "build_id": "7", **nested(modelDetails={"modelId": "nested"})}
    )
    assert request.fields == {"model_id": "nested", "build_id": "7"}
    assert request.warnings == [
        "The field model_id was ignored: batch_job_request.modelDetails.modelId has another value and takes precedence."
    ]


def test_fields_with_the_same_value_in_both_forms_cause_no_warning():
    request = read_start_request({"model_id": "m", **nested(model_details={"model_id": "m"})})
    assert (request.fields, request.warnings) == ({"model_id": "m"}, [])


def size(**values: Any) -> dict[str, Any]:
    return read_start_request({"batch_job_deployment_size": values}).fields


def test_memory_is_in_mib_unless_a_unit_is_given():
    assert size(memory_amount=2) == {"memory": 2}
    assert size(memory_amount=2, memory_units="UNKNOWN") == {"memory": 2}
    assert size(memory_amount=2, memory_units="MIB") == {"memory": 2}
    assert size(memory_amount=2, memory_units="GIB") == {"memory": 2048}
    assert size(memoryAmount="2", memoryUnits=2) == {"memory": 2048}
    assert size(memory_units="GIB") == {}


def test_a_unit_applies_only_to_the_amount_in_the_same_object():
    pod = {"cpu_resources": {"memory_amount": 3}}
    assert size(memory_amount=2, memory_units="GIB", client_pod_compute_resources=pod) == {"memory": 3}
    pod = {"cpu_resources": {"memory_units": "GIB"}}
    assert size(memory_amount=2, client_pod_compute_resources=pod) == {"memory": 2}


def test_pod_resources_override_those_of_the_size():
    assert size(cpu=1, client_pod_compute_resources={"cpu_resources": {"cpu": 2}}) == {"cpus": 2}
    assert size(
        gpu_resources={"gpu_type": "NVIDIA_T4", "gpu_amount": 1},
        client_pod_compute_resources={"gpu_resources": {"gpu_type": "NVIDIA_A100"}},
    ) == {"gpu_type": "NVIDIA_A100", "gpu_amount": 1}
    assert size(client_pod_compute_resources={"template_spec": {"template_id": "medium"}}) == {
        "instance": "medium"
    }


def test_only_one_kind_of_pod_resources_may_be_set():
    pod = {"templateSpec": {"template_id": "medium"}, "cpu_resources": {"cpu": 1}}
    assert refused({"batch_job_deployment_size": {"client_pod_compute_resources": pod}}) == (
        "batch_job_deployment_size.client_pod_compute_resources.cpu_resources"
    )
    pod["cpu_resources"] = None
    assert size(client_pod_compute_resources=pod) == {"instance": "medium"}


def test_the_google_key_of_the_advanced_options_wins():
    request = read_start_request(
        nested(
            data_details={"service_account_json_key_secret": "data"},
            execution_details={
                "advanced_deployment_options": {"service_account_key_secret_name": "advanced"}
            },
        )
    )
    assert request.fields == {"service_account_key_secret_name": "advanced"}
    assert "service_account_json_key_secret was ignored" in request.warnings[0]


@pytest.mark.parametrize("option", ["spot", "ondemand", "on-demand", "ON-DEMAND"])
def test_every_spelling_of_a_purchase_option_is_accepted(option):
    body = {**GUIDE, "advanced_deployment_options": {"purchase_option": option}}
    config = ExecutionConfig.from_fields(**read_start_request(body).fields)
    assert config.advanced_options.purchase_option == ("spot" if option == "spot" else "on-demand")


# ---- what is ignored


def test_unknown_fields_are_ignored_with_a_warning():
    request = read_start_request(
        {
            **nested(foo={"model_id": "x"}, modelDetails={"model_id": "m", "bar": None}),
            "parameters": [{"key": "A", "value": "b", "baz": 1}],
            "Model_Id": "y",
        }
    )
    assert request.fields == {"model_id": "m", "parameters": {"A": "b"}}
    assert set(request.warnings) == {
        "The field batch_job_request.foo is unknown and was ignored.",
        "The field batch_job_request.modelDetails.bar is unknown and was ignored.",
        "The field parameters[0].baz is unknown and was ignored.",
        "The field Model_Id is unknown and was ignored.",
    }


def test_the_number_of_warnings_is_limited():
    warnings = read_start_request({f"x{number}": number for number in range(10_000)}).warnings
    assert len(warnings) == 21
    assert warnings[-1] == "9980 more fields were ignored."


@given(st.dictionaries(st.text().map("?{}".format), st.just("hunter2"), max_size=5))
def test_a_warning_is_one_short_line_without_values(body):
    warnings = read_start_request(body).warnings
    assert len(warnings) == len(body)
    for warning in warnings:
        assert warning.isprintable()
        assert len(warning.encode()) < 1000
        assert "hunter2" not in warning


# ---- what is refused


def value_at(body: Any, path: str) -> Any:
    """Return the value at a path of a body; fails if there is none."""
    for step in path.replace("[", ".[").split(".") if path else []:
        body = body[int(step[1:-1])] if step.startswith("[") else body[step]
    return body


def leaves(body: Any, path: str = "") -> list[str]:
    """The paths of all values that are not objects or lists."""
    if isinstance(body, dict):
        inner = [(f"{path}.{key}" if path else key, value) for key, value in body.items()]
    elif isinstance(body, list):
        inner = [(f"{path}[{index}]", value) for index, value in enumerate(body)]
    else:
        return [path]
    return [leaf for at, value in inner for leaf in leaves(value, at)]


def refused(body: Any) -> str:
    """Check that a request is refused; return the field that the error names."""
    with pytest.raises(ConfigurationError) as caught:
        read_start_request(body)
    field = caught.value.details["field"]
    assert caught.value.message.startswith(f"{field}: " if field else "The request: ")
    assert "hunter2" not in caught.value.message
    return field


def full_request(**rendering: Any) -> Any:
    """A request with every field set, except mutually exclusive kinds of resources."""
    advanced = {
        "custom_iam_role_arn": "r",
        "purchase_option": "spot",
        "service_account_key_secret_name": "k",
    }
    size = {
        "number_of_pods": 2,
        "cpu": 1.5,
        "memory_amount": 3,
        "memory_units": "GIB",
        "gpu_resources": {"gpu_type": "T", "gpu_amount": 1},
        "client_pod_compute_resources": {
            "cpu_resources": {"cpu": 1.5, "memory_amount": 3, "memory_units": "MIB"}
        },
    }
    model = {"model_id": "m", "branch_id": "b", "build_id": "1"}
    source = {"source_bucket": "s", "source_folder": "in", "input_file_type": "CSV_INPUT_FILE_TYPE"}
    destination = {
        "destination_bucket": "d",
        "destination_folder": "out",
        "output_file_type": "CSV_OUTPUT_FILE_TYPE",
    }
    secrets = {"token_secret": "t", "secret_secret": "s"}
    execution = {
        "job_timeout": 1,
        "task_timeout": 2,
        "batch_job_deployment_size": size,
        "advanced_deployment_options": advanced,
        "parameters": [{"key": "A", "value": "b"}],
    }
    data = {
        "source_path": source,
        "destination_path": destination,
        **secrets,
        "service_account_json_key_secret": "k",
    }
    job = {"model_details": model, "data_details": data, "execution_details": execution}
    body = {**model, **source, **destination, **secrets, **execution, "batch_job_request": job}
    return rendered(json_format.ParseDict(body, REQUEST()), **rendering)


def places(descriptor=REQUEST.DESCRIPTOR, path: str = "") -> set[str]:
    """The paths of all values that a message can contain."""
    found = set()
    for field in descriptor.fields:
        at = f"{path}.{field.name}" if path else field.name
        at += "[0]" if field.is_repeated else ""
        found |= {at} if field.message_type is None else places(field.message_type, at)
    return found


def test_the_full_request_is_complete():
    excluded = {
        path for path in places() if ".client_pod_compute_resources." in path and ".cpu_r" not in path
    }
    assert set(leaves(full_request(preserving_proto_field_name=True))) == places() - excluded


@pytest.mark.parametrize("snake", [True, False], ids=["snake_case", "camelCase"])
@pytest.mark.parametrize("wrong", [{"hunter2": 1}, ["hunter2"], True, "\ud800hunter2"], ids=repr)
def test_a_value_of_the_wrong_type_is_reported_with_its_path_as_sent(wrong, snake):
    paths = leaves(full_request(preserving_proto_field_name=snake))
    for path in paths:
        body = full_request(preserving_proto_field_name=snake)
        folder, _, name = path.rpartition(".")
        value_at(body, folder)[name] = wrong
        assert refused(body) == path


@pytest.mark.parametrize("snake", [True, False], ids=["snake_case", "camelCase"])
def test_a_value_in_place_of_an_object_is_reported_with_its_path(snake):
    body = full_request(preserving_proto_field_name=snake)
    objects = {path.rpartition(".")[0].replace("[0]", "") for path in leaves(body) if "." in path}
    for path in objects:
        body = full_request(preserving_proto_field_name=snake)
        folder, _, name = path.rpartition(".")
        value_at(body, folder)[name] = "hunter2"
        assert refused(body) == path


@pytest.mark.parametrize("body", [None, [], "hunter2", 1, True, [GUIDE]])
def test_a_body_that_is_not_an_object_is_refused(body):
    assert refused(body) == ""


@pytest.mark.parametrize(
    "number",
    ["", " 1", "1 ", "1_0", "+1", "0x1", "hunter2", "\u0661", "NaN", "9" * 5000, float("inf"), float("nan")],
)
@pytest.mark.parametrize("name", ["number_of_pods", "cpu"])
def test_invalid_numbers_are_refused(name, number):
    assert refused({"batch_job_deployment_size": {name: number}}) == f"batch_job_deployment_size.{name}"


@pytest.mark.parametrize(
    "number", [1.5, "1.5", 2**63, -(2**63) - 1, str(2**63), 1e300, "1e300", "1e999", 10**400]
)
def test_numbers_that_are_not_64_bit_integers_are_refused(number):
    assert refused({"job_timeout": number}) == "job_timeout"


@pytest.mark.parametrize("number", [10**400, "1e999", -(10**400)])
def test_numbers_too_large_for_a_float_are_refused(number):
    assert refused({"batch_job_deployment_size": {"cpu": number}}) == "batch_job_deployment_size.cpu"


@pytest.mark.parametrize("number", [60, "60", 60.0, "60.0", "6e1", "060"])
def test_every_json_spelling_of_an_integer_is_read(number):
    timeout = read_start_request({"job_timeout": number}).fields["job_timeout"]
    assert (timeout, type(timeout)) == (60, int)


@given(kind=st.sampled_from([int, str]), value=st.integers(-(2**63), 2**63 - 1))
@example(kind=str, value=2**53 + 1)
def test_integers_are_read_exactly(kind, value):
    assert read_start_request({"task_timeout": kind(value)}).fields.get("file_timeout", 0) == value


def test_two_spellings_of_a_field_in_one_object_are_refused():
    assert refused({"model_id": "a", "modelId": "a"}) == "modelId"
    assert refused({"modelId": None, "model_id": "a"}) == "model_id"
    assert refused({"batch_job_request": {}, "batchJobRequest": {}}) == "batchJobRequest"
    assert refused(nested(modelDetails={"buildId": "1", "build_id": "2"})) == (
        "batch_job_request.modelDetails.build_id"
    )


def test_duplicate_parameters_are_refused():
    pairs = [{"key": "A", "value": "1"}, {"key": "B", "value": "2"}, {"key": "A", "value": "1"}]
    assert refused({"parameters": pairs}) == "parameters[2]"


def test_parameters_may_be_empty_but_not_null():
    assert read_start_request({"parameters": [{"key": "A"}, {"key": "B", "value": None}]}).fields == {
        "parameters": {"A": "", "B": ""}
    }
    assert refused({"parameters": [{"key": "A"}, None]}) == "parameters[1]"


@pytest.mark.parametrize(
    "value", ["ORC_INPUT_FILE_TYPE", "orc", 4, -1, "4", 1.5, 10**400, "CSV_OUTPUT_FILE_TYPE"]
)
def test_an_unknown_enum_value_is_refused_with_the_known_ones(value):
    with pytest.raises(ConfigurationError, match=r"input_file_type: .* PARQUET_INPUT_FILE_TYPE"):
        read_start_request({"input_file_type": value})


@pytest.mark.parametrize(
    "value", [2, "2", 2.0, "FEATHER_INPUT_FILE_TYPE", "feather_input_file_type", "Feather"]
)
def test_an_enum_is_read_by_name_and_number(value):
    assert read_start_request({"input_file_type": value}).fields == {"input_file_type": "FEATHER"}


@pytest.mark.parametrize("value", [0, "0", "", None, "UNDEFINED_INPUT_FILE_TYPE"])
def test_the_first_member_of_an_enum_means_unset(value):
    assert read_start_request({"input_file_type": value}).fields == {}


known_names = st.sampled_from(
    sorted(
        {
            step.partition("[")[0]
            for snake in (True, False)
            for path in leaves(full_request(preserving_proto_field_name=snake))
            for step in path.split(".")
        }
    )
)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, "1e9999", "\ud800", "9" * 5000, 0, "", "CSV"])
    | st.floats()
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | known_names, inner, max_size=4)
    ),
    max_leaves=15,
)


@given(anything)
def test_any_json_is_read_or_refused_with_an_existing_field(body):
    try:
        read_start_request(body)
    except ConfigurationError as error:
        value_at(body, error.details["field"])


@given(data=st.data(), wrong=anything, snake=st.booleans())
def test_a_single_wrong_value_is_reported_with_its_path(data, wrong, snake):
    body = full_request(preserving_proto_field_name=snake)
    path = data.draw(st.sampled_from(leaves(body)))
    folder, _, name = path.rpartition(".")
    value_at(body, folder)[name] = wrong
    try:
        read_start_request(body)
    except ConfigurationError as error:
        found = error.details["field"]
    else:
        found = path
    assert found == path


# ---- statuses

ENUMS = {
    "BatchJobStatus": JobStatus,
    "BatchTaskStatus": TaskStatus,
    "InputFileType": InputFileType,
    "OutputFileType": OutputFileType,
    "MemoryUnits": MemoryUnit,
}


@pytest.mark.parametrize("name", ENUMS)
def test_enums_have_the_names_and_numbers_of_protobuf(name):
    assert {member.name: member.number for member in ENUMS[name]} == enum_numbers(name)


@pytest.mark.parametrize("member", [member for kind in ENUMS.values() for member in kind], ids=str)
def test_every_spelling_of_an_enum_member_is_read(member):
    spellings = [member.name, member.name.lower(), member.short, member.short.title(), f" {member.name} "]
    for spelling in [*spellings, member.short.replace("_", "-"), member.number, str(member.number), member]:
        assert type(member).parse(spelling) is member
    assert json.dumps(member) == f'"{member.name}"'
    assert f"{member}" == member.name


def test_short_names_of_statuses():
    assert [status.short for status in JobStatus] == [
        *("UNDEFINED", "COMMITTED", "PENDING", "RUNNING"),
        *("FINISHED", "FAILED", "CANCELLED", "TIMEOUT"),
    ]
    assert [status.short for status in TaskStatus] == [
        *("UNDEFINED", "COMMITTED", "PENDING_START", "RUNNING"),
        *("FINISHED", "FAILED", "CANCELLED", "TIMEOUT"),
    ]


@pytest.mark.parametrize("value", ["", "done", 8, -1, True, None, [], "8", 10**400, float("nan")])
def test_an_unknown_status_is_refused_with_the_known_ones(value):
    with pytest.raises(
        ValueError, match=r"not one of UNDEFINED_BATCH_JOB_STATUS, .*BATCH_JOB_TIMEOUT_STATUS"
    ):
        JobStatus.parse(value)


# ---- the validation of responses used by other tests

TIME = "2024-05-01T10:00:00.250Z"
RESPONSES = {
    "start": {"batch_id": "x", "success": True, "failure_message": ""},
    "status": {
        "job_status": "BATCH_JOB_RUNNING_STATUS",
        "success": True,
        "failure_message": "",
        "finished_files": 1,
        "total_files": 2,
    },
    "report": {"successful": True, "failure_message": "", "report_messages": [f"{TIME} It began."]},
    "cancel": {"success": True, "failure_message": ""},
    "list": {
        "batch_jobs": [
            {
                "build_id": "1",
                "job_id": "x",
                "job_status": "BATCH_JOB_FINISHED_STATUS",
                "start_time": TIME,
                "end_time": None,
                "job_size": 2,
                "failure_message": "",
            }
        ],
    },
    "details": {
        "success": True,
        "failure_message": "",
        "batch_job": {
            "job_id": "x",
            "model_id": "m",
            "branch_id": "main",
            "build_id": "1",
            "start_time": TIME,
            "end_time": None,
            "job_status": "BATCH_JOB_RUNNING_STATUS",
            "total_records": 10,
            "job_size": 1,
            "report_messages": [{"time": TIME, "line": "It began."}],
            "execution_file_details": {
                "source_bucket": "s",
                "destination_bucket": "d",
                "source_path": "in",
                "destination_path": "out",
                "input_file_type": "CSV_INPUT_FILE_TYPE",
                "output_file_type": "CSV_OUTPUT_FILE_TYPE",
                "finished_files": 0,
                "total_files": 1,
            },
            "task_executions": [
                {
                    "task_id": "0",
                    "status": "BATCH_TASK_PENDING_START_STATUS",
                    "start_time": TIME,
                    "end_time": None,
                    "num_of_records": 0,
                    "filename": "a.csv",
                    "filenames": ["a.csv"],
                }
            ],
        },
    },
}


@pytest.mark.parametrize("call", RESPONSES)
def test_only_valid_responses_pass(call):
    def copy():
        return json.loads(json.dumps(RESPONSES[call]))

    assert parse_response(call, copy()).ByteSize() > 0
    for path in leaves(copy()):
        folder, _, name = path.rpartition(".")
        if "[" in name:
            continue
        for change in (
            lambda values, name: values.pop(name),
            lambda values, name: values.update({f"{name}_too": values[name]}),
            lambda values, name: values.update({name: [1]}),
            lambda values, name: values.update({name: 10**30}),
        ):
            body = copy()
            change(value_at(body, folder), name)
            with pytest.raises(NotOfTheWireError):
                parse_response(call, body)


@pytest.mark.parametrize(
    ("call", "name", "value"),
    [
        ("status", "job_status", 3),
        ("status", "total_files", "2"),
        ("status", "total_files", None),
        ("start", "batchId", "x"),
        ("start", "failure_message", None),
    ],
)
def test_responses_that_only_protobuf_accepts_fail(call, name, value):
    with pytest.raises(NotOfTheWireError):
        parse_response(call, {**RESPONSES[call], name: value})


def test_times_must_be_utc():
    body = {"batch_jobs": [{**RESPONSES["list"]["batch_jobs"][0], "start_time": "2024-05-01T10:00:00+02:00"}]}
    with pytest.raises(NotOfTheWireError, match="not UTC"):
        parse_response("list", body)


def test_a_refusal_may_contain_only_the_reason():
    assert parse_response("status", {"success": False, "failure_message": "no"}).failure_message == "no"
    assert parse_response("list", {"success": False, "failure_message": "no", "next_cursor": None})
