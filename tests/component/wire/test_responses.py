"""Responses as the server validates them before it sends them."""

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

LESS_THAN_NOTHING: Any = -1
NO_TEXT: Any = 1


@pytest.mark.parametrize(
    "message",
    [
        StatusResponse(finished_files=LESS_THAN_NOTHING),
        StatusResponse(failure_message=NO_TEXT),
        DetailsResponse(
            batch_job=BatchJobDetails(task_executions=[TaskExecution(num_of_records=LESS_THAN_NOTHING)])
        ),
    ],
)
def test_a_value_that_the_message_does_not_allow_is_not_sent(message):
    with pytest.raises(ValidationError):
        TypeAdapter(type(message)).validate_python(message)


@pytest.mark.parametrize(
    ("message", "success"),
    [(None, "success"), (dict, "success"), (Outcome, "success"), (ReportResponse, "successful")],
)
def test_a_call_that_failed_says_so_in_its_own_response(message, success):
    response = failure(message, "Why.")
    assert (response[success], response["failure_message"]) == (False, "Why.")
