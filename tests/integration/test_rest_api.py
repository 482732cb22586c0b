"""The REST API in a real Airflow: users with roles, the real API server, and executions that run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import requests
from airflow_deployment import PEOPLE
from airflow_models import expected, frame
from api_routes import ROUTES
from pandas.testing import assert_frame_equal
from waiting import wait_until
from wire_service import parse_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_deployment import Deployment
    from api_routes import Route

_ROOT = Path(__file__).resolve().parents[2]
OVER = {"FINISHED", "FAILED", "CANCELLED", "TIMEOUT"}

# A second execution DAG, limited to one execution at a time. If a run has the parameter GO, its planning starts once that
# file exists.
MORE_DAGS = """
import time
from pathlib import Path

from airflow_batchexec import create_execution_dag


def hold(context):
    gate = (context["params"]["parameters"] or {}).get("GO")
    while gate and not Path(gate).exists():
        time.sleep(0.1)


dag = create_execution_dag("batch_execution_gpu", max_active_runs=1)
dag.get_task("plan")._pre_execute_hook = hold
"""


@pytest.fixture(scope="module")
def on_postgresql() -> bool:
    return True


@pytest.fixture(scope="module")
def airflow_users() -> dict[str, str]:
    return PEOPLE


@pytest.fixture(scope="module")
def user_dags() -> str:
    return MORE_DAGS


class Client:
    """One user's requests."""

    def __init__(self, deployment: Deployment, user: str) -> None:
        self.url = f"{deployment.airflow.url}/batchexec"
        self.headers = {"Authorization": f"Bearer {deployment.airflow.token(user)}"} if user else {}

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        headers = {**self.headers, **arguments.pop("headers", {})}
        return requests.request(method, f"{self.url}{path}", headers=headers, timeout=600, **arguments)

    def get(self, call: str, path: str) -> dict[str, Any]:
        response = self.request("GET", f"/api/v1{path}")
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        parse_response(call, body)
        return body

    def post(self, call: str, path: str, **arguments: Any) -> requests.Response:
        response = self.request("POST", f"/api/v1{path}", **arguments)
        parse_response(call, response.json())
        return response

    def start(self, body: dict[str, Any], **arguments: Any) -> str:
        response = self.post("start", "/batch-job/start-job", json=body, **arguments)
        assert response.status_code == 200, response.text
        batch_id: str = response.json()["batch_id"]
        return batch_id

    def status(self, execution_id: str) -> str:
        body = self.get("status", f"/batch-job/{execution_id}/status")
        return str(body["job_status"]).removeprefix("BATCH_JOB_").removesuffix("_STATUS")

    def lines(self, execution_id: str) -> list[str]:
        messages = self.get("report", f"/batch-job/{execution_id}/report")["report_messages"]
        return [message.split(" ", 1)[1] for message in messages]

    def wait(self, execution_id: str, *states: str, seconds: float = 180.0) -> str:
        def reached() -> str:
            status = self.status(execution_id)
            if status in (states or OVER):
                return status
            assert status not in OVER, self.lines(execution_id)
            return ""

        return wait_until(reached, seconds=seconds, what=f"the end of {execution_id}")


@pytest.fixture(scope="module")
def ann(deployment: Deployment) -> Client:
    return Client(deployment, "ann")


def job(folders: dict[str, str], **parameters: str) -> dict[str, Any]:
    parameters = {"TEST_FOLDER": folders["destination_folder"], **parameters}
    return {
        "model_id": "scaler",
        "parameters": [{"key": key, "value": value} for key, value in parameters.items()],
        **folders,
    }


# ---- complete executions


