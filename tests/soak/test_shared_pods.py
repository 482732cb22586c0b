"""Kill tasks, pods and supervisors at random moments: no file is lost, no place stays taken, nothing is left.

The tasks are processes forked from this one, as LocalExecutor forks them, without an Airflow around them: they are cheap,
so that hundreds of executions can be disturbed. The seed is printed; set ``BATCHEXEC_TEST_SEED`` to repeat a run, as far as
the machine's timing allows.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import pytest
from predictors import wait_until

from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.execution.conclusion import conclude
from airflow_batchexec.engine.execution.ledger import LedgerWriter
from airflow_batchexec.engine.execution.lock import LockOwner, local_owner_state
from airflow_batchexec.engine.execution.plan import read_tasks
from airflow_batchexec.engine.execution.preparation import prepare
from airflow_batchexec.engine.machine.files import private_folder
from airflow_batchexec.engine.machine.pods import Machine
from airflow_batchexec.engine.machine.resources import MachineResources
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.running.pipeline import FileRoute
from airflow_batchexec.engine.running.predictor_spec import Workload
from airflow_batchexec.engine.running.session import PredictorSession
from airflow_batchexec.engine.running.shared_pods import SharedPods, end_idle_pods
from airflow_batchexec.engine.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_batchexec.engine.execution.preparation import Prepared

pytestmark = pytest.mark.timeout(1500)

log = logging.getLogger(__name__)

EXECUTIONS = 200
AT_ONCE = 4
FILES = 3
KILLS = ("task", "worker", "supervisor", "any process of the pod", "nothing")
MODEL = """
import subprocess, sys, time
# Outlives the worker unless the pod's supervisor, or whoever cleans up after it, ends it.
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
def predict(df):
    time.sleep(0.05)
    return df.assign(y=df.x * 2)
