"""A thousand deferred sensors in one triggerer: the cost of waiting, and the delay until they resume.

Runs in a real Airflow (LocalExecutor, SQLite), compared with Airflow's own ``DagStateTrigger``, which
``ExternalTaskSensor`` and ``TriggerDagRunOperator`` wait with, at the same poll interval. Two cases: all sensors wait for
one execution, a real run whose model waits for a file; and each waits for a different run, one of a thousand in the queue.

The scheduler maps one sensor over a thousand IDs and creates its task instances. They are not started on workers, which
would take a quarter of an hour and measure how Airflow starts tasks: a pool without slots holds them, and this script
writes to the database what the execution API writes when a task defers (the trigger's row, and its ID in the task
instance). Everything after that is Airflow's own: the triggerer picks up the triggers, runs them, stores their events,
and returns the tasks to the scheduler.

    python -m benchmarks.waiting_sensors --repeat 3
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tools.airflow_server import AirflowServer

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 5.0
TRIGGERS = ("ours", "peer")
CASES = ("one execution", "a run each")

DAGS = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_batchexec import BatchExecutionSensor

with DAG("waiting", schedule=None):
    BatchExecutionSensor.partial(task_id="wait", deferrable=True, pool="closed").expand(
        execution_id=[f"id-{number}" for number in range(SENSORS)]
    )

with DAG("held", schedule=None, is_paused_upon_creation=True):
    EmptyOperator(task_id="nothing")
"""
MODEL = """
import os
import time
from pathlib import Path


def predict(frame):
    while not Path(os.environ["GATE"]).exists():
        time.sleep(0.2)
    return frame
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3, help="the number of rounds")
    parser.add_argument("--sensors", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure the waiting")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures of every round here"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as folder:
        bench = Bench(Path(folder), sensors=arguments.sensors, seconds=arguments.seconds)
        with bench.server:
            bench.prepare()
            idle = bench.cpu_per_minute()
            rounds = [bench.round() for _ in range(arguments.repeat)]
    print(f"An idle triggerer uses {idle:.2f} s of CPU per minute.")
    report(rounds)
    if arguments.json:
        figures = [
            [{"case": case, "trigger": trigger, **asdict(found)} for (case, trigger), found in round_.items()]
            for round_ in rounds
        ]
        found = {"idle_cpu_per_minute": idle, "rounds": figures}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


@dataclass(frozen=True)
class Figures:
    """The measurements for one trigger.

    Attributes:
        cpu: CPU time of the triggerer's two processes per minute of waiting, in seconds.
        queries: Queries to Airflow per minute of waiting.
        fired: Time from the end of the last run until all triggers had fired, in seconds.
        resumed: Time from the end of the last run until all tasks had returned to the scheduler, in seconds.
        final_queries: Queries to Airflow after the end of the last run.
    """

    cpu: float
    queries: float
    fired: float
    resumed: float
    final_queries: int


Round = dict[tuple[str, str], Figures]


class Bench:
    def __init__(self, folder: Path, *, sensors: int, seconds: float) -> None:
        self.folder = folder
        self.sensors = sensors
        self.seconds = seconds
        self.counts = folder / "counts"
        (folder / "dags").mkdir()
        shutil.copy(ROOT / "dags" / "batch_execution.py", folder / "dags")
        (folder / "dags" / "waiting.py").write_text(DAGS.replace("SENSORS", str(sensors)))
        self.server = AirflowServer(
            home=folder / "airflow",
            dags_folder=folder / "dags",
            settings={
                "AIRFLOW__BATCHEXEC__MODEL_REPOSITORY": str(folder / "repository"),
                "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": f"file://{folder}",
                "BATCHEXEC_BENCHMARK_COUNTS": str(self.counts),
                "PYTHONPATH": str(ROOT),
            },
        )
        self.executions = 0

    def prepare(self) -> None:
        """Create a model, a thousand task instances that are never started, and a thousand queued runs."""
        self.counts.mkdir()
        (self.folder / "build").mkdir()
        (self.folder / "build" / "model.py").write_text(MODEL)
        (self.folder / "build" / "model.toml").write_text('entrypoint = "model:predict"\n')
        (self.folder / "in").mkdir()
        (self.folder / "in" / "a.csv").write_text("x\n1\n")
        models = [str(Path(sys.executable).with_name("batchexec")), "models"]
        names = [
            "--model-id",
            "waits",
            "--build-id",
            "v1",
            "--model-repository",
            str(self.folder / "repository"),
        ]
        subprocess.run(
            [*models, "build", str(self.folder / "build"), *names], check=True, stdout=subprocess.DEVNULL
        )
        subprocess.run(
            [*models, "deploy", *names, "--instance", "tiny"], check=True, stdout=subprocess.DEVNULL
        )
        for dag_id in ("batch_execution", "waiting", "held"):
            self.server.wait_for_dag(dag_id)
        self.server.api("POST", "pools", json={"name": "closed", "slots": 0})
        self.held = [self.server.trigger("held", {}) for _ in range(self.sensors)]
        self.waiting = self.server.trigger("waiting", {})
        wait(lambda: self.count_instances("state = 'scheduled'") == self.sensors, seconds=600)
        # The first query makes the triggerer build its in-process API.
        self.defer("peer", "held", self.held[:1])
        self.end_held()
        wait(lambda: self.counted("fired") == 1, seconds=120)

    def round(self) -> Round:
        figures = {(case, trigger): self.measure(case, trigger) for case in CASES for trigger in TRIGGERS}
        for key, value in figures.items():
            print(*key, value, f"load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        return figures

    def measure(self, case: str, trigger: str) -> Figures:
        """Let a thousand triggers wait, end their runs, and time how long the triggers take to fire."""
        dag_id, run_ids, end = self.start_runs(case)
        for path in self.counts.iterdir():
            # Truncated rather than removed, because the triggerer has the files open.
            os.truncate(path, 0)
        self.defer(trigger, dag_id, run_ids)
        wait(lambda: self.counted("started") == self.sensors, seconds=600)
        queries_before = self.counted("queries")
        cpu = self.cpu_per_minute()
        queries = (self.counted("queries") - queries_before) * 60 / self.seconds
        ended_at = end()
        queries_before = self.counted("queries")
        fired = wait(lambda: self.counted("fired") == self.sensors, seconds=900) - ended_at
        resumed = wait(lambda: not self.count_instances("state = 'deferred'"), seconds=900) - ended_at
        return Figures(cpu, queries, fired, resumed, self.counted("queries") - queries_before)

    def start_runs(self, case: str) -> tuple[str, list[str], Callable[[], float]]:
        """Start the runs to wait for.

        Returns:
            Their DAG, the run of each sensor, and a function that ends them and returns the time.
        """
        if case == "a run each":
            self.write("UPDATE dag_run SET state = 'queued', end_date = NULL WHERE dag_id = 'held'")
            return "held", self.held, self.end_held
        self.executions += 1
        gate = self.folder / f"gate-{self.executions}"
        conf = {
            "model_id": "waits",
            "source_folder": f"file://{self.folder}/in",
            "destination_folder": f"file://{self.folder}/out",
            "parameters": {"GATE": str(gate)},
        }
        run_id = self.server.trigger("batch_execution", conf)

        def end() -> float:
            gate.touch()
            ended = "SELECT count(*) FROM dag_run WHERE run_id = ? AND state IN ('success', 'failed')"
            return wait(lambda: self.read(ended, run_id) == 1, seconds=120)

        return "batch_execution", [run_id] * self.sensors, end

    def end_held(self) -> float:
        self.write("UPDATE dag_run SET state = 'success', end_date = CURRENT_TIMESTAMP WHERE dag_id = 'held'")
        return time.monotonic()

    def defer(self, trigger: str, dag_id: str, run_ids: list[str]) -> None:
        """Do what the execution API does when a task defers, for all task instances at once."""
        with closing(self.database()) as database, database:
            (last,) = database.execute("SELECT coalesce(max(id), 0) FROM trigger").fetchone()
            for index, run_id in enumerate(run_ids):
                kwargs = {"dag_id": dag_id, "poll_interval": POLL_SECONDS}
                kwargs |= {"run_id": run_id} if trigger == "ours" else PEER | {"run_ids": [run_id]}
                database.execute(
                    "INSERT INTO trigger (id, classpath, kwargs, created_date) VALUES (?, ?, ?, CURRENT_TIMESTAMP)",
                    (last + 1 + index, CLASSES[trigger], json.dumps(kwargs)),
                )
                database.execute(
                    "UPDATE task_instance SET state = 'deferred', trigger_id = ?, next_method = 'resume', "
                    "next_kwargs = '{}' WHERE run_id = ? AND map_index = ?",
                    (last + 1 + index, self.waiting, index),
                )

    def cpu_per_minute(self) -> float:
        triggerer = psutil.Process(self.server.pid("triggerer"))
        processes = [triggerer, *triggerer.children()]
        before = sum(sum(process.cpu_times()[:2]) for process in processes)
        time.sleep(self.seconds)
        return (sum(sum(process.cpu_times()[:2]) for process in processes) - before) * 60 / self.seconds

    def counted(self, name: str) -> int:
        path = self.counts / name
        return path.stat().st_size if path.exists() else 0

    def count_instances(self, condition: str) -> int:
        return self.read(f"SELECT count(*) FROM task_instance WHERE run_id = ? AND {condition}", self.waiting)

    def read(self, query: str, *values: str) -> int:
        with closing(self.database()) as database:
            (value,) = database.execute(query, values).fetchone()
        return int(value)

    def write(self, statement: str) -> None:
        with closing(self.database()) as database, database:
            database.execute(statement)

    def database(self) -> sqlite3.Connection:
        return sqlite3.connect(self.folder / "airflow" / "airflow.db", timeout=60)


FIGURES = {
    "cpu": "CPU while waiting, s per minute",
    "queries": "queries while waiting, per minute",
    "fired": "from the end until all have fired, s",
    "resumed": "until all have been resumed, s",
    "final_queries": "queries until then",
}
PEER = {"states": ["success", "failed"]}
CLASSES = {"ours": "benchmarks.counted_triggers.Ours", "peer": "benchmarks.counted_triggers.Peer"}


def wait(condition: Callable[[], bool], *, seconds: float) -> float:
    """Wait until a condition holds, and return the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"Timed out after {seconds:g} s.")
        time.sleep(0.05)
    return time.monotonic()


def report(rounds: list[Round]) -> None:
    header = "one round" if len(rounds) == 1 else f"medians of {len(rounds)} rounds"
    print(f"{header:<38}{'ours':>10}{'peer':>10}")
    for case in CASES:
        print("all wait for one run" if case == CASES[0] else "each waits for its own run")
        for name, label in FIGURES.items():
            ours, peer = ([getattr(round_[case, t], name) for round_ in rounds] for t in TRIGGERS)
            ratio = statistics.median(mine / its for mine, its in zip(ours, peer, strict=True))
            medians = "".join(f"{statistics.median(values):10,.1f}" for values in (ours, peer))
            print(f"  {label:<36}{medians}{ratio:10.3f} x")


if __name__ == "__main__":
    main()
