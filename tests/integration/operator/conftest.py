"""A set of DAGs that all modules in this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from operator_dags import DAG_IDS, DAGS

if TYPE_CHECKING:
    from airflow_deployment import Deployment


@pytest.fixture(scope="module")
def on_postgresql() -> bool:
    return True


@pytest.fixture(scope="module")
def deployment(deployment: Deployment) -> Deployment:
    deployment.add_dags("operators.py", DAGS, *DAG_IDS)
    return deployment
