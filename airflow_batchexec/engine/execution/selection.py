"""Which of the listed files are the inputs of an execution, and the names of their results. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import check_relative_path
from airflow_batchexec.engine.execution.plan import FileTask, SkippedFile
from airflow_batchexec.engine.standalone.file_types import SUFFIXES, FileType, result_name
from airflow_batchexec.exceptions import LocationError

if TYPE_CHECKING:
    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.storage.base import ObjectInfo

__all__ = ["Selection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Turns each listed file into a file task or a skipped file.

    Attributes:
        root: The folder that every ``file`` is relative to: the source folder, or the parent folder of a source that is
            a single file.
        source: The source folder, or a single file.
        destination: The destination folder.
        input_type: The file type of the inputs.
        output_type: The file type of the results.
    """

    root: Location
    source: Location
    destination: Location
    input_type: FileType
    output_type: FileType

    def select(self, info: ObjectInfo) -> FileTask | SkippedFile:
        """Decide about one file.

        Raises:
            LocationError: The path of an input is not valid for a result.
        """
        file = self.root.relative(info.location)
        if not file or file.endswith("/"):
            return _skipped(file, "is a folder marker")
        if reason := _hidden_reason(file):
            return _skipped(file, reason)
        if self._is_in_destination(info.location):
            return _skipped(file, "is in the destination folder")
        try:
            result = result_name(file, self.input_type, self.output_type)
        except ValueError:
            suffixes = ", ".join(SUFFIXES[self.input_type])
            return _skipped(file, f"is not a {self.input_type.value} file ({suffixes})")
        _check_path(file, self.source)
        return FileTask(file, info.size_bytes, info.etag, result)

    def _is_in_destination(self, location: Location) -> bool:
        """Whether it is in a destination that is a subfolder of the source."""
        destination = self.destination
        return destination.contains(location) and destination != self.root and self.root.contains(destination)


def _skipped(file: str, reason: str) -> SkippedFile:
    return SkippedFile(_printable(file) or ".", reason)


def _hidden_reason(file: str) -> str | None:
    if not (file.startswith((".", "_")) or "/." in file or "/_" in file):
        return None
    *folders, name = file.split("/")
    for folder in folders:
        # Paths with '.' or '..' are refused, not hidden.
        if folder.startswith((".", "_")) and folder not in {".", ".."}:
            return f"is in the folder {_printable(folder)}, whose name starts with {folder[0]!r}"
    if name.startswith("."):
        return "is hidden"
    return "has a name that starts with '_'" if name.startswith("_") else None


def _printable(file: str) -> str:
    """Escape what cannot be encoded as UTF-8; file names on disk may contain any bytes."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _check_path(file: str, source: Location) -> None:
    try:
        check_relative_path(file, field="source_folder")
    except LocationError as error:
        raise LocationError(
            f"{_printable(error.message)} A result cannot have the name of this file of {source.uri}: rename it, or "
            f"prefix its name with '_' to skip it.",
            field="source_folder",
            file=_printable(file),
        ) from error
