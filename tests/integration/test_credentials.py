"""Credentials in a real Airflow: roles, the Test button, a triggerer, and secrets that must not leak anywhere."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from airflow_models import frame
from aws_policies import MAY_ASSUME, documented_policy, trust
from aws_proxy import start_aws_proxy
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_deployment import Deployment
    from aws_proxy import AwsProxy
    from s3_server import Keys, S3Server

DAG_ID, CONNECTION = "by_canary", "canary_s3"
EXECUTION_KEYS = {"access_token_name": "canary_key", "access_secret_name": "canary_secret"}


@pytest.fixture(scope="module")
def user_dags() -> str:
    return """
from airflow.sdk import DAG
from trigger_probe import WriteFromTrigger

from airflow_batchexec import create_execution_dag

create_execution_dag("by_canary", batch_execution_conn_id="canary_s3")
# DAG("by_canary")

with DAG("from_a_trigger", schedule=None):
    WriteFromTrigger(task_id="write")
"""


@dataclass(frozen=True)
class Canary:
    """Keys and a role that only this module's executions use, and the secrets that must not leak.

    Attributes:
        keys: Keys of a user who may only assume roles.
        aws_keys: The same, for a connection of type ``aws``, whose login Airflow does not treat as a secret.
        role: A role with the permissions of the documented bucket policy.
        proxy: A proxy in front of S3 and STS, which records every session that was issued.
        seen_in_pods: The command lines and environments of the pods' processes.
    """

    keys: Keys
    aws_keys: Keys
    role: str
    proxy: AwsProxy
    seen_in_pods: list[str] = field(default_factory=list)

    @property
    def secrets(self) -> set[str]:
        """All values that must not appear anywhere."""
        of_users = {self.keys.access_key_id, self.keys.secret_access_key, self.aws_keys.secret_access_key}
        return of_users | self.proxy.given


@pytest.fixture(scope="module")
def canary(deployment: Deployment, s3_server: S3Server) -> Iterator[Canary]:
    keys, aws_keys = s3_server.make_user(MAY_ASSUME), s3_server.make_user(MAY_ASSUME)
    policy = documented_policy(
        "bucket-policy.json",
        SOURCE_BUCKET=deployment.bucket,
        DESTINATION_BUCKET=deployment.bucket,
        SOURCE_FOLDER="canary/in",
        DESTINATION_FOLDER="canary/out",
    )
    role = s3_server.make_role(trust(s3_server.account_id), *policy["Statement"], name="canary-role")
    for name, value in (("canary_key", keys.access_key_id), ("canary_secret", keys.secret_access_key)):
        deployment.airflow.api("POST", "variables", json={"key": name, "value": value})
    with start_aws_proxy(s3_server.endpoint_url) as proxy:
        extra = json.dumps({"endpoint_url": proxy.endpoint_url, "role_duration_seconds": 900})
        body = {"connection_id": CONNECTION, "conn_type": "batch_execution", "extra": extra}
        deployment.airflow.api("POST", "connections", json=body)
        yield Canary(keys, aws_keys, role, proxy)


def folders(deployment: Deployment, name: str, moods: dict[str, str]) -> dict[str, str]:
    """Upload input files to the bucket, and return an execution's folders and secrets."""
    for file, mood in moods.items():
        body = frame(file, 5, mood=mood).to_csv(index=False).encode()
        deployment.s3.client.put_object(
            Bucket=deployment.bucket, Key=f"canary/in/{name}/{file}.csv", Body=body
        )
    return {
        "bucket": deployment.bucket,
        "source_folder": f"canary/in/{name}",
        "destination_folder": f"canary/out/{name}",
        **EXECUTION_KEYS,
    }


def record_pods(deployment: Deployment, canary: Canary) -> bool:
    """Record the command lines and environments of all pods' processes; return whether any exist."""
    pods = deployment.pods()
    for pod in pods:
        tree = [pod]
        with suppress(psutil.Error):
            tree += pod.children(recursive=True)
        for process in tree:
            with suppress(psutil.Error):
                canary.seen_in_pods.append(" ".join([*process.cmdline(), json.dumps(process.environ())]))
    return bool(pods)


