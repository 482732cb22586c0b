"""Requests for a single file: the parameters of an execution, with ``file`` instead of ``source_folder``.

Pure functions of the request; none of them accesses the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.config.locations import Location, Scheme
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.standalone.file_types import SUFFIXES, FileType, infer_file_type, result_name
from airflow_batchexec.exceptions import ConfigurationError, ResultCollisionError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["check_file_request", "file_config", "refuse_overwriting", "result_of"]


def file_config(fields: Mapping[str, Any]) -> ExecutionConfig:
    """Create the configuration for a single file, inferring the input type from its name if necessary.

    Args:
        fields: Parameters by flat name, with ``file`` instead of ``source_folder``, and without buckets: ``file`` and
            ``destination_folder`` are URIs.

    Raises:
        ConfigurationError: A value is invalid, or a required one is missing; ``details["field"]`` names it.
        ResultCollisionError: The result would overwrite the file.
    """
    inferred = check_file_request(fields)
    values = {"source_folder" if name == "file" else name: value for name, value in fields.items()}
    if inferred is not None:
        values["input_file_type"] = inferred
    config = ExecutionConfig.from_fields(**values)
    result = config.destination.join(result_of(config.source, config.execution.output_file_type))
    refuse_overwriting(config.source, result=result)
    return config


def check_file_request(
    fields: Mapping[str, Any], *, known_later: Collection[str] = frozenset()
) -> FileType | None:
    """Check the locations of a request, and infer the input type.

    Args:
        fields: The parameters whose values are known.
        known_later: The names of parameters whose values are not known yet.

    Returns:
        The input type inferred from the file's name; ``None`` if the request sets it, or if the name is not known yet.

    Raises:
        ConfigurationError: A location is missing or malformed, or the input type is neither set nor can be inferred.
    """
    for name in ("file", "destination_folder"):
        if name not in fields and name not in known_later:
            raise ConfigurationError(f"{name}: it is required.", field=name)
    if "destination_folder" in fields:
        _location(fields["destination_folder"], field="destination_folder")
    if "file" not in fields:
        return None
    source = _file_location(fields["file"])
    if "input_file_type" in fields or "input_file_type" in known_later:
        return None
    inferred = infer_file_type(source.name)
    if inferred is None:
        suffixes = ", ".join(suffix for file_type in FileType for suffix in SUFFIXES[file_type])
        raise ConfigurationError(
            f"input_file_type: cannot be inferred from {source.name!r}, which has none of the suffixes {suffixes}. "
            f"Set it to CSV, PARQUET or FEATHER.",
            field="input_file_type",
        )
    return inferred


def result_of(source: Location, output_type: FileType) -> str:
    """The name of a file's result: the file's name, with the suffix of its type replaced.

    If the name has no such suffix, the new one is appended: otherwise ``a.txt`` and ``a.log`` would both give
    ``a.csv``.
    """
    inferred = infer_file_type(source.name)
    if inferred is None:
        return source.name + SUFFIXES[output_type][0]
    return result_name(source.name, inferred, output_type)


def refuse_overwriting(source: Location, *, result: Location) -> None:
    """Refuse a request whose result would overwrite its input.

    Raises:
        ResultCollisionError: The result's location is the input's.
    """
    if result == source:
        raise ResultCollisionError(
            f"destination_folder: the result would overwrite the input {source.uri}. Choose a different destination "
            f"folder or output file type.",
            field="destination_folder",
            files=[source.name],
        )


def _file_location(uri: Any) -> Location:
    location = _location(uri, field="file")
    root = "/" if location.scheme is Scheme.FILE else ""
    if str(uri).strip().endswith("/") or location.key == root:
        raise ConfigurationError(
            f"file: {uri!r} is a folder; expected a single file. To process a folder, run an execution.",
            field="file",
        )
    return location


def _location(uri: Any, *, field: str) -> Location:
    if not isinstance(uri, str):
        raise ConfigurationError(f"{field}: {uri!r} is not an s3://, gs:// or file:// URI.", field=field)
    return Location.parse(uri.strip(), field=field)
