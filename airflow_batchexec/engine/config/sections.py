"""The sections of an execution's configuration: every field of the guide's table, with what it takes.

The names of sections and fields are those of the existing Python client; a flat name is that of the guide's table and
command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from airflow_batchexec.engine.config.locations import check_id
from airflow_batchexec.engine.config.purchase_option import PurchaseOption
from airflow_batchexec.engine.config.values import (
    BUCKET_SCHEMA,
    FOLDER_SCHEMA,
    ID_SCHEMA,
    OPTIONAL_ID_SCHEMA,
    PARAMETERS_SCHEMA,
    ROLE,
    ROLE_SCHEMA,
    SECRET_NAME,
    SECRET_NAME_SCHEMA,
    check_parameters,
    instance_by_one_name,
    read_parameters,
)
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SECTIONS", "AdvancedOptions", "Execution", "FlatField", "Resources", "Section", "flat_fields"]

# What every client of the request can hold; in seconds it is 68 years.
_MOST = 2**31 - 1


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("input should be a number, not a boolean")  # noqa: TRY004  pydantic collects ValueErrors
    return value


_Count = Annotated[int, Field(ge=0, le=_MOST), BeforeValidator(_no_boolean)]
_Amount = Annotated[float, Field(ge=0, le=_MOST), BeforeValidator(_no_boolean)]
# White space around the value of an environment variable is part of it.
_ParameterValue = Annotated[str, StringConstraints(strip_whitespace=False)]


class Section(BaseModel):
    """A frozen section whose errors are ``ConfigurationError`` and name the field."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**{name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            raise _configuration_error(error) from None


