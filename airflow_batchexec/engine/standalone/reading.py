"""Read a CSV, Parquet or Feather file into a DataFrame."""

# ruff: noqa: PLC0415  pandas and pyarrow are imported in functions: the worker first checks that they are installed

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
    """An input file is not a valid file of its type; the message is one sentence that names the file."""


def read_frame(path: Path, file_type: FileType, *, name: str, threads: int = 1) -> pd.DataFrame:
    """Read a file with pandas' reader for its type, with default options.

    The frame depends only on the file's content and ``name``, never on the path: a scratch file may have any name, and
    a folder named ``day=3`` does not add a column to a Parquet file in it.

    Args:
        path: The file on this machine's disk.
        file_type: The type that the file should have.
        name: The name to use in messages; for CSV, its suffix determines the compression.
        threads: The maximum number of threads that parse a CSV file, if this version of pandas supports several.

    Raises:
        UnreadableFileError: The file is empty, truncated, malformed, or of another type.
        OSError: The disk failed, or the file does not exist.
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
        # Decompressors and Arrow report corrupt content as an OSError without an errno.
        raise UnreadableFileError(f"{name} cannot be read as {file_type.value}: {one_line(error)}") from error


def _read_csv(path: Path, name: str, threads: int) -> pd.DataFrame:
    import pandas as pd

    # pandas 3.1 added the parallel reader; it returns the same frame as the serial one.
    parallel = hasattr(pd.options.mode, "max_threads")
    option = pd.option_context("mode.max_threads", threads) if parallel else nullcontext()
    compression = _csv_compression(name)
    with warnings.catch_warnings(), option:
        # A column of mixed types is valid input; how to handle it is up to the model.
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)
        try:
            if compression == "zstd":
                with _open_csv(path, name) as stream:
                    return pd.read_csv(stream)
            return pd.read_csv(path, compression=compression)
        except pd.errors.EmptyDataError:
            raise UnreadableFileError(f"{name} has no header: it contains only blank lines.") from None
        except pd.errors.ParserError as error:
            reason = one_line(error).removeprefix("Error tokenizing data. C error: ")
            raise UnreadableFileError(f"{name} is not well-formed CSV: {reason}") from error
        except EOFError:
            raise UnreadableFileError(f"{name} is truncated: its gzip stream is incomplete.") from None


def _csv_compression(name: str) -> Literal["gzip", "zstd"] | None:
    lowered = name.lower()
    return "gzip" if lowered.endswith(".gz") else "zstd" if lowered.endswith(".zst") else None


def _open_csv(path: Path, name: str) -> BinaryIO:
    """Open a CSV file as a stream of decompressed bytes."""
    compression = _csv_compression(name)
    if compression == "zstd":
        import pyarrow as pa

        # pandas would need the zstandard package; pyarrow has zstd built in.
        return cast("BinaryIO", pa.input_stream(str(path), compression="zstd"))
    return cast("BinaryIO", gzip.open(path)) if compression == "gzip" else path.open("rb")


def _describe_bad_encoding(path: Path, name: str) -> str:
    """Locate the first byte that is not UTF-8: pandas only reports its position within a buffer."""
    with path.open("rb") as file:
        if _csv_compression(name) is None and file.read(2) == b"\x1f\x8b":
            return f"{name} is compressed with gzip; rename it to end in .csv.gz."
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

    del threads  # Arrow uses its own thread pool, which the worker caps
    _check_signature(path, name, FileType.PARQUET, starts=(b"PAR1", b"PARE"), ends=(b"PAR1", b"PARE"))
    # Given a path, pandas would infer partition columns from its folders.
    with path.open("rb") as file:
        return pd.read_parquet(file, engine="pyarrow")


def _read_feather(path: Path, name: str, threads: int) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    del threads  # as for Parquet
    _check_signature(path, name, FileType.FEATHER, starts=(b"ARROW1", b"FEA1"), ends=(b"ARROW1", b"FEA1"))
    # A file of Arrow's is read without the interpreter lock. A memory map would be faster still, but the frame would
    # refer to it: if another program changed the file meanwhile, predict would see other values, or crash.
    with pa.OSFile(str(path)) as file:
        return pd.read_feather(file)


def _check_signature(
    path: Path, name: str, file_type: FileType, *, starts: tuple[bytes, ...], ends: tuple[bytes, ...]
) -> None:
    """Distinguish a truncated file from one of another type, which the readers' own errors do not."""
    length = max(map(len, starts + ends))
    with path.open("rb") as file:
        head = file.read(length)
        file.seek(max(path.stat().st_size - length, 0))
        tail = file.read()
    if not head.startswith(starts):
        raise UnreadableFileError(f"{name} is not a {file_type.value} file: it starts with {head!r}.")
    if not tail.endswith(ends):
        raise UnreadableFileError(f"{name} is truncated: the end of the {file_type.value} file is missing.")
