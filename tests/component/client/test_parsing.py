"""The client reads every field of every response that the server serializes."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from airflow_batchexec.client import parsing as client
from airflow_batchexec.client.transport import Response
from airflow_batchexec.exceptions import UnexpectedAnswerError
from airflow_batchexec.wire import responses as wire
from airflow_batchexec.wire.values import JobStatus

CALLS: dict[type, Any] = {
    wire.StartResponse: client.read_started,
    wire.StatusResponse: client.read_status,
    wire.CancelResponse: client.read_cancelled,
    wire.ReportResponse: client.read_report,
    wire.DetailsResponse: client.read_details,
    wire.ListResponse: lambda response: client.read_page(response)[0],
}
# The names that existing clients know.
RENAMED: dict[type, dict[str, str]] = {
    wire.StartResponse: {"batch_id": "execution_id"},
    wire.StatusResponse: {"job_status": "status"},
    wire.ReportResponse: {"successful": "success", "report_messages": "records"},
}
SCALARS = {
    str: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    bool: st.booleans(),
    int: st.integers(0, 2**63 - 1),
    datetime: st.datetimes(timezones=st.just(UTC)),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Generate any value of a field."""
    if isinstance(kind, UnionType):
        return st.one_of(*(st.none() if k is NoneType else values(k) for k in get_args(kind)))
    if get_origin(kind) is list:
        return st.lists(values(get_args(kind)[0]), max_size=3)
    if is_dataclass(kind):
        return messages(kind)
    return st.sampled_from(kind) if issubclass(kind, Enum) else SCALARS[kind]


def messages(kind: Any) -> st.SearchStrategy[Any]:
    """Generate any message of a type, with all fields set."""
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: values(hints[field.name]) for field in fields(kind)})


def read(kind: type, body: Any, status_code: int = 200) -> Any:
    return CALLS[kind](Response(status_code, body))


def response_fields(result: Any) -> dict[str, Any]:
    """The attributes of a result that come from the response body."""
    attributes = asdict(result)
    del attributes["status_code"], attributes["wire"]
    return attributes


@given(message=st.one_of(*map(messages, CALLS)))
def test_a_result_has_every_field_of_the_response(message):
    kind = type(message)
    names = RENAMED.get(kind, {})
    expected = {names.get(name, name): value for name, value in asdict(message).items()}
    expected.pop("next_cursor", None)

    assert response_fields(read(kind, TypeAdapter(kind).dump_python(message, mode="json"))) == expected


@pytest.mark.parametrize("kind", CALLS)
def test_missing_and_null_fields_are_unset(kind):
    nothing = dict.fromkeys(field.name for field in fields(kind))
    unset = read(kind, {})
    assert unset.success is True
    assert response_fields(read(kind, nothing)) == response_fields(unset)
    assert response_fields(read(kind, {"later": 1})) == response_fields(unset)
    assert read(kind, nothing, 409).success is False


def test_unset_fields_of_nested_messages_have_zero_values():
    job = read(
        wire.DetailsResponse, {"batch_job": {"task_executions": [{}], "report_messages": [{}]}}
    ).batch_job
    assert (job.job_id, job.start_time, job.job_size) == ("", None, 0)
    assert job.job_status is JobStatus.UNDEFINED_BATCH_JOB_STATUS
    assert set(asdict(job.execution_file_details).values()) == {"", 0}
    assert (job.task_executions[0].status.number, job.task_executions[0].filenames) == (0, [])
    assert (job.report_messages[0].time, job.report_messages[0].line) == (None, "")


def test_unknown_file_types_are_passed_through():
    files = {"input_file_type": "ORC_INPUT_FILE_TYPE"}
    job = read(wire.DetailsResponse, {"batch_job": {"execution_file_details": files}}).batch_job
    assert job.execution_file_details.input_file_type == "ORC_INPUT_FILE_TYPE"
    assert job.execution_file_details.output_file_type == ""


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (wire.StartResponse, {"batch_id": 1}, "batch_id"),
        (wire.CancelResponse, {"success": "yes"}, "success"),
        (wire.StatusResponse, {"job_status": "NAPPING"}, "job_status"),
        (wire.StatusResponse, {"total_files": 1.5}, "total_files"),
        (wire.StatusResponse, {"total_files": True}, "total_files"),
        (wire.StatusResponse, {"total_files": "many"}, "total_files"),
        (wire.ReportResponse, {"report_messages": "one"}, "report_messages"),
        (wire.ReportResponse, {"report_messages": ["one", 2]}, "report_messages"),
        (wire.ListResponse, {"next_cursor": 1}, "next_cursor"),
        (
            wire.ListResponse,
            {"batch_jobs": [{}, {"job_size": []}, {"job_size": [1]}]},
            "batch_jobs[2].job_size",
        ),
        (wire.ListResponse, {"batch_jobs": [None]}, "batch_jobs[0]"),
        (wire.DetailsResponse, {"batch_job": "rest__1"}, "batch_job"),
        (wire.DetailsResponse, {"batch_job": {"start_time": "soon"}}, "batch_job.start_time"),
        (wire.DetailsResponse, {"batch_job": {"end_time": "2026-01-01T00:00:00"}}, "batch_job.end_time"),
        (
            wire.DetailsResponse,
            {"batch_job": {"task_executions": [{"filenames": [None]}]}},
            "batch_job.task_executions[0].filenames",
        ),
        (
            wire.DetailsResponse,
            {"batch_job": {"execution_file_details": {"source_path": {}}}},
            "batch_job.execution_file_details.source_path",
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_with_its_path(kind, body, field):
    with pytest.raises(UnexpectedAnswerError, match="has the wrong type or value") as caught:
        read(kind, body)
    assert caught.value.details["field"] == field
    assert f" {field} " in caught.value.message
