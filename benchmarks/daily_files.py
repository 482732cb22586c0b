"""A year of flights, as 365 daily files, through the demo's model: a plain loop, local file mode, Airflow, and Ray Data.

Each round runs all of them in turn, under the same machine load; prints medians and ratios. The times are those of whole
processes, from start to exit; those of an Airflow run are from queued to success. Airflow is running before its runs are
queued; Ray's time includes its start on this machine, as in a script. Ray is installed in an environment that only this
benchmark uses; where that fails, the others are measured all the same, and the table says why.

Two more rows are limits, not peers: two plain loops at once, each with a core and half of the files, are what this
machine can do with two pods that cost nothing; a DAG of the same three steps that does nothing is what Airflow takes.

    python -m benchmarks.daily_files --repeat 5 --with-ray
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from benchmarks.ray_environment import RayMissingError, ray_python
from demo.flights import train_build, write_days
from tools.airflow_server import AirflowServer

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
PODS = 2
RAY_DATA = "Ray Data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5, help="the number of rounds")
    parser.add_argument("--with-ray", action="store_true", help="compare with Ray Data, too")
    parser.add_argument("--plain-loop", type=Path, default=ROOT / "benchmarks/peers/plain_loop.py")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the seconds of every round here"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as folder:
        bench = Bench(Path(folder), arguments.plain_loop)
        bench.prepare()
        runs = {
            "plain loop": bench.plain_loop,
            "two plain loops": bench.two_plain_loops,
            "local file mode": bench.local_mode,
            "empty steps": bench.empty_steps,
            "Airflow run": bench.airflow,
        }
        problem = ""
        if arguments.with_ray:
            try:
                runs[RAY_DATA] = bench.prepare_ray()
            except RayMissingError as error:
                problem = str(error)
                print(problem, file=sys.stderr, flush=True)
        with bench.server:
            for dag in ("batch_execution", "peer_empty_steps"):
                bench.server.wait_for_dag(dag)
            rounds = [{name: run() for name, run in runs.items()} for _ in range(arguments.repeat)]
    report(rounds)
    if problem:
        print(f"{RAY_DATA:<16} not measured. {problem}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds, indent=1) + "\n")


class Bench:
    def __init__(self, folder: Path, plain_loop: Path) -> None:
        self.folder = folder
        self.plain_loop_script = plain_loop
        self.server = AirflowServer(
            home=folder / "airflow",
            dags_folder=folder / "dags",
            settings={
                "AIRFLOW__BATCHEXEC__MODEL_REPOSITORY": str(folder / "repository"),
                "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": f"file://{folder}",
            },
        )

    def prepare(self) -> None:
        write_days(self.folder / "input")
        train_build(self.folder / "build")
        publish(self.folder / "build", self.folder / "repository")
        (self.folder / "dags").mkdir()
        for dag in (ROOT / "dags/batch_execution.py", ROOT / "benchmarks/peers/empty_steps_dag.py"):
            shutil.copy(dag, self.folder / "dags")
        for number, path in enumerate(sorted((self.folder / "input").iterdir())):
            half = self.folder / f"half-{number % 2}"
            half.mkdir(exist_ok=True)
            (half / path.name).hardlink_to(path)

    def plain_loop(self) -> float:
        output = self.fresh("plain-loop")
        model = self.folder / "build" / "model.joblib"
        return run([sys.executable, self.plain_loop_script, self.folder / "input", output, model])

    def two_plain_loops(self) -> float:
        output = self.fresh("plain-loops")
        model = self.folder / "build" / "model.joblib"
        started = time.perf_counter()
        loops = [
            subprocess.Popen(
                [sys.executable, self.plain_loop_script, self.folder / half, output / half, model],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
            )
            for half in ("half-0", "half-1")
        ]
        assert [loop.wait() for loop in loops] == [0, 0]
        return time.perf_counter() - started

    def local_mode(self) -> float:
        command = [Path(sys.executable).with_name("batchexec"), "models", "execution", "start"]
        return run(
            [
                *command,
                *("--model-id", "arrival_delay", "--model-repository", self.folder / "repository"),
                *("--source-folder", f"file://{self.folder}/input", "--input-file-type", "csv"),
                *("--destination-folder", f"file://{self.fresh('local')}", "--pods", str(PODS)),
            ]
        )

    def empty_steps(self) -> float:
        return self.airflow_run("peer_empty_steps", {})

    def airflow(self) -> float:
        conf: dict[str, object] = {
            "model_id": "arrival_delay",
            "source_folder": f"file://{self.folder}/input",
            "destination_folder": f"file://{self.fresh('airflow-results')}",
            "pods": PODS,
        }
        return self.airflow_run("batch_execution", conf)

    def airflow_run(self, dag: str, conf: dict[str, object]) -> float:
        run_id = self.server.trigger(dag, conf)
        ended = self.server.wait_for_run(dag, run_id)
        assert ended["state"] == "success", ended
        queued, end = (datetime.fromisoformat(ended[name]) for name in ("queued_at", "end_date"))
        return (end - queued).total_seconds()

    def prepare_ray(self) -> Callable[[], float]:
        """Install Ray and run it once; return the run to measure.

        Raises:
            RayMissingError: Ray cannot be installed, or does not run here.
        """
        run_ray = partial(self.ray_data, ray_python())
        try:
            run_ray()
        except subprocess.CalledProcessError as error:
            lines = (self.folder / "ray.log").read_text().splitlines() or [str(error)]
            raise RayMissingError(f"Ray does not run here: {lines[-1]}") from error
        return run_ray

    def ray_data(self, python: Path) -> float:
        output = self.fresh("ray")
        model = self.folder / "build" / "model.joblib"
        script = ROOT / "benchmarks/peers/ray_data.py"
        with (self.folder / "ray.log").open("w") as log:
            seconds = run([python, script, self.folder / "input", output, model, "--actors", PODS], log)
        assert count_lines(output) == count_lines(self.folder / "input"), "Ray Data lost files or rows"
        return seconds

    def fresh(self, name: str) -> Path:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder


def publish(build: Path, repository: Path) -> None:
    """Publish the build as ``arrival_delay`` and deploy it with the instance tiny."""
    models = [Path(sys.executable).with_name("batchexec"), "models"]
    names = ["--model-id", "arrival_delay", "--build-id", "v1"]
    options = ["--model-repository", repository]
    run([*models, "build", build, *names, *options])
    run([*models, "deploy", *names, "--instance", "tiny", *options])


def run(command: list[object], errors: IO[str] | None = None) -> float:
    """Run a command, and return its duration in seconds; its errors go to the terminal by default."""
    started = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=errors)
    return time.perf_counter() - started


def count_lines(folder: Path) -> dict[str, int]:
    return {path.name: path.read_bytes().count(b"\n") for path in folder.glob("*.csv")}


def report(rounds: list[dict[str, float]]) -> None:
    print(f"365 files, {PODS} pods, medians of {len(rounds)} rounds")
    peers = [peer for peer in ("plain loop", RAY_DATA) if peer in rounds[0]]
    for name in rounds[0]:
        times = [row[name] for row in rounds]
        ratios = "   ".join(
            f"{statistics.median(row[name] / row[peer] for row in rounds):.2f} x {peer}" for peer in peers
        )
        spread = f"({min(times):.1f} to {max(times):.1f})"
        print(f"{name:<16} {statistics.median(times):6.2f} s   {spread:<16} {ratios}")


if __name__ == "__main__":
    main()
