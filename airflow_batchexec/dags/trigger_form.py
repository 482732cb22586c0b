"""The parameter table as the params of a DAG: its trigger form, and what Airflow's server checks before a run begins.

Airflow's form draws a list of choices only for a param with an ``enum``, and Airflow's server refuses what is not in
it. But clients write these values in any case. So the choices stand beside a reference to what the server takes: in
draft 7 of JSON schema whatever stands beside a ``$ref`` is ignored, and it is all that the form reads.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError

from airflow_batchexec import settings
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.runs.parse_time import check_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_batchexec.engine.config.instances import Instance, InstanceTable
    from airflow_batchexec.engine.config.sections import FlatField

__all__ = ["execution_params"]

# In the form's order. What has no section stands in Airflow's "Run Parameters", the only one that is open at first.
_SECTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "": (
            *("model_id", "build_id"),
            *("bucket", "source_bucket", "source_folder", "destination_bucket", "destination_folder"),
            *("input_file_type", "output_file_type", "parameters"),
        ),
        "Access to the buckets": (
            *("access_token_name", "access_secret_name"),
            *("iam_role_arn", "service_account_key_secret_name"),
        ),
        "Timeouts": ("job_timeout", "file_timeout"),
        "Resources": ("pods", "instance", "cpus", "memory", "gpu_type", "gpu_amount", "purchase_option"),
        "Compatibility": ("branch",),
    }
)
_LABELS = {"CSV": "CSV", "PARQUET": "Parquet", "FEATHER": "Feather", "spot": "Spot", "on-demand": "On-demand"}
_GIB = 1024**3
# In every task Airflow checks each param, and its schema with it, once or twice; in the newest draft that takes twice
# as long as in this one.
_DRAFT = "http://json-schema.org/draft-07/schema#"


def execution_params(defaults: Mapping[str, Any]) -> dict[str, Param]:
    """The parameters as the params of a DAG, in the order of the form.

    Args:
        defaults: What the form begins with, and what a run has that leaves a parameter out, by flat name.

    Raises:
        ConfigurationError: ``defaults`` names a parameter that does not exist, or gives one a wrong value; or the
            option ``[batchexec] instances`` is wrong.
    """
    check_names(defaults)
    instances = settings.instance_table()
    params = {}
    for section, names in _SECTIONS.items():
        for name in names:
            arguments = _arguments(name, defaults, instances)
            if section:
                arguments["section"] = section
            params[name] = Param(**arguments)
    for name in defaults:
        try:
            params[name].resolve()
        except ParamValidationError as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(f"{name}: this cannot be its default: {reason}.", field=name) from None
    return params


def _arguments(name: str, defaults: Mapping[str, Any], instances: InstanceTable) -> dict[str, Any]:
    flat = flat_fields()[name]
    arguments = {
        key: value
        for key, value in flat.schema.items()
        if key not in {"unset", "examples", "enum", "default", "description", "type"}
    }
    # Airflow takes a field for required unless it may be null, which is also what the form sends for an empty one.
    types = [flat.schema["type"]] if isinstance(flat.schema["type"], str) else flat.schema["type"]
    arguments["type"] = types[0] if flat.required else ["null", *types]
    arguments["$schema"] = _DRAFT
    # A required one has no default: Airflow then parses the DAG only if it has no schedule, and takes no run without.
    if name in defaults or not flat.required:
        arguments["default"] = defaults.get(name, _default(flat))
    has_choices = name == "instance" or "enum" in flat.schema
    arguments["description"] = _help(flat, unset_is_shown=has_choices)
    if name == "instance":
        # Only plan knows the instances there are then; what is offered are those of the DAG processor's configuration.
        labels = {instance.name: _label(instance) for instance in instances}
        _add_choices(arguments, labels, unset=flat.schema["unset"], accepted={"type": ["null", "string"]})
    elif name == "gpu_type":
        arguments["examples"] = sorted({instance.gpu_type for instance in instances if instance.gpu_type})
    elif "enum" in flat.schema:
        labels = {word: _LABELS[word] for word in flat.schema["enum"] if word}
        accepted = _in_any_case(flat.schema["enum"])
        _add_choices(arguments, labels, unset=flat.schema.get("unset"), accepted=accepted)
    return arguments


def _default(flat: FlatField) -> Any:
    """What an optional field shows: nothing where the value then comes from elsewhere."""
    zero_says_something = str(flat.schema.get("unset", "")).startswith("0")
    value = getattr(flat.default, "value", flat.default)
    return value if value or zero_says_something else None


def _help(flat: FlatField, *, unset_is_shown: bool) -> str:
    sentences = [flat.schema["description"]]
    if "unset" in flat.schema and not unset_is_shown:
        sentences.append(f"Default: {flat.schema['unset']}.")
    if "examples" in flat.schema:
        sentences.append(f"Example: {flat.schema['examples'][0]}")
    return " ".join(sentences)


def _add_choices(
    arguments: dict[str, Any], labels: Mapping[str, str], *, unset: str | None, accepted: Mapping[str, Any]
) -> None:
    """Make a field a list of choices; whatever is ``accepted`` may be sent by clients.

    Args:
        arguments: The param's.
        labels: What the form shows, by value.
        unset: What the form shows for "not set"; ``None`` offers no such choice.
        accepted: The JSON schema of what the server takes.
    """
    given = arguments["default"]
    values: list[str | None] = list(labels)
    if given == "":
        arguments["default"] = None
    elif given is not None and given not in labels:
        # The form would show nothing at all for a value that is spelled in another way than its choice.
        spelled = next((value for value in labels if _plain(value) == _plain(str(given))), given)
        values += [] if spelled in labels else [spelled]
        arguments["default"] = spelled
    arguments["values_display"] = dict(labels)
    if unset is not None:
        values.insert(0, None)
        arguments["values_display"]["null"] = f"({unset})"
    arguments |= {
        "enum": values,
        "$ref": "#/definitions/accepted",
        "definitions": {"accepted": dict(accepted)},
    }


def _in_any_case(words: Sequence[str]) -> dict[str, Any]:
    """The schema of some words in upper or lower case; a hyphen may be left out, or be an underscore."""
    pattern = "|".join(word.replace("-", "[-_]?") for word in words)
    return {
        "type": ["null", "string"],
        # The first, which has a type, is the one that the error for a wrong word shows.
        "anyOf": [
            {"type": "string", "enum": [word for word in words if word]},
            {"pattern": f"^(?i:{pattern})$"},
        ],
    }


def _plain(word: str) -> str:
    return word.strip().lower().replace("-", "").replace("_", "")


def _label(instance: Instance) -> str:
    cpus = f"{instance.cpus:g} CPU{'' if instance.cpus == 1 else 's'}"
    gpus = f", {instance.gpu_amount} x {instance.gpu_type or 'GPU'}" if instance.gpu_amount else ""
    return f"{instance.name}: {cpus}, {instance.memory_bytes / _GIB:g} GiB{gpus}"
