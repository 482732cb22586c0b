"""The floor: mapped tasks that do nothing, as many as the run's conf says."""

from __future__ import annotations

from airflow.sdk import DAG, Param, task

with DAG("peer_empty", schedule=None, params={"tasks": Param(100, type="integer")}):

    @task
    def numbers(params: dict[str, int] | None = None) -> list[int]:
        assert params is not None
        return list(range(params["tasks"]))

    @task
    def do_nothing(number: int) -> None:
        """Only what Airflow itself costs."""

    do_nothing.expand(number=numbers())
