"""The OpenAPI schema of a start request, compared with protobuf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wire_service import message_class

from airflow_batchexec.wire.schema import START_REQUEST

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor


def shape_of_message(descriptor: Descriptor) -> dict[str, Any]:
    """The names of a message's fields, each with its type."""
    return {field.name: shape_of_field(field) for field in descriptor.fields}


def shape_of_field(field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        shape = shape_of_message(field.message_type)
        return [shape] if field.is_repeated else shape
    if field.enum_type is not None:
        return [value.name for value in field.enum_type.values]
    kinds = {field.CPPTYPE_STRING: "string", field.CPPTYPE_DOUBLE: "number", field.CPPTYPE_FLOAT: "number"}
    return kinds.get(field.cpp_type, "integer")


def shape_of_schema(schema: dict[str, Any]) -> Any:
    if "properties" in schema:
        return {name: shape_of_schema(member) for name, member in schema["properties"].items()}
    if "items" in schema:
        return [shape_of_schema(schema["items"])]
    if "enum" in schema:
        return [name for name in schema["enum"] if name is not None]
    return schema["type"][0]


def schemas(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """All members of a schema, recursively, except those of lists."""
    inner = schema.get("properties", {}).values()
    return [*inner, *(found for member in inner for found in schemas(member))]


def test_the_schema_has_the_fields_and_types_of_the_protobuf_request():
    assert shape_of_schema(START_REQUEST) == shape_of_message(
        message_class("StartBatchJobRequest").DESCRIPTOR
    )


def test_every_field_is_nullable_and_every_value_is_described():
    members = schemas(START_REQUEST)
    assert all(None in member["enum"] if "enum" in member else "null" in member["type"] for member in members)
    assert all(member["description"] for member in members if "properties" not in member)


def test_only_one_kind_of_pod_resources_may_be_set():
    size = START_REQUEST["properties"]["batch_job_deployment_size"]
    assert size["properties"]["client_pod_compute_resources"]["maxProperties"] == 1