@pytest.fixture(scope="module")
def runs(deployment: Deployment, canary: Canary, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run an execution that succeeds, one whose model raises, and one that times out; return their IDs by name."""
    folder = tmp_path_factory.mktemp("marks")
    broken, gate = folder / "broken", folder / "gate"
    broken.touch()
    canary.proxy.session_life(4, keys=canary.keys)
    started = {
        name: deployment.start(
            dag_id=DAG_ID,
            **folders(deployment, name, moods),
            iam_role_arn=canary.role,
            parameters={"GATE": str(gate), "BROKEN": str(broken)},
            pods=1,
            **more,
        )
        for name, moods, more in (
            ("succeeds", {"a": "gated", "b": "calm", "c": "calm"}, {}),
            ("fails", {"bad": "fail"}, {}),
            ("hangs", {"stuck": "hang"}, {"file_timeout": 5}),
        )
    }

    def wait_for(name: str) -> None:
        deployment.airflow.wait_for_run(
            DAG_ID, started[name], timeout=600, on_poll=lambda: record_pods(deployment, canary)
        )

    wait_for("fails")
    wait_for("hangs")
    # The remaining execution outlives two sessions.
    before = canary.proxy.count("AssumeRole")
    wait_until(lambda: canary.proxy.count("AssumeRole") >= before + 2, what="two more sessions")
    gate.touch()
    wait_for("succeeds")
    return started


def test_an_execution_uses_the_role_and_survives_its_sessions(
    deployment: Deployment, canary: Canary, runs: dict[str, str]
) -> None:
    summary = deployment.airflow.xcom(DAG_ID, runs["succeeds"], "finish")

    assert summary["status"] == "FINISHED"
    assert summary["finished_files"] == 3
    # Each of the three tasks has assumed the role once, and predict more than once.
    assumed = [r for r in canary.proxy.requests if r.action == "AssumeRole"]
    assert len(assumed) > 3 * len(runs)
    assert {r.form["RoleArn"] for r in assumed} == {canary.role}
    # The keys themselves were only used to assume the role.
    assert {r.action for r in canary.proxy.requests if r.access_key_id == canary.keys.access_key_id} == {
        "AssumeRole"
    }


def test_the_other_executions_end_as_they_should(deployment: Deployment, runs: dict[str, str]) -> None:
    for name, status in (("fails", "FAILED"), ("hangs", "TIMEOUT")):
        key = f"canary/out/{name}/_batchexec/{runs[name]}/manifest.json"
        body = deployment.s3.client.get_object(Bucket=deployment.bucket, Key=key)["Body"].read()
        assert [record["status"] for record in json.loads(body)["files"]] == [status]


def test_a_role_that_may_not_be_assumed_is_refused_while_planning(
    deployment: Deployment, canary: Canary
) -> None:
    role = f"arn:aws:iam::{deployment.s3.account_id}:role/nobody"

    run, run_id = deployment.execute(
        dag_id=DAG_ID, **folders(deployment, "refused", {"a": "calm"}), iam_role_arn=role
    )

    assert run["state"] == "failed"
    log = deployment.airflow.task_log(DAG_ID, run_id, "plan")
    assert f"iam_role_arn: cannot assume the role {role}: AccessDenied" in log
    assert "the keys from access_token_name and access_secret_name" in log
    assert "cannot assume" in deployment.airflow.task_log(DAG_ID, run_id, "finish")
    instances = deployment.airflow.task_instances(DAG_ID, run_id)
    assert [i["try_number"] for i in instances if i["task_id"] == "plan"] == [1]
    listed = deployment.s3.client.list_objects_v2(Bucket=deployment.bucket, Prefix="canary/out/refused")
    assert listed["KeyCount"] == 0


def test_a_triggerer_reaches_a_bucket_from_a_thread(deployment: Deployment, canary: Canary) -> None:
    canary.proxy.rules.clear()
    uri = f"s3://{deployment.bucket}/canary/out/from-a-trigger"
    arguments = {**EXECUTION_KEYS, "iam_role_arn": canary.role, "batch_execution_conn_id": CONNECTION}

    run_id = deployment.airflow.trigger("from_a_trigger", {"uri": uri, "arguments": arguments})
    run = deployment.airflow.wait_for_run("from_a_trigger", run_id)

    assert run["state"] == "success"
    written = deployment.s3.client.get_object(Bucket=deployment.bucket, Key="canary/out/from-a-trigger")
    assert written["Body"].read() == b"from a trigger"


def press_test(deployment: Deployment, **extra: Any) -> tuple[bool, str]:
    body = {"connection_id": "new_one", "conn_type": "batch_execution", "extra": json.dumps(extra)}
    result = deployment.airflow.api("POST", "connections/test", json=body)
    return result["status"], result["message"]


def test_the_connection_test_shows_the_identity_or_the_error(deployment: Deployment, canary: Canary) -> None:
    deployment.airflow.api(
        "POST",
        "connections",
        json={
            "connection_id": "canary_aws",
            "conn_type": "aws",
            "login": canary.aws_keys.access_key_id,
            "password": canary.aws_keys.secret_access_key,
        },
    )
    endpoint = {"endpoint_url": canary.proxy.endpoint_url, "region_name": "eu-west-3"}

    as_user = press_test(deployment, **endpoint, aws_conn_id="canary_aws")
    as_role = press_test(deployment, **endpoint, aws_conn_id="canary_aws", iam_role_arn=canary.role)
    refused = press_test(deployment, **endpoint, aws_conn_id="canary_aws", iam_role_arn=f"{canary.role}-x")
    missing = press_test(deployment, **endpoint, aws_conn_id="nobody")
    without = press_test(deployment, **endpoint)
    malformed = press_test(deployment, role_duration_seconds=5)

    assert [status for status, _ in (as_user, as_role)] == [True, True]
    assert ":user/" in as_user[1]
    assert "eu-west-3" in as_user[1]
    assert ":assumed-role/canary-role/airflow-batchexec" in as_role[1]
    for (status, message), words in (
        (refused, f"cannot assume the role {canary.role}-x"),
        (missing, "aws_conn_id: connection 'nobody' does not exist"),
        (without, "no usable credentials"),
        (malformed, "role_duration_seconds: 5"),
    ):
        assert not status
        assert words in message


def test_the_form_in_the_browser_has_the_fields(deployment: Deployment) -> None:
    response = deployment.airflow._session.get(
        f"{deployment.airflow.url}/ui/connections/hook_meta", timeout=600
    )

    (form,) = [meta for meta in response.json() if meta["connection_type"] == "batch_execution"]
    assert form["hook_name"] == "Batch Execution"
    assert form["extra_fields"]["role_duration_seconds"]["schema"]["maximum"] == 43_200
    assert form["extra_fields"]["iam_role_arn"]["schema"]["title"] == "IAM role ARN"
    assert form["standard_fields"]["password"]["hidden"]


def api_output(deployment: Deployment, run_id: str) -> str:
    """Everything that Airflow's API returns for a run: conf, task instances with rendered fields, XComs, logs."""
    api = deployment.airflow.api
    parts = [api("GET", f"dags/{DAG_ID}/dagRuns/{run_id}")]
    for instance in deployment.airflow.task_instances(DAG_ID, run_id):
        task, index = instance["task_id"], instance["map_index"]
        path = f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/{task}"
        parts.append(instance)
        entries = api("GET", f"{path}/xcomEntries", params={"map_index": index})["xcom_entries"]
        parts += [api("GET", f"{path}/xcomEntries/{e['key']}", params={"map_index": index}) for e in entries]
        parts += [
            deployment.airflow.task_log(DAG_ID, run_id, task, map_index=index, attempt=attempt)
            for attempt in range(1, instance["try_number"] + 1)
        ]
    return json.dumps(parts)


def files_on_disk(folder: Path) -> dict[str, bytes]:
    """The content of all files below a folder, which other modules may be changing."""
    found = {}
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):
                found[str(path)] = path.read_bytes()
    return found


