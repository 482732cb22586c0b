"""The configuration of an execution: the single definition of the guide's parameter table.

The DAG's trigger form, operator arguments, command line flags, the REST API and the README's table are all derived from
it. Sections and their fields are named as in the existing Python client; the flat names
(:meth:`ExecutionConfig.fields`) are those of the guide's table and command line.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import Any, ClassVar, TypeAlias

from pydantic import Field, model_validator

from airflow_batchexec.engine.config.locations import Location, Scheme
from airflow_batchexec.engine.config.sections import (
    SECTIONS,
    AdvancedOptions,
    Execution,
    Resources,
    Section,
    flat_fields,
)
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.exceptions import ConfigurationError

__all__ = ["ExecutionConfig", "Identity"]


@dataclass(frozen=True, slots=True)
class Identity:
    """The six values that must differ between concurrent executions (the guide, "Concurrent Executions")."""

    model_id: str
    build_id: str
    source_bucket: str
    source_folder: str
    destination_bucket: str
    destination_folder: str

    @classmethod
    def of(cls, *, model_id: str, build_id: str, source: Location, destination: Location) -> Identity:
        """The identity of an execution with this build and these folders."""
        return cls(
            model_id=model_id,
            build_id=build_id,
            source_bucket=f"{source.scheme.value}://{source.bucket}",
            source_folder=source.key,
            destination_bucket=f"{destination.scheme.value}://{destination.bucket}",
            destination_folder=destination.key,
        )

    @property
    def digest(self) -> str:
        """32 hexadecimal digits, equal for equal identities."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()[:32]


# Inside the class below, the unprefixed names are its attributes.
_Execution: TypeAlias = Execution
_Resources: TypeAlias = Resources
_AdvancedOptions: TypeAlias = AdvancedOptions


class ExecutionConfig(Section):
    """The configuration of one execution, validated on construction.

    Raises:
        ConfigurationError: A value is invalid; ``details["field"]`` is its flat name.
    """

    Execution: ClassVar[type[_Execution]] = Execution
    Resources: ClassVar[type[_Resources]] = Resources
    AdvancedOptions: ClassVar[type[_AdvancedOptions]] = AdvancedOptions

    execution: _Execution
    resources: _Resources = Field(default_factory=Resources)
    advanced_options: _AdvancedOptions = Field(default_factory=AdvancedOptions)

    @model_validator(mode="before")
    @classmethod
    def _adopt_advanced_options(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        execution = values.get("execution")
        if isinstance(execution, dict):
            execution = _Execution(**execution)
        if not isinstance(execution, _Execution):
            return values
        execution, options = execution.split()
        if options is None:
            return {**values, "execution": execution}
        if values.get("advanced_options") is not None:
            raise ConfigurationError(
                "advanced_options: set on both the configuration and its execution; set them only once.",
                field="advanced_options",
            )
        return {**values, "execution": execution, "advanced_options": options}

    @model_validator(mode="after")
    def _check_locations(self) -> ExecutionConfig:
        _ = self.source, self.destination
        return self

    @property
    def source(self) -> Location:
        """The folder or single file to read."""
        return self._location("source")

    @property
    def destination(self) -> Location:
        """The folder to write results to."""
        return self._location("destination")

    @property
    def service_account_key_secret_name(self) -> str:
        """The name of the secret with the Google Cloud key, from either section."""
        return (
            self.advanced_options.service_account_key_secret_name
            or self.execution.service_account_key_secret_name
        )

    def identity(self, *, build_id: str) -> Identity:
        """The execution's identity with this build."""
        return Identity.of(
            model_id=self.execution.model_id,
            build_id=build_id,
            source=self.source,
            destination=self.destination,
        )

    @classmethod
    def from_fields(cls, **fields: Any) -> ExecutionConfig:
        """Create a configuration from flat names; ``None`` means unset.

        Raises:
            ConfigurationError: A name is unknown, or a value is invalid.
        """
        table = flat_fields()
        sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for name, value in fields.items():
            if name not in table:
                raise ConfigurationError(f"{name}: unknown parameter.", field=name)
            if value is not None:
                flat = table[name]
                sections[flat.section][flat.name] = value
        return cls(**sections)

    def fields(self) -> dict[str, Any]:
        """All values that differ from their defaults, as JSON values by flat name; the inverse of ``from_fields``."""
        fields = {}
        for name, flat in flat_fields().items():
            value = getattr(getattr(self, flat.section), flat.name)
            if name == "service_account_key_secret_name":
                value = self.service_account_key_secret_name
            if value != flat.default:
                fields[name] = _to_json(value)
        return fields

    def _location(self, side: str) -> Location:
        execution = self.execution
        bucket_field, folder_field = f"{side}_bucket", f"{side}_folder"
        return Location.of(
            bucket=getattr(execution, bucket_field) or execution.bucket,
            folder=getattr(execution, folder_field),
            scheme=Scheme.GS if self.service_account_key_secret_name else Scheme.S3,
            field=folder_field,
            bucket_field=bucket_field,
        )


def _to_json(value: Any) -> Any:
    """Convert to a JSON value that callers can modify without changing the configuration."""
    if isinstance(value, FileType):
        return value.value
    return dict(value) if isinstance(value, dict) else value
