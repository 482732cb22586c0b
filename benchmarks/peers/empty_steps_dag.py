"""The floor for an execution with two pods: its three steps, each of which does nothing."""

from __future__ import annotations

from airflow.sdk import DAG, task

with DAG("peer_empty_steps", schedule=None):

    @task
    def plan() -> list[int]:
        return [0, 1]

    @task
    def predict(number: int) -> None:
        """Only what Airflow itself costs."""

    @task(trigger_rule="all_done")
    def finish() -> None:
        """Only what Airflow itself costs."""

    predict.expand(number=plan()) >> finish()