def objects(deployment: Deployment) -> dict[str, bytes]:
    """The content of all objects in the bucket, which other modules may be changing."""
    client, bucket, found = deployment.s3.client, deployment.bucket, {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page["Contents"]:
            with suppress(client.exceptions.NoSuchKey):
                body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"]
                found[f"s3://{entry['Key']}"] = body.read()
    return found


def test_no_secret_appears_anywhere(deployment: Deployment, canary: Canary, runs: dict[str, str]) -> None:
    # Logs, the database, the configuration, leftovers of pods, and the model repository are in one folder.
    places = {
        **files_on_disk(deployment.home),
        **objects(deployment),
        **{f"API: {name}": api_output(deployment, run_id).encode() for name, run_id in runs.items()},
        "API: connections": json.dumps(deployment.airflow.api("GET", "connections")).encode(),
        "pods": "\n".join(canary.seen_in_pods).encode(),
    }

    def places_with(text: str) -> set[str]:
        return {place for place, content in places.items() if text.encode() in content}

    # The search finds text that may appear: the secrets' names in the runs' conf, the database and documents.
    for run_id in runs.values():
        assert any(f"_batchexec/{run_id}/execution.json" in place for place in places_with("canary_secret"))
    # The latest writes may still be in the database's write-ahead log.
    found = {place.rpartition("/")[2] for place in places_with("canary_secret")}
    assert found & {"airflow.db", "airflow.db-wal"}
    assert {f"API: {name}" for name in runs} <= places_with("canary_secret")
    assert "pods" in places_with("GATE")
    assert any(place.endswith(".log") for place in places_with(runs["succeeds"]))
    # It finds no secret: not the users' keys, nor the IDs, secrets and tokens of at least nine sessions.
    assert len(canary.secrets) > 2 + 3 * 9
    assert {secret[:4]: places_with(secret) for secret in canary.secrets if places_with(secret)} == {}


def test_pods_are_gone_with_their_executions(deployment: Deployment, runs: dict[str, str]) -> None:
    assert runs
    wait_until(lambda: not deployment.pods())
