"""What the tasks of one execution tell each other, and how they find out about other runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import BatchExecError, ConfigurationError
from airflow_batchexec.runs.handle import ExecutionHandle, dag_run_start, generation, owner_state

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = {"model_id": "delay", "source_folder": "s3://flights/in", "destination_folder": "s3://flights/out"}
OWNER = LockOwner("other", deployment="production", dag_id="batch_execution", run_id="other")

texts = st.text(max_size=20)


@given(
    handle=st.builds(
        ExecutionHandle,
        execution_id=texts,
        destination=texts,
        fields=st.dictionaries(texts, texts | st.integers() | st.dictionaries(texts, texts)),
        batch_execution_conn_id=texts,
    )
)
def test_a_handle_survives_an_xcom(handle: ExecutionHandle):
    assert ExecutionHandle.from_dict(json.loads(json.dumps(handle.to_dict()))) == handle


@pytest.mark.parametrize("missing", [None, {}, {"execution_id": "x"}, [1, 2]], ids=str)
def test_the_xcom_of_a_failed_plan_is_not_a_handle(missing):
    with pytest.raises(BatchExecError, match="plan has not succeeded"):
        ExecutionHandle.from_dict(missing)


def test_a_handle_opens_the_executions_folder(tmp_path: Path):
    handle = ExecutionHandle(
        execution_id="run-1",
        destination=f"file://{tmp_path}",
        fields={**FIELDS, "destination_folder": f"file://{tmp_path}"},
        batch_execution_conn_id="batch_execution_default",
    )

    _, storage, folder = handle.open()

    assert isinstance(storage, LocalStorage)
    assert folder.spec.uri == f"file://{tmp_path}/_batchexec/run-1/execution.json"


def test_a_handle_whose_secrets_are_gone_names_the_field():
    handle = ExecutionHandle(
        execution_id="run-1",
        destination="s3://flights/out",
        fields={**FIELDS, "access_token_name": "gone", "access_secret_name": "gone_too"},
        batch_execution_conn_id="batch_execution_default",
    )

    with pytest.raises(ConfigurationError, match=r"^access_token_name: "):
        handle.open()


def context(*, start: datetime | None = None, clear_number: int | None = 0):
    return {"dag_run": SimpleNamespace(start_date=start, clear_number=clear_number)}


def test_an_execution_starts_with_its_run():
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    assert dag_run_start(context(start=start)) == start.timestamp()


@pytest.mark.parametrize(("cleared", "number"), [(None, 0), (0, 0), (2, 2)])
def test_a_clear_starts_a_new_generation(cleared, number: int):
    assert generation(context(clear_number=cleared)) == number


class Runs:
    """A task that may ask for the state of other runs."""

    def __init__(self, answer: str | dict):
        self.answer = answer

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        assert (dag_id, run_id) == (OWNER.dag_id, OWNER.run_id)
        if isinstance(self.answer, str):
            return self.answer
        raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=self.answer))


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("running", OwnerState.RUNNING),
        ("queued", OwnerState.RUNNING),
        ("success", OwnerState.ENDED),
        ("failed", OwnerState.ENDED),
        ({"status_code": 404}, OwnerState.ENDED),
        ({"status_code": 500}, OwnerState.UNKNOWN),
        ({}, OwnerState.UNKNOWN),
    ],
    ids=str,
)
def test_a_lock_is_free_only_if_its_owners_run_is_known_to_have_ended(
    answer, state, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__DEPLOYMENT_NAME", "production")

    assert owner_state(Runs(answer))(OWNER) is state


def test_a_run_with_the_same_id_in_another_airflow_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__DEPLOYMENT_NAME", "staging")

    assert owner_state(Runs("success"))(OWNER) is OwnerState.UNKNOWN
