"""The wire's enums, and readers for strings and numbers in JSON.

They follow protobuf's JSON mapping: numbers may be strings, integers may have a zero fraction, and enums may be names
or numbers. Errors never repeat a value: it may be a secret in the wrong field.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Any

from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = [
    "InputFileType",
    "JobStatus",
    "MemoryUnit",
    "OutputFileType",
    "TaskStatus",
    "WireEnum",
    "describe_type",
    "enum_reader",
    "read_integer",
    "read_number",
    "read_text",
]

_NUMBER = re.compile(r"-?\d+(?P<fraction>\.\d+)?(?P<exponent>[eE][+-]?\d+)?", re.ASCII)
# The range of 64-bit integers. ExecutionConfig validates what the number means.
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}


class WireEnum(StrEnum):
    """An enum whose values are the names on the wire, so that members serialize to JSON as they are.

    The first member means "unset"; its name ends with the words common to all members.
    """

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[Any]) -> str:  # noqa: ARG004  signature of the base class
        return name

    def __str__(self) -> str:
        return str(self.value)

    @property
    def number(self) -> int:
        """The number on the wire."""
        return list(type(self)).index(self)

    @property
    def short(self) -> str:
        """The name without the words common to all members, for example ``FINISHED``."""
        shared = next(iter(type(self))).value.split("_")[1:]
        return "_".join(word for word in self.value.split("_") if word not in shared)

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Return the member with this name, short name (in any case) or number, which may be a string.

        Raises:
            ValueError: There is no such member; the message lists the members.
        """
        if isinstance(value, str):
            text = value.strip().upper().replace("-", "_")
            found = [m for m in cls if text in {m.value, m.short, str(m.number)}]
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found = [m for m in cls if value == m.number]
        else:
            found = []
        if not found:
            allowed = ", ".join(member.value for member in cls)
            kind = "" if isinstance(value, str) else f"{describe_type(value)}, "
            raise ValueError(f"{kind}not one of {allowed}")
        return found[0]


class JobStatus(WireEnum):
    """The status of an execution."""

    UNDEFINED_BATCH_JOB_STATUS = auto()
    BATCH_JOB_COMMITTED_STATUS = auto()
    BATCH_JOB_PENDING_STATUS = auto()
    BATCH_JOB_RUNNING_STATUS = auto()
    BATCH_JOB_FINISHED_STATUS = auto()
    BATCH_JOB_FAILED_STATUS = auto()
    BATCH_JOB_CANCELLED_STATUS = auto()
    BATCH_JOB_TIMEOUT_STATUS = auto()


class TaskStatus(WireEnum):
    """The status of a file of an execution."""

    UNDEFINED_BATCH_TASK_STATUS = auto()
    BATCH_TASK_COMMITTED_STATUS = auto()
    BATCH_TASK_PENDING_START_STATUS = auto()
    BATCH_TASK_RUNNING_STATUS = auto()
    BATCH_TASK_FINISHED_STATUS = auto()
    BATCH_TASK_FAILED_STATUS = auto()
    BATCH_TASK_CANCELLED_STATUS = auto()
    BATCH_TASK_TIMEOUT_STATUS = auto()


class InputFileType(WireEnum):
    """The type of the input files."""

    UNDEFINED_INPUT_FILE_TYPE = auto()
    CSV_INPUT_FILE_TYPE = auto()
    FEATHER_INPUT_FILE_TYPE = auto()
    PARQUET_INPUT_FILE_TYPE = auto()


class OutputFileType(WireEnum):
    """The type of the result files."""

    UNDEFINED_OUTPUT_FILE_TYPE = auto()
    CSV_OUTPUT_FILE_TYPE = auto()
    FEATHER_OUTPUT_FILE_TYPE = auto()
    PARQUET_OUTPUT_FILE_TYPE = auto()


class MemoryUnit(WireEnum):
    """The unit of an amount of memory; unset means MiB."""

    UNKNOWN = auto()
    MIB = auto()
    GIB = auto()


def describe_type(value: Any) -> str:
    """Return the type of a JSON value for error messages, such as "a list"."""
    return _TYPE_NAMES.get(type(value), "a number")


def read_text(value: Any, path: str) -> str:
    """Read a string.

    Raises:
        ConfigurationError: The value is not a string, or contains an unpaired surrogate.
    """
    if not isinstance(value, str):
        raise _invalid(path, f"must be a string, not {describe_type(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _invalid(path, "is not valid Unicode")
    return value


def read_integer(value: Any, path: str) -> int:
    """Read a 64-bit integer.

    Raises:
        ConfigurationError: The value is not a 64-bit integer.
    """
    number = _plain_number(value, path)
    # Check the range before int(): a large float would become an integer of hundreds of digits.
    if isinstance(number, float) and not number.is_integer():
        raise _invalid(path, "must be an integer, but has a fraction")
    if not _INT64_MIN <= number <= _INT64_MAX:
        raise _invalid(path, "must be an integer of at most 64 bits")
    return int(number)


def read_number(value: Any, path: str) -> float:
    """Read a finite number.

    Raises:
        ConfigurationError: The value is not a finite number.
    """
    number = _plain_number(value, path)
    try:
        return float(number)
    except OverflowError:
        raise _invalid(path, "is too large for a number") from None


def enum_reader(kind: type[WireEnum]) -> Callable[[Any, str], str]:
    """Return a reader for an enum. It returns the short name, or "" if unset.

    The reader raises ``ConfigurationError`` if the enum has no such member.
    """
    unset = next(iter(kind))

    def read(value: Any, path: str) -> str:
        try:
            member = kind.parse(value) if value != "" else unset
        except ValueError as error:
            raise _invalid(path, f"is {error}") from None
        return "" if member is unset else member.short

    return read


def _plain_number(value: Any, path: str) -> int | float:
    """Return a finite number, given as a number or a string."""
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        # No number on the wire has this many digits, and Python refuses to parse them.
        if not match or len(value) > 400:  # noqa: PLR2004  more than any finite float has
            raise _invalid(path, "must be a number, but is a non-numeric string")
        value = float(value) if match["fraction"] or match["exponent"] else int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _invalid(path, f"must be a number, not {describe_type(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _invalid(path, "must be a finite number")
    return value


def _invalid(path: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: it {reason}.", field=path)