def test_an_execution_from_its_start_to_its_results(deployment: Deployment, ann: Client):
    moods = {f"f{i}": "calm" for i in range(4)}
    folders = deployment.write_files("life", moods)
    (deployment.folder / "life" / "in" / "notes.txt").write_text("no input")
    body = {**job(folders, FACTOR="3"), "output_file_type": "PARQUET_OUTPUT_FILE_TYPE", "unknown": True}

    execution_id = ann.start(body)

    assert ann.wait(execution_id) == "FINISHED"
    status = ann.get("status", f"/batch-job/{execution_id}/status")
    assert (status["finished_files"], status["total_files"], status["failure_message"]) == (4, 4, "")
    for name in moods:
        result = pd.read_parquet(deployment.folder / "life" / "out" / f"{name}.parquet")
        assert_frame_equal(result, expected(frame(name, 5), factor=3))

    details = ann.get("details", f"/batch-job/{execution_id}")["batch_job"]
    assert details["model_id"] == "scaler"
    assert details["build_id"] == "b1"
    assert details["total_records"] == 20
    assert details["execution_file_details"]["output_file_type"] == "PARQUET_OUTPUT_FILE_TYPE"
    assert {task["filename"] for task in details["task_executions"]} == {f"{name}.csv" for name in moods}
    for task in details["task_executions"]:
        assert task["status"] == "BATCH_TASK_FINISHED_STATUS"
        assert task["num_of_records"] == 5
        started, ended = (datetime.fromisoformat(task[name]) for name in ("start_time", "end_time"))
        assert started <= ended <= datetime.now(UTC)

    lines = ann.lines(execution_id)
    order = [
        next(index for index, line in enumerate(lines) if text in line)
        for text in (
            "Accepted as",
            "Planned 4 files",
            "f0.csv started",
            "f0.csv finished",
            "Audited",
            "ended as FINISHED",
        )
    ]
    assert order == sorted(order)
    assert any("notes.txt" in line for line in lines)
    assert any("unknown" in line and line.startswith("Warning") for line in lines)
    assert "[model] : model is ready" in lines
    assert [message["line"] for message in details["report_messages"]] == lines

    response = ann.post("cancel", f"/batch-job/{execution_id}/cancel")
    assert response.status_code == 409


