"""Single values of the wire: its enums, and how texts and numbers are read from JSON.

The rules are those of protobuf's JSON mapping: a number may arrive as text, a whole number as one with a fraction of
zero, an enum by name or number. A value that is read is never repeated in an error: it may be a secret that
stands in the wrong place.
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
    "enum_reader",
    "kind_of",
    "read_number",
    "read_text",
    "read_whole_number",
]

_NUMBER = re.compile(r"-?\d+(?P<fraction>\.\d+)?(?P<exponent>[eE][+-]?\d+)?", re.ASCII)
# What a 64-bit integer holds. Whether a number makes sense is for the configuration to say.
_LEAST, _MOST = -(2**63), 2**63 - 1
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}


class WireEnum(StrEnum):
    """An enum of the wire: the value is the name that it goes by there, so it is JSON as it is.

    The first member is the one that means "unset"; its name ends in the words that the names of all members share.
    """

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[Any]) -> str:  # noqa: ARG004  the signature is the base's
        return name

    def __str__(self) -> str:
        return str(self.value)

    @property
    def number(self) -> int:
        """The number on the wire."""
        return list(type(self)).index(self)

    @property
    def short(self) -> str:
        """The name without the words that all names share, for example ``FINISHED``."""
        shared = next(iter(type(self))).value.split("_")[1:]
        return "_".join(word for word in self.value.split("_") if word not in shared)

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The member of this name, short name (in any case) or number, which may be text.

        Raises:
            ValueError: There is none; the message names those there are.
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
            raise ValueError(f"{kind_of(value)} that is none of {allowed}")
        return found[0]


class JobStatus(WireEnum):
    """What an execution does."""

    UNDEFINED_BATCH_JOB_STATUS = auto()
    BATCH_JOB_COMMITTED_STATUS = auto()
    BATCH_JOB_PENDING_STATUS = auto()
    BATCH_JOB_RUNNING_STATUS = auto()
    BATCH_JOB_FINISHED_STATUS = auto()
    BATCH_JOB_FAILED_STATUS = auto()
    BATCH_JOB_CANCELLED_STATUS = auto()
    BATCH_JOB_TIMEOUT_STATUS = auto()


class TaskStatus(WireEnum):
    """What became of one file of an execution."""

    UNDEFINED_BATCH_TASK_STATUS = auto()
    BATCH_TASK_COMMITTED_STATUS = auto()
    BATCH_TASK_PENDING_START_STATUS = auto()
    BATCH_TASK_RUNNING_STATUS = auto()
    BATCH_TASK_FINISHED_STATUS = auto()
    BATCH_TASK_FAILED_STATUS = auto()
    BATCH_TASK_CANCELLED_STATUS = auto()
    BATCH_TASK_TIMEOUT_STATUS = auto()


class InputFileType(WireEnum):
    """Which files are read."""

    UNDEFINED_INPUT_FILE_TYPE = auto()
    CSV_INPUT_FILE_TYPE = auto()
    FEATHER_INPUT_FILE_TYPE = auto()
    PARQUET_INPUT_FILE_TYPE = auto()


class OutputFileType(WireEnum):
    """How results are written."""

    UNDEFINED_OUTPUT_FILE_TYPE = auto()
    CSV_OUTPUT_FILE_TYPE = auto()
    FEATHER_OUTPUT_FILE_TYPE = auto()
    PARQUET_OUTPUT_FILE_TYPE = auto()


class MemoryUnit(WireEnum):
    """What an amount of memory counts; unset, it counts MiB."""

    UNKNOWN = auto()
    MIB = auto()
    GIB = auto()


def kind_of(value: Any) -> str:
    """What a JSON value is, for an error: "a list", "a number"."""
    return _KINDS.get(type(value), "a number")


def read_text(value: Any, path: str) -> str:
    """A text.

    Raises:
        ConfigurationError: It is none, or holds half a surrogate pair.
    """
    if not isinstance(value, str):
        raise _refused(path, f"should be a text, but is {kind_of(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _refused(path, "is not valid Unicode")
    return value


def read_whole_number(value: Any, path: str) -> int:
    """A whole number of 64 bits.

    Raises:
        ConfigurationError: It is none.
    """
    number = _plain_number(value, path)
    # A float that holds more than 64 bits must not become an integer of hundreds of digits first.
    if isinstance(number, float) and not number.is_integer():
        raise _refused(path, "should be a whole number, but has a fraction")
    if not _LEAST <= number <= _MOST:
        raise _refused(path, "should be a whole number, but is too large for 64 bits")
    return int(number)


def read_number(value: Any, path: str) -> float:
    """A finite number.

    Raises:
        ConfigurationError: It is none.
    """
    number = _plain_number(value, path)
    try:
        return float(number)
    except OverflowError:
        raise _refused(path, "should be a number, but is too large for one") from None


def enum_reader(kind: type[WireEnum]) -> Callable[[Any, str], str]:
    """A reader of an enum, which gives the short name; "" where it is unset.

    The reader raises ``ConfigurationError`` where the enum has no such member.
    """
    unset = next(iter(kind))

    def read(value: Any, path: str) -> str:
        try:
            member = kind.parse(value) if value != "" else unset
        except ValueError as error:
            raise _refused(path, f"is {error}") from None
        return "" if member is unset else member.short

    return read


def _plain_number(value: Any, path: str) -> int | float:
    """A finite number, or the one that a text holds."""
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        # No number of the wire has that many digits, and Python would refuse to read them.
        if not match or len(value) > 400:  # noqa: PLR2004  more than any finite float has
            raise _refused(path, "should be a number, but is a text that holds none")
        value = float(value) if match["fraction"] or match["exponent"] else int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refused(path, f"should be a number, but is {kind_of(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _refused(path, "should be a number, but is not a finite one")
    return value


def _refused(path: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: it {reason}.", field=path)
