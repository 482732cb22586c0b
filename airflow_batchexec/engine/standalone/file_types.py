"""The supported file types, the suffixes that they go by, and the names of results."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["SUFFIXES", "FileType", "infer_file_type", "match_suffix", "one_line", "result_name"]


class FileType(StrEnum):
    """The kinds of files that an execution reads and writes."""

    CSV = "CSV"
    PARQUET = "PARQUET"
    FEATHER = "FEATHER"

    @classmethod
    def parse(cls, text: str) -> FileType:
        """The type of this name, in any case.

        Raises:
            ValueError: There is no such type; the message names those there are.
        """
        try:
            return cls(text.strip().upper())
        except ValueError:
            allowed = ", ".join(file_type.value for file_type in cls)
            raise ValueError(
                f"{text!r} is not a supported file type; the supported types are {allowed}."
            ) from None


#: The suffixes of each type. Results get the first; an input may have any, in any case.
SUFFIXES: dict[FileType, tuple[str, ...]] = {
    FileType.CSV: (".csv", ".csv.gz", ".csv.zst"),
    FileType.PARQUET: (".parquet", ".pq"),
    FileType.FEATHER: (".feather", ".ftr"),
}


def match_suffix(name: str, file_type: FileType) -> str | None:
    """The suffix that makes ``name`` a file of this type, spelled as in the name; ``None`` where it is none.

    A name that is nothing but a suffix, such as ``.csv``, is a hidden file and matches nothing.
    """
    base = name.rpartition("/")[2]
    for suffix in SUFFIXES[file_type]:
        if len(base) > len(suffix) and base.lower().endswith(suffix):
            return base[-len(suffix) :]
    return None


def infer_file_type(name: str) -> FileType | None:
    """The type that a name's suffix stands for; ``None`` if it stands for none."""
    return next((file_type for file_type in FileType if match_suffix(name, file_type)), None)


def result_name(input_relative_path: str, input_type: FileType, output_type: FileType) -> str:
    """The relative path of an input's result: the same, with the output type's first suffix.

    Raises:
        ValueError: The input's name has no suffix of its type.
    """
    suffix = match_suffix(input_relative_path, input_type)
    if suffix is None:
        raise ValueError(f"{input_relative_path!r} has no suffix of a {input_type.value} file.")
    return input_relative_path[: -len(suffix)] + SUFFIXES[output_type][0]


def one_line(error: BaseException) -> str:
    """The first line of an error's text, as a sentence."""
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".") if lines else type(error).__name__
    return text + "."
