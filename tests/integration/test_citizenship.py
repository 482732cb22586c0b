"""Integration with Airflow's features: links, asset events, lineage and notes, in an Airflow served below a path.

This Airflow is set up as the README says. The tests' S3 server stands in for AWS: a proxy routes requests to AWS's host
names to it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pandas as pd
import pytest
import requests
from airflow_models import expected, frame
from aws_proxy import start_aws_proxy
from documents import README, blocks, set_up
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_deployment import Deployment
    from s3_server import S3Server

ROOT = Path(__file__).resolve().parents[2]
# One that the README allows.
BUCKET = "flights"
DAGS = """
from pathlib import Path

from airflow.sdk import DAG, Asset, AssetAlias, task

from airflow_batchexec import BatchExecutionOperator, BatchExecutionSensor, create_execution_dag

FOLDER = Path(__file__).parents[1] / "files" / "test_citizenship"


@task
def seen(triggering_asset_events=None):
    # An event from an alias is listed under the alias as well.
    assets = [asset for asset in triggering_asset_events if isinstance(asset, Asset)]
    return [event.extra for asset in assets for event in triggering_asset_events[asset]]


with DAG("after_folder", schedule=Asset(f"file://{FOLDER}/watched/out/")):
    seen()

with DAG("after_any", schedule=AssetAlias("batch_execution")):
    seen()

on_aws = create_execution_dag("on_aws", batch_execution_conn_id="like_aws")

with DAG("parent", schedule=None):
    BatchExecutionOperator.partial(
        task_id="run",
        model_id="scaler",
        bucket="{{ dag_run.conf['bucket'] }}",
        access_token_name="bucket_key",
        access_secret_name="bucket_secret",
        execution_dag_id="on_aws",
        batch_execution_conn_id="like_aws",
        poll_interval=1,
        deferrable=False,
        retries=0,
    ).expand_kwargs(
        [
            {"source_folder": "linked/in", "destination_folder": "linked/out"},
            {"source_folder": "nowhere", "destination_folder": "linked/none"},
        ]
    ) >> BatchExecutionSensor(
        task_id="look",
        execution_id="{{ ti.xcom_pull('run', key='execution_run', map_indexes=0)['run_id'] }}",
        execution_dag_id="on_aws",
        trigger_rule="all_done",
        deferrable=True,
        poke_interval=1,
    )
"""


@pytest.fixture(scope="module")
def user_dags() -> str:
    return DAGS


@pytest.fixture(scope="module")
def airflow_path() -> str:
    return "/tools/airflow"


@pytest.fixture(scope="module")
def lineage_events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that OpenLineage writes its events to, one file each."""
    return tmp_path_factory.mktemp("lineage")


