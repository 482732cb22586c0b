"""The deadline that an execution's ``job_timeout`` sets."""

from __future__ import annotations

import time
from dataclasses import dataclass

from airflow_batchexec.exceptions import JobTimeoutError

__all__ = ["JobDeadline"]


@dataclass(frozen=True, slots=True)
class JobDeadline:
    """The time at which an execution exceeds its ``job_timeout``.

    Attributes:
        job_timeout: The timeout, in seconds; 0 for no limit.
        at: The deadline, on the clock of ``time.monotonic``; ``None`` for no limit.
    """

    job_timeout: float = 0.0
    at: float | None = None

    @classmethod
    def of(cls, job_timeout: float, *, elapsed: float = 0.0) -> JobDeadline:
        """The deadline of an execution that started ``elapsed`` seconds ago."""
        return cls(job_timeout, time.monotonic() + job_timeout - elapsed) if job_timeout else cls()

    def has_passed(self) -> bool:
        """Whether the execution has exceeded its ``job_timeout``."""
        return self.at is not None and time.monotonic() >= self.at

    def error(self, *, file: str = "") -> JobTimeoutError:
        """The error to raise once the deadline has passed."""
        return JobTimeoutError.after(self.job_timeout, file=file)
