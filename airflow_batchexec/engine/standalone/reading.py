"""How a CSV, Parquet or Feather file becomes a frame."""

# ruff: noqa: PLC0415  pandas and pyarrow are imported where they are used: the worker checks first that they are there

from __future__ import annotations

import codecs
import gzip
import warnings
import zlib
from contextlib import nullcontext
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from .file_types import FileType, one_line

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__all__ = ["UnreadableFileError", "read_frame"]


class UnreadableFileError(Exception):
    """An input file is not what its type says; the message is one sentence that names the file."""


def read_frame(path: Path, file_type: FileType, *, name: str, threads: int = 1) -> pd.DataFrame:
    """The frame that pandas' reader of this type, without options, gives for the file.

    Only the file's content and ``name`` decide, never the path: a scratch file may be called anything, and a folder
    called ``day=3`` adds no column to a Parquet file in it.

    Args:
        path: The file on this machine's disk.
        file_type: What it should be.
        name: The name to show; for CSV, its suffix tells the compression.
        threads: How many threads may parse a CSV file, where this pandas can use several.

    Raises:
        UnreadableFileError: The file is empty, truncated, malformed, or of another type.
        OSError: The disk failed, or the file is not there.
    """
    import pyarrow as pa

    if path.stat().st_size == 0:
        raise UnreadableFileError(f"{name} is empty (0 bytes).")
    read = {FileType.CSV: _read_csv, FileType.PARQUET: _read_parquet, FileType.FEATHER: _read_feather}[
        file_type
    ]
    try:
        return read(path, name, threads)
    except UnicodeDecodeError:
        raise UnreadableFileError(_describe_bad_encoding(path, name)) from None
    except (ValueError, OverflowError, EOFError, zlib.error, pa.ArrowException) as error:
        raise UnreadableFileError(f"{name} cannot be read as {file_type.value}: {one_line(error)}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Decompressors and Arrow report damaged content as an OSError without a number.
        raise UnreadableFileError(f"{name} cannot be read as {file_type.value}: {one_line(error)}") from error


def _read_csv(path: Path, name: str, threads: int) -> pd.DataFrame:
    import pandas as pd

    # The parallel reader came with pandas 3.1; it gives what the serial one does.
    parallel = hasattr(pd.options.mode, "max_threads")
    option = pd.option_context("mode.max_threads", threads) if parallel else nullcontext()
    compression = _csv_compression(name)
    with warnings.catch_warnings(), option:
        # A column of mixed types is a frame like any other; the model decides what it makes of it.
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)
        try:
            if compression == "zstd":
                with _open_csv(path, name) as stream:
                    return pd.read_csv(stream)
            return pd.read_csv(path, compression=compression)
        except pd.errors.EmptyDataError:
            raise UnreadableFileError(f"{name} has no header: it holds nothing but blank lines.") from None
        except pd.errors.ParserError as error:
            reason = one_line(error).removeprefix("Error tokenizing data. C error: ")
            raise UnreadableFileError(f"{name} is not well-formed CSV: {reason}") from error
        except EOFError:
            raise UnreadableFileError(f"{name} is truncated: its gzip stream has no end.") from None


def _csv_compression(name: str) -> Literal["gzip", "zstd"] | None:
    lowered = name.lower()
    return "gzip" if lowered.endswith(".gz") else "zstd" if lowered.endswith(".zst") else None


def _open_csv(path: Path, name: str) -> BinaryIO:
    """The decompressed bytes of a CSV file."""
    compression = _csv_compression(name)
    if compression == "zstd":
        import pyarrow as pa

        # pandas would need the zstandard package; pyarrow brings its own.
        return cast("BinaryIO", pa.input_stream(str(path), compression="zstd"))
    return cast("BinaryIO", gzip.open(path)) if compression == "gzip" else path.open("rb")


def _describe_bad_encoding(path: Path, name: str) -> str:
    """Say where the text stops being UTF-8: pandas knows only the place within its buffer."""
    with path.open("rb") as file:
        if _csv_compression(name) is None and file.read(2) == b"\x1f\x8b":
            return f"{name} is compressed with gzip; its name has to end in .csv.gz."
    offset, line = 0, 1
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _open_csv(path, name) as stream:
        while True:
            block = stream.read(1 << 20)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += block[: max(error.start - pending, 0)].count(b"\n")
                return (
                    f"{name} is not encoded in UTF-8: byte 0x{error.object[error.start]:02x} at offset "
                    f"{offset - pending + error.start}, line {line}."
                )
            if not block:
                return f"{name} is not encoded in UTF-8."
            offset += len(block)
            line += block.count(b"\n")


def _read_parquet(path: Path, name: str, threads: int) -> pd.DataFrame:
    import pandas as pd

    del threads  # Arrow's own pool reads, capped by the pod's environment
    _check_signature(path, name, FileType.PARQUET, starts=(b"PAR1", b"PARE"), ends=(b"PAR1", b"PARE"))
    # An open file has no folder from which partition columns could be inferred.
    with path.open("rb") as file:
        return pd.read_parquet(file, engine="pyarrow")


def _read_feather(path: Path, name: str, threads: int) -> pd.DataFrame:
    import pandas as pd

    del threads  # as for Parquet
    _check_signature(path, name, FileType.FEATHER, starts=(b"ARROW1", b"FEA1"), ends=(b"ARROW1", b"FEA1"))
    return pd.read_feather(path)


def _check_signature(
    path: Path, name: str, file_type: FileType, *, starts: tuple[bytes, ...], ends: tuple[bytes, ...]
) -> None:
    """Tell a truncated file from one of another type: the readers' own errors do not."""
    length = max(map(len, starts + ends))
    with path.open("rb") as file:
        head = file.read(length)
        file.seek(max(path.stat().st_size - length, 0))
        tail = file.read()
    if not head.startswith(starts):
        raise UnreadableFileError(f"{name} is no {file_type.value} file: it starts with {head!r}.")
    if not tail.endswith(ends):
        raise UnreadableFileError(f"{name} is truncated: the end of the {file_type.value} file is missing.")
