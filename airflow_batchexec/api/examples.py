"""Request examples and error responses for the OpenAPI document."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from airflow_batchexec.wire.responses import failure
from airflow_batchexec.wire.schema import START_REQUEST

__all__ = ["REQUEST_BODY", "error_responses"]

_FLAT = {
    "model_id": "arrival_delay",
    "source_bucket": "flights",
    "destination_bucket": "delays",
    "source_folder": "batch_execution/arrival_delay/input",
    "destination_folder": "batch_execution/arrival_delay/output",
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
_NESTED = {
    "batch_job_request": {
        "model_details": {"model_id": "arrival_delay", "build_id": "2024-07-01"},
        "data_details": {
            "source_path": {
                "source_bucket": "flights",
                "source_folder": "2013",
                "input_file_type": "CSV_INPUT_FILE_TYPE",
            },
            "destination_path": {
                "destination_bucket": "delays",
                "destination_folder": "2013",
                "output_file_type": "CSV_OUTPUT_FILE_TYPE",
            },
            "token_secret": "bucket_key",
            "secret_secret": "bucket_secret",
        },
        "execution_details": {
            "job_timeout": 3600,
            "task_timeout": 600,
            "batch_job_deployment_size": {
                "number_of_pods": 2,
                "client_pod_compute_resources": {"template_spec": {"template_id": "medium"}},
            },
            "advanced_deployment_options": {"purchase_option": "on-demand"},
            "parameters": [{"key": "THRESHOLD", "value": "0.5"}],
        },
    }
}
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "A start request, flat or nested, with names in snake_case or lowerCamelCase. Unknown fields are "
    "ignored, with a warning in the report.",
    "content": {
        "application/json": {
            "schema": START_REQUEST,
            "examples": {
                "flat": {"summary": "Flat", "value": _FLAT},
                "nested": {"summary": "Nested", "value": _NESTED},
            },
        }
    },
}
_ERRORS = {
    400: ("The body or a parameter is invalid; the reason names it.", "model_id: a text is needed."),
    401: (
        "The token is missing or expired.",
        "Token Expired. Send Authorization: Bearer <token>.",
    ),
    403: (
        "The user lacks the permission, or a request with only a cookie came from another origin.",
        "You may not read executions: you lack this permission on runs of batch_execution.",
    ),
    404: (
        "The execution, model or build does not exist.",
        "Execution 'rest__0123456789abcdef__1' not found.",
    ),
    409: (
        "An identical execution is active, the execution has ended, or the DAG is paused.",
        "Execution rest__0123456789abcdef__1 with the same model, build, source and destination has not ended.",
    ),
    413: ("The body is larger than 1 MiB.", "The body is larger than 1,048,576 bytes."),
    415: (
        "The media type of the body is not JSON.",
        "Content-Type: the body must be application/json in UTF-8.",
    ),
    422: (
        "The idempotency key was used before with a different request.",
        "Idempotency-Key: execution rest__0123456789abcdef__1 was started with this key by a different request.",
    ),
    503: (
        "The database is busy, or the execution DAG is unavailable; `Retry-After` says when to retry.",
        "Airflow's database is busy or unreachable. Try again.",
    ),
}


def error_responses(model: type, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for the OpenAPI document.

    Args:
        model: The route's response type.
        statuses: The HTTP statuses.
    """
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        description, message = _ERRORS[status]
        found[status] = {
            "model": model,
            "description": f"{HTTPStatus(status).phrase}. {description}",
            "content": {"application/json": {"example": failure(model, message)}},
        }
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            found[status]["headers"] = {
                "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}
            }
    return found
