"""Executions that need more resources than their tasks were assigned when the DAG was parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.storage.local import LocalStorage

if TYPE_CHECKING:
    from pathlib import Path

    from inline_executions import InlineExecutions


@pytest.fixture
def deploy(tmp_path: Path):
    def deploy(**deployment: str) -> None:
        repository = ModelRepository(
            root=Location.of_path(tmp_path / "repository"), storage=LocalStorage(), cache=tmp_path / "cache"
        )
        repository.deploy("moody", "b1", **deployment)

    return deploy


def test_a_kubernetes_pod_too_small_for_the_deployment_is_refused_and_nothing_is_written(
    executions: InlineExecutions, deploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    # Airflow's Kubernetes executor sets this in every pod; the groups in this DAG do not set an instance.
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")
    deploy(instance="large")

    outcome = executions.run("grouped", {"a": "calm"})

    assert outcome.state == "failed"
    for group in ("first", "second"):
        assert outcome.ends(f"{group}.plan") == [("failed", 1)]
        refused = outcome.xcom(f"{group}.plan", "refused")
        assert refused["error"] == "ConfigurationError"
        assert refused["reason"].startswith(
            "cpus: this execution needs 8 cpus per pod: its instance is large"
        )
        assert "instance='large' as arguments of batch_execution_group" in refused["reason"]
        assert not (tmp_path / f"out-{group}").exists()


def test_an_execution_that_fits_its_kubernetes_pod_runs(
    executions: InlineExecutions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")

    outcome = executions.run("grouped", {"a": "calm"})

    assert outcome.state == "success"
    assert (tmp_path / "out-first" / "_SUCCESS").exists()


def test_the_purchase_option_of_the_deployment_is_in_the_manifest(executions: InlineExecutions, deploy):
    deploy(purchase_option="spot")

    outcome = executions.run("plain", {"a": "calm"}, model_id="moody")

    assert outcome.manifest()["purchase_option"] == "spot"
