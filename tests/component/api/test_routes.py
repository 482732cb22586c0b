"""Every route of the REST API: who may call it, and how it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jwt
import pytest
from api_routes import ROUTES
from wire_service import parse_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from api_routes import Route

ALL_ROUTES = pytest.mark.parametrize("route", ROUTES, ids=str)
WIRE_CALLS = pytest.mark.parametrize("route", [route for route in ROUTES if route.call], ids=str)
CHANGING = pytest.mark.parametrize("route", [route for route in ROUTES if route.changes], ids=str)
READING = pytest.mark.parametrize("route", [r for r in ROUTES if r.call and not r.changes], ids=str)


def refused(response: Any, route: Route, status: int) -> str:
    """Check that a response is a refusal in the wire format; return its reason."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body[route.told] is False
    if route.call:
        parse_response(route.call, body)
    assert "Traceback" not in response.text
    return body["failure_message"]


def send(api: Any, route: Route, **arguments: Any) -> Any:
    if route.call == "start":
        arguments.setdefault("json", api.job())
    return api.request(route.method, route.path_of("execution"), **arguments)


def test_the_routes_cover_every_call_of_the_wire():
    assert {route.call for route in ROUTES} >= {"start", "status", "report", "cancel", "list", "details"}
    assert {route.path for route in ROUTES if not route.call} == {"/openapi.json", "/docs"}


@ALL_ROUTES
def test_unauthenticated_requests_are_refused(api: Any, route: Route):
    response = send(api, route, role=None)

    assert "Bearer" in refused(response, route, 401)
    assert response.headers["WWW-Authenticate"] == "Bearer"


@ALL_ROUTES
def test_expired_tokens_are_refused(api: Any, route: Route):
    token = api.token("admin", seconds=-60)

    assert "Expired" in refused(
        send(api, route, role=None, headers={"Authorization": f"Bearer {token}"}), route, 401
    )


@ALL_ROUTES
@pytest.mark.parametrize("kind", ["foreign signature", "unsigned", "not a token"])
def test_forged_tokens_are_refused(api: Any, route: Route, kind: str):
    claims = jwt.decode(api.token("admin"), options={"verify_signature": False})
    forged = {
        "foreign signature": lambda: jwt.encode(claims, "x" * 64, algorithm="HS512"),
        "unsigned": lambda: jwt.encode(claims, None, algorithm="none"),
        "not a token": lambda: "admin",
    }[kind]()

    refused(send(api, route, role=None, headers={"Authorization": f"Bearer {forged}"}), route, 401)


@WIRE_CALLS
def test_a_user_without_permissions_may_do_nothing(api: Any, route: Route, seed: Callable[..., None]):
    seed("execution", state="running")

    assert "You may not" in refused(send(api, route, role=""), route, 403)


@CHANGING
def test_a_viewer_may_change_nothing(api: Any, route: Route, seed: Callable[..., None]):
    seed("execution", state="running")

    assert "You may not" in refused(send(api, route, role="viewer"), route, 403)


@READING
def test_a_viewer_may_read(api: Any, route: Route, seed: Callable[..., None]):
    seed("execution", state="running")

    response = send(api, route, role="viewer")

    assert response.status_code == 200, response.text
    parse_response(route.call, response.json())


@CHANGING
def test_a_user_may_change(api: Any, route: Route, seed: Callable[..., None]):
    seed("execution", state="running", conf={"model_id": "another"})

    response = send(api, route, role="user")

    assert response.status_code == 200, response.text
    assert response.json()["success"] is True


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.call], ids=str)
def test_any_authenticated_user_may_read_the_documents(api: Any, route: Route):
    assert send(api, route, role="viewer").status_code == 200


@CHANGING
@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "https://evil.example.com",
        "http://airflow.test:81",
        "https://airflow.test",
        "http://",
        "",
    ],
)
def test_a_cookie_alone_cannot_change_anything_cross_origin(api: Any, route: Route, origin: str | None):
    headers = {"Cookie": f"_token={api.token('admin')}"} | ({} if origin is None else {"Origin": origin})

    assert "origin" in refused(send(api, route, role=None, headers=headers), route, 403)


@CHANGING
@pytest.mark.parametrize("origin", ["http://airflow.test", "https://airflow.example.com"])
def test_a_same_origin_request_may_change_with_a_cookie(
    api: Any, route: Route, origin: str, seed: Callable[..., None]
):
    seed("execution", state="running", conf={"model_id": "another"})
    headers = {"Cookie": f"_token={api.token('user')}", "Origin": origin}

    assert send(api, route, role=None, headers=headers).status_code == 200


@CHANGING
def test_basic_credentials_do_not_count_as_a_bearer_token(api: Any, route: Route):
    headers = {
        "Cookie": f"_token={api.token('admin')}",
        "Authorization": "Basic YWRtaW46YWRtaW4=",
        "Origin": "https://evil.example.com",
    }

    refused(send(api, route, role=None, headers=headers), route, 403)


@READING
def test_a_cookie_alone_may_read(api: Any, route: Route, seed: Callable[..., None]):
    seed("execution", state="running")

    response = send(api, route, role=None, headers={"Cookie": f"_token={api.token('viewer')}"})

    assert response.status_code == 200


@ALL_ROUTES
def test_an_invalid_token_does_not_fall_back_to_the_cookie(api: Any, route: Route):
    headers = {"Cookie": f"_token={api.token('admin')}", "Authorization": "Bearer wrong"}

    refused(send(api, route, role=None, headers={**headers, "Origin": "http://airflow.test"}), route, 401)


@pytest.mark.parametrize("route", [r for r in ROUTES if "{execution_id}" in r.path], ids=str)
@pytest.mark.parametrize("execution_id", ["unknown", "..", "%00", "%ED%A0%80", "a" * 250, "é", "%2e%2e%5c"])
def test_an_unknown_execution_is_not_found(api: Any, route: Route, execution_id: str):
    response = api.request(route.method, route.path_of(execution_id))

    assert response.status_code in {404, 405}, response.text
    assert response.json()["failure_message"]


@WIRE_CALLS
def test_unsupported_methods_are_refused_in_the_calls_response_type(api: Any, route: Route):
    response = api.request("DELETE", route.path_of("execution"))

    refused(response, route, 405)
    assert route.method in response.headers["Allow"]


def test_an_unknown_path_is_not_found(api: Any):
    response = api.get("/nothing")

    assert (response.status_code, response.json()["success"]) == (404, False)
