"""The manifest: the report on an execution and all its files, written to the destination when the execution has ended.

docs/manifest.md describes it for users; ``manifest.schema.json``, next to this module, is its JSON schema. ``version``
changes when documents can no longer be read as before. Within a version, fields may be added, with defaults.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from airflow_batchexec.engine.execution.ledger import FileRecord  # noqa: TC001  pydantic reads the annotations
from airflow_batchexec.engine.execution.manifest_text import entry_pieces, manifest_pieces
from airflow_batchexec.engine.execution.plan import SkippedFile  # noqa: TC001  as above
from airflow_batchexec.exceptions import ConfigurationError, ObjectChangedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["MANIFEST_VERSION", "ExecutionStatus", "Manifest", "ManifestHeader", "Summary", "schema_text"]

MANIFEST_VERSION = 1
"""The version that this release writes, and the newest that it reads."""
_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": f"urn:airflow-provider-batchexec:manifest:{MANIFEST_VERSION}",
}


class ExecutionStatus(StrEnum):
    """How an execution ended."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"


class ManifestHeader(BaseModel):
    """The manifest without its lists of files."""

    model_config = ConfigDict(frozen=True)

    version: int = Field(ge=1, description="The version of this format.")
    execution_id: str = Field(description="The execution's id.")
    status: ExecutionStatus = Field(description="FINISHED if every file has its result, else how it ended.")
    reason: str = Field(description="Why the execution did not finish; empty if it did.")
    model_id: str = Field(description="The model.")
    build_id: str = Field(description="The build of the model.")
    source: str = Field(description="The URI of the folder that the paths of input files are relative to.")
    destination: str = Field(description="The URI of the destination folder.")
    purchase_option: str = Field(
        default="", description="How the machines are bought: spot or on-demand; empty if it was not set."
    )
    input_file_type: str = Field(description="The file type of the inputs: CSV, PARQUET or FEATHER.")
    output_file_type: str = Field(description="The file type of the results: CSV, PARQUET or FEATHER.")
    manifest: str = Field(description="The URI of this document.")
    started_at: float = Field(description="When the execution started, in seconds since the epoch (UTC).")
    ended_at: float = Field(description="When the execution ended, in seconds since the epoch (UTC).")
    seconds: float = Field(
        description="How long it took, in seconds: ended_at - started_at, rounded to milliseconds."
    )
    total_files: int = Field(
        ge=0, description="The number of input files: finished_files + failed_files + not_started_files."
    )
    finished_files: int = Field(ge=0, description="The number of files with a result.")
    failed_files: int = Field(ge=0, description="The number of files that were started and have no result.")
    not_started_files: int = Field(ge=0, description="The number of files that were not started.")
    skipped_files: int = Field(ge=0, description="The number of files in the source that are not inputs.")
    rows_in: int = Field(ge=0, description="The number of rows that were read from the finished files.")
    rows: int = Field(ge=0, description="The number of rows in all results.")

    @property
    def has_finished(self) -> bool:
        """Whether every file has its result."""
        return self.status is ExecutionStatus.FINISHED

    @classmethod
    def of_document(cls, document: Any, uri: str) -> Self:
        """Check a parsed document, or the part of it that this class describes. Unknown fields are ignored.

        Raises:
            ConfigurationError: A newer release wrote it, in a version that this one cannot read.
            ObjectChangedError: It is damaged.
        """
        version = document.get("version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > MANIFEST_VERSION:
            raise ConfigurationError(
                f"{uri} has version {version} of the manifest, but this release reads only versions up to "
                f"{MANIFEST_VERSION}. Upgrade airflow-provider-batchexec.",
                field="version",
                uri=uri,
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise ObjectChangedError(
                f"{uri} is not a valid manifest: {_first_error(error)}.", uri=uri
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """The document as JSON values, without fields that an older release did not write."""
        return self.model_dump(mode="json", exclude_unset=True)

    def header(self) -> ManifestHeader:
        """The manifest without its lists of files."""
        names = self.model_fields_set & ManifestHeader.model_fields.keys()
        return ManifestHeader(**{name: getattr(self, name) for name in names})

    def summary(self, *, generation: int) -> Summary:
        """The XCom ``summary`` of the execution.

        Args:
            generation: How many times the run had been cleared.
        """
        return Summary(
            execution_id=self.execution_id,
            status=self.status,
            reason=self.reason,
            generation=generation,
            header=self.header(),
        )


class Manifest(ManifestHeader):
    """The report on an execution and all its files."""

    model_config = ConfigDict(title="Manifest of a batch execution", json_schema_extra=dict(_SCHEMA))

    files: tuple[FileRecord, ...] = Field(
        description="What happened to each input file, in the order of the plan; fields that are not set are left out."
    )
    skipped: tuple[SkippedFile, ...] = Field(description="The files in the source that are not inputs.")

    @field_serializer("files")
    def _dump_files(self, files: tuple[FileRecord, ...]) -> list[dict[str, Any]]:
        return [record.to_dict() for record in files]

    @classmethod
    def read(cls, data: bytes, uri: str = "manifest.json") -> Self:
        """Parse a document of this version or an earlier one. Unknown fields are ignored.

        Args:
            data: The document.
            uri: Its location, for error messages.

        Raises:
            ConfigurationError: A newer release wrote it, in a version that this one cannot read.
            ObjectChangedError: It is damaged.
        """
        try:
            document = json.loads(data)
        except ValueError as error:
            raise ObjectChangedError(f"{uri} is not a valid manifest: {error}.", uri=uri) from error
        return cls.of_document(document, uri)

    def to_json(self) -> bytes:
        """The document as it is stored."""
        values = self.to_dict()
        files, skipped = values.pop("files"), values.pop("skipped")
        return "".join(manifest_pieces(values, entry_pieces(files), entry_pieces(skipped))).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How an execution ended, as the XCom ``summary`` stores it.

    Attributes:
        execution_id: The execution.
        status: How it ended.
        reason: Why it did not finish; empty if it did.
        generation: How many times the run had been cleared.
        header: The manifest without its lists of files; ``None`` if the execution was refused or ended before it was
            planned.
    """

    execution_id: str
    status: ExecutionStatus
    reason: str
    generation: int = 0
    header: ManifestHeader | None = None

    @property
    def has_finished(self) -> bool:
        """Whether every file has its result."""
        return self.status is ExecutionStatus.FINISHED

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Summary:
        """Parse the value of the XCom, including one pushed by an earlier release. Unknown fields are ignored.

        Raises:
            ValueError: The value is not a summary.
        """
        try:
            return cls(
                execution_id=value["execution_id"],
                status=ExecutionStatus(value["status"]),
                reason=value["reason"],
                generation=value.get("generation", 0),
                header=ManifestHeader.model_validate(value) if "total_files" in value else None,
            )
        except KeyError as error:
            raise ValueError(f"The summary of the execution lacks the key {error}.") from error

    def to_dict(self) -> dict[str, Any]:
        """The value of the XCom, as JSON values."""
        if self.header is not None:
            values = self.header.to_dict()
        else:
            values = {
                "execution_id": self.execution_id,
                "status": self.status.value,
                "reason": self.reason,
            }
        return {**values, "generation": self.generation}


def schema_text() -> str:
    """The content of ``manifest.schema.json``."""
    schema = Manifest.model_json_schema()
    return json.dumps({**_SCHEMA, "title": schema["title"], **schema}, indent=2) + "\n"


def _first_error(error: ValidationError) -> str:
    """The first validation error, with the path of its field."""
    first = error.errors(include_url=False)[0]
    path = ".".join(map(str, first["loc"]))
    return f"{path}: {first['msg']}" if path else first["msg"]