@dataclass(frozen=True)
class Newcomer:
    """A user who follows the README.

    Attributes:
        home: The home folder; Airflow's is in it.
        checkout: Where the commands run.
    """

    home: Path
    checkout: Path

    def run(self, script: str, environment: Mapping[str, str]) -> str:
        """Run commands of the README, and return their output."""
        done = subprocess.run(
            ["bash", "-eu", "-c", script],
            cwd=self.checkout,
            env={**environment, "HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    found = Newcomer(tmp_path_factory.mktemp("newcomer"), tmp_path_factory.mktemp("checkout"))
    for folder in ("dags", "models"):
        (found.checkout / folder).symlink_to(ROOT / folder)
    return found


@pytest.fixture(scope="module")
def airflow_home(newcomer: Newcomer) -> Path:
    return newcomer.home / "airflow"


@pytest.fixture(scope="module")
def exported(newcomer: Newcomer, airflow_home: Path) -> dict[str, str]:
    """The README's settings for Airflow, once its files are in place."""
    script = "\n".join(["exec 3>&1 >&2", *(block.text for block in set_up().prepare), "env -0 >&3"])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = dict(line.split("=", 1) for line in newcomer.run(script, {"PATH": path}).split("\0") if line)
    assert (airflow_home / "dags" / "batch_execution.py").is_file()
    return {name: value for name, value in variables.items() if name.startswith("AIRFLOW")}


@pytest.fixture(scope="module")
def airflow_settings(
    s3_server: S3Server, lineage_events: Path, exported: dict[str, str], airflow_home: Path
) -> Iterator[dict[str, str]]:
    # The connection that the README names.
    aws_default = {
        "conn_type": "aws",
        "login": s3_server.access_key_id,
        "password": s3_server.secret_access_key,
        "extra": {"endpoint_url": s3_server.endpoint_url, "region_name": s3_server.region},
    }
    allowed = exported["AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS"]
    with start_aws_proxy(s3_server.endpoint_url) as proxy:
        # Requests to a proxy contain the absolute URL.
        proxy.rules.append(
            lambda request, pass_on: pass_on(
                replace(request, path=re.sub(r"^http://[^/]+", "", request.path))
            )
        )
        yield {
            **exported,
            "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": f"{allowed},file://{airflow_home}/files",
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws_default),
            "HTTP_PROXY": proxy.endpoint_url,
            "NO_PROXY": "127.0.0.1,localhost",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(lineage_events / "event")}
            ),
            "AIRFLOW_CONN_LIKE_AWS": json.dumps(
                {
                    "conn_type": "batch_execution",
                    "extra": {
                        "endpoint_url": "http://s3.us-east-1.amazonaws.com",
                        "region_name": s3_server.region,
                    },
                }
            ),
        }


@pytest.fixture(scope="module")
def deployment(own_deployment: Deployment) -> Deployment:
    own_deployment.publish("scaler")
    for bucket in (BUCKET, "delays"):
        own_deployment.s3.make_bucket(bucket)
    return own_deployment


def links(
    deployment: Deployment, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1
) -> dict[str, str | None]:
    """The links that the server returns for a task instance."""
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
    found: dict[str, str | None] = deployment.airflow.api("GET", path, params={"map_index": map_index})[
        "extra_links"
    ]
    return found


def links_of_ended_task(deployment: Deployment, *task: Any, map_index: int = -1) -> dict[str, str | None]:
    """The links of a task that has ended, polled because its process stores them after its state changes."""
    return wait_until(
        lambda: (found := links(deployment, *task, map_index=map_index)) and any(found.values()) and found
    )


def lineage(
    events: Path, job: str, run_id: str, *, kind: str = "COMPLETE", tasks: int = 1
) -> list[dict[str, Any]]:
    """The events of a job's tasks in one run."""

    def found() -> list[dict[str, Any]]:
        all_events = [json.loads(file.read_text() or "{}") for file in events.iterdir()]
        return [
            event
            for event in all_events
            if event.get("eventType") == kind
            and event["job"]["name"] == job
            and event["run"]["facets"]["airflow"]["dagRun"]["run_id"] == run_id
        ]

    return wait_until(lambda: (matching := found()) and len(matching) >= tasks and matching)