class Execution(Section):
    """What is predicted, from where to where.

    Existing clients may give ``advanced_options`` here, too: the configuration that this becomes part of takes them.
    """

    # No field: it belongs to the configuration, and stands in no table or schema of this section.
    _advanced_options: AdvancedOptions | None = PrivateAttr(None)

    model_id: str = Field(
        title="Model ID",
        description="The model, as it is named in the model repository.",
        examples=["arrival_delay"],
        json_schema_extra=ID_SCHEMA,
    )
    build_id: str = Field(
        "",
        title="Build ID",
        description="The build to use instead of the one that is deployed.",
        json_schema_extra={"unset": "the deployed build", **OPTIONAL_ID_SCHEMA},
    )
    branch: str = Field(
        "main", title="Branch", description="Accepted from existing clients; has no meaning here."
    )
    bucket: str = Field(
        "",
        title="Bucket",
        description="The bucket of both folders. Needed unless both buckets below are set, or the folders are URIs.",
        json_schema_extra=BUCKET_SCHEMA,
    )
    source_bucket: str = Field(
        "",
        title="Source bucket",
        description="The bucket that the input files are read from.",
        json_schema_extra={"unset": "Bucket", **BUCKET_SCHEMA},
    )
    source_folder: str = Field(
        title="Source folder",
        description="The folder of the input files, subfolders included, or one file. A path in the bucket, "
        "or a URI (s3://…, gs://…, file://…).",
        examples=["flights/2013"],
        json_schema_extra=FOLDER_SCHEMA,
    )
    destination_bucket: str = Field(
        "",
        title="Destination bucket",
        description="The bucket that the result files are written to.",
        json_schema_extra={"unset": "Bucket", **BUCKET_SCHEMA},
    )
    destination_folder: str = Field(
        title="Destination folder",
        description="The folder of the result files: a path in the bucket, or a URI. It is made where it is missing; "
        "results of the same name are overwritten.",
        examples=["delays/2013"],
        json_schema_extra=FOLDER_SCHEMA,
    )
    input_file_type: FileType = Field(
        FileType.CSV,
        title="Input file type",
        description="Which files of the source folder are read: CSV (also .csv.gz and .csv.zst), Parquet or Feather.",
    )
    output_file_type: FileType = Field(
        FileType.CSV,
        title="Output file type",
        description="How results are written: CSV, Parquet or Feather.",
    )
    access_token_name: str = Field(
        "",
        title="Access token name",
        description="The name of the secret (an Airflow Variable) that holds the access key of the buckets; not the "
        "key itself. Name both secrets or neither.",
        json_schema_extra=SECRET_NAME_SCHEMA,
    )
    access_secret_name: str = Field(
        "",
        title="Access secret name",
        description="The name of the secret (an Airflow Variable) that holds the secret key of the buckets; not the "
        "key itself. Name both secrets or neither.",
        json_schema_extra=SECRET_NAME_SCHEMA,
    )
    job_timeout: _Count = Field(
        0,
        title="Job timeout",
        description="Seconds that the whole execution may take; it fails when they are over.",
        json_schema_extra={"unset": "0 - no timeout"},
    )
    file_timeout: _Count = Field(
        0,
        title="File timeout",
        description="Seconds that a single file may take; the whole execution fails when one takes longer.",
        json_schema_extra={"unset": "0 - no timeout"},
    )
    parameters: dict[str, _ParameterValue] = Field(
        default_factory=dict,
        title="Parameters",
        description="What the model finds in its environment variables: lines of NAME=VALUE, or a JSON object.",
        examples=["TAX_RATE=0.2", {"TAX_RATE": "0.2"}],
        json_schema_extra=PARAMETERS_SCHEMA,
    )
    service_account_key_secret_name: str = Field(
        "",
        title="Service account key secret name",
        description="The name of the secret (an Airflow Variable) that holds the Google Cloud service account key; "
        "not the key itself.",
        json_schema_extra=SECRET_NAME_SCHEMA,
    )

    def __init__(self, **values: Any) -> None:
        options = values.pop("advanced_options", None)
        super().__init__(**values)
        if isinstance(options, dict):
            options = AdvancedOptions(**options)
        elif not (options is None or isinstance(options, AdvancedOptions)):
            raise ConfigurationError(
                f"advanced_options: input should be AdvancedOptions, not {type(options).__name__}.",
                field="advanced_options",
            )
        self._advanced_options = options

    def split(self) -> tuple[Execution, AdvancedOptions | None]:
        """The execution alone, and the advanced options that were given with it."""
        if self._advanced_options is None:
            return self, None
        alone = self.model_copy()
        alone._advanced_options = None  # noqa: SLF001  a copy of its own kind
        return alone, self._advanced_options

    @field_validator("model_id", "build_id")
    @classmethod
    def _check_id(cls, value: str, info: Any) -> str:
        if value or info.field_name == "model_id":
            check_id(value, field=info.field_name)
        return value

    @field_validator("source_folder", "destination_folder")
    @classmethod
    def _check_folder(cls, value: str, info: Any) -> str:
        if not value:
            raise ConfigurationError(f"{info.field_name}: a folder is required.", field=info.field_name)
        return value

    @field_validator("access_token_name", "access_secret_name", "service_account_key_secret_name")
    @classmethod
    def _check_secret_name(cls, value: str, info: Any) -> str:
        if not SECRET_NAME.fullmatch(value):
            raise ConfigurationError(
                f"{info.field_name}: this is the name of a secret, without white space, not the secret itself.",
                field=info.field_name,
            )
        return value

    @field_validator("input_file_type", "output_file_type", mode="before")
    @classmethod
    def _read_file_type(cls, value: Any, info: Any) -> Any:
        try:
            return value if isinstance(value, FileType) else FileType.parse(str(value))
        except ValueError as error:
            raise ConfigurationError(f"{info.field_name}: {error}", field=info.field_name) from None

    @field_validator("parameters", mode="before")
    @classmethod
    def _read_parameters(cls, value: Any) -> Any:
        return read_parameters(value)

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, value: dict[str, str]) -> dict[str, str]:
        check_parameters(value)
        return value


class Resources(Section):
    """What the pods are made of; what is unset comes from the deployment.

    ``instance`` is another name of ``instance_size``.
    """

    pods: _Count = Field(
        0,
        title="Pods",
        description="How many predictor processes work at once; each handles one or more files.",
        json_schema_extra={"unset": "the deployment's"},
    )
    instance_size: str = Field(
        "",
        title="Instance",
        description="The instance of each pod: its cpus, memory and GPUs.",
        json_schema_extra={"flat": "instance", "unset": "the deployment's, else small"},
    )
    cpus: _Amount = Field(
        0,
        title="CPUs",
        description="How many CPUs each pod has; may be a fraction.",
        json_schema_extra={"unset": "the instance's"},
    )
    memory: _Count = Field(
        0,
        title="Memory",
        description="How much memory each pod has, in MiB.",
        json_schema_extra={"unset": "the instance's"},
    )
    gpu_type: str = Field(
        "",
        title="GPU type",
        description="The kind of GPU that each pod has.",
        json_schema_extra={"unset": "the instance's"},
    )
    gpu_amount: _Count = Field(
        0,
        title="GPU amount",
        description="How many GPUs each pod has.",
        json_schema_extra={"unset": "the instance's"},
    )

    @model_validator(mode="before")
    @classmethod
    def _read_instance(cls, values: Any) -> Any:
        return instance_by_one_name(values)


