"""A scheduled pipeline: runs each day's folder of orders through a model, then reports a summary.

It uses AWS buckets, or those of the connection ``batch_execution_default``. Change the params, then unpause the DAG.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_batchexec import BatchExecutionOperator

with DAG(
    "example_daily_pipeline",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=True,
    max_active_runs=1,
    params={"bucket": "shop", "access_token_name": "", "access_secret_name": ""},
    tags=["batch-execution", "example"],
) as dag:
    totals = BatchExecutionOperator(
        task_id="totals",
        model_id="order_total",
        bucket="{{ params.bucket }}",
        source_folder="orders/{{ ds }}/",
        destination_folder="totals/{{ ds }}/",
        output_file_type="parquet",
        # Names of Airflow Variables; if empty, boto3's default credential chain is used.
        access_token_name="{{ params.access_token_name }}",
        access_secret_name="{{ params.access_secret_name }}",
        parameters={"TAX_RATE": "0.2"},
        job_timeout=3600,
        deferrable=True,
        # A retry starts a new run; files that fail within a run have their own retries.
        retries=1,
        retry_delay=timedelta(minutes=5),
    )

    @task
    def report(summary: dict[str, Any]) -> str:
        """Summarize the day's results."""
        return (
            f"{summary['rows']} rows from {summary['finished_files']} files are in {summary['destination']}."
        )

    report(totals.output)  # type: ignore[arg-type]  # an XComArg until the task runs
