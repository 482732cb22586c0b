"""What the mapped tasks of an execution leave in the pods on a machine for those after them, and when that is used."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.execution_time.comms import GetXCom, GetXComSequenceSlice
from airflow.sdk.execution_time.supervisor import InProcessSupervisorComms
from inline_executions import publish_moody_model

from airflow_batchexec import settings
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState
from airflow_batchexec.engine.execution.preparation import prepare
from airflow_batchexec.engine.running.predictor_spec import Workload
from airflow_batchexec.engine.running.shared_pods import SharedPods, find_notes
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import BatchExecError
from airflow_batchexec.operators.planned_execution import find_execution, note_of
from airflow_batchexec.runs.handle import ExecutionHandle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inline_executions import InlineExecutions

    from airflow_batchexec.engine.config.locations import Location
    from airflow_batchexec.engine.execution.spec import ExecutionSpec
    from airflow_batchexec.engine.machine.pods import ClaimedPod
    from airflow_batchexec.operators.planned_execution import PlannedExecution

RUN_ID, ROUND, OTHER_ROUND = "manual__1", "0123456789ab", "ba9876543210"
CONN_ID = "batch_execution_default"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the handle was requested from Airflow, and the specification was read, in this process."""
    counts = Counter[str]()
    send, read = InProcessSupervisorComms.send, LocalStorage.read

    def counting_send(self: InProcessSupervisorComms, msg: Any) -> Any:
        counts["handle"] += isinstance(msg, GetXCom | GetXComSequenceSlice) and msg.key == "execution"
        return send(self, msg)

    def counting_read(self: LocalStorage, location: Location, **options: Any) -> bytes:
        counts["specification"] += location.key.endswith("/execution.json")
        return read(self, location, **options)

    monkeypatch.setattr(InProcessSupervisorComms, "send", counting_send)
    monkeypatch.setattr(LocalStorage, "read", counting_read)
    return counts


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        # The pods that plan starts have it before the first task.
        ({"AIRFLOW__CORE__EXECUTOR": "LocalExecutor"}, 0),
        # The first task starts a pod.
        ({"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"}, 1),
        # Each task has a machine to itself.
        ({"AIRFLOW_IS_K8S_EXECUTOR_POD": "True"}, 3),
    ],
    ids=["LocalExecutor", "CeleryExecutor", "KubernetesExecutor"],
)
def test_the_tasks_on_a_machine_request_the_handle_and_read_the_specification_once(
    executions: InlineExecutions,
    requests: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    expected: int,
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    outcome = executions.run("plain", dict.fromkeys("abc", "calm"), model_id="moody")

    assert outcome.ends("predict") == [("success", 1)] * 3
    # The task finish does so, too.
    assert requests == {"handle": expected + 1, "specification": expected + 1}


def test_each_execution_of_a_run_has_its_own(
    executions: InlineExecutions, requests: Counter[str], monkeypatch: pytest.MonkeyPatch
):
    # Room for the pods of both.
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__MACHINE_CPUS", "64")
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__MACHINE_MEMORY", "1048576")

    outcome = executions.run("grouped", {"a": "calm", "b": "calm"})

    assert outcome.state == "success"
    for name in ("first", "second"):
        assert outcome.xcom(f"{name}.finish")["destination"] == f"file://{outcome.destination}-{name}"
    # Only the tasks finish do.
    assert requests["specification"] == 2


# ---- notes, and tasks of other rounds


@dataclass
class Planned:
    """An execution that has been planned, and its pods on this machine, without processes."""

    spec: ExecutionSpec
    pulls: list[dict[str, Any]] = field(default_factory=list)
    pods: list[ClaimedPod] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)

    def find(self, round_id: str = ROUND, *, run_id: str = RUN_ID) -> PlannedExecution:
        """What a mapped task finds."""
        handle = ExecutionHandle(
            execution_id=self.spec.execution_id,
            destination=self.spec.destination.uri,
            fields=self.spec.config.fields(),
            batch_execution_conn_id=CONN_ID,
        )

        def xcom_pull(**arguments: Any) -> Any:
            self.pulls.append(arguments)
            return handle.to_dict() if run_id == RUN_ID else None

        ti: Any = SimpleNamespace(dag_id="dag", run_id=run_id, map_index=3, xcom_pull=xcom_pull)
        return find_execution(ti, round_id=round_id, plan_task_id="plan", name="")

    def shared(self, round_id: str = ROUND) -> SharedPods:
        """The execution's pods as a task of a round of planning sees them."""
        spec = replace(self.spec, round_id=round_id)
        return SharedPods(
            machine=settings.machine(),
            workload=Workload.of(spec),
            owner=spec.pods_owner,
            idle_seconds=60,
            load_timeout_seconds=60,
            note=note_of(spec, batch_execution_conn_id=CONN_ID),
        )

    def add_pod(self, round_id: str = ROUND) -> Path:
        """Add an idle pod whose user has left a note; return its folder."""
        pod = self.shared(round_id).claim_new()
        assert pod is not None
        assert pod.alive is not None
        self.alive.append(os.dup(pod.alive))
        pod.supervised()
        pod.release()
        return pod.folder.path

    def use_pod(self, round_id: str) -> None:
        """Take an idle pod, and leave it to others."""
        pod = self.shared(round_id).claim_idle()
        assert pod is not None
        pod.release()


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planned]:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("x\n1\n")
    for option, value in {
        "MODEL_REPOSITORY": publish_moody_model(tmp_path),
        "ALLOWED_LOCATIONS": f"file://{tmp_path}",
        "SCRATCH_FOLDER": tmp_path / "scratch",
        "DEPLOYMENT_NAME": "here",
    }.items():
        monkeypatch.setenv(f"AIRFLOW__BATCHEXEC__{option}", str(value))
    storage = LocalStorage()
    prepared = prepare(
        config=ExecutionConfig.from_fields(
            model_id="moody",
            source_folder=f"file://{tmp_path}/in",
            destination_folder=f"file://{tmp_path}/out",
            access_token_name="the_key",
            access_secret_name="the_secret",
        ),
        owner=LockOwner(RUN_ID, deployment="here", dag_id="dag", run_id=RUN_ID),
        owner_state=lambda _: OwnerState.RUNNING,
        round_id=ROUND,
        started_at=time.time(),
        repository=settings.model_repository(lambda _: storage),
        instances=settings.instance_table(),
        open_storage=lambda _: storage,
        allowed=settings.allowed_locations(),
        default_pods=0,
        max_shards=10,
    )
    planned = Planned(prepared.spec)
    yield planned
    for alive in planned.alive:
        os.close(alive)