class AdvancedOptions(Section):
    """How the pods are bought, and the role that reaches the buckets."""

    custom_iam_role_arn: str = Field(
        "",
        title="IAM role ARN",
        description="The AWS role that is assumed to reach the buckets.",
        examples=["arn:aws:iam::123456789012:role/batch"],
        json_schema_extra={"flat": "iam_role_arn", **ROLE_SCHEMA},
    )
    purchase_option: str = Field(
        "",
        title="Purchase option",
        description="How the machines of the pods are bought: spot or on-demand.",
        json_schema_extra={"unset": "the deployment's", "enum": ["", *PurchaseOption]},
    )
    service_account_key_secret_name: str = Field(
        "",
        title="Service account key secret name",
        description="The same as the execution's; it wins where both are set.",
        json_schema_extra={"flat": ""},
    )

    @field_validator("purchase_option")
    @classmethod
    def _read_purchase_option(cls, value: str) -> str:
        try:
            return PurchaseOption.parse(value) if value else ""
        except ValueError as error:
            raise ConfigurationError(f"purchase_option: {error}", field="purchase_option") from None

    @field_validator("custom_iam_role_arn")
    @classmethod
    def _check_role(cls, value: str) -> str:
        if value and not ROLE.fullmatch(value):
            raise ConfigurationError(
                f"iam_role_arn: {value!r} is not the ARN of an IAM role.", field="iam_role_arn"
            )
        return value


@dataclass(frozen=True, slots=True)
class FlatField:
    """One row of the guide's table.

    Attributes:
        section: The section of ``ExecutionConfig`` that holds it.
        name: Its name there.
        required: Whether it has no default.
        default: Its default; for a required one ``None``.
        schema: Its JSON schema, with ``title`` and ``description``; ``unset`` says what an unset one means.
    """

    section: str
    name: str
    required: bool
    default: Any
    schema: dict[str, Any]


@cache
def flat_fields() -> Mapping[str, FlatField]:
    """The table by flat name, in its order."""
    table = {}
    for section, model in SECTIONS.items():
        schemas = model.model_json_schema(mode="validation")
        for name, info in model.model_fields.items():
            schema = dict(schemas["properties"][name])
            flat = schema.pop("flat", name)
            if flat:
                schema.update(_resolved(schema.pop("$ref", ""), schemas))
                default = None if info.is_required() else info.get_default(call_default_factory=True)
                table[flat] = FlatField(section, name, info.is_required(), default, schema)
    return MappingProxyType(table)


SECTIONS: Mapping[str, type[Section]] = MappingProxyType(
    {"execution": Execution, "resources": Resources, "advanced_options": AdvancedOptions}
)


def _resolved(reference: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """What a reference adds to a field's own schema: the closed set, not the title of the type behind it."""
    if not reference:
        return {}
    target = schemas["$defs"][reference.rpartition("/")[2]]
    return {key: target[key] for key in ("enum", "type") if key in target}


def _configuration_error(error: ValidationError) -> ConfigurationError:
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"]]
    flat = {field.name: name for name, field in flat_fields().items()}
    field = next((flat.get(n, n) for n in names if n not in SECTIONS), ".".join(names))
    if first["type"] == "missing":
        reason = "it is required"
    elif first["type"] == "extra_forbidden":
        known = flat_fields().get(field)
        reason = f"it belongs into {known.section}" if known else "there is no such parameter"
    else:
        message = first["msg"].removeprefix("Value error, ")
        reason = message[:1].lower() + message[1:]
    return ConfigurationError(f"{field}: {reason}.", field=field)
