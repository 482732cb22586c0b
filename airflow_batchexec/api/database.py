"""Airflow's database: short transactions, retried while it is busy, and the DAGs in it, cached between requests."""

from __future__ import annotations

import random
import time
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from airflow.api_fastapi.common.dagbag import create_dag_bag
from airflow.utils.session import create_session
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from airflow_batchexec.api.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.models.dagbag import DBDagBag
    from sqlalchemy.orm import Session

__all__ = ["dag_bag", "in_transaction"]

_T = TypeVar("_T")
_ATTEMPTS = 4
_BACKOFF_SECONDS = 0.1
# SQLite itself waits for its configured timeout; a caller should not wait for that four times.
_GIVE_UP_SECONDS = 10.0


def in_transaction(work: Callable[[Session], _T]) -> _T:
    """Run a function in a new transaction, and retry if the database is locked or the connection is lost.

    Args:
        work: The function. It may run several times; only one run is committed.

    Raises:
        ApiError: The database stayed busy or unreachable.
    """
    give_up_at = time.monotonic() + _GIVE_UP_SECONDS
    for attempt in range(_ATTEMPTS):
        try:
            with create_session(scoped=False) as session:
                return work(session)
        except (OperationalError, PoolTimeoutError) as error:
            if attempt + 1 == _ATTEMPTS or time.monotonic() > give_up_at:
                raise ApiError(
                    HTTPStatus.SERVICE_UNAVAILABLE, "Airflow's database is busy or unreachable. Try again."
                ) from error
            time.sleep(_BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311  only jitter
    raise AssertionError("every attempt returns or raises")


@cache
def dag_bag() -> DBDagBag:
    """The DAG bag of this process; a mounted application cannot reach that of Airflow's own application."""
    return create_dag_bag()