"""
FORK = multiprocessing.get_context("fork")
STORAGE = LocalStorage()


@dataclass
class Execution:
    """One execution and its tasks.

    Attributes:
        name: Its id.
        prepared: Its plan.
        kill: What to kill, and how many seconds after its start.
        tasks: The running task of each file, and its attempt.
    """

    name: str
    prepared: Prepared
    kill: tuple[str, float]
    started: float = field(default_factory=time.monotonic)
    tasks: dict[int, tuple[multiprocessing.process.BaseProcess, int]] = field(default_factory=dict)
    left: set[int] = field(default_factory=lambda: set(range(FILES)))


class Disturbed:
    """Executions on this machine, below a folder, each disturbed once."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.rng = rng
        self.killed: Counter[str] = Counter()
        self.repository = ModelRepository(
            root=Location.of_path(folder / "repository"), storage=STORAGE, cache=folder / "cache"
        )
        build = folder / "repository" / "doubling" / "b1"
        build.mkdir(parents=True)
        (build / "model.toml").write_text('entrypoint = "model:predict"\n')
        (build / "model.py").write_text(MODEL)
        (folder / "in").mkdir()
        for number in range(FILES):
            (folder / "in" / f"{number}.csv").write_text(f"x\n{number}\n{number + 10}\n")
        (folder / "scratch").mkdir()

    def start(self, name: str) -> Execution:
        config = ExecutionConfig.from_fields(
            model_id="doubling",
            build_id="b1",
            source_folder=f"file://{self.folder}/in",
            destination_folder=f"file://{self.folder}/out/{name}",
            instance="tiny",
        )
        prepared = prepare(
            config=config,
            owner=LockOwner.this_process(name),
            owner_state=local_owner_state,
            round_id="r",
            started_at=time.time(),
            repository=self.repository,
            instances=InstanceTable(),
            open_storage=lambda _: STORAGE,
            allowed=AllowedLocations.parse(f"file://{self.folder}"),
            default_pods=0,
            max_shards=100,
        )
        execution = Execution(name, prepared, (self.rng.choice(KILLS), self.rng.uniform(0, 2.5)))
        for number in range(FILES):
            self.fork(execution, number, attempt=1)
        return execution

    def fork(self, execution: Execution, number: int, *, attempt: int) -> None:
        process = FORK.Process(target=self.run_task, args=(execution.prepared, number, attempt))
        process.start()
        execution.tasks[number] = (process, attempt)

    def pods(self, prepared: Prepared) -> SharedPods:
        resources = MachineResources(cpus=2, memory_bytes=2**40, gpus=())
        return SharedPods(
            machine=Machine(folder=private_folder(self.folder / "scratch"), resources=resources),
            workload=Workload.of(prepared.spec),
            owner=prepared.spec.pods_owner,
            idle_seconds=30,
            load_timeout_seconds=300,
        )

    def run_task(self, prepared: Prepared, number: int, attempt: int) -> None:
        """What a task does for its file; ends the process."""
        os.setsid()
        spec, shard = prepared.spec, prepared.plan.shards[number]
        tasks = read_tasks(STORAGE.read(spec.folder.plan, start=shard.offset, length=shard.length))
        session = PredictorSession(spec, name=f"pod-{number}", on_line=lambda *_: None)
        ledger = LedgerWriter(
            storage=STORAGE,
            folder=spec.folder.ledger("r").join(str(number)),
            writer=f"{attempt}-{os.getpid()}",
        )
        try:
            with session.shared(
                self.pods(prepared),
                lambda: self.repository.fetch(spec.build),
                should_stop=lambda: False,
                on_wait=lambda: None,
            ):
                route = FileRoute.of(
                    spec,
                    source=STORAGE,
                    destination=STORAGE,
                    scratch=session.scratch,
                    name=f"{number}-{attempt}",
                )
                error = session.run(iter(tasks), route=route, record=ledger.add, attempt=attempt)
        finally:
            ledger.close()
        if error is not None:
            raise error

    def step(self, execution: Execution) -> None:
        """Kill what is due, and retry tasks that have failed."""
        what, after = execution.kill
        if what != "done" and time.monotonic() >= execution.started + after and self.kill(execution, what):
            execution.kill = ("done", 0)
        for number, (process, attempt) in list(execution.tasks.items()):
            if process.is_alive():
                continue
            process.join()
            status = process.exitcode
            process.close()
            del execution.tasks[number]
            if status == 0:
                execution.left.discard(number)
            else:
                # One disturbance may end the attempts of several tasks, but not without end.
                assert attempt < 6, f"{execution.name}: file {number} failed {attempt} times"
                self.fork(execution, number, attempt=attempt + 1)

    def kill(self, execution: Execution, what: str) -> bool:
        """Kill it if it exists; return whether nothing more is to be killed."""
        if what == "nothing":
            return True
        pods = self.processes(execution)
        tasks = [psutil.Process(process.pid) for process, _ in execution.tasks.values() if process.is_alive()]
        victims = {
            "task": tasks,
            "supervisor": [pod[0] for pod in pods],
            "worker": [pod[1] for pod in pods if len(pod) > 1],
            "any process of the pod": [process for pod in pods for process in pod],
        }[what]
        if not victims:
            return False
        with suppress(psutil.Error):
            self.rng.choice(victims).kill()
            self.killed[what] += 1
        return True

    def processes(self, execution: Execution | None = None) -> list[list[psutil.Process]]:
        """The processes of each pod, its supervisor first: of an execution, or of all."""
        key = self.pods(execution.prepared)._key if execution else ""
        homes: dict[str, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                home = process.environ().get("HOME", "")
                if home.startswith(f"{self.folder}/scratch/") and f"/{key}" in home:
                    homes.setdefault(home, []).append(process)
        # A supervisor is the leader of its session.
        return [sorted(pod, key=lambda process: process.pid) for pod in homes.values()]

    def finish(self, execution: Execution) -> None:
        spec = execution.prepared.spec
        end_idle_pods(self.pods(execution.prepared).machine, spec.pods_owner)
        conclusion = conclude(spec=spec, storage=STORAGE, ended_at=time.time())
        out = self.folder / "out" / execution.name
        assert conclusion.header.has_finished, conclusion.header
        manifest = json.loads((out / "_batchexec" / execution.name / "manifest.json").read_text())
        assert [record["status"] for record in manifest["files"]] == ["FINISHED"] * FILES
        for number in range(FILES):
            text = (out / f"{number}.csv").read_text()
            assert text == f"x,y\n{number},{2 * number}\n{number + 10},{2 * number + 20}\n"
        assert sorted(path.name for path in out.iterdir()) == [
            "0.csv",
            "1.csv",
            "2.csv",
            "_SUCCESS",
            "_batchexec",
        ]


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("BATCHEXEC_TEST_SEED") or random.randrange(2**32))
    log.warning("BATCHEXEC_TEST_SEED=%d", seed)
    return random.Random(seed)


@pytest.fixture
def disturbed(tmp_path: Path, rng: random.Random) -> Iterator[Disturbed]:
    disturbed = Disturbed(tmp_path, rng)
    yield disturbed
    for pod in disturbed.processes():
        for process in pod:
            with suppress(psutil.Error):
                process.kill()


def test_executions_lose_nothing_and_leave_nothing_whatever_is_killed(disturbed: Disturbed):
    names = [f"e{number:03d}" for number in range(EXECUTIONS)]
    running: list[Execution] = []
    while names or running:
        while names and len(running) < AT_ONCE:
            running.append(disturbed.start(names.pop(0)))
        for execution in list(running):
            disturbed.step(execution)
            if not execution.left:
                disturbed.finish(execution)
                running.remove(execution)
        time.sleep(0.01)

    log.warning("Killed: %s", dict(disturbed.killed))
    assert len(disturbed.killed) >= 4
    # What a killed supervisor has left is removed by whoever comes next.
    machine = Machine(folder=private_folder(disturbed.folder / "scratch"), resources=MachineResources())
    machine.end("")
    wait_until(lambda: not disturbed.processes(), seconds=60)
    assert not list((disturbed.folder / "scratch").glob("*/pods/*"))
