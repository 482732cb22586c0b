"""Execution ids: which ones are equal, and that they are valid for Airflow and a destination."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution.ids import (
    id_in_run,
    local_id,
    next_rest_id,
    operator_id,
    rest_prefix,
)
from airflow_batchexec.engine.execution.spec import ExecutionFolder

TASK = {"dag_id": "d", "task_id": "t", "run_id": "r", "map_index": -1, "max_tries": 1, "attempt": 1}
names = st.text(min_size=1, max_size=250)


@given(names, names, names, st.integers(-1, 5000), st.integers(0, 99), st.integers(1, 99))
def test_operator_ids_are_valid_for_airflow_and_a_destination(dag, name, run, index, tries, attempt):
    execution_id = operator_id(
        dag_id=dag, task_id=name, run_id=run, map_index=index, max_tries=tries, attempt=attempt
    )
    assert re.fullmatch(r"[A-Za-z0-9_.~:+-]{1,250}", execution_id)
    ExecutionFolder(Location.parse("s3://b/out"), execution_id)


@pytest.mark.parametrize(
    "other",
    [
        {"dag_id": "e"},
        {"task_id": "u"},
        {"run_id": "s"},
        {"map_index": 0},
        {"max_tries": 2},
        {"attempt": 2},
        {"dag_id": "d.t", "task_id": "", "run_id": "r"},
    ],
)
def test_operator_ids_differ_by_task_clear_and_attempt(other):
    assert operator_id(**{**TASK, **other}) != operator_id(**TASK)


def test_a_missing_map_index_equals_minus_one():
    assert operator_id(**{**TASK, "map_index": None}) == operator_id(**TASK)


def test_an_unnamed_execution_has_the_id_of_its_run():
    assert id_in_run(dag_id="d", run_id="r", name="") == "r"
    assert id_in_run(dag_id="d", run_id="r", name="first") == "d.first.r"


@given(st.sets(st.integers(1, 10_000)), st.lists(st.text()))
def test_the_next_rest_id_follows_the_highest_taken_one(numbers, others):
    prefix = rest_prefix("0123456789abcdef0123")
    taken = [*(f"{prefix}{number}" for number in numbers), *(f"{prefix}x{other}" for other in others)]
    assert next_rest_id(prefix, taken) == f"rest__0123456789abcdef__{max(numbers, default=0) + 1}"


def test_local_ids_differ():
    assert len({local_id() for _ in range(100)}) == 100