def test_the_guides_curl_command(deployment: Deployment, ann: Client):
    client, bucket = deployment.s3.client, deployment.bucket
    data = frame("day", 3)
    client.put_object(
        Bucket=bucket, Key="batch_execution/my_model/input/day.parquet", Body=data.to_parquet(index=False)
    )
    body = {
        "model_id": "scaler",
        "source_bucket": bucket,
        "destination_bucket": bucket,
        "source_folder": "batch_execution/my_model/input",
        "destination_folder": "batch_execution/my_model/output",
        "batch_job_deployment_size": {
            "number_of_pods": 4,
            "cpu": 1.0,
            "memory_amount": 512,
            "memory_units": "MIB",
        },
        "input_file_type": "PARQUET_INPUT_FILE_TYPE",
        "output_file_type": "PARQUET_OUTPUT_FILE_TYPE",
        "token_secret": "bucket_key",
        "secret_secret": "bucket_secret",
    }
    command = (
        f"curl --silent --location --request POST '{ann.url}/api/v1/batch-job/start-job' "
        "--header 'Content-Type: application/json' "
        '--header "Authorization: Bearer $TOKEN" '
        f"--data '{json.dumps(body)}'"
    )
    token = ann.headers["Authorization"].removeprefix("Bearer ")

    done = subprocess.run(
        command,
        shell=True,
        env={"TOKEN": token, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
        timeout=600,
    )

    started = json.loads(done.stdout)
    assert set(started) == {"batch_id", "success", "failure_message"}
    assert (started["success"], started["failure_message"]) == (True, "")
    assert ann.wait(started["batch_id"]) == "FINISHED"
    assert client.get_object(Bucket=bucket, Key="batch_execution/my_model/output/day.parquet")["Body"].read()
    details = ann.get("details", f"/batch-job/{started['batch_id']}")["batch_job"]
    assert details["execution_file_details"] == {
        "source_bucket": bucket,
        "destination_bucket": bucket,
        "source_path": "batch_execution/my_model/input",
        "destination_path": "batch_execution/my_model/output",
        "input_file_type": "PARQUET_INPUT_FILE_TYPE",
        "output_file_type": "PARQUET_OUTPUT_FILE_TYPE",
        "finished_files": 1,
        "total_files": 1,
    }


def test_the_commands_of_the_documentation(deployment: Deployment, ann: Client, tmp_path: Path):
    page = (_ROOT / "docs" / "rest_api.md").read_text()
    # Only the bucket's name differs from the page.
    blocks = [
        block.replace('"flights"', f'"{deployment.bucket}"')
        for block in re.findall("```sh\n(.*?)```", page, re.DOTALL)
    ]
    assert len(blocks) == 9
    deployment.publish("arrival_delay")
    for key, data in {
        "batch_execution/arrival_delay/input/a.parquet": frame("a", 3).to_parquet(index=False),
        "2013/b.csv": frame("b", 3).to_csv(index=False).encode(),
    }.items():
        deployment.s3.client.put_object(Bucket=deployment.bucket, Key=key, Body=data)

    done = subprocess.run(
        ["bash", "-e", "-c", "\necho\n".join(blocks)],
        env={
            "PATH": os.environ["PATH"],
            "BATCHEXEC_SERVER": deployment.airflow.url,
            "BATCHEXEC_TOKEN": ann.headers["Authorization"].removeprefix("Bearer "),
            "BATCHEXEC_USERNAME": "ann",
            "BATCHEXEC_PASSWORD": deployment.airflow.passwords["ann"],
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    responses = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    calls = ["start", "start", "status", "report", "details", "cancel", "list"]
    for call, response in zip(calls, responses, strict=False):
        parse_response(call, response)
    assert "access_token" in responses[-1]
    first, second = (response["batch_id"] for response in responses[:2])
    assert ann.wait(first) == "FINISHED"
    assert ann.wait(second) in {"FINISHED", "CANCELLED"}


def test_the_nested_form_in_camel_case(deployment: Deployment, ann: Client):
    folders = deployment.write_files("nested", {f"f{i}": "called" for i in range(6)})
    calls = deployment.folder / "calls"
    calls.mkdir()
    body = {
        "batchJobRequest": {
            "modelDetails": {"modelId": "scaler", "buildId": "b1"},
            "dataDetails": {
                "sourcePath": {"sourceFolder": folders["source_folder"], "inputFileType": 1},
                "destinationPath": {
                    "destinationFolder": folders["destination_folder"],
                    "outputFileType": "3",
                },
            },
            "executionDetails": {
                "jobTimeout": "600",
                "batchJobDeploymentSize": {
                    "numberOfPods": 2,
                    "clientPodComputeResources": {"templateSpec": {"templateId": "tiny"}},
                },
                "parameters": [{"key": "GATE", "value": str(calls)}],
            },
        },
        "model_id": "another model",
    }

    execution_id = ann.start(body)
    assert ann.wait(execution_id, "RUNNING") == "RUNNING"

    def counts() -> tuple[int, int]:
        status = ann.get("status", f"/batch-job/{execution_id}/status")
        return status["finished_files"], status["total_files"]

    # Finished files are counted while the execution runs.
    assert counts() == (0, 6)
    for number in (0, 3):
        for file in range(number, number + 3):
            (calls / f"f{file}").touch()
        wait_until(lambda number=number: counts() == (number + 3, 6), what=f"{number + 3} finished files")

    assert ann.wait(execution_id) == "FINISHED"
    tasks = ann.get("details", f"/batch-job/{execution_id}")["batch_job"]["task_executions"]
    assert {task["task_id"].split(".")[0] for task in tasks} == {"predict[0]", "predict[1]"}
    assert len({task["task_id"] for task in tasks}) == 6


def test_a_failed_execution_says_why(deployment: Deployment, ann: Client):
    broken = deployment.folder / "broken"
    broken.touch()
    folders = deployment.write_files("failing", {"bad": "fail"})

    execution_id = ann.start(job(folders, BROKEN=str(broken)))

    assert ann.wait(execution_id) == "FAILED"
    status = ann.get("status", f"/batch-job/{execution_id}/status")
    assert status["success"] is True
    assert "bad.csv" in status["failure_message"]
    lines = ann.lines(execution_id)
    assert any("this file upsets me" in line for line in lines)
    (task,) = ann.get("details", f"/batch-job/{execution_id}")["batch_job"]["task_executions"]
    assert task["status"] == "BATCH_TASK_FAILED_STATUS"
    listed = ann.get("list", "/batch-jobs?status=FAILED")["batch_jobs"]
    assert status["failure_message"] in [j["failure_message"] for j in listed if j["job_id"] == execution_id]


def test_an_execution_refused_by_its_plan_says_why(deployment: Deployment, ann: Client):
    folders = {
        "source_folder": f"file://{deployment.folder}/nothing/in",
        "destination_folder": f"file://{deployment.folder}/nothing/out",
    }

    execution_id = ann.start(job(folders))

    assert ann.wait(execution_id) == "FAILED"
    assert "nothing/in" in ann.get("status", f"/batch-job/{execution_id}/status")["failure_message"]
    assert any(line.startswith("Refused: ") for line in ann.lines(execution_id))


# ---- cancelling, in each phase


def test_cancelling_while_files_are_predicted(deployment: Deployment, ann: Client):
    folders = deployment.write_files("hanging", {"a": "calm", "b": "hang"})
    execution_id = ann.start(job(folders))
    wait_until(lambda: any(line.startswith("b.csv started") for line in ann.lines(execution_id)))
    wait_until((deployment.folder / "hanging" / "out" / "a.csv").exists)

    response = Client(deployment, "bob").post("cancel", f"/batch-job/{execution_id}/cancel")

    assert response.status_code == 200
    assert ann.wait(execution_id) == "CANCELLED"
    said = ann.get("status", f"/batch-job/{execution_id}/status")
    assert said["failure_message"].startswith("It was cancelled by bob.")
    assert "b.csv" in said["failure_message"]
    assert (said["finished_files"], said["total_files"]) == (1, 2)
    assert not (deployment.folder / "hanging" / "out" / "b.csv").exists()
    assert deployment.pods("hanging") == []
    assert any("Cancellation requested by bob" in line for line in ann.lines(execution_id))
    # Its lock has been released.
    calm = deployment.folder / "hanging" / "in" / "b.csv"
    frame("b", 2).to_csv(calm, index=False)
    again = ann.start(job(folders))
    assert again == execution_id.removesuffix("1") + "2"
    assert ann.wait(again) == "FINISHED"


def test_cancelling_during_planning_and_while_queued(deployment: Deployment, ann: Client, tmp_path: Path):
    def start_one(name: str) -> tuple[dict[str, str], str]:
        folders = deployment.write_files(name, {"a": "calm"})
        conf = {"model_id": "scaler", "parameters": {"GO": str(tmp_path / "never")}, **folders}
        return folders, deployment.airflow.trigger("batch_execution_gpu", conf)

    def state_of_plan() -> str | None:
        instances = deployment.airflow.task_instances("batch_execution_gpu", planned)
        return next((i["state"] for i in instances if i["task_id"] == "plan"), None)

    folders, planned = start_one("planning")
    wait_until(lambda: state_of_plan() == "running", what="planning")
    _, queued = start_one("queued")
    assert ann.status(planned) == "PENDING"
    assert ann.status(queued) == "COMMITTED"

    # A repeated cancel succeeds and changes nothing.
    for execution_id in (queued, queued, planned, planned):
        assert ann.post("cancel", f"/batch-job/{execution_id}/cancel").status_code == 200

    for execution_id in (planned, queued):
        assert ann.wait(execution_id) == "CANCELLED"
        said = ann.get("status", f"/batch-job/{execution_id}/status")
        assert said["failure_message"] == "It was cancelled by ann."
    assert not (deployment.folder / "queued" / "out").exists()
    again = ann.start(job(folders))
    assert ann.wait(again) == "FINISHED"


# ---- simultaneous equal starts


def at_once(number: int, call: Callable[[int], Any]) -> list[Any]:
    gate = threading.Barrier(number)

    def wait_and_call(index: int) -> Any:
        gate.wait()
        return call(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(wait_and_call, range(number)))


def test_one_of_two_simultaneous_twins_runs(deployment: Deployment, tmp_path: Path):
    gate = tmp_path / "gate"
    folders = deployment.write_files("at-once", {"f": "gated"})

    run_ids = at_once(2, lambda _: deployment.start(**folders, pods=1, parameters={"GATE": str(gate)}))
    # The winner keeps running at least until the other has ended.
    wait_until(
        lambda: any(
            deployment.airflow.run("batch_execution", run_id)["state"] == "failed" for run_id in run_ids
        )
    )
    gate.touch()

    ends = {run_id: deployment.airflow.wait_for_run("batch_execution", run_id)["state"] for run_id in run_ids}
    assert sorted(ends.values()) == ["failed", "success"]
    winner, loser = sorted(run_ids, key=lambda run_id: ends[run_id], reverse=True)
    assert winner in deployment.airflow.task_log("batch_execution", loser, "plan")
    assert deployment.manifest("at-once", winner)["status"] == "FINISHED"


def test_one_of_twenty_equal_starts_succeeds(deployment: Deployment):
    folders = deployment.write_files("twins", {"a": "gated"})
    gate = deployment.folder / "gate-of-twins"
    body = job(folders, GATE=str(gate))
    users = [Client(deployment, user) for user in ("ann", "bob")]

    responses = at_once(20, lambda i: users[i % 2].post("start", "/batch-job/start-job", json=body))
    gate.touch()

    (winner,) = [response.json() for response in responses if response.status_code == 200]
    losers = [response.json() for response in responses if response.status_code == 409]
    assert len(losers) == 19
    assert all(not loser["success"] and winner["batch_id"] in loser["failure_message"] for loser in losers)
    assert users[0].wait(winner["batch_id"]) == "FINISHED"


def test_twenty_starts_with_one_key_are_one_execution(deployment: Deployment, ann: Client):
    folders = deployment.write_files("keyed", {"a": "calm"})

    ids = at_once(20, lambda _: ann.start(job(folders), headers={"Idempotency-Key": "the-key"}))

    assert len(set(ids)) == 1
    assert ann.wait(ids[0]) == "FINISHED"
    # Even after it has ended.
    assert ann.start(job(folders), headers={"Idempotency-Key": "the-key"}) == ids[0]


def test_an_execution_started_in_airflow_is_served_and_blocks_its_twin(deployment: Deployment, ann: Client):
    folders = deployment.write_files("by-hand", {"a": "gated"})
    gate = deployment.folder / "gate-of-the-one-by-hand"
    run_id = deployment.start(**folders, parameters={"GATE": str(gate)})

    response = ann.post("start", "/batch-job/start-job", json=job(folders))
    gate.touch()

    assert response.status_code == 409
    assert run_id in response.json()["failure_message"]
    assert ann.wait(run_id) == "FINISHED"


# ---- every route, for every role


def send(deployment: Deployment, route: Route, user: str, **arguments: Any) -> requests.Response:
    client = Client(deployment, user)
    if route.call == "start":
        arguments.setdefault("json", {"model_id": "scaler"})
    return client.request(route.method, route.path_of("nothing"), **arguments)


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_every_route_checks_user_and_rights(deployment: Deployment, route: Route):
    everyone = set(PEOPLE)
    may_read = {name for name in PEOPLE if PEOPLE[name]}
    may_change = {name for name in may_read if PEOPLE[name] != "viewer"}
    allowed = may_change if route.changes else may_read if route.call else everyone

    for headers in ({}, {"Authorization": "Bearer forged"}):
        assert send(deployment, route, "", headers=headers).status_code == 401
    for user in PEOPLE:
        response = send(deployment, route, user)
        assert (response.status_code != 403) == (user in allowed), (user, response.text)
        assert response.status_code not in {401, 500}
        if route.call:
            parse_response(route.call, response.json())


@pytest.mark.parametrize("route", [route for route in ROUTES if route.changes], ids=str)
def test_another_site_cannot_use_a_logged_in_browser(deployment: Deployment, route: Route):
    cookies = {"_token": deployment.airflow.token("ann")}
    own = deployment.airflow.url

    other = send(deployment, route, "", cookies=cookies, headers={"Origin": "https://evil.example.com"})
    none = send(deployment, route, "", cookies=cookies)
    same = send(deployment, route, "", cookies=cookies, headers={"Origin": own})

    assert (other.status_code, none.status_code) == (403, 403)
    assert same.status_code not in {401, 403}


# ---- Airflow's audit log, the list, and the OpenAPI document


def start_nothing(deployment: Deployment, user: Client, name: str, *, model_id: str = "scaler") -> str:
    """Start an execution whose source folder does not exist."""
    folder = f"file://{deployment.folder}/{name}"
    folders = {"source_folder": f"{folder}/in", "destination_folder": f"{folder}/out"}
    return user.start({**job(folders), "model_id": model_id})


def test_airflows_audit_log_has_starts_and_cancellations(deployment: Deployment, ann: Client):
    execution_id = start_nothing(deployment, ann, "audited")
    Client(deployment, "bob").post("cancel", f"/batch-job/{execution_id}/cancel")

    log = deployment.airflow.api("GET", f"eventLogs?dag_id=batch_execution&run_id={execution_id}")

    events = {(entry["event"], entry["owner"]) for entry in log["event_logs"]}
    assert {("start_batch_job", "ann"), ("cancel_batch_job", "bob")} <= events
    ann.wait(execution_id)


def test_the_list_has_all_executions_in_pages(deployment: Deployment, ann: Client):
    # Other modules start executions concurrently, but none of this model.
    deployment.publish("listed")
    started = [start_nothing(deployment, ann, f"listed-{n}", model_id="listed") for n in range(3)]
    found, cursor = [], ""
    while True:
        page = ann.get("list", f"/batch-jobs?model_id=listed&limit=2&cursor={cursor}")
        found += [j["job_id"] for j in page["batch_jobs"]]
        cursor = page["next_cursor"] or ""
        if not cursor:
            break

    assert found == started[::-1]
    everything = ann.get("list", "/batch-jobs?limit=1000")["batch_jobs"]
    assert set(started) <= {j["job_id"] for j in everything}
    for execution_id in started:
        ann.wait(execution_id)


def test_the_openapi_document_is_served(deployment: Deployment, ann: Client):
    document = ann.request("GET", "/openapi.json").json()
    page = ann.request("GET", "/docs")

    assert document["servers"] == [{"url": "/batchexec"}]
    assert set(document["paths"]) == {route.path for route in ROUTES if route.call}
    assert "/batchexec/openapi.json" in page.text


def test_no_log_contains_a_secret_and_no_request_failed(deployment: Deployment):
    logs = "".join(path.read_text() for path in deployment.airflow.home.rglob("*.log"))

    assert deployment.s3.secret_access_key not in logs
    assert "Unhandled error in the batch execution API" not in logs
