"""The tree of a start request: every name it may contain, the flat field for each value, and the schema.

``request.py`` uses it to read and write requests, and ``schema.py`` to generate the OpenAPI schema. If two places set
the same field, the first one in the tree wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_batchexec.wire.values import (
    InputFileType,
    MemoryUnit,
    OutputFileType,
    WireEnum,
    enum_reader,
    read_integer,
    read_number,
    read_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["PAIR", "REQUEST", "START", "UNIT", "Leaf", "Pairs", "Scalar", "Tree"]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A type of scalar values.

    Attributes:
        read: Reads the JSON value at a path; an empty result means unset.
        schema: The OpenAPI schema: the form that clients should send, which may be narrower than what is accepted.
    """

    read: Callable[[Any, str], Any]
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value: its flat field, its description for the OpenAPI document, and its type."""

    field: str
    description: str
    scalar: Scalar


@dataclass(frozen=True, slots=True)
class Pairs:
    """A list of ``{key, value}``: its flat field, and its description for the OpenAPI document."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Tree:
    """An object.

    Attributes:
        members: The members by snake_case name.
        description: The description for the OpenAPI document; may be empty.
        one_of: Whether at most one of the members may be set.
        written: Whether ``start_request`` writes it.
    """

    members: Mapping[str, Leaf | Pairs | Tree]
    description: str = ""
    one_of: bool = False
    written: bool = True


def _enum(kind: type[WireEnum]) -> Scalar:
    return Scalar(enum_reader(kind), {"enum": [*(member.value for member in kind), None]})


def _text(field: str, description: str) -> Leaf:
    return Leaf(field, description, _TEXT)


def _integer(field: str, description: str) -> Leaf:
    return Leaf(field, description, _INTEGER)


_TEXT = Scalar(read_text, {"type": ["string", "null"]})
_INTEGER = Scalar(read_integer, {"type": ["integer", "null"], "minimum": 0, "maximum": 2**31 - 1})
_CPUS = Scalar(read_number, {"type": ["number", "null"], "minimum": 0, "maximum": 1024})

PAIR = {"key": _TEXT, "value": _TEXT}
"""The members of each entry of ``Pairs``."""
UNIT = "memory_units"
"""The pseudo-field for a unit; the reader applies it to the amount in the same object."""

_CPU = {
    "cpu": Leaf("cpus", "CPUs per pod.", _CPUS),
    "memory_amount": _integer("memory", "Memory per pod."),
    "memory_units": Leaf(UNIT, "The unit of the amount; unset, MiB.", _enum(MemoryUnit)),
}
_GPU = {
    "gpu_type": _text("gpu_type", "The GPU type."),
    "gpu_amount": _integer("gpu_amount", "GPUs per pod."),
}
_SIZE = Tree(
    {
        "client_pod_compute_resources": Tree(
            {
                "cpu_resources": Tree(_CPU, written=False),
                "gpu_resources": Tree(_GPU, written=False),
                "template_spec": Tree({"template_id": _text("instance", "The instance.")}),
            },
            description="At most one of them may be set.",
            one_of=True,
        ),
        "number_of_pods": _integer("pods", "Maximum number of pods."),
        **_CPU,
        "gpu_resources": Tree(_GPU),
    }
)
_MODEL = {
    "model_id": _text("model_id", "The model."),
    "branch_id": _text("branch", "Accepted and stored, but not used."),
    "build_id": _text("build_id", "The build; unset, the deployed one."),
}
_SOURCE = {
    "source_bucket": _text("source_bucket", "The bucket to read from."),
    "source_folder": _text("source_folder", "The folder, or a single file, to read; may be a URI."),
    "input_file_type": Leaf(
        "input_file_type", "The type of the files to read; unset, CSV.", _enum(InputFileType)
    ),
}
_DESTINATION = {
    "destination_bucket": _text("destination_bucket", "The bucket to write to."),
    "destination_folder": _text("destination_folder", "The folder to write results to; may be a URI."),
    "output_file_type": Leaf(
        "output_file_type", "The type of the result files; unset, CSV.", _enum(OutputFileType)
    ),
}
_SECRETS = {
    "token_secret": _text("access_token_name", "The name of the secret with the access key."),
    "secret_secret": _text("access_secret_name", "The name of the secret with the secret key."),
}
_GOOGLE_KEY = _text("service_account_key_secret_name", "The name of the secret with a Google Cloud key.")
_EXECUTION: dict[str, Leaf | Pairs | Tree] = {
    "job_timeout": _integer("job_timeout", "Timeout of the execution in seconds; 0 for no limit."),
    "task_timeout": _integer("file_timeout", "Timeout per file in seconds; 0 for no limit."),
    "batch_job_deployment_size": _SIZE,
    "advanced_deployment_options": Tree(
        {
            "custom_iam_role_arn": _text("iam_role_arn", "The AWS role to assume."),
            "purchase_option": _text("purchase_option", "`spot`, `on-demand` or `ondemand`."),
            "service_account_key_secret_name": _GOOGLE_KEY,
        }
    ),
    "parameters": Pairs("parameters", "Environment variables for the model."),
}

REQUEST = Tree(
    {
        "model_details": Tree(_MODEL),
        # Before data_details, so that its Google Cloud key wins.
        "execution_details": Tree(_EXECUTION),
        "data_details": Tree(
            {
                "source_path": Tree(_SOURCE),
                "destination_path": Tree(_DESTINATION),
                **_SECRETS,
                "service_account_json_key_secret": _GOOGLE_KEY,
            }
        ),
    },
    description="The nested form; it takes precedence over the flat one.",
)
"""The nested form."""
START = Tree({"batch_job_request": REQUEST, **_MODEL, **_SOURCE, **_DESTINATION, **_SECRETS, **_EXECUTION})
"""A whole request: the nested form and the fields of the flat form."""
