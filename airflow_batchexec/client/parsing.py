"""Converts API responses to results.

``wire/responses.py`` defines the fields of each response and their types. As in protobuf's JSON mapping, missing or
null fields are unset, unknown fields are ignored, and 64-bit integers may be strings.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from airflow_batchexec.client import results
from airflow_batchexec.client.results import (
    CancelExecutionResult,
    ExecutionStatusResult,
    GetBatchJobDetailsResult,
    GetExecutionReportResult,
    ListBatchJobsResult,
    StartExecutionResult,
)
from airflow_batchexec.exceptions import UnexpectedAnswerError
from airflow_batchexec.wire import responses as wire
from airflow_batchexec.wire.values import InputFileType, JobStatus, OutputFileType, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_batchexec.client.transport import Response
    from airflow_batchexec.wire.values import WireEnum

__all__ = [
    "read_cancelled",
    "read_details",
    "read_page",
    "read_report",
    "read_started",
    "read_status",
]

T = TypeVar("T")

_FIRST_REFUSAL = 400
# The public type of each nested message.
_RESULTS: dict[type, type] = {
    wire.BatchJobDetails: results.BatchJob,
    wire.BatchJobSummary: results.BatchJobSummary,
    wire.FileDetails: results.ExecutionFileDetails,
    wire.ReportMessage: results.ReportMessage,
    wire.TaskExecution: results.TaskExecution,
}
# Attributes whose names, known to existing code, differ from the wire's.
_ATTRIBUTES: dict[type, dict[str, str]] = {
    wire.ReportResponse: {"successful": "success", "report_messages": "records"},
    wire.StartResponse: {"batch_id": "execution_id"},
    wire.StatusResponse: {"job_status": "status"},
}


def read_started(response: Response) -> StartExecutionResult:
    """Read the response to a start.

    Raises:
        UnexpectedAnswerError: A value has the wrong type; ``details["field"]`` is its path.
    """
    return StartExecutionResult(**_from_response(response, wire.StartResponse))


def read_status(response: Response) -> ExecutionStatusResult:
    """Read the response to a status call.

    Raises:
        UnexpectedAnswerError: As for ``read_started``.
    """
    return ExecutionStatusResult(**_from_response(response, wire.StatusResponse))


def read_cancelled(response: Response) -> CancelExecutionResult:
    """Read the response to a cancellation.

    Raises:
        UnexpectedAnswerError: As for ``read_started``.
    """
    return CancelExecutionResult(**_from_response(response, wire.CancelResponse))


def read_report(response: Response) -> GetExecutionReportResult:
    """Read the response to a report call.

    Raises:
        UnexpectedAnswerError: As for ``read_started``.
    """
    return GetExecutionReportResult(**_from_response(response, wire.ReportResponse))


def read_page(response: Response) -> tuple[ListBatchJobsResult, str]:
    """Read one page of a list.

    Returns:
        The page, and the cursor of the next page; empty if this is the last.

    Raises:
        UnexpectedAnswerError: As for ``read_started``.
    """
    values = _from_response(response, wire.ListResponse)
    cursor = values.pop("next_cursor") or ""
    return ListBatchJobsResult(**values), cursor


def read_details(response: Response) -> GetBatchJobDetailsResult:
    """Read the response to a details call.

    Raises:
        UnexpectedAnswerError: As for ``read_started``.
    """
    return GetBatchJobDetailsResult(**_from_response(response, wire.DetailsResponse))


def _from_response(response: Response, message: type) -> dict[str, Any]:
    """Return the attributes of the result."""
    # The reference service's list response has no success field.
    success = {wire.success_field(message): response.status_code < _FIRST_REFUSAL}
    given = {name: value for name, value in response.body.items() if value is not None}
    return {
        **_read_fields(message, {**success, **given}, ""),
        "status_code": response.status_code,
        "wire": response.body,
    }


def _read_fields(message: type, value: Any, path: str) -> dict[str, Any]:
    """Read the fields of a message, named like the attributes of the result."""
    given = _checked(value, dict, path)
    renamed = _ATTRIBUTES.get(message, {})
    return {
        renamed.get(name, name): _read_value(kind, given.get(name), f"{path}.{name}" if path else name)
        for name, kind in _field_types(message).items()
    }


@cache
def _field_types(message: type) -> dict[str, Any]:
    types = get_type_hints(message)
    return {field.name: types[field.name] for field in fields(message)}


def _read_value(kind: Any, value: Any, path: str) -> Any:
    if isinstance(kind, UnionType):
        kind = get_args(kind)[0]
        if value is None:
            return None
    if get_origin(kind) is list:
        return _read_list(get_args(kind)[0], [] if value is None else value, path)
    if kind in _RESULTS:
        return _read_message(kind, value or {}, path)
    return _READERS[kind](value, path)


def _read_list(kind: type, value: Any, path: str) -> list[Any]:
    entries = _checked(value, list, path)
    if kind in _RESULTS:
        return [_read_message(kind, entry, f"{path}[{index}]") for index, entry in enumerate(entries)]
    return [_checked(entry, kind, path) for entry in entries]


def _read_message(message: type, value: Any, path: str) -> Any:
    return _RESULTS[message](**_read_fields(message, value, path))


def _read_text(value: Any, path: str) -> str:
    return "" if value is None else _checked(value, str, path)


def _read_flag(value: Any, path: str) -> bool:
    return False if value is None else _checked(value, bool, path)


def _read_count(value: Any, path: str) -> int:
    if not value:
        return 0
    if isinstance(value, (float, bool)):
        raise _wrong(path)
    return _converted(int, value, path)


def _read_time(value: Any, path: str) -> datetime | None:
    text = _read_text(value, path)
    return _converted(_time, text, path) if text else None


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return time


def _enum_reader(kind: type[WireEnum]) -> Callable[[Any, str], WireEnum]:
    def read(value: Any, path: str) -> WireEnum:
        return next(iter(kind)) if value in (None, "") else _converted(kind.parse, value, path)

    return read


_READERS: dict[type, Callable[[Any, str], Any]] = {
    bool: _read_flag,
    datetime: _read_time,
    int: _read_count,
    str: _read_text,
    JobStatus: _enum_reader(JobStatus),
    TaskStatus: _enum_reader(TaskStatus),
    # Results have file types as strings, so that types added by newer servers are not errors.
    InputFileType: _read_text,
    OutputFileType: _read_text,
}


def _checked(value: Any, kind: type[T], path: str) -> T:
    if not isinstance(value, kind):
        raise _wrong(path)
    return value


def _converted(convert: Callable[[Any], T], value: Any, path: str) -> T:
    try:
        return convert(value)
    except (ValueError, TypeError) as error:
        raise _wrong(path) from error


def _wrong(path: str) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(
        f"The server's response cannot be read: {path} has the wrong type or value.", field=path
    )
