"""The supported file types, their suffixes, and the names of results."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["SUFFIXES", "FileType", "infer_file_type", "match_suffix", "one_line", "result_name"]


class FileType(StrEnum):
    """The types of files that an execution reads and writes."""

    CSV = "CSV"
    PARQUET = "PARQUET"
    FEATHER = "FEATHER"

    @classmethod
    def parse(cls, text: str) -> FileType:
        """Parse the name of a type, in upper or lower case.

        Raises:
            ValueError: The type is not supported; the message lists those that are.
        """
        try:
            return cls(text.strip().upper())
        except ValueError:
            allowed = ", ".join(file_type.value for file_type in cls)
            raise ValueError(
                f"{text!r} is not a supported file type; the supported types are {allowed}."
            ) from None


#: The suffixes of each type. Results get the first; inputs may have any of them, in upper or lower case.
SUFFIXES: dict[FileType, tuple[str, ...]] = {
    FileType.CSV: (".csv", ".csv.gz", ".csv.zst"),
    FileType.PARQUET: (".parquet", ".pq"),
    FileType.FEATHER: (".feather", ".ftr"),
}


def match_suffix(name: str, file_type: FileType) -> str | None:
    """Return the suffix that makes ``name`` a file of this type, spelled as in the name, or ``None``.

    A bare suffix such as ``.csv`` is the name of a hidden file and does not match.
    """
    base = name.rpartition("/")[2]
    lower = base.lower()
    for suffix in SUFFIXES[file_type]:
        if len(base) > len(suffix) and lower.endswith(suffix):
            return base[-len(suffix) :]
    return None


def infer_file_type(name: str) -> FileType | None:
    """Infer the type from a name's suffix; ``None`` if the suffix is not a supported one."""
    return next((file_type for file_type in FileType if match_suffix(name, file_type)), None)


def result_name(input_relative_path: str, input_type: FileType, output_type: FileType) -> str:
    """Return the relative path of an input's result: the input's, with the output type's first suffix.

    Raises:
        ValueError: The input's name does not have a suffix of its type.
    """
    suffix = match_suffix(input_relative_path, input_type)
    if suffix is None:
        raise ValueError(f"{input_relative_path!r} does not have the suffix of a {input_type.value} file.")
    return input_relative_path[: -len(suffix)] + SUFFIXES[output_type][0]


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, as a sentence."""
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".") if lines else type(error).__name__
    return text + "."
