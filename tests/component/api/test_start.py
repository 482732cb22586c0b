"""Starting executions: what is accepted, what is refused and why, and that identical starts run once."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.utils.session import create_session
from sqlalchemy import select, update
from wire_service import parse_response

from airflow_batchexec.api import database
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.wire.request import start_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def runs() -> dict[str, dict[str, Any]]:
    """The conf of every run, by run ID."""
    with create_session() as session:
        return {row.run_id: row.conf for row in session.execute(select(DagRun.run_id, DagRun.conf))}


def end(run_id: str, state: str = "success") -> None:
    with create_session() as session:
        session.execute(update(DagRun.__table__).where(DagRun.run_id == run_id).values(state=state))


def accepted(response: Any) -> str:
    assert response.status_code == 200, response.text
    message = parse_response("start", response.json())
    assert message.success
    return message.batch_id


def refused(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    message = parse_response("start", response.json())
    assert not message.success
    assert not message.batch_id
    return message.failure_message


@pytest.fixture
def dag_is() -> Iterator[Callable[..., None]]:
    """Sets columns of a DAG's row in Airflow's database, and restores them."""

    def change(**values: Any) -> None:
        with create_session() as session:
            session.execute(update(DagModel).where(DagModel.dag_id == "batch_execution").values(**values))

    yield change
    change(is_paused=False, is_stale=False, has_import_errors=False, allowed_run_types=None)


def test_the_run_gets_the_requested_configuration(api: Any):
    fields = {
        "model_id": "moody",
        "build_id": "b1",
        "source_bucket": "flights",
        "source_folder": "in",
        "destination_bucket": "flights",
        "destination_folder": "out",
        "input_file_type": "PARQUET",
        "output_file_type": "FEATHER",
        "pods": 3,
        "cpus": 0.5,
        "memory": 2048,
        "job_timeout": 60,
        "parameters": {"A": "1"},
        "purchase_option": "spot",
        "access_token_name": "key",
        "access_secret_name": "secret",
    }

    run_id = accepted(api.post("/batch-job/start-job", json=start_request(fields)))

    assert runs()[run_id] == ExecutionConfig.from_fields(**fields).fields()


def test_unknown_fields_are_ignored_with_a_warning_in_the_report(api: Any):
    run_id = accepted(
        api.post("/batch-job/start-job", json=api.job(foo=1, advanced_deployment_options={"bar": 2}))
    )

    assert set(runs()[run_id]) == {"model_id", "source_folder", "destination_folder", "client"}
    report = api.get(f"/batch-job/{run_id}/report").json()["report_messages"]
    assert any("Accepted as" in line and "the user" in line and "REST API" in line for line in report)
    for name in ("foo", "advanced_deployment_options.bar"):
        assert any(f"Warning: The field {name} is unknown and was ignored." in line for line in report)


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"model_id": None}, 400, "model_id"),
        ({"model_id": 3}, 400, "model_id"),
        ({"model_id": "../moody"}, 400, "model_id"),
        ({"source_folder": ""}, 400, "source_folder"),
        ({"task_timeout": -1}, 400, "task_timeout"),
        ({"taskTimeout": -1}, 400, "taskTimeout"),
        ({"job_timeout": "soon"}, 400, "job_timeout"),
        ({"input_file_type": "XLS"}, 400, "input_file_type"),
        ({"input_file_type": 9}, 400, "input_file_type"),
        (
            {"batch_job_deployment_size": {"number_of_pods": -1}},
            400,
            "batch_job_deployment_size.number_of_pods",
        ),
        (
            {
                "batchJobDeploymentSize": {
                    "clientPodComputeResources": {"templateSpec": {"templateId": "huge!"}}
                }
            },
            400,
            "batchJobDeploymentSize.clientPodComputeResources.templateSpec.templateId",
        ),
        ({"parameters": {"A": "1"}}, 400, "parameters"),
        ({"parameters": [{"key": "PATH", "value": "/"}]}, 400, "parameters"),
        ({"advanced_deployment_options": {"purchase_option": "cheap"}}, 400, "purchase_option"),
        ({"advanced_deployment_options": {"custom_iam_role_arn": "me"}}, 400, "custom_iam_role_arn"),
        ({"source_folder": "file:///etc"}, 400, "source_folder"),
        ({"destination_folder": "s3://others/out"}, 400, "destination_folder"),
        ({"source_bucket": "others", "source_folder": "in"}, 400, "source_folder"),
        (
            {"batch_job_request": {"model_details": {"model_id": "a b"}}},
            400,
            "batch_job_request.model_details.model_id",
        ),
        ({"model_id": "unknown"}, 404, "unknown"),
        ({"build_id": "b9"}, 404, "b9"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_an_invalid_request_is_refused_and_names_the_field(
    api: Any, fields: dict[str, Any], status: int, named: str
):
    message = refused(api.post("/batch-job/start-job", json=api.job(**fields)), status)

    assert named in message
    assert not runs()


def test_an_unreadable_repository_does_not_refuse_a_start(
    api: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__MODEL_REPOSITORY", str(tmp_path / "elsewhere"))

    accepted(api.start())


def test_an_unresponsive_repository_delays_a_start_only_briefly(api: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("airflow_batchexec.api.build_check._TIMEOUT_SECONDS", 0.5)
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__MODEL_REPOSITORY", "s3://flights/repository")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        extra = {"endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}", "region_name": "us-east-1"}
        connection = {"conn_type": "batch_execution", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_BATCH_EXECUTION_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        start = time.monotonic()

        accepted(api.start())

        assert time.monotonic() - start < 30
        # The repository was queried: a connection is pending.
        silent.settimeout(120)
        silent.accept()[0].close()


def test_an_invalid_server_option_is_reported_as_a_server_error(api: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__INSTANCES", "{")
    assert "misconfigured" in refused(api.start(), 503)

    monkeypatch.setenv("AIRFLOW__BATCHEXEC__EXECUTION_DAGS", "a,,b")
    response = api.start()
    assert "execution_dags" in refused(response, 503)
    assert int(response.headers["Retry-After"]) > 0


def test_a_start_of_a_paused_dag_is_refused(api: Any, dag_is: Callable[..., None]):
    dag_is(is_paused=True)

    assert "paused" in refused(api.start(), 409)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"is_stale": True}, "does not exist"),
        ({"has_import_errors": True}, "has import errors"),
        ({"allowed_run_types": ["scheduled"]}, "does not allow manual runs"),
    ],
)
def test_an_unusable_dag_is_named_with_its_option(
    api: Any, dag_is: Callable[..., None], values: dict[str, Any], reason: str
):
    dag_is(**values)

    message = refused(api.start(), 503)

    assert reason in message
    assert "[batchexec] execution_dags" in message


def test_an_unknown_dag_is_named_with_its_option(api: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__EXECUTION_DAGS", "nothing")

    assert "[batchexec] execution_dags" in refused(api.start(), 503)


def test_a_start_runs_the_first_dag_with_its_defaults(api: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__EXECUTION_DAGS", "batch_execution_gpu,batch_execution")
    body = api.job()
    del body["model_id"]

    run_id = accepted(api.post("/batch-job/start-job", json=body))

    assert runs()[run_id]["model_id"] == "moody"
    assert runs()[run_id]["instance"] == "tiny"
    details = api.get(f"/batch-job/{run_id}").json()["batch_job"]
    assert details["model_id"] == "moody"


# ---- identical starts


def test_an_identical_active_execution_refuses_a_start_and_is_named(api: Any):
    first = accepted(api.start())

    assert first in refused(api.start(), 409)
    assert first in refused(api.start(role="admin"), 409)
    assert first in refused(
        api.post(
            "/batch-job/start-job", json=api.job(job_timeout=5, parameters=[{"key": "A", "value": "1"}])
        ),
        409,
    )
    assert list(runs()) == [first]


def test_other_folders_and_builds_start_other_executions(api: Any):
    bodies = [api.job(), api.job("other"), api.job(build_id="b1"), api.job(source_folder="s3://flights/in")]

    assert len({accepted(api.post("/batch-job/start-job", json=body)) for body in bodies}) == len(bodies)


@pytest.mark.parametrize("dag_id", ["batch_execution", "batch_execution_gpu"])
def test_an_identical_execution_started_by_hand_is_found(api: Any, seed: Callable[..., None], dag_id: str):
    job = api.job()
    seed(
        "by-hand",
        state="running",
        dag_id=dag_id,
        conf={**job, "source_folder": f" {job['source_folder']}/", "pods": 7},
    )

    assert "by-hand" in refused(api.start(), 409)


def test_an_identical_execution_with_a_default_model_is_found(api: Any, seed: Callable[..., None]):
    seed("by-default", state="queued", dag_id="batch_execution_gpu", conf={**api.job(), "model_id": "moody"})
    with create_session() as session:
        run = session.scalars(select(DagRun)).one()
        run.conf = {name: value for name, value in run.conf.items() if name != "model_id"}

    assert "by-default" in refused(api.start(), 409)


def test_a_run_with_an_invalid_configuration_does_not_block_a_start(api: Any, seed: Callable[..., None]):
    seed("wrong", state="running", conf={**api.job(), "file_timeout": 3})
    with create_session() as session:
        run = session.scalars(select(DagRun)).one()
        run.conf = {**run.conf, "file_timeout": "never"}

    accepted(api.start())


@pytest.mark.parametrize("state", ["success", "failed"])
def test_an_ended_execution_can_be_started_again_with_the_next_number(api: Any, state: str):
    first = accepted(api.start())
    end(first, state)
    second = accepted(api.start())
    end(second, state)
    third = accepted(api.start())

    prefix = first.removesuffix("__1")
    assert (second, third) == (f"{prefix}__2", f"{prefix}__3")


def concurrently(number: int, call: Callable[[int], Any]) -> list[Any]:
    """Call from that many threads at the same time."""
    gate = threading.Barrier(number)

    def wait_and_call(index: int) -> Any:
        gate.wait()
        return call(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(wait_and_call, range(number)))


def test_one_of_several_concurrent_identical_starts_succeeds(api: Any):
    responses = concurrently(12, lambda _: api.start())

    winners = [response for response in responses if response.status_code == 200]
    (run_id,) = map(accepted, winners)
    assert all(run_id in refused(response, 409) for response in responses if response not in winners)
    assert list(runs()) == [run_id]


# ---- idempotency keys


def test_a_repeated_start_returns_the_first_execution(api: Any):
    key = {"Idempotency-Key": "one"}
    first = accepted(api.start(headers=key))

    assert accepted(api.start(headers=key)) == first
    end(first)
    assert accepted(api.start(headers=key)) == first
    assert list(runs()) == [first]


def test_a_repeated_start_succeeds_even_if_a_new_start_would_be_refused(
    api: Any, dag_is: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    key = {"Idempotency-Key": "one"}
    first = accepted(api.start(headers=key))
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__MODEL_REPOSITORY", str(tmp_path / "empty"))
    dag_is(is_paused=True)

    assert accepted(api.start(headers=key)) == first
    refused(api.start("other"), 404)


def test_a_key_is_stored_as_a_digest(api: Any):
    run_id = accepted(api.start(headers={"Idempotency-Key": "my-secret-key"}))

    assert "my-secret-key" not in json.dumps(runs())
    assert len(runs()[run_id]["client"]["idempotency_key"]) == 64


def test_a_key_with_another_request_is_refused(api: Any):
    key = {"Idempotency-Key": "one"}
    first = accepted(api.start(headers=key))

    assert first in refused(api.start("other", headers=key), 422)
    assert first in refused(api.post("/batch-job/start-job", json=api.job(job_timeout=5), headers=key), 422)


def test_keys_are_scoped_to_their_user(api: Any):
    key = {"Idempotency-Key": "one"}
    first = accepted(api.start(headers=key, name="ann"))

    assert accepted(api.start("other", headers=key, name="bob")) != first


def test_another_key_does_not_start_an_identical_execution(api: Any):
    first = accepted(api.start(headers={"Idempotency-Key": "one"}))

    assert first in refused(api.start(headers={"Idempotency-Key": "two"}), 409)


@pytest.mark.parametrize("key", ["", "a b", "é", "a" * 256, "tab\t"])
def test_an_invalid_key_is_refused(api: Any, key: str):
    response = api.start(headers={"Idempotency-Key": key.encode("latin-1")})

    assert "Idempotency-Key" in refused(response, 400)
    assert not runs()


@pytest.mark.parametrize("key", ["!", "~" * 255])
def test_the_shortest_and_the_longest_key_are_accepted(api: Any, key: str):
    assert accepted(api.start(headers={"Idempotency-Key": key}))


def test_concurrent_starts_with_one_key_start_one_execution(api: Any):
    responses = concurrently(12, lambda _: api.start(headers={"Idempotency-Key": "one"}))

    assert {accepted(response) for response in responses} == set(runs())
    assert len(runs()) == 1


def test_concurrent_different_requests_with_one_key_start_one_execution(api: Any):
    responses = concurrently(8, lambda index: api.start(f"job-{index}", headers={"Idempotency-Key": "one"}))

    (run_id,) = [accepted(response) for response in responses if response.status_code == 200]
    assert all(run_id in refused(r, 422) for r in responses if r.status_code != 200)
    assert list(runs()) == [run_id]


# ---- the audit log, and the database


def entries() -> list[dict[str, Any]]:
    with create_session() as session:
        query = select(Log.event, Log.owner, Log.dag_id, Log.run_id, Log.extra).order_by(Log.id)
        return [{**row._mapping, "extra": json.loads(row.extra)} for row in session.execute(query)]


def test_the_audit_log_records_starts_and_refusals(api: Any):
    run_id = accepted(
        api.post("/batch-job/start-job", json=api.job(parameters=[{"key": "A", "value": "hidden"}]))
    )
    api.start(name="bob")

    first, second = entries()
    assert (first["event"], first["owner"], first["dag_id"], first["run_id"]) == (
        "start_batch_job",
        "the user",
        "batch_execution",
        run_id,
    )
    assert first["extra"]["model_id"] == "moody"
    assert (second["owner"], second["run_id"]) == ("bob", None)
    assert run_id in second["extra"]["refused"]
    assert "hidden" not in json.dumps([first, second])


def test_a_start_fails_with_503_while_the_database_stays_locked(api: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database, "_GIVE_UP_SECONDS", 0.5)
    with create_session() as session:
        # A write in SQLite locks the whole database.
        session.add(Log(event="the lock"))
        session.flush()
        response = api.start()
        session.rollback()

    assert "busy" in refused(response, 503)
    assert int(response.headers["Retry-After"]) > 0
    assert not runs()
    accepted(api.start())


def test_a_start_waits_for_a_briefly_locked_database(api: Any):
    locked, free = threading.Event(), threading.Event()

    def hold() -> None:
        with create_session() as session:
            session.add(Log(event="the lock"))
            session.flush()
            locked.set()
            free.wait(120)

    holder = threading.Thread(target=hold)
    holder.start()
    assert locked.wait(120)
    threading.Timer(1.0, free.set).start()
    accepted(api.start())
    holder.join()


def test_unexpected_errors_are_logged_but_not_returned(
    api: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a secret of the server's")

    monkeypatch.setattr("airflow_batchexec.api.start.queries.add_audit_entry", fail)

    message = refused(api.start(), 500)

    assert "secret" not in message
    error_id = message.rstrip(".").split()[-1]
    assert any(error_id in record.getMessage() and record.exc_info for record in caplog.records)
