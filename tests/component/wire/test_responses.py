"""Validation of responses by the server."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from airflow_batchexec.wire.responses import (
    BatchJobDetails,
    DetailsResponse,
    Outcome,
    ReportResponse,
    StatusResponse,
    TaskExecution,
    failure,
)

NEGATIVE: Any = -1
NOT_A_STRING: Any = 1


@pytest.mark.parametrize(
    "message",
    [
        StatusResponse(finished_files=NEGATIVE),
        StatusResponse(failure_message=NOT_A_STRING),
        DetailsResponse(batch_job=BatchJobDetails(task_executions=[TaskExecution(num_of_records=NEGATIVE)])),
    ],
)
def test_invalid_values_fail_validation(message):
    with pytest.raises(ValidationError):
        TypeAdapter(type(message)).validate_python(message)


@pytest.mark.parametrize(
    ("message", "success"),
    [(None, "success"), (dict, "success"), (Outcome, "success"), (ReportResponse, "successful")],
)
def test_a_failure_uses_the_success_field_of_its_response(message, success):
    response = failure(message, "Why.")
    assert (response[success], response["failure_message"]) == (False, "Why.")
