"""The REST API under the FAB auth manager: permissions on individual DAGs, from custom roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests
from api_routes import ROUTES
from fab_airflow import USERS, start_fab_airflow
from wire_service import parse_response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api_routes import Route
    from fab_airflow import FabAirflow

READERS = {"admin", "viewer", "gpu_reader", "gpu_user"}
CHANGERS = {"admin", "gpu_user"}


@pytest.fixture(scope="module")
def fab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FabAirflow]:
    with start_fab_airflow(tmp_path_factory.mktemp("fab")) as server:
        yield server


@pytest.fixture(scope="module")
def tokens(fab: FabAirflow) -> dict[str, str]:
    return {user: fab.token(user) for user in USERS}


@pytest.fixture(scope="module")
def runs(fab: FabAirflow, tokens: dict[str, str]) -> dict[str, str]:
    """A run of each execution DAG, by DAG ID."""
    found = {}
    for dag_id in ("batch_execution", "batch_execution_gpu"):
        folders = {"source_folder": "s3://flights/in", "destination_folder": f"s3://flights/{dag_id}"}
        response = requests.post(
            f"{fab.url}/api/v2/dags/{dag_id}/dagRuns",
            headers={"Authorization": f"Bearer {tokens['admin']}"},
            json={"logical_date": None, "conf": {"model_id": "m", **folders}},
            timeout=600,
        )
        assert response.ok, response.text
        found[dag_id] = response.json()["dag_run_id"]
    return found


def send(fab: FabAirflow, token: str, method: str, path: str, **arguments: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.request(method, f"{fab.url}/batchexec{path}", headers=headers, timeout=600, **arguments)


def listed(fab: FabAirflow, token: str) -> set[str]:
    response = send(fab, token, "GET", "/api/v1/batch-jobs")
    assert response.status_code == 200, response.text
    parse_response("list", response.json())
    return {job["job_id"] for job in response.json()["batch_jobs"]}


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_every_route_checks_user_and_rights(
    fab: FabAirflow, tokens: dict[str, str], runs: dict[str, str], route: Route
):
    allowed = CHANGERS if route.changes else READERS if route.call else set(USERS)
    path = route.path_of("nothing")
    # An invalid request, so that nothing is started here.
    arguments: dict[str, Any] = {"json": {}} if route.call == "start" else {}

    for forged in ("", "forged"):
        assert send(fab, forged, route.method, path, **arguments).status_code == 401
    for user, token in tokens.items():
        response = send(fab, token, route.method, path, **arguments)
        assert (response.status_code != 403) == (user in allowed), (user, response.text)
        assert response.status_code not in {401, 500}
        if route.call:
            parse_response(route.call, response.json())


def test_a_list_has_what_its_reader_may_see(fab: FabAirflow, tokens: dict[str, str], runs: dict[str, str]):
    assert listed(fab, tokens["admin"]) == set(runs.values())
    assert listed(fab, tokens["viewer"]) == set(runs.values())
    assert listed(fab, tokens["gpu_reader"]) == {runs["batch_execution_gpu"]}
    assert listed(fab, tokens["gpu_user"]) == {runs["batch_execution_gpu"]}


@pytest.mark.parametrize("end", ["", "/status", "/report"])
def test_an_invisible_execution_is_not_found(
    fab: FabAirflow, tokens: dict[str, str], runs: dict[str, str], end: str
):
    for user in ("gpu_reader", "gpu_user"):
        theirs, others = (
            f"/api/v1/batch-job/{runs[d]}{end}" for d in ("batch_execution_gpu", "batch_execution")
        )

        assert send(fab, tokens[user], "GET", theirs).status_code == 200
        assert send(fab, tokens[user], "GET", others).status_code == 404


def test_cancelling_needs_the_right_to_change_runs(
    fab: FabAirflow, tokens: dict[str, str], runs: dict[str, str]
):
    gpu, other = (f"/api/v1/batch-job/{runs[d]}/cancel" for d in ("batch_execution_gpu", "batch_execution"))

    # A user with permissions on one DAG gets 404 for the other's runs; a user who may only read gets 403.
    assert send(fab, tokens["gpu_user"], "POST", other).status_code == 404
    assert send(fab, tokens["viewer"], "POST", other).status_code == 403
    assert send(fab, tokens["gpu_reader"], "POST", gpu).status_code == 403
    assert send(fab, tokens["gpu_user"], "POST", gpu).status_code == 200
    assert send(fab, tokens["admin"], "POST", other).status_code == 200


def test_starting_uses_the_first_dag_and_needs_its_right(
    fab: FabAirflow, tokens: dict[str, str], runs: dict[str, str]
):
    body = {"model_id": "m", "source_folder": "s3://flights/in", "destination_folder": "s3://flights/new"}

    started = send(fab, tokens["gpu_user"], "POST", "/api/v1/batch-job/start-job", json=body)
    refused = send(fab, tokens["gpu_reader"], "POST", "/api/v1/batch-job/start-job", json=body)

    assert started.status_code == 200, started.text
    assert refused.status_code == 403
    assert started.json()["batch_id"] in listed(fab, tokens["gpu_reader"])
