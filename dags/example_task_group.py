"""An execution as part of a DAG written by hand: each file is a mapped task of this DAG, with tasks before and after."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task

from airflow_batchexec import batch_execution_group

with DAG(
    "example_task_group",
    schedule=None,
    params={
        "source_folder": Param("s3://shop/orders", type="string", title="Source folder"),
        "destination_folder": Param("s3://shop/totals", type="string", title="Destination folder"),
    },
    tags=["batch-execution", "example"],
) as dag:

    @task
    def check(folder: str) -> None:
        """Whatever must be true before the files are predicted."""
        if not folder.endswith(("orders", "orders/")):
            raise ValueError(f"{folder} is no folder of orders.")

    totals = batch_execution_group(
        "totals",
        model_id="order_total",
        source_folder="{{ params.source_folder }}",
        destination_folder="{{ params.destination_folder }}",
        instance="small",
        pods=2,
        file_timeout=600,
        retries=2,
    )

    @task
    def report() -> str:
        """The task ``finish`` of the group has the summary, and it has succeeded where this one begins."""
        summary: dict[str, Any] = get_current_context()["ti"].xcom_pull(task_ids="totals.finish")
        return f"{summary['finished_files']} files in {summary['seconds']:.0f} s."

    check("{{ params.source_folder }}") >> totals >> report()
