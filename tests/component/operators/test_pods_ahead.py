"""The pods that the task plan starts before the mapped tasks run."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from inline_executions import publish_moody_model
from predictors import nothing_left_behind, wait_until

from airflow_batchexec import internals, settings
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState
from airflow_batchexec.engine.execution.preparation import prepare
from airflow_batchexec.engine.running.predictor_spec import Workload
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.operators.pods_ahead import PodsAhead, end_pods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_batchexec.engine.execution.resolution import Resolution
    from airflow_batchexec.engine.execution.spec import ExecutionSpec

OWNER = LockOwner("manual__1", deployment="here", dag_id="dag", run_id="manual__1")
LOG = logging.getLogger(__name__)


class Plan:
    """The task plan of an execution of three files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = ExecutionConfig.from_fields(
            model_id="moody",
            source_folder=f"file://{folder}/in",
            destination_folder=f"file://{folder}/out",
        )

    def prepare(self, on_resolved: Callable[[Resolution], None] = lambda _: None) -> ExecutionSpec:
        storage = LocalStorage()
        return prepare(
            config=self.config,
            owner=OWNER,
            owner_state=lambda _: OwnerState.RUNNING,
            round_id="0123456789ab",
            started_at=time.time(),
            repository=settings.model_repository(lambda _: storage),
            instances=settings.instance_table(),
            open_storage=lambda _: storage,
            allowed=settings.allowed_locations(),
            default_pods=0,
            max_shards=10,
            on_resolved=on_resolved,
        ).spec

    def pods_ahead(self) -> PodsAhead:
        return PodsAhead(OWNER.pods_owner, batch_execution_conn_id="batch_execution_default", log=LOG)

    def workload(self, resolved: Resolution) -> Workload:
        parameters = self.config.execution.parameters
        return Workload(build=resolved.build, instance=resolved.instance, parameters=parameters)

    @property
    def pods(self) -> set[Path]:
        """The folders of the pods on this machine."""
        return set(self.folder.glob("scratch/*/pods/[!.]*"))

    def notes(self) -> int:
        return len(list(self.folder.glob("scratch/*/pods/*/note-*.json")))


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plan]:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    monkeypatch.setattr(internals, "is_supervised", lambda: True)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.csv").write_text("x\n1\n")
    for option, value in {
        "MODEL_REPOSITORY": publish_moody_model(tmp_path),
        "ALLOWED_LOCATIONS": f"file://{tmp_path}",
        "SCRATCH_FOLDER": tmp_path / "scratch",
        "DEPLOYMENT_NAME": "here",
        "MACHINE_CPUS": 64,
        "MACHINE_MEMORY": 1 << 20,
    }.items():
        monkeypatch.setenv(f"AIRFLOW__BATCHEXEC__{option}", str(value))
    with nothing_left_behind():
        plan = Plan(tmp_path)
        yield plan
        end_pods(OWNER.pods_owner, log=LOG)
        wait_until(lambda: not plan.pods)


def test_the_first_pod_starts_during_planning_and_the_others_after_it(plan: Plan):
    with plan.pods_ahead() as pods:

        def begin(resolved: Resolution) -> None:
            pods.begin(plan.workload(resolved))
            # Nothing has been listed or written yet.
            wait_until(lambda: plan.pods)
            assert not (plan.folder / "out").exists()

        spec = plan.prepare(on_resolved=begin)
        first = plan.pods
        assert len(first) == 1

        pods.complete(spec)

    assert len(plan.pods) == 3
    assert first < plan.pods
    assert plan.notes() == 3


def test_a_second_plan_uses_the_pods_of_the_first(plan: Plan):
    for _ in range(2):
        with plan.pods_ahead() as pods:
            spec = plan.prepare(on_resolved=lambda resolved: pods.begin(plan.workload(resolved)))
            pods.complete(spec)

    assert len(plan.pods) == 3


def test_a_refused_execution_leaves_no_pod(plan: Plan):
    def refuse(resolved: Resolution) -> None:
        pods.begin(plan.workload(resolved))
        wait_until(lambda: plan.pods)
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"), plan.pods_ahead() as pods:
        plan.prepare(on_resolved=refuse)

    wait_until(lambda: not plan.pods)


def test_no_more_pods_start_than_there_are_tasks(plan: Plan):
    spec = plan.prepare()

    with plan.pods_ahead() as pods:
        pods.complete(replace(spec, shards=2))

    assert len(plan.pods) == 2


@pytest.mark.parametrize(
    "environment",
    [
        {"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"},
        {"AIRFLOW_IS_K8S_EXECUTOR_POD": "True"},
        {"AIRFLOW__BATCHEXEC__POD_IDLE_TIMEOUT_SECONDS": "0"},
    ],
    ids=["CeleryExecutor", "KubernetesExecutor", "no idle pods"],
)
def test_none_start_where_the_tasks_would_not_find_them(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with plan.pods_ahead() as pods:
        pods.complete(plan.prepare(on_resolved=lambda resolved: pods.begin(plan.workload(resolved))))

    assert not plan.pods


def test_a_pod_that_cannot_start_is_left_to_the_first_task(plan: Plan, caplog: pytest.LogCaptureFixture):
    spec = plan.prepare()
    build = replace(spec.build, interpreter="/does/not/exist/python")

    with caplog.at_level(logging.WARNING), plan.pods_ahead() as pods:
        pods.begin(Workload(build=build, instance=spec.instance, parameters={}))
        pods.complete(replace(spec, build=build))

    assert "No pod was started ahead: Cannot start the build's interpreter" in caplog.text
    assert not plan.pods