def datasets(event: dict[str, Any], kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The statistics of an event's inputs or outputs, by namespace and name."""
    facets = {"inputs": ("inputFacets", "inputStatistics"), "outputs": ("outputFacets", "outputStatistics")}
    group, facet = facets[kind]
    return {
        (entry["namespace"], entry["name"]): {
            name: value
            for name, value in entry.get(group, {}).get(facet, {}).items()
            if not name.startswith("_")
        }
        for entry in event[kind]
    }


def asset_events(deployment: Deployment, run_id: str) -> list[dict[str, Any]]:
    """The asset events that an execution's run has emitted."""

    def response() -> dict[str, Any] | None:
        # Airflow 3.3.2 responds with 500 while a run triggered by an event is queued, as it has no start date.
        with suppress(RuntimeError):
            return deployment.airflow.api(
                "GET",
                "assets/events",
                params={"source_dag_id": "batch_execution", "source_run_id": run_id},
            )
        return None

    found: list[dict[str, Any]] = wait_until(response)["asset_events"]
    return found


def newest_run(deployment: Deployment, *, model_id: str) -> dict[str, Any]:
    """The newest execution of a model, once it has ended."""
    path = "dags/batch_execution/dagRuns?limit=1&order_by=-run_after"
    (run,) = deployment.airflow.api("GET", path)["dag_runs"]
    assert run["conf"]["model_id"] == model_id
    return deployment.airflow.wait_for_run("batch_execution", run["dag_run_id"])


def note(deployment: Deployment, dag_id: str, run_id: str) -> str:
    """The note of a run; empty if it has none."""
    return str(deployment.airflow.run(dag_id, run_id)["note"] or "")


def test_a_finished_execution_updates_the_asset_of_its_folder(
    deployment: Deployment, lineage_events: Path
) -> None:
    folders = deployment.write_files("watched", {"a": "calm", "b": "calm"}, rows=5)
    source, destination = (folders[name].removeprefix("file://") for name in folders)

    run, run_id = deployment.execute(**folders)

    assert run["state"] == "success"
    assert re.fullmatch(
        r"Execution FINISHED: 2 of 2 files, 10 rows in \d+\.\d s", note(deployment, "batch_execution", run_id)
    )
    manifest = deployment.manifest("watched", run_id)
    extra = {"execution_id": run_id, "files": 2, "rows": 10, "manifest": manifest["manifest"]}
    (event,) = asset_events(deployment, run_id)
    assert (event["uri"], event["extra"]) == (folders["destination_folder"], extra)
    for dag_id in ("after_folder", "after_any"):
        (follower,) = wait_until(
            lambda dag_id=dag_id: deployment.airflow.api("GET", f"dags/{dag_id}/dagRuns")["dag_runs"]
        )
        follower_id = follower["dag_run_id"]
        assert deployment.airflow.wait_for_run(dag_id, follower_id)["state"] == "success"
        assert deployment.airflow.xcom(dag_id, follower_id, "seen") == [extra]
        assert note(deployment, dag_id, follower_id) == ""

    (end,) = lineage(lineage_events, "batch_execution.finish", run_id)
    sizes = [(record["input"]["size_bytes"], record["output"]["size_bytes"]) for record in manifest["files"]]
    inputs, outputs = datasets(end, "inputs"), datasets(end, "outputs")
    assert inputs["file", source] == {"rowCount": 10, "size": sum(i for i, _ in sizes), "fileCount": 2}
    assert outputs == {
        ("file", destination): {"rowCount": 10, "size": sum(o for _, o in sizes), "fileCount": 2}
    }
    assert ("file", str(deployment.repository / "scaler" / "b1")) in inputs
    files = [
        datasets(event, "outputs")
        for event in lineage(lineage_events, "batch_execution.predict", run_id, tasks=2)
    ]
    assert {name for outputs in files for name in outputs} == {
        ("file", f"{destination}/a.csv"),
        ("file", f"{destination}/b.csv"),
    }


def test_a_failed_execution_keeps_a_users_note_and_updates_no_asset(
    deployment: Deployment, lineage_events: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    folders = deployment.write_files("failing", {"good": "calm", "bad": "fail"})
    conf = {"model_id": "scaler", "pods": 1, "parameters": {"BROKEN": str(broken)}, **folders}
    body = {"logical_date": None, "conf": conf, "note": "requested by Ada"}

    run_id = deployment.airflow.api("POST", "dags/batch_execution/dagRuns", json=body)["dag_run_id"]
    run = deployment.airflow.wait_for_run("batch_execution", run_id)

    assert run["state"] == "failed"
    theirs, ours = note(deployment, "batch_execution", run_id).split("\n\n")
    assert theirs == "requested by Ada"
    assert ours.startswith("Execution FAILED: 1 of 2 files failed: bad.csv: ")
    assert asset_events(deployment, run_id) == []
    (end,) = lineage(lineage_events, "batch_execution.finish", run_id, kind="FAIL")
    finished = deployment.manifest("failing", run_id)["finished_files"]
    assert [facet["fileCount"] for facet in datasets(end, "outputs").values()] == [finished] * bool(finished)

    broken.unlink()
    run = deployment.clear(run_id)

    assert run["state"] == "success"
    theirs, ours = note(deployment, "batch_execution", run_id).split("\n\n")
    assert theirs == "requested by Ada"
    assert ours.startswith("Execution FINISHED: 2 of 2 files, ")
    assert len(asset_events(deployment, run_id)) == 1


def test_links_lead_to_the_execution_while_it_runs_and_to_its_results(deployment: Deployment) -> None:
    body = frame("a", 3).to_csv(index=False).encode()
    deployment.s3.client.put_object(Bucket=BUCKET, Key="linked/in/a.csv", Body=body)

    run_id = deployment.airflow.trigger("parent", {"bucket": BUCKET})

    def started() -> str | None:
        instances = deployment.airflow.task_instances("parent", run_id)
        return next((str(i["state"]) for i in instances if i["map_index"] == 0), None)

    while_waiting = wait_until(
        lambda: started() and links(deployment, "parent", run_id, "run", map_index=0)["Execution"]
    )
    assert started() == "running"
    run = deployment.airflow.wait_for_run("parent", run_id)
    assert run["state"] == "success"

    page = f"{deployment.airflow.url}/dags/on_aws/runs/"
    console = (
        f"https://console.aws.amazon.com/s3/buckets/{BUCKET}?region={deployment.s3.region}&prefix=linked/out/"
    )
    good = links_of_ended_task(deployment, "parent", run_id, "run", map_index=0)
    refused = links_of_ended_task(deployment, "parent", run_id, "run", map_index=1)
    looking = links_of_ended_task(deployment, "parent", run_id, "look")
    assert good == looking == {"Execution": while_waiting, "Results": console}
    assert refused["Results"] is None
    executions = [str(found["Execution"]) for found in (good, refused)]
    assert executions[0] != executions[1]
    for link, state in zip(executions, ("success", "failed"), strict=True):
        assert link.startswith(page)
        assert deployment.airflow.run("on_aws", unquote(link.removeprefix(page)))["state"] == state
        assert requests.get(link, timeout=600).headers["content-type"].startswith("text/html")
    execution = unquote(executions[0].removeprefix(page))
    assert links_of_ended_task(deployment, "on_aws", execution, "finish") == {"Results": console}
    ours, operators = note(deployment, "on_aws", execution).split("\n\n")
    assert ours.startswith("Execution FINISHED: 1 of 1 files, 3 rows in ")
    assert operators.startswith("Started by parent.run")


def test_the_readme_leads_from_nothing_to_results_on_disk_and_in_a_bucket(
    deployment: Deployment, newcomer: Newcomer
) -> None:
    airflow, s3 = deployment.airflow, deployment.s3.client
    environment = airflow.address.environment
    start, show, result, connect = (block.text for block in set_up().use)
    # The tests' Airflows do not pause new DAGs, and have a connection.
    airflow.api("PATCH", "dags/batch_execution", json={"is_paused": True})
    airflow.api("DELETE", "connections/batch_execution_default")

    newcomer.run(start, environment)
    assert newest_run(deployment, model_id="fahrenheit")["state"] == "success"
    assert newcomer.run(show, environment) == result

    newcomer.run(connect, environment)
    (start_in_bucket,) = [b.text for b in blocks(README) if b.section == "A DAG" and b.language == "sh"]
    deployment.publish("arrival_delay")
    s3.put_object(Bucket=BUCKET, Key="2013-01-01/a.csv", Body=frame("a", 3).to_csv(index=False).encode())
    newcomer.run(start_in_bucket, environment)
    assert newest_run(deployment, model_id="arrival_delay")["state"] == "success"
    written = s3.get_object(Bucket="delays", Key="2013-01-01/a.csv")["Body"]
    pd.testing.assert_frame_equal(pd.read_csv(written), expected(frame("a", 3)))
