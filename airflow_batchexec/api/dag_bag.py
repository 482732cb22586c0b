"""The DAGs as Airflow's database has them, kept between requests as the API server keeps its own."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from airflow.api_fastapi.common.dagbag import create_dag_bag

if TYPE_CHECKING:
    from airflow.models.dagbag import DBDagBag

__all__ = ["dag_bag"]


@cache
def dag_bag() -> DBDagBag:
    """The one of this process. An application that is mounted in another does not see that one's."""
    return create_dag_bag()
