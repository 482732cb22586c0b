"""A request for one file, without a folder around it: the parameters of an execution, with ``file`` for a source folder.

Pure: what can be told from the request alone, before the file is looked at.
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
    """The configuration of a task of one file: its source is the file, its input type is told.

    Args:
        fields: Parameters by flat name, with ``file`` in place of ``source_folder``, and without buckets: ``file`` and
            ``destination_folder`` are URIs.

    Raises:
        ConfigurationError: A value is wrong, or a required one is missing; ``details["field"]`` names it.
        ResultCollisionError: The result would overwrite the file.
    """
    told = check_file_request(fields)
    values = {"source_folder" if name == "file" else name: value for name, value in fields.items()}
    if told is not None:
        values["input_file_type"] = told
    config = ExecutionConfig.from_fields(**values)
    result = config.destination.join(result_of(config.source, config.execution.output_file_type))
    refuse_overwriting(config.source, result=result)
    return config


def check_file_request(
    fields: Mapping[str, Any], *, known_later: Collection[str] = frozenset()
) -> FileType | None:
    """Refuse a file or folder that cannot be one.

    Args:
        fields: The parameters that are known.
        known_later: The names of the others.

    Returns:
        The input type that the file's name tells; ``None`` where the request says it, or will.

    Raises:
        ConfigurationError: A location is missing or malformed, or nothing tells the file's type.
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
    told = infer_file_type(source.name)
    if told is None:
        suffixes = ", ".join(suffix for file_type in FileType for suffix in SUFFIXES[file_type])
        raise ConfigurationError(
            f"input_file_type: the name {source.name!r} does not tell it: it ends in none of {suffixes}. Set it to "
            f"CSV, PARQUET or FEATHER.",
            field="input_file_type",
        )
    return told


def result_of(source: Location, output_type: FileType) -> str:
    """The name of a file's result: that of the file, with another suffix where it has one that tells a type.

    A name with no such suffix stays whole: of ``a.txt`` and ``a.log`` both, ``a.csv`` would be the result.
    """
    told = infer_file_type(source.name)
    if told is None:
        return source.name + SUFFIXES[output_type][0]
    return result_name(source.name, told, output_type)


def refuse_overwriting(source: Location, *, result: Location) -> None:
    """Refuse a request whose result would lie where its input does.

    Raises:
        ResultCollisionError: It would.
    """
    if result == source:
        raise ResultCollisionError(
            f"destination_folder: the result would overwrite the input {source.uri}. Take another destination folder "
            f"or output file type.",
            field="destination_folder",
            files=[source.name],
        )


def _file_location(uri: Any) -> Location:
    location = _location(uri, field="file")
    root = "/" if location.scheme is Scheme.FILE else ""
    if str(uri).strip().endswith("/") or location.key == root:
        raise ConfigurationError(
            f"file: {uri!r} is a folder. One file is expected; a folder of them is an execution.",
            field="file",
        )
    return location


def _location(uri: Any, *, field: str) -> Location:
    if not isinstance(uri, str):
        raise ConfigurationError(f"{field}: {uri!r} is no s3://, gs:// or file:// URI.", field=field)
    return Location.parse(uri.strip(), field=field)
