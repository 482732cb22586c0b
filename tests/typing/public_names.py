"""The types of the public names, as a type checker must infer them. mypy checks this file; it is never run.

Each ``type: ignore`` marks a mistake that must be reported: in strict mode, an unused one is itself an error.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, assert_type

import pandas as pd
from airflow.sdk import DAG, TaskGroup, XComArg

import airflow_batchexec
from airflow_batchexec import (
    BatchExecutionHook,
    BatchExecutionOperator,
    BatchExecutionSensor,
    BatchExecutionTrigger,
    ExecutionConfig,
    PredictFileOperator,
    batch_execution_group,
    create_execution_dag,
)
from airflow_batchexec.client import (
    BatchInferenceClient,
    BatchJob,
    BatchJobManagerClient,
    BatchJobSummary,
    CancelExecutionResult,
    ClientSettings,
    ExecutionFileDetails,
    ExecutionStatusResult,
    GetBatchJobDetailsResult,
    GetExecutionReportResult,
    JobStatus,
    ListBatchJobsResult,
    LocalRunResult,
    ReportMessage,
    StartExecutionResult,
    TaskExecution,
    TaskStatus,
)
from airflow_batchexec.client import ExecutionConfig as ClientConfig
from airflow_batchexec.exceptions import BatchExecError, ConfigurationError

FOLDERS = {"source_folder": "s3://flights/in", "destination_folder": "s3://flights/out"}


def versions() -> None:
    assert_type(airflow_batchexec.__version__, str)


def operators() -> None:
    task = BatchExecutionOperator(
        task_id="delays",
        model_id="arrival_delay",
        source_folder="s3://flights/{{ ds }}",
        destination_folder="s3://delays/{{ ds }}",
        pods="{{ params.pods }}",
        parameters={"TAX_RATE": 0.2},
        deferrable=True,
        retries=2,
    )
    assert_type(task, BatchExecutionOperator)
    assert_type(task.output, XComArg)
    BatchExecutionOperator(task_id="delays", model_id="arrival_delay", source_folder="in")  # type: ignore[call-arg]
    BatchExecutionOperator(task_id="delays", model_id=7, **FOLDERS)  # type: ignore[arg-type]
    BatchExecutionOperator(task_id="delays", model_id="m", pods=1.5, **FOLDERS)  # type: ignore[arg-type]
    BatchExecutionOperator("arrival_delay")  # type: ignore[call-arg]

    file = PredictFileOperator(
        task_id="file", file="s3://a/b.csv", destination_folder="s3://a/out", model_id="m", cpus=0.5
    )
    assert_type(file, PredictFileOperator)
    PredictFileOperator(task_id="file", file=["s3://a/b.csv"], model_id="m")  # type: ignore[arg-type]

    sensor = BatchExecutionSensor(task_id="wait", execution_id="manual__1", poke_interval=2.5, soft_fail=True)
    assert_type(sensor, BatchExecutionSensor)
    BatchExecutionSensor(task_id="wait")  # type: ignore[call-arg]
    BatchExecutionSensor(task_id="wait", execution_id=7)  # type: ignore[arg-type]

    trigger = BatchExecutionTrigger(dag_id="batch_execution", run_id="manual__1", poll_interval=1.0)
    assert_type(trigger.serialize(), tuple[str, dict[str, Any]])
    BatchExecutionTrigger(dag_id="batch_execution")  # type: ignore[call-arg]

    assert_type(BatchExecutionHook(batch_execution_conn_id="mine").test_connection(), tuple[bool, str])
    BatchExecutionHook(batch_execution_conn_id=None)  # type: ignore[arg-type]


def dags() -> None:
    assert_type(create_execution_dag("executions", retries=0, max_active_runs=4), DAG)
    assert_type(batch_execution_group("delays", model_id="arrival_delay", pods=4), TaskGroup)
    create_execution_dag(7)  # type: ignore[arg-type]
    batch_execution_group("delays", retries="two")  # type: ignore[arg-type]


def configurations() -> None:
    config = ExecutionConfig(
        execution=ExecutionConfig.Execution(model_id="m", source_folder="in", destination_folder="out"),
        resources=ExecutionConfig.Resources(pods=4),
        advanced_options=ExecutionConfig.AdvancedOptions(
            custom_iam_role_arn="arn:aws:iam::123456789012:role/reader"
        ),
    )
    assert_type(config.execution.model_id, str)
    assert_type(config.resources.pods, int)
    assert_type(config.fields(), dict[str, Any])
    # The client exports the package's own class.
    same: type[ClientConfig] = ExecutionConfig
    assert_type(same.from_fields(model_id="m"), ExecutionConfig)
    error: BatchExecError = ConfigurationError("pods: -1 is too few", field="pods")
    assert_type(error.retryable, bool)
    assert_type(error.details, dict[str, Any])


def manager(config: ExecutionConfig) -> None:
    with BatchJobManagerClient("http://localhost:8080", token="of-ada") as client:
        assert_type(client, BatchJobManagerClient)
        started = client.start_execution(config)
        assert_type(started, StartExecutionResult)
        assert_type((started.success, started.failure_message, started.execution_id), tuple[bool, str, str])
        status = client.get_execution_status(started.execution_id)
        assert_type(status, ExecutionStatusResult)
        assert_type(status.status, JobStatus)
        assert_type(status.status.short, str)
        assert_type(status.ended, bool)
        assert_type(client.wait_for_execution(started.execution_id, 60), ExecutionStatusResult)
        assert_type(
            client.run_execution(config, 60), tuple[StartExecutionResult, ExecutionStatusResult | None]
        )
        assert_type(client.cancel_execution(started.execution_id), CancelExecutionResult)
        report = client.get_execution_report(started.execution_id)
        assert_type(report, GetExecutionReportResult)
        assert_type((report.records, report.model_logs), tuple[list[str], list[str]])
        client.start_execution({"model_id": "m"})  # type: ignore[arg-type]
        client.get_execution_status(7)  # type: ignore[arg-type]
        details(client)


def details(client: BatchJobManagerClient) -> None:
    found = client.get_batch_job_details("manual__1")
    assert_type(found, GetBatchJobDetailsResult)
    assert_type(found.batch_job, BatchJob | None)
    assert found.batch_job is not None
    assert_type(found.batch_job.start_time, datetime | None)
    assert_type(found.batch_job.execution_file_details, ExecutionFileDetails)
    assert_type(found.batch_job.report_messages, list[ReportMessage])
    assert_type(found.batch_job.task_executions, list[TaskExecution])
    assert_type(found.batch_job.task_executions[0].status, TaskStatus)
    listed = client.list_batch_jobs("m", status=JobStatus.BATCH_JOB_FAILED_STATUS)
    assert_type(listed, ListBatchJobsResult)
    assert_type(listed.batch_jobs, list[BatchJobSummary])


def inference(df: pd.DataFrame, settings: ClientSettings) -> None:
    client = BatchInferenceClient("order_total")
    assert_type(client.run(df, 100), pd.DataFrame)
    result = client.local_file_run("order_total", "file://in", "file://out", "csv")
    assert_type(result, LocalRunResult)
    client.run(df)  # type: ignore[call-arg]
    client.run("orders.csv", 100)  # type: ignore[arg-type]
    client.run(df, 100, "order_total")  # type: ignore[call-arg]
    assert_type(settings, ClientSettings)
