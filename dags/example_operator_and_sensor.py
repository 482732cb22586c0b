"""Start an execution, do other work meanwhile, then wait for the execution."""

from __future__ import annotations

from airflow.sdk import DAG, Param, task

from airflow_batchexec import BatchExecutionOperator, BatchExecutionSensor

with DAG(
    "example_operator_and_sensor",
    schedule=None,
    params={
        "source_folder": Param("s3://shop/orders", type="string", title="Source folder"),
        "destination_folder": Param("s3://shop/totals", type="string", title="Destination folder"),
    },
    tags=["batch-execution", "example"],
) as dag:
    start = BatchExecutionOperator(
        task_id="start",
        model_id="order_total",
        source_folder="{{ params.source_folder }}",
        destination_folder="{{ params.destination_folder }}",
        wait_for_completion=False,
    )

    @task
    def meanwhile() -> str:
        """Do work that does not depend on the results."""
        return "The execution continues in the background."

    wait = BatchExecutionSensor(
        task_id="wait",
        execution_id="{{ ti.xcom_pull(task_ids='start')['execution_id'] }}",
        deferrable=True,
        timeout=6 * 3600,
    )

    start >> meanwhile() >> wait