def test_a_note_has_all_that_the_xcom_and_the_destination_have(planned: Planned):
    read = planned.find()
    assert planned.pulls == [{"task_ids": "plan", "key": "execution", "map_indexes": None}]
    planned.add_pod()
    noted = planned.find()

    assert len(planned.pulls) == 1
    assert noted.spec == read.spec == planned.spec
    assert noted.note == read.note
    assert noted.hook.batch_execution_conn_id == read.hook.batch_execution_conn_id == CONN_ID
    assert type(noted.storage) is type(read.storage)


@pytest.mark.parametrize("round_id", [OTHER_ROUND, ""], ids=["another", "unknown"])
def test_a_note_of_another_round_is_not_used(planned: Planned, round_id: str):
    planned.add_pod()

    planned.find(round_id)

    assert len(planned.pulls) == 1


def test_the_first_task_of_a_round_leaves_its_note_in_an_old_pod(planned: Planned):
    planned.add_pod()
    planned.use_pod(OTHER_ROUND)

    found = planned.find(OTHER_ROUND)

    assert planned.pulls == []
    assert found.spec.round_id == OTHER_ROUND
    assert planned.find(ROUND).spec.round_id == ROUND


def test_another_run_does_not_use_a_note(planned: Planned):
    planned.add_pod()

    with pytest.raises(BatchExecError, match="has no plan"):
        planned.find(run_id="manual__2")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"batch_execution_conn_id": "x", "spec": "[]"}',
        b'{"batch_execution_conn_id": "x", "spec": 3}',
        "half",
        "of another round",
        "of an unknown model",
    ],
)
def test_a_damaged_note_is_ignored(planned: Planned, content: bytes | str):
    note = planned.add_pod() / f"note-{ROUND}.json"
    if content == "half":
        content = note.read_bytes()[: note.stat().st_size // 2]
    elif content == "of another round":
        content = note.read_bytes().replace(ROUND.encode(), OTHER_ROUND.encode())
    elif content == "of an unknown model":
        values = json.loads(note.read_bytes())
        spec = json.loads(values["spec"])
        spec["config"]["model_id"] = "../moody"
        content = json.dumps({**values, "spec": json.dumps(spec)}).encode()
    note.write_bytes(content)  # type: ignore[arg-type]

    assert planned.find().spec == planned.spec
    assert len(planned.pulls) == 1

    planned.add_pod()
    assert planned.find().spec == planned.spec
    assert len(planned.pulls) == 1


def test_a_note_that_cannot_be_read_is_ignored(planned: Planned):
    note = planned.add_pod() / f"note-{ROUND}.json"
    note.unlink()
    note.mkdir()

    assert planned.find().spec == planned.spec
    assert len(planned.pulls) == 1


def test_a_machine_whose_folder_cannot_be_used_has_no_notes(planned: Planned):
    machine = planned.add_pod().parent.parent
    machine.chmod(0o755)

    assert planned.find().spec == planned.spec
    assert len(planned.pulls) == 1


def test_a_note_has_the_names_of_secrets_only_and_can_be_read_by_its_user_only(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AIRFLOW_VAR_THE_SECRET", "very-secret-value")
    pod = planned.add_pod()

    (note,) = find_notes(settings.machine(), planned.spec.pods_owner, ROUND)
    assert b"the_secret" in note
    assert b"very-secret-value" not in note
    assert (pod.parent.parent.stat().st_mode & 0o777, pod.stat().st_mode & 0o777) == (0o700, 0o700)
