"""The tree of a start request: every name that it may have, the flat field that each value becomes, and its schema.

``request.py`` reads and writes requests by it, and ``schema.py`` describes it for the OpenAPI document. Where two places set
one field, the one that stands first in the tree wins.
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
    read_number,
    read_text,
    read_whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["PAIR", "REQUEST", "START", "UNIT", "Leaf", "Pairs", "Scalar", "Tree"]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A kind of value.

    Attributes:
        read: Reads a JSON value that stands at a path; something empty is unset.
        schema: What the OpenAPI document says of it: the form that clients should send, which may be narrower than
            what is read.
    """

    read: Callable[[Any, str], Any]
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value: the flat field that it becomes, how it is read, and its description for the OpenAPI document."""

    field: str
    description: str
    scalar: Scalar


@dataclass(frozen=True, slots=True)
class Pairs:
    """A list of ``{key, value}``, the flat field that it becomes, and its description for the OpenAPI document."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Tree:
    """An object.

    Attributes:
        members: By name in snake_case.
        description: For the OpenAPI document; may be empty.
        one_of: No more than one of the members may be set.
        written: Whether ``start_request`` makes it.
    """

    members: Mapping[str, Leaf | Pairs | Tree]
    description: str = ""
    one_of: bool = False
    written: bool = True


def _choice(kind: type[WireEnum]) -> Scalar:
    return Scalar(enum_reader(kind), {"enum": [*(member.value for member in kind), None]})


def _text(field: str, description: str) -> Leaf:
    return Leaf(field, description, _TEXT)


def _whole(field: str, description: str) -> Leaf:
    return Leaf(field, description, _WHOLE)


_TEXT = Scalar(read_text, {"type": ["string", "null"]})
_WHOLE = Scalar(read_whole_number, {"type": ["integer", "null"], "minimum": 0, "maximum": 2**31 - 1})
_CPUS = Scalar(read_number, {"type": ["number", "null"], "minimum": 0, "maximum": 1024})

PAIR = {"key": _TEXT, "value": _TEXT}
"""The members of each entry of ``Pairs``."""
UNIT = "memory_units"
"""The field that a unit is read into; the reader then applies it to the amount beside it."""

_CPU = {
    "cpu": Leaf("cpus", "CPUs of a pod.", _CPUS),
    "memory_amount": _whole("memory", "Memory of a pod."),
    "memory_units": Leaf(UNIT, "What the amount counts; unset, MiB.", _choice(MemoryUnit)),
}
_GPU = {
    "gpu_type": _text("gpu_type", "The kind of GPU."),
    "gpu_amount": _whole("gpu_amount", "GPUs of a pod."),
}
_SIZE = Tree(
    {
        "client_pod_compute_resources": Tree(
            {
                "cpu_resources": Tree(_CPU, written=False),
                "gpu_resources": Tree(_GPU, written=False),
                "template_spec": Tree({"template_id": _text("instance", "The instance.")}),
            },
            description="One of them.",
            one_of=True,
        ),
        "number_of_pods": _whole("pods", "How many pods there are at most."),
        **_CPU,
        "gpu_resources": Tree(_GPU),
    }
)
_MODEL = {
    "model_id": _text("model_id", "The model."),
    "branch_id": _text("branch", "Kept, and used for nothing."),
    "build_id": _text("build_id", "The build; unset, the deployed one."),
}
_SOURCE = {
    "source_bucket": _text("source_bucket", "The bucket that is read."),
    "source_folder": _text("source_folder", "The folder, or the one file, that is read; or a whole URI."),
    "input_file_type": Leaf("input_file_type", "Which files are read; unset, CSV.", _choice(InputFileType)),
}
_DESTINATION = {
    "destination_bucket": _text("destination_bucket", "The bucket that is written."),
    "destination_folder": _text(
        "destination_folder", "The folder that results are written to; or a whole URI."
    ),
    "output_file_type": Leaf(
        "output_file_type", "How results are written; unset, CSV.", _choice(OutputFileType)
    ),
}
_SECRETS = {
    "token_secret": _text("access_token_name", "The name of the secret that holds the access key."),
    "secret_secret": _text("access_secret_name", "The name of the secret that holds the secret key."),
}
_GOOGLE_KEY = _text("service_account_key_secret_name", "The name of the secret with a Google Cloud key.")
_EXECUTION: dict[str, Leaf | Pairs | Tree] = {
    "job_timeout": _whole("job_timeout", "Seconds that the execution may take; 0 for any time."),
    "task_timeout": _whole("file_timeout", "Seconds that a file may take; 0 for any time."),
    "batch_job_deployment_size": _SIZE,
    "advanced_deployment_options": Tree(
        {
            "custom_iam_role_arn": _text("iam_role_arn", "The AWS role to assume."),
            "purchase_option": _text("purchase_option", "`spot`, `on-demand` or `ondemand`."),
            "service_account_key_secret_name": _GOOGLE_KEY,
        }
    ),
    "parameters": Pairs("parameters", "Environment variables of the pods."),
}

REQUEST = Tree(
    {
        "model_details": Tree(_MODEL),
        # Before the data: its name of a Google Cloud key wins.
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
    description="The nested form; where both say something, it wins.",
)
"""The nested form."""
START = Tree({"batch_job_request": REQUEST, **_MODEL, **_SOURCE, **_DESTINATION, **_SECRETS, **_EXECUTION})
"""A whole request, of either form."""
