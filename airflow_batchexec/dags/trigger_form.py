"""The parameter table as DAG params, which define the trigger form and what Airflow's server validates for each run.

Airflow's form shows a drop-down only for a param with an ``enum``, and Airflow's server rejects values that are not in
the ``enum``. But clients may send these values in any case. So the ``enum`` is placed next to a ``$ref`` to the schema
of accepted values: JSON Schema draft 7 ignores the siblings of a ``$ref``, while the form reads only them.
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

# In the form's order. Params without a section go to Airflow's "Run Parameters", the only one initially expanded.
_FORM_SECTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
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
# Airflow validates each param and its schema once or twice in every task, and the latest draft takes twice as long.
_JSON_SCHEMA_DRAFT = "http://json-schema.org/draft-07/schema#"


def execution_params(defaults: Mapping[str, Any]) -> dict[str, Param]:
    """The parameters as DAG params, in the order of the form.

    Args:
        defaults: Default values by flat name, for the form and for runs that do not set the parameter.

    Raises:
        ConfigurationError: ``defaults`` names an unknown parameter or contains an invalid value, or the option
            ``[batchexec] instances`` is invalid.
    """
    check_names(defaults)
    instances = settings.instance_table()
    params = {}
    for section, names in _FORM_SECTIONS.items():
        for name in names:
            arguments = _param_arguments(name, defaults, instances)
            if section:
                arguments["section"] = section
            params[name] = Param(**arguments)
    for name in defaults:
        try:
            params[name].resolve()
        except ParamValidationError as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(f"{name}: invalid default: {reason}.", field=name) from None
    return params


def _param_arguments(name: str, defaults: Mapping[str, Any], instances: InstanceTable) -> dict[str, Any]:
    flat = flat_fields()[name]
    arguments = {
        key: value
        for key, value in flat.schema.items()
        if key not in {"unset", "examples", "enum", "default", "description", "type"}
    }
    # Airflow treats a field as required unless it accepts null, which is also what the form sends for an empty field.
    types = [flat.schema["type"]] if isinstance(flat.schema["type"], str) else flat.schema["type"]
    arguments["type"] = types[0] if flat.required else ["null", *types]
    arguments["$schema"] = _JSON_SCHEMA_DRAFT
    # Without a default, Airflow rejects runs that do not set the param, and DAGs that have a schedule.
    if name in defaults or not flat.required:
        arguments["default"] = defaults.get(name, _default_value(flat))
    has_choices = name == "instance" or "enum" in flat.schema
    arguments["description"] = _description(flat, unset_is_shown=has_choices)
    if name == "instance":
        # The form offers the instances that the DAG processor knows; plan may know others.
        labels = {instance.name: _instance_label(instance) for instance in instances}
        _add_choices(arguments, labels, unset=flat.schema["unset"], accepted={"type": ["null", "string"]})
    elif name == "gpu_type":
        arguments["examples"] = sorted({instance.gpu_type for instance in instances if instance.gpu_type})
    elif "enum" in flat.schema:
        labels = {word: _LABELS[word] for word in flat.schema["enum"] if word}
        accepted = _case_insensitive(flat.schema["enum"])
        _add_choices(arguments, labels, unset=flat.schema.get("unset"), accepted=accepted)
    return arguments


def _default_value(flat: FlatField) -> Any:
    """The default that the form shows: ``None`` if the value of an unset field comes from elsewhere."""
    zero_is_meaningful = str(flat.schema.get("unset", "")).startswith("0")
    value = getattr(flat.default, "value", flat.default)
    return value if value or zero_is_meaningful else None


def _description(flat: FlatField, *, unset_is_shown: bool) -> str:
    sentences = [flat.schema["description"]]
    if "unset" in flat.schema and not unset_is_shown:
        sentences.append(f"Default: {flat.schema['unset']}.")
    if "examples" in flat.schema:
        sentences.append(f"Example: {flat.schema['examples'][0]}")
    return " ".join(sentences)


def _add_choices(
    arguments: dict[str, Any], labels: Mapping[str, str], *, unset: str | None, accepted: Mapping[str, Any]
) -> None:
    """Turn a param into a drop-down in the form, while the server takes any ``accepted`` value.

    Args:
        arguments: The param's arguments, which are modified.
        labels: The labels of the choices, by value.
        unset: The label of the choice "not set"; ``None`` omits it.
        accepted: The JSON schema of the values that the server accepts.
    """
    default = arguments["default"]
    values: list[str | None] = list(labels)
    if default == "":
        arguments["default"] = None
    elif default is not None and default not in labels:
        # The form shows nothing for a default that is spelled differently from its choice.
        choice = next((value for value in labels if _normalize(value) == _normalize(str(default))), default)
        values += [] if choice in labels else [choice]
        arguments["default"] = choice
    arguments["values_display"] = dict(labels)
    if unset is not None:
        values.insert(0, None)
        arguments["values_display"]["null"] = f"({unset})"
    arguments |= {
        "enum": values,
        "$ref": "#/definitions/accepted",
        "definitions": {"accepted": dict(accepted)},
    }


def _case_insensitive(words: Sequence[str]) -> dict[str, Any]:
    """The schema of words in any case, in which hyphens may be omitted or replaced by underscores."""
    pattern = "|".join(word.replace("-", "[-_]?") for word in words)
    return {
        "type": ["null", "string"],
        # The error for an invalid word shows the first schema, because it has a type.
        "anyOf": [
            {"type": "string", "enum": [word for word in words if word]},
            {"pattern": f"^(?i:{pattern})$"},
        ],
    }


def _normalize(word: str) -> str:
    return word.strip().lower().replace("-", "").replace("_", "")


def _instance_label(instance: Instance) -> str:
    cpus = f"{instance.cpus:g} CPU{'' if instance.cpus == 1 else 's'}"
    gpus = f", {instance.gpu_amount} x {instance.gpu_type or 'GPU'}" if instance.gpu_amount else ""
    return f"{instance.name}: {cpus}, {instance.memory_bytes / _GIB:g} GiB{gpus}"
