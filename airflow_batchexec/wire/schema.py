"""A start request for the OpenAPI document: both forms, in snake_case. What is taken beyond it, the wire decides."""

from __future__ import annotations

from typing import Any

from airflow_batchexec.wire.values import InputFileType, MemoryUnit, OutputFileType

__all__ = ["START_REQUEST"]


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": ["object", "null"], "properties": properties}


def _text(description: str = "", **schema: Any) -> dict[str, Any]:
    return {"type": ["string", "null"], **({"description": description} if description else {}), **schema}


def _whole(description: str) -> dict[str, Any]:
    return {"type": ["integer", "null"], "minimum": 0, "maximum": 2**31 - 1, "description": description}


def _choice(kind: type[InputFileType | OutputFileType | MemoryUnit], description: str) -> dict[str, Any]:
    return {"enum": [*(member.value for member in kind), None], "description": description}


_MODEL = {
    "model_id": _text("The model."),
    "branch_id": _text("Kept, and used for nothing."),
    "build_id": _text("The build; unset, the deployed one."),
}
_SOURCE = {
    "source_bucket": _text("The bucket that is read."),
    "source_folder": _text("The folder, or the one file, that is read; or a whole URI."),
    "input_file_type": _choice(InputFileType, "Which files are read; unset, CSV."),
}
_DESTINATION = {
    "destination_bucket": _text("The bucket that is written."),
    "destination_folder": _text("The folder that results are written to; or a whole URI."),
    "output_file_type": _choice(OutputFileType, "How results are written; unset, CSV."),
}
_SECRETS = {
    "token_secret": _text("The name of the secret that holds the access key."),
    "secret_secret": _text("The name of the secret that holds the secret key."),
}
_CPU = {
    "cpu": {"type": ["number", "null"], "minimum": 0, "maximum": 1024, "description": "CPUs of a pod."},
    "memory_amount": _whole("Memory of a pod."),
    "memory_units": _choice(MemoryUnit, "What the amount counts; unset, MiB."),
}
_GPU = _object(gpu_type=_text("The kind of GPU."), gpu_amount=_whole("GPUs of a pod."))
_EXECUTION = {
    "job_timeout": _whole("Seconds that the execution may take; 0 for any time."),
    "task_timeout": _whole("Seconds that a file may take; 0 for any time."),
    "batch_job_deployment_size": _object(
        number_of_pods=_whole("How many pods there are at most."),
        **_CPU,
        gpu_resources=_GPU,
        client_pod_compute_resources={
            **_object(
                cpu_resources=_object(**_CPU),
                gpu_resources=_GPU,
                template_spec=_object(template_id=_text("The instance.")),
            ),
            "description": "One of them.",
            "maxProperties": 1,
        },
    ),
    "advanced_deployment_options": _object(
        custom_iam_role_arn=_text("The AWS role to assume."),
        purchase_option=_text("`spot`, `on-demand` or `ondemand`."),
        service_account_key_secret_name=_text("The name of the secret with a Google Cloud key."),
    ),
    "parameters": {
        "type": ["array", "null"],
        "items": {"type": "object", "properties": {"key": _text(), "value": _text()}},
        "description": "Environment variables of the pods.",
    },
}

START_REQUEST: dict[str, Any] = {
    "type": "object",
    "properties": {
        "batch_job_request": {
            **_object(
                model_details=_object(**_MODEL),
                data_details=_object(
                    source_path=_object(**_SOURCE),
                    destination_path=_object(**_DESTINATION),
                    **_SECRETS,
                    service_account_json_key_secret=_text("The name of the secret with a Google Cloud key."),
                ),
                execution_details=_object(**_EXECUTION),
            ),
            "description": "The nested form; where both say something, it wins.",
        },
        **_MODEL,
        **_SOURCE,
        **_DESTINATION,
        **_SECRETS,
        **_EXECUTION,
    },
}
