"""The OpenAPI document: it describes what is answered, and whatever it allows to send is answered as it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from api_routes import ROUTES
from hypothesis import HealthCheck, given, settings
from schemathesis import checks as _  # noqa: F401  registers the checks that the next line names
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from wire_service import parse_response

from airflow_batchexec.wire.request import read_start_request
from airflow_batchexec.wire.schema import START_REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api_routes import Route
    from fastapi import FastAPI

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture
def document(api: Any) -> dict[str, Any]:
    return api.request("GET", "/openapi.json").json()


@pytest.fixture
def described(api: Any, server: FastAPI) -> Any:
    """The document as the fuzzer reads it, from the server itself."""
    headers = {"Authorization": f"Bearer {api.token()}"}
    return schemathesis.openapi.from_asgi("/batchexec/openapi.json", server, headers=headers)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.call], ids=str)
def test_whatever_is_sent_is_answered_as_the_document_says(api: Any, described: Any, route: Route):
    seen = set()

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(described[route.path][route.method].as_strategy())
    def send(case: Any) -> None:
        response = case.call(headers={"Authorization": f"Bearer {api.token()}", **(case.headers or {})})
        case.validate_response(response, checks=CHECKS)
        parse_response(route.call, response.json())
        seen.add(response.status_code)

    send()
    assert seen


def test_every_call_is_described_with_examples_of_its_errors(document: dict[str, Any]):
    for route in ROUTES:
        if not route.call:
            assert route.path not in document["paths"]
            continue
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["security"] == [{"HTTPBearer": []}]
        assert {"200", "401", "403", "503"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            content = response["content"]["application/json"]
            assert content["schema"]["$ref"].startswith("#/components/schemas/")
            if status != "200":
                example = content["example"]
                parse_response(route.call, example)
                assert example[route.told] is False
                assert example["failure_message"]


def examples(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    body = document["paths"]["/api/v1/batch-job/start-job"]["post"]["requestBody"]
    for example in body["content"]["application/json"]["examples"].values():
        yield example["value"]


def test_the_examples_of_a_start_are_starts(
    api: Any, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS", "")
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__MODEL_REPOSITORY", "")
    bodies = list(examples(document))
    assert len(bodies) == 2

    for body in bodies:
        assert not read_start_request(body).warnings
        assert api.post("/batch-job/start-job", json=body).status_code == 200


def members(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that the schema of a request knows, with one that fits there."""
    for name, member in schema["properties"].items():
        at = f"{path}.{name}" if path else name
        if "properties" in member:
            yield from members(member, at)
        elif "enum" in member:
            yield at, member["enum"][1]
        else:
            kind = member["type"][0]
            yield (
                at,
                {"string": "text", "integer": 1, "number": 1.5, "array": [{"key": "A", "value": "1"}]}[kind],
            )


@pytest.mark.parametrize(("path", "value"), list(members(START_REQUEST)))
def test_every_field_of_the_documents_request_is_one_of_the_wire(path: str, value: Any):
    body = value
    for name in reversed(path.split(".")):
        body = {name: body}

    assert not read_start_request(body).warnings


def test_below_another_path_the_document_says_so(api: Any):
    response = api.client.get(
        "/batchexec/openapi.json",
        headers={"Authorization": f"Bearer {api.token()}"},
    )

    assert response.json()["servers"] == [{"url": "/batchexec"}]


def test_the_page_is_there_unless_airflow_shows_none(api: Any, monkeypatch: pytest.MonkeyPatch):
    assert api.request("GET", "/docs").status_code == 200

    monkeypatch.setenv("AIRFLOW__API__ENABLE_SWAGGER_UI", "False")

    assert api.request("GET", "/docs").status_code == 404
