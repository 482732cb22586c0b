"""The plugin: lazy imports, mounting, and the option for the DAGs that the API serves."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from airflow_batchexec import settings
from airflow_batchexec.api import URL_PREFIX, LazyApp
from airflow_batchexec.exceptions import ConfigurationError

WORKER_LOADS = """
import json, sys
import airflow.sdk.plugins_manager
before = set(sys.modules)
from airflow_batchexec.plugin import BatchExecPlugin
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_loading_the_plugin_does_not_import_the_application():
    done = subprocess.run(
        [sys.executable, "-c", WORKER_LOADS], capture_output=True, text=True, check=True, timeout=600
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))

    assert {name for name in loaded if name.startswith("airflow_batchexec.api")} == {"airflow_batchexec.api"}
    assert not {"fastapi", "starlette", "pydantic"} & loaded


def test_airflow_lists_the_application_with_its_url_prefix():
    from airflow.plugins_manager import get_plugin_info  # noqa: PLC0415  loads every plugin

    (info,) = [plugin for plugin in get_plugin_info(["fastapi_apps"]) if plugin["name"] == "batchexec"]

    assert info["fastapi_apps"] == [
        {"app": "airflow_batchexec.api.LazyApp", "url_prefix": URL_PREFIX, "name": "Batch execution"}
    ]


def test_concurrent_first_requests_build_one_application(monkeypatch: pytest.MonkeyPatch):
    built = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(scope)

    def create() -> Any:
        built.append(application)
        return application

    monkeypatch.setattr("airflow_batchexec.api.app.create_app", create)
    app, served = LazyApp(), []

    async def serve() -> None:
        async def send(message: Any) -> None:
            served.append(message)

        await asyncio.gather(*(app({"number": n}, None, send) for n in range(10)))

    asyncio.run(serve())

    assert len(built) == 1
    assert {scope["number"] for scope in served} == set(range(10))


@pytest.mark.parametrize(
    ("text", "dag_ids"),
    [
        ("batch_execution", ("batch_execution",)),
        (" a , b.c,d ", ("a", "b.c", "d")),
    ],
)
def test_execution_dags_is_a_comma_separated_list(
    monkeypatch: pytest.MonkeyPatch, text: str, dag_ids: tuple[str, ...]
):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__EXECUTION_DAGS", text)

    assert settings.execution_dags() == dag_ids


def test_execution_dags_defaults_to_batch_execution():
    assert settings.execution_dags() == ("batch_execution",)


@pytest.mark.parametrize("text", ["", ",", "a,", "a,,b", "a,a"])
def test_invalid_execution_dags_are_refused(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__EXECUTION_DAGS", text)

    with pytest.raises(ConfigurationError, match="execution_dags") as refused:
        settings.execution_dags()

    assert refused.value.details["field"] == "execution_dags"
