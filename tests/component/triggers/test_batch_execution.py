"""The trigger's serialization; integration tests cover its behaviour in a real Airflow."""

from __future__ import annotations

import asyncio
import json
import time

from airflow.sdk.serde import deserialize, serialize
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.triggers.batch_execution import BatchExecutionTrigger

texts = st.text(max_size=20)
seconds = st.floats(0, 2**40, allow_nan=False)
HANDLE = {
    "execution_id": "run",
    "destination": "file:///out",
    "fields": {"model_id": "m", "parameters": {"RATE": "2"}},
    "batch_execution_conn_id": "batch_execution_default",
}


@given(
    values=st.fixed_dictionaries(
        {"dag_id": texts, "run_id": texts, "poll_interval": seconds},
        optional={
            "execution": st.none() | st.just(HANDLE),
            "give_up_at": st.none() | seconds,
            "not_before": seconds,
        },
    )
)
def test_a_trigger_survives_serialization_unchanged(values):
    trigger = BatchExecutionTrigger(**values)
    path, stored = trigger.serialize()
    assert path == "airflow_batchexec.triggers.batch_execution.BatchExecutionTrigger"
    assert values.items() <= stored.items()
    restored = BatchExecutionTrigger(**deserialize(json.loads(json.dumps(serialize(stored)))))
    assert restored.serialize() == (path, stored)


def test_the_event_is_delayed_from_the_deferral_not_from_each_start_of_a_triggerer():
    first = BatchExecutionTrigger(dag_id="d", run_id="r", poll_interval=5)
    assert first.not_before > time.time() + 5
    assert BatchExecutionTrigger(**first.serialize()[1]).not_before == first.not_before


def test_ending_an_observing_trigger_cancels_nothing():
    asyncio.run(BatchExecutionTrigger(dag_id="d", run_id="r", poll_interval=5).on_kill())
