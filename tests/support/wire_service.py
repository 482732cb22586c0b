"""The service of ``wire_service.proto``: its messages, and validation of responses against them.

Tests of the REST API and of the client use ``parse_response(call, body)``, where ``call`` is ``start``, ``status``,
``report``, ``cancel``, ``list`` or ``details``, and ``body`` is the parsed JSON of the response. It returns the message,
and raises if the body does not match the wire format exactly.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, timestamp_pb2
from grpc_tools import protoc

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

__all__ = ["RESPONSES", "NotOfTheWireError", "enum_numbers", "message_class", "parse_response"]

RESPONSES = {
    "start": "StartBatchJobResponse",
    "status": "GetBatchJobStatusResponse",
    "report": "GetBatchJobReportResponse",
    "cancel": "CancelBatchJobResponse",
    "list": "ListBatchJobsResponse",
    "details": "GetBatchJobDetailsResponse",
}
# Fields of the list that existing clients do not know.
_ADDITIONS = {("ListBatchJobsResponse", name) for name in ("next_cursor", "success", "failure_message")}
_PROTO = Path(__file__).with_suffix(".proto")


class NotOfTheWireError(AssertionError):
    """A response does not match the wire format; the message names the field."""


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """The compiled definition, as descriptors: unlike generated code, they do not depend on the runtime's version."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "wire.desc"
        status = protoc.main(
            [
                "protoc",
                f"-I{_PROTO.parent}",
                f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
                f"--descriptor_set_out={compiled}",
                str(_PROTO),
            ]
        )
        assert status == 0, f"{_PROTO.name} does not compile"
        files = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    for file in files.file:
        pool.Add(file)
    return pool


def message_class(name: str) -> type[Message]:
    """The class of a message, by name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"batch_wire.{name}"))


def enum_numbers(name: str) -> dict[str, int]:
    """The numbers of an enum's members, by name, in order."""
    return {value.name: value.number for value in _pool().FindEnumTypeByName(f"batch_wire.{name}").values}


def parse_response(call: str, body: Any) -> Message:
    """Parse a response into its message.

    Stricter than the JSON mapping, which leaves choices to the service: names must be in snake_case, enums names,
    integers numbers, and times UTC with a "Z"; a successful response must not omit a field.

    Args:
        call: ``start``, ``status``, ``report``, ``cancel``, ``list`` or ``details``.
        body: The response's JSON.

    Raises:
        NotOfTheWireError: The response has an unknown field, omits one, or has a value of the wrong type.
    """
    message = message_class(RESPONSES[call])()
    try:
        json_format.ParseDict(body, message, ignore_unknown_fields=False)
    except json_format.ParseError as error:
        raise NotOfTheWireError(f"{call}: {error}") from error
    flag = "successful" if call == "report" else "success"
    _check(body, message.DESCRIPTOR, call, complete=body.get(flag) is not False)
    return message


def _check(body: dict[str, Any], descriptor: Descriptor, path: str, *, complete: bool) -> None:
    known = descriptor.fields_by_name
    for name, value in body.items():
        at = f"{path}.{name}"
        if name not in known:
            raise NotOfTheWireError(f"{at}: names must be in snake_case")
        if value is None:
            # Only message fields can be absent; all others have a zero value.
            may_be_absent = known[name].message_type is not None and not known[name].is_repeated
            if not may_be_absent and (descriptor.name, name) not in _ADDITIONS:
                raise NotOfTheWireError(f"{at}: must not be null")
            continue
        for entry in value if known[name].is_repeated else [value]:
            _check_value(entry, known[name], at, complete=complete)
    missing = {name for name in known if name not in body and (descriptor.name, name) not in _ADDITIONS}
    if complete and missing:
        raise NotOfTheWireError(f"{path}: missing {', '.join(sorted(missing))}")


def _check_value(value: Any, field: FieldDescriptor, path: str, *, complete: bool) -> None:
    integers = {field.CPPTYPE_INT32, field.CPPTYPE_INT64}
    if field.message_type is not None and field.message_type.full_name != "google.protobuf.Timestamp":
        _check(value, field.message_type, path, complete=complete)
    elif field.message_type is not None and not value.endswith("Z"):
        raise NotOfTheWireError(f"{path}: the time is not UTC")
    elif field.enum_type is not None and not isinstance(value, str):
        raise NotOfTheWireError(f"{path}: the enum is a number")
    elif field.cpp_type in integers and type(value) is not int:
        raise NotOfTheWireError(f"{path}: the integer is not a number")
