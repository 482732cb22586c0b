"""Executions that run in the test's own process, through ``DAG.test``, in the tests' own database."""

from __future__ import annotations

import json
import runpy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

__all__ = ["DAG_SOURCE", "InlineExecutions", "Outcome", "publish_moody_model"]

# ``halted`` creates a stop mark between plan and predict, as a pod on another machine may at any moment.
DAG_SOURCE = """
from datetime import timedelta

from airflow.sdk import DAG, XComArg, task

from airflow_batchexec import batch_execution_group, exceptions
from airflow_batchexec.dags.trigger_form import execution_params
from airflow_batchexec.engine.execution.stop import StopMark
from airflow_batchexec.operators.finish_execution import FinishExecutionOperator
from airflow_batchexec.runs.handle import ExecutionHandle
from airflow_batchexec.operators.plan_execution import PlanExecutionOperator
from airflow_batchexec.operators.predict_shard import PredictShardOperator

NO_DELAY = {"retries": 1, "retry_delay": timedelta(0)}


def execution():
    plan = PlanExecutionOperator(task_id="plan", **NO_DELAY)
    predict = PredictShardOperator.partial(task_id="predict", plan_task_id="plan", **NO_DELAY).expand(shard=plan.output)
    finish = FinishExecutionOperator(task_id="finish", plan_task_id="plan", predict_task_id="predict")
    plan >> predict >> finish


@task
def halt(handle, params):
    _, storage, folder = ExecutionHandle.from_dict(handle).open()
    error = getattr(exceptions, params["halted_by"])
    StopMark(storage=storage, location=folder.stop("0")).set(error("Halted by the test.", **params["halted_at"]))


with DAG("plain", schedule=None, params=execution_params({})) as plain:
    execution()

with DAG("halted", schedule=None, params={"halted_by": "", "halted_at": {}}) as halted:
    plan = PlanExecutionOperator(
        task_id="plan",
        fields={
            "model_id": "moody",
            "source_folder": "{{ dag_run.conf['source_folder'] }}",
            "destination_folder": "{{ dag_run.conf['destination_folder'] }}",
            "job_timeout": 3600,
        },
    )
    handle = XComArg(plan, key="execution")
    predict = PredictShardOperator.partial(task_id="predict", plan_task_id="plan").expand(shard=plan.output)
    halt(handle) >> predict >> FinishExecutionOperator(task_id="finish", plan_task_id="plan", predict_task_id="predict")

with DAG("grouped", schedule=None) as grouped:
    for name in ("first", "second"):
        batch_execution_group(
            name,
            model_id="moody",
            pods=2,
            retries=0,
            source_folder="{{ dag_run.conf['source_folder'] }}",
            destination_folder="{{ dag_run.conf['destination_folder'] }}-" + name,
        )
"""

# A file's mood is in its column ``mood``; a ``flaky`` file fails once per name.
_MODEL_SOURCE = """
import os
from pathlib import Path


def predict(df):
    mood, name = df["mood"].iloc[0], df["name"].iloc[0]
    if mood == "fail":
        raise ValueError("this file upsets me")
    if mood == "flaky":
        seen = Path(os.environ["SEEN"]) / name
        if not seen.exists():
            seen.touch()
            raise ValueError("not at the first time")
    if mood == "wrong":
        return object()
    return df.assign(y=df["x"] * 2)
"""


def publish_moody_model(folder: Path) -> Path:
    """Publish the model to a repository on disk and deploy it; return the repository."""
    source = folder / "moody"
    source.mkdir()
    (source / "model.py").write_text(_MODEL_SOURCE)
    (source / "model.toml").write_text('entrypoint = "model:predict"\n')
    root = folder / "repository"
    repository = ModelRepository(root=Location.of_path(root), storage=LocalStorage(), cache=folder / "cache")
    repository.publish(source, model_id="moody", build_id="b1")
    repository.deploy("moody", "b1", instance="tiny")
    return root


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    run: DagRun
    destination: Path

    @property
    def state(self) -> str:
        """How the run ended."""
        return str(self.run.state)

    def instances(self, task_id: str) -> list[TaskInstance]:
        """The instances of a task, ordered by map index."""
        found = [ti for ti in self.run.get_task_instances() if ti.task_id == task_id]
        return sorted(found, key=lambda ti: ti.map_index)

    def ends(self, task_id: str) -> list[tuple[str, int]]:
        """The state and try number of each instance of a task."""
        return [(str(ti.state), ti.try_number) for ti in self.instances(task_id)]

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        """An XCom value that a task pushed."""
        (instance,) = self.instances(task_id)
        return instance.xcom_pull(task_ids=task_id, key=key)

    def manifest(self) -> dict[str, Any]:
        """The manifest of the execution."""
        path = self.destination / "_batchexec" / self.run.run_id / "manifest.json"
        manifest: dict[str, Any] = json.loads(path.read_text())
        return manifest


@dataclass(frozen=True)
class InlineExecutions:
    """Runs the DAGs of ``DAG_SOURCE``."""

    dag_file: Path
    folder: Path

    def run(self, dag_id: str, moods: Mapping[str, str], **conf: Any) -> Outcome:
        """Run a DAG to completion over one file per mood."""
        source, destination = self.folder / "in", self.folder / "out"
        source.mkdir()
        for name, mood in moods.items():
            pd.DataFrame({"name": name, "x": [0.5, 1.5], "mood": mood}).to_csv(
                source / f"{name}.csv", index=False
            )
        folders = {"source_folder": f"file://{source}", "destination_folder": f"file://{destination}"}
        dag = runpy.run_path(str(self.dag_file))[dag_id]
        return Outcome(dag.test(run_conf={**folders, **conf}), destination)
