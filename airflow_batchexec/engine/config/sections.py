"""The sections of an execution's configuration: every field of the guide's table, and its valid values.

Sections and fields are named as in the existing Python client; flat names are those of the guide's table and command
line.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr, StringConstraints, field_validator, model_validator

from airflow_batchexec.engine.config.locations import check_id
from airflow_batchexec.engine.config.purchase_option import PurchaseOption
from airflow_batchexec.engine.config.section_base import (
    SECTIONS,
    FlatField,
    Section,
    flat_fields,
    register_sections,
)
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
    merge_instance_names,
    read_parameters,
)
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.exceptions import ConfigurationError

# The table of fields is complete once this module has registered the sections, so it is imported from here.
__all__ = ["SECTIONS", "AdvancedOptions", "Execution", "FlatField", "Resources", "Section", "flat_fields"]

# The largest number that every client can represent; 68 years in seconds.
_MAX_NUMBER = 2**31 - 1


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("input should be a number, not a boolean")  # noqa: TRY004  pydantic collects ValueErrors
    return value


_Count = Annotated[int, Field(ge=0, le=_MAX_NUMBER), BeforeValidator(_refuse_boolean)]
_Amount = Annotated[float, Field(ge=0, le=_MAX_NUMBER), BeforeValidator(_refuse_boolean)]
# Whitespace around the value of an environment variable is significant.
_ParameterValue = Annotated[str, StringConstraints(strip_whitespace=False)]


class Execution(Section):
    """What to predict, where to read the inputs and where to write the results.

    Existing clients may also pass ``advanced_options`` here; the configuration that contains the section adopts them.
    """

    # Not a field: it belongs to the configuration, so this section's table and schema must not include it.
    _advanced_options: AdvancedOptions | None = PrivateAttr(None)

    model_id: str = Field(
        title="Model ID",
        description="ID of the model in the model repository.",
        examples=["arrival_delay"],
        json_schema_extra=ID_SCHEMA,
    )
    build_id: str = Field(
        "",
        title="Build ID",
        description="ID of the build to run instead of the deployed one.",
        json_schema_extra={"unset": "the deployed build", **OPTIONAL_ID_SCHEMA},
    )
    branch: str = Field(
        "main", title="Branch", description="Ignored; accepted for compatibility with existing clients."
    )
    bucket: str = Field(
        "",
        title="Bucket",
        description="Bucket of both folders. Required unless each folder has its own bucket or is a URI.",
        json_schema_extra=BUCKET_SCHEMA,
    )
    source_bucket: str = Field(
        "",
        title="Source bucket",
        description="Bucket to read the input files from.",
        json_schema_extra={"unset": "Bucket", **BUCKET_SCHEMA},
    )
    source_folder: str = Field(
        title="Source folder",
        description="Folder of input files, including its subfolders, or a single file: a path in the bucket or a URI "
        "(s3://…, gs://…, file://…).",
        examples=["flights/2013"],
        json_schema_extra=FOLDER_SCHEMA,
    )
    destination_bucket: str = Field(
        "",
        title="Destination bucket",
        description="Bucket to write the result files to.",
        json_schema_extra={"unset": "Bucket", **BUCKET_SCHEMA},
    )
    destination_folder: str = Field(
        title="Destination folder",
        description="Folder to write the result files to: a path in the bucket or a URI. Created if it does not exist; "
        "existing results with the same names are overwritten.",
        examples=["delays/2013"],
        json_schema_extra=FOLDER_SCHEMA,
    )
    input_file_type: FileType = Field(
        FileType.CSV,
        title="Input file type",
        description="Type of the input files: CSV (including .csv.gz and .csv.zst), Parquet or Feather. Files of "
        "other types are skipped.",
    )
    output_file_type: FileType = Field(
        FileType.CSV,
        title="Output file type",
        description="Type of the result files: CSV, Parquet or Feather.",
    )
    access_token_name: str = Field(
        "",
        title="Access token name",
        description="Name of the secret (an Airflow Variable) that holds the access key for the buckets, not the key "
        "itself. Set it together with the access secret name.",
        json_schema_extra=SECRET_NAME_SCHEMA,
    )
    access_secret_name: str = Field(
        "",
        title="Access secret name",
        description="Name of the secret (an Airflow Variable) that holds the secret key for the buckets, not the key "
        "itself. Set it together with the access token name.",
        json_schema_extra=SECRET_NAME_SCHEMA,
    )
    job_timeout: _Count = Field(
        0,
        title="Job timeout",
        description="Maximum duration of the whole execution, in seconds. The execution fails if it takes longer.",
        json_schema_extra={"unset": "0 - no timeout"},
    )
    file_timeout: _Count = Field(
        0,
        title="File timeout",
        description="Maximum processing time per file, in seconds. The whole execution fails if a file takes longer.",
        json_schema_extra={"unset": "0 - no timeout"},
    )
    parameters: dict[str, _ParameterValue] = Field(
        default_factory=dict,
        title="Parameters",
        description="Environment variables for the model, as NAME=VALUE lines or a JSON object.",
        examples=["TAX_RATE=0.2", {"TAX_RATE": "0.2"}],
        json_schema_extra=PARAMETERS_SCHEMA,
    )
    service_account_key_secret_name: str = Field(
        "",
        title="Service account key secret name",
        description="Name of the secret (an Airflow Variable) that holds the Google Cloud service account key, not the "
        "key itself.",
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
        """The section without its advanced options, and the advanced options that were passed with it, if any."""
        if self._advanced_options is None:
            return self, None
        section = self.model_copy()
        section._advanced_options = None  # noqa: SLF001  same class
        return section, self._advanced_options

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
                f"{info.field_name}: expected the name of a secret, without whitespace, not the secret itself.",
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
    """The resources of the pods; unset fields are taken from the deployment.

    ``instance`` is an alias of ``instance_size``.
    """

    pods: _Count = Field(
        0,
        title="Pods",
        description="Number of predictor processes to run in parallel. Each processes one or more files.",
        json_schema_extra={"unset": "the deployment's"},
    )
    instance_size: str = Field(
        "",
        title="Instance",
        description="Instance type of each pod, which determines its CPUs, memory and GPUs.",
        json_schema_extra={"flat": "instance", "unset": "the deployment's, else small"},
    )
    cpus: _Amount = Field(
        0,
        title="CPUs",
        description="Number of CPUs per pod. Fractions are allowed.",
        json_schema_extra={"unset": "the instance's"},
    )
    memory: _Count = Field(
        0,
        title="Memory",
        description="Memory per pod, in MiB.",
        json_schema_extra={"unset": "the instance's"},
    )
    gpu_type: str = Field(
        "",
        title="GPU type",
        description="Type of the GPUs in each pod.",
        json_schema_extra={"unset": "the instance's"},
    )
    gpu_amount: _Count = Field(
        0,
        title="GPU amount",
        description="Number of GPUs per pod.",
        json_schema_extra={"unset": "the instance's"},
    )

    @model_validator(mode="before")
    @classmethod
    def _read_instance(cls, values: Any) -> Any:
        return merge_instance_names(values)


class AdvancedOptions(Section):
    """The purchase option of the pods, and the role that accesses the buckets."""

    custom_iam_role_arn: str = Field(
        "",
        title="IAM role ARN",
        description="ARN of the AWS IAM role to assume when accessing the buckets.",
        examples=["arn:aws:iam::123456789012:role/batch"],
        json_schema_extra={"flat": "iam_role_arn", **ROLE_SCHEMA},
    )
    purchase_option: str = Field(
        "",
        title="Purchase option",
        description="Whether the pods run on spot or on-demand machines.",
        json_schema_extra={"unset": "the deployment's", "enum": ["", *PurchaseOption]},
    )
    service_account_key_secret_name: str = Field(
        "",
        title="Service account key secret name",
        description="Same as in the execution section; takes precedence if both are set.",
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


register_sections(execution=Execution, resources=Resources, advanced_options=AdvancedOptions)
