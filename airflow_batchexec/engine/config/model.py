"""The execution's configuration: the guide's parameter table, once.

Everything that takes an execution's parameters derives them from here: the DAG's form, operator arguments, command
line flags, the REST API and the table in the README. The sections and their field names are those of the existing
Python client; the flat names (:meth:`ExecutionConfig.fields`) are those of the guide's table and command line.
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
    """The six values that two executions running at once may not share (the guide, "Concurrent Executions")."""

    model_id: str
    build_id: str
    source_bucket: str
    source_folder: str
    destination_bucket: str
    destination_folder: str

    @classmethod
    def of(cls, *, model_id: str, build_id: str, source: Location, destination: Location) -> Identity:
        """The identity of an execution whose build and folders are known."""
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


# Within the class below, the plain names are its attributes.
_Execution: TypeAlias = Execution
_Resources: TypeAlias = Resources
_AdvancedOptions: TypeAlias = AdvancedOptions


class ExecutionConfig(Section):
    """One execution's configuration, valid from the moment it exists.

    Raises:
        ConfigurationError: A value is wrong; ``details["field"]`` is its flat name.
    """

    Execution: ClassVar[type[_Execution]] = Execution
    Resources: ClassVar[type[_Resources]] = Resources
    AdvancedOptions: ClassVar[type[_AdvancedOptions]] = AdvancedOptions

    execution: _Execution
    resources: _Resources = Field(default_factory=Resources)
    advanced_options: _AdvancedOptions = Field(default_factory=AdvancedOptions)

    @model_validator(mode="before")
    @classmethod
    def _take_options_of_the_execution(cls, values: Any) -> Any:
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
                "advanced_options: they are given to the configuration and to its execution; give them once.",
                field="advanced_options",
            )
        return {**values, "execution": execution, "advanced_options": options}

    @model_validator(mode="after")
    def _check_locations(self) -> ExecutionConfig:
        _ = self.source, self.destination
        return self

    @property
    def source(self) -> Location:
        """The folder, or the one file, that is read."""
        return self._location("source")

    @property
    def destination(self) -> Location:
        """The folder that results are written to."""
        return self._location("destination")

    @property
    def service_account_key_secret_name(self) -> str:
        """The name of the Google Cloud key's secret, from whichever section holds it."""
        return (
            self.advanced_options.service_account_key_secret_name
            or self.execution.service_account_key_secret_name
        )

    def identity(self, *, build_id: str) -> Identity:
        """The execution's identity once its build is known."""
        return Identity.of(
            model_id=self.execution.model_id,
            build_id=build_id,
            source=self.source,
            destination=self.destination,
        )

    @classmethod
    def from_fields(cls, **fields: Any) -> ExecutionConfig:
        """Build a configuration from flat names; ``None`` means unset.

        Raises:
            ConfigurationError: A name is unknown, or a value is wrong.
        """
        table = flat_fields()
        sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for name, value in fields.items():
            if name not in table:
                raise ConfigurationError(f"{name}: there is no such parameter.", field=name)
            if value is not None:
                flat = table[name]
                sections[flat.section][flat.name] = value
        return cls(**sections)

    def fields(self) -> dict[str, Any]:
        """The flat names of all that is set, with JSON values; ``from_fields`` is its inverse."""
        fields = {}
        for name, flat in flat_fields().items():
            value = getattr(getattr(self, flat.section), flat.name)
            if name == "service_account_key_secret_name":
                value = self.service_account_key_secret_name
            if value != flat.default:
                fields[name] = _plain(value)
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


def _plain(value: Any) -> Any:
    """A JSON value of its own: a caller who changes it changes no configuration."""
    if isinstance(value, FileType):
        return value.value
    return dict(value) if isinstance(value, dict) else value
