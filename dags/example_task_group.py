"""An execution as part of a larger DAG: each file is a mapped task, with other tasks upstream and downstream."""

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
        """Check the preconditions of the prediction."""
        if not folder.endswith(("orders", "orders/")):
            raise ValueError(f"{folder} is not a folder of orders.")

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
        """Report the summary returned by the group's task ``finish``, which has succeeded when this task starts."""
        summary: dict[str, Any] = get_current_context()["ti"].xcom_pull(task_ids="totals.finish")
        return f"{summary['finished_files']} files in {summary['seconds']:.0f} s."

    check("{{ params.source_folder }}") >> totals >> report()
