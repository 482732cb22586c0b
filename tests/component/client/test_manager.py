"""Calls and their results, against a scripted HTTP server."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest
from scripted_server import API, START, STARTED, Reply, status_of

from airflow_batchexec.client import ExecutionConfig, JobStatus, TaskStatus
from airflow_batchexec.exceptions import (
    ConfigurationError,
    NotAllowedError,
    ServerUnreachableError,
    WaitTimeoutError,
)
from airflow_batchexec.wire.request import read_start_request

JOB = f"{API}batch-job/rest__1"
STATUS = f"GET {JOB}/status"
CANCEL = f"POST {JOB}/cancel"
CANCELLED = {"success": True, "failure_message": ""}


def test_a_start_sends_the_configuration(server, client):
    config = ExecutionConfig(
        execution=ExecutionConfig.Execution(
            model_id="churn",
            build_id="v7",
            source_bucket="in",
            destination_bucket="out",
            source_folder="a",
            destination_folder="b",
            input_file_type="parquet",
            output_file_type="csv",
            access_token_name="key",
            access_secret_name="secret",
            job_timeout=60,
            file_timeout=6,
            parameters={"TAX": "a=b=c"},
        ),
        resources=ExecutionConfig.Resources(pods=4, cpus=1.5, memory=512),
        advanced_options=ExecutionConfig.AdvancedOptions(purchase_option="spot"),
    )
    server.on(f"POST {START}", STARTED)
    result = client.start_execution(config)
    assert (result.success, result.execution_id, result.failure_message) == (True, "rest__1", "")
    (request,) = server.received
    assert read_start_request(request.document).fields == config.fields()
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"].startswith("batchexec/")


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "ä", "x" * 256])
def test_an_invalid_idempotency_key_is_refused(server, client, config, key):
    with pytest.raises(ConfigurationError, match=r"^idempotency_key: ") as caught:
        client.start_execution(config, idempotency_key=key)
    assert caught.value.details["field"] == "idempotency_key"
    assert server.received == []


def test_a_status_is_a_wire_name_with_a_short_name(server, client):
    server.on(STATUS, status_of("FINISHED", 3, 3))
    status = client.get_execution_status("rest__1")
    assert status.status is JobStatus.BATCH_JOB_FINISHED_STATUS
    assert status.status == "BATCH_JOB_FINISHED_STATUS"
    assert f"{status.status} {status.status.short}" == "BATCH_JOB_FINISHED_STATUS FINISHED"
    assert (status.finished_files, status.total_files, status.ended) == (3, 3, True)


@pytest.mark.parametrize("number", [3, "3", "BATCH_JOB_RUNNING_STATUS", "running"])
def test_numbers_may_be_strings_and_statuses_numbers(server, client, number):
    server.on(STATUS, {**status_of("RUNNING"), "job_status": number, "total_files": "12"})
    status = client.get_execution_status("rest__1")
    assert (status.status.short, status.total_files, status.ended) == ("RUNNING", 12, False)


@pytest.mark.parametrize(
    ("name", "ended"),
    [
        ("COMMITTED", False),
        ("PENDING", False),
        ("RUNNING", False),
        ("FINISHED", True),
        ("FAILED", True),
        ("CANCELLED", True),
        ("TIMEOUT", True),
    ],
)
def test_ended_is_right_for_every_status(server, client, name, ended):
    server.on(STATUS, status_of(name))
    assert client.get_execution_status("rest__1").ended is ended


def test_an_unknown_execution_is_a_result_without_success(server, client):
    unknown = {"success": False, "failure_message": "There is no execution rest__1."}
    server.on(STATUS, Reply(404, unknown))
    status = client.get_execution_status("rest__1")
    assert (status.success, status.failure_message) == (False, "There is no execution rest__1.")
    assert (status.status.number, status.total_files, status.ended) == (0, 0, False)


def test_model_logs_are_the_lines_that_the_model_printed(server, client):
    lines = [
        "2026-11-22T10:00:00.000Z Accepted.",
        "2026-11-22T10:00:01.000Z [model] a.csv: hello",
        "2026-11-22T10:00:02.000Z a.csv says [model] here",
    ]
    server.on(f"GET {JOB}/report", {"successful": True, "failure_message": "", "report_messages": lines})
    report = client.get_execution_report("rest__1")
    assert report.success
    assert report.records == lines
    assert report.model_logs == [lines[1]]


def test_a_refused_report_is_a_result_without_success(server, client):
    server.on(f"GET {JOB}/report", Reply(404, {"successful": False, "failure_message": "No."}))
    report = client.get_execution_report("rest__1")
    assert (report.success, report.failure_message, report.records) == (False, "No.", [])


def test_details_are_typed(server, client):
    server.on(
        f"GET {JOB}",
        {
            "success": True,
            "failure_message": "",
            "batch_job": {
                "job_id": "rest__1",
                "model_id": "churn",
                "branch_id": "main",
                "build_id": "v7",
                "start_time": "2026-11-22T10:00:00.123456789Z",
                "end_time": None,
                "job_status": "BATCH_JOB_RUNNING_STATUS",
                "total_records": 10,
                "job_size": 2,
                "report_messages": [{"time": "2026-11-22T10:00:00Z", "line": "Accepted."}],
                "execution_file_details": {
                    "source_bucket": "in",
                    "destination_bucket": "out",
                    "source_path": "a",
                    "destination_path": "b",
                    "input_file_type": "CSV_INPUT_FILE_TYPE",
                    "output_file_type": "CSV_OUTPUT_FILE_TYPE",
                    "finished_files": 1,
                    "total_files": 2,
                },
                "task_executions": [
                    {
                        "task_id": "predict[0]",
                        "status": "BATCH_TASK_FINISHED_STATUS",
                        "start_time": "2026-11-22T12:00:00.5+02:00",
                        "end_time": "2026-11-22T10:00:02Z",
                        "num_of_records": 10,
                        "filename": "a.csv",
                        "filenames": ["a.csv"],
                    }
                ],
            },
        },
    )
    job = client.get_batch_job_details("rest__1").batch_job
    assert (job.model_id, job.branch_id, job.build_id) == ("churn", "main", "v7")
    assert job.start_time == datetime(2026, 11, 22, 10, 0, 0, 123456, UTC)
    assert job.end_time is None
    assert job.job_status.short == "RUNNING"
    assert (job.total_records, job.job_size) == (10, 2)
    assert [m.line for m in job.report_messages] == ["Accepted."]
    assert (job.execution_file_details.source_path, job.execution_file_details.total_files) == ("a", 2)
    (task,) = job.task_executions
    assert task.status is TaskStatus.BATCH_TASK_FINISHED_STATUS
    assert (task.end_time - task.start_time).total_seconds() == 1.5
    assert (task.filename, task.filenames, task.num_of_records) == ("a.csv", ["a.csv"], 10)


def test_details_of_an_unknown_execution_have_no_job(server, client):
    server.on(f"GET {JOB}", Reply(404, {"success": False, "failure_message": "No.", "batch_job": None}))
    details = client.get_batch_job_details("rest__1")
    assert (details.success, details.failure_message, details.batch_job) == (False, "No.", None)


def page(numbers, cursor):
    return {
        "success": True,
        "failure_message": "",
        "next_cursor": cursor,
        "batch_jobs": [
            {
                "build_id": "v1",
                "job_id": f"rest__{number}",
                "job_status": "BATCH_JOB_FAILED_STATUS",
                "start_time": "2026-11-22T10:00:00.000Z",
                "end_time": None,
                "job_size": 1,
                "failure_message": "Why.",
            }
            for number in numbers
        ],
    }


def test_a_list_fetches_all_pages(server, client):
    server.on(f"GET {API}batch-jobs", page([5, 4], "c1"), page([3], "c2"), page([2, 1], ""))
    listed = client.list_batch_jobs("churn", "v1", status="failed")
    assert [job.job_id for job in listed.batch_jobs] == [f"rest__{number}" for number in (5, 4, 3, 2, 1)]
    assert [job["job_id"] for job in listed.wire["batch_jobs"]] == [job.job_id for job in listed.batch_jobs]
    assert listed.batch_jobs[0].failure_message == "Why."
    assert listed.batch_jobs[0].job_status == "BATCH_JOB_FAILED_STATUS"
    queries = [parse_qs(request.query) for request in server.received]
    assert queries[0] == {
        "model_id": ["churn"],
        "build_id": ["v1"],
        "status": ["BATCH_JOB_FAILED_STATUS"],
        "limit": ["500"],
    }
    assert [query.get("cursor") for query in queries] == [None, ["c1"], ["c2"]]


def test_a_list_stops_at_its_limit(server, client):
    server.on(f"GET {API}batch-jobs", page([5, 4], "c1"), page([3], "c2"))
    assert len(client.list_batch_jobs(limit=3).batch_jobs) == 3
    assert [parse_qs(request.query)["limit"] for request in server.received] == [["3"], ["1"]]


def test_a_refused_list_is_a_result_without_success(server, client):
    server.on(f"GET {API}batch-jobs", Reply(400, {"success": False, "failure_message": "limit: no."}))
    listed = client.list_batch_jobs()
    assert (listed.success, listed.failure_message, listed.batch_jobs) == (False, "limit: no.", [])


@pytest.mark.parametrize(("arguments", "field"), [({"status": "napping"}, "status"), ({"limit": 0}, "limit")])
def test_invalid_list_arguments_are_refused_before_anything_is_sent(server, client, arguments, field):
    with pytest.raises(ConfigurationError, match=f"^{field}: ") as caught:
        client.list_batch_jobs(**arguments)
    assert caught.value.details["field"] == field
    assert server.received == []


@pytest.mark.parametrize("execution_id", ["", ".", ".."])
def test_ids_that_would_change_the_url_path_are_refused(server, client, execution_id):
    with pytest.raises(ConfigurationError, match=r"^execution_id: "):
        client.cancel_execution(execution_id)
    assert server.received == []


def test_ids_may_contain_url_metacharacters(server, client):
    server.on(
        f"GET {API}batch-job/manual__2026-01-01T00%3A00%3A00%2B00%3A00%2F%3Fa/status", status_of("RUNNING")
    )
    assert client.get_execution_status("manual__2026-01-01T00:00:00+00:00/?a").success


def test_waiting_ends_with_the_execution(server, client):
    server.on(STATUS, status_of("COMMITTED"), status_of("RUNNING", 1, 2), status_of("FAILED", 1, 2))
    ended = client.wait_for_execution("rest__1", poll_interval=0.01)
    assert (ended.status.short, ended.finished_files) == ("FAILED", 1)
    assert len(server.received) == 3


def test_a_wait_timeout_leaves_the_execution_alone(server, client):
    server.on(STATUS, status_of("RUNNING"))
    with pytest.raises(WaitTimeoutError, match=r"rest__1 did not end within 0\.05 s; it is still running"):
        client.wait_for_execution("rest__1", 0.05, poll_interval=0.01)
    assert set(server.calls()) == {STATUS}


def test_waiting_for_an_unknown_execution_ends_at_once(server, client):
    server.on(STATUS, Reply(404, {"success": False, "failure_message": "There is none."}))
    assert client.wait_for_execution("rest__1").failure_message == "There is none."


def test_waiting_survives_a_server_outage(server, make_client, caplog):
    server.on(STATUS, status_of("RUNNING"), Reply(503, {}), Reply(503, {}), status_of("FINISHED"))
    assert make_client(retries=0).wait_for_execution("rest__1", poll_interval=0.01).status.short == "FINISHED"
    assert caplog.text.count("Still waiting.") == 2


def test_waiting_fails_if_the_outage_lasts(server, make_client, monkeypatch):
    monkeypatch.setattr("airflow_batchexec.client.waiting._MAX_SECONDS_UNREACHABLE", 1)
    server.on(STATUS, Reply(503, {}))
    with pytest.raises(ServerUnreachableError):
        make_client(retries=0).wait_for_execution("rest__1", poll_interval=0.01)
    assert len(server.received) > 1


def test_waiting_fails_if_the_permission_is_lost(server, client):
    server.on(STATUS, status_of("RUNNING"), Reply(403, {"detail": "no"}))
    with pytest.raises(NotAllowedError):
        client.wait_for_execution("rest__1", poll_interval=0.01)
    assert CANCEL not in server.calls()


def test_run_execution_starts_and_waits(server, client, config):
    server.on(f"POST {START}", STARTED)
    server.on(STATUS, status_of("FINISHED", 1, 1))
    results = []
    started, ended = client.run_execution(config, on_started=results.append)
    assert results == [started]
    assert (started.execution_id, ended.status.short) == ("rest__1", "FINISHED")


def test_run_execution_does_not_wait_for_a_refused_start(server, client, config):
    server.on(
        f"POST {START}", Reply(409, {"batch_id": "rest__0", "success": False, "failure_message": "Twin."})
    )
    started, ended = client.run_execution(config)
    assert (started.success, started.execution_id, ended) == (False, "rest__0", None)
    assert len(server.received) == 1
