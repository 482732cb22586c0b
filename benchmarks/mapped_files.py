"""One mapped task per file, without ``pods``: an execution, Airflow's empty mapped DAG, and the DAG written by hand.

Each round runs them in turn, on the same files and the same Airflow, LocalExecutor; prints medians and ratios. The times
are those of the runs, from queued to success; the CPU seconds are those of all of Airflow's processes, and of the pods.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.daily_files import publish
from demo.flights import train_build, write_days
from tools.airflow_server import AirflowServer

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100, help="the number of files, at most 365")
    parser.add_argument("--repeat", type=int, default=3, help="the number of rounds")
    parser.add_argument("--pods", type=int, help="one task per pod instead of one per file")
    parser.add_argument(
        "--without-handwritten", action="store_true", help="leave out the DAG written by hand"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as folder:
        bench = Bench(Path(folder), files=arguments.files, pods=arguments.pods)
        names = ["empty mapped DAG", "execution", "DAG written by hand"]
        runs = [bench.empty, bench.execution, bench.handwritten]
        if arguments.without_handwritten:
            del names[2], runs[2]
        with bench.server:
            for dag in ("batch_execution", "peer_empty", "peer_handwritten"):
                bench.server.wait_for_dag(dag)
            rounds = [[run() for run in runs] for _ in range(arguments.repeat)]
    report(names, rounds, arguments)


class Bench:
    def __init__(self, folder: Path, *, files: int, pods: int | None) -> None:
        self.folder = folder
        self.files = files
        self.pods = pods
        self.model = folder / "build" / "model.joblib"
        write_days(folder / "days")
        (folder / "input").mkdir()
        for path in sorted((folder / "days").iterdir())[:files]:
            path.rename(folder / "input" / path.name)
        train_build(folder / "build")
        publish(folder / "build", folder / "repository")
        (folder / "dags").mkdir()
        for dag in (ROOT / "dags" / "batch_execution.py", *PEERS.glob("*_dag.py")):
            shutil.copy(dag, folder / "dags")
        self.server = AirflowServer(
            home=folder / "airflow",
            dags_folder=folder / "dags",
            settings={
                "AIRFLOW__BATCHEXEC__MODEL_REPOSITORY": str(folder / "repository"),
                "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": f"file://{folder}",
            },
        )

    def empty(self) -> dict[str, float]:
        return self.run("peer_empty", {"tasks": self.files})

    def execution(self) -> dict[str, float]:
        conf: dict[str, Any] = {
            "model_id": "arrival_delay",
            "source_folder": f"file://{self.folder}/input",
            "destination_folder": f"file://{self.fresh('results')}",
        }
        return self.run("batch_execution", conf | ({"pods": self.pods} if self.pods else {}))

    def handwritten(self) -> dict[str, float]:
        destination = self.fresh("handwritten")
        folders = {"source": self.folder / "input", "destination": destination, "model": self.model}
        return self.run("peer_handwritten", {name: str(folder) for name, folder in folders.items()})

    def run(self, dag: str, conf: dict[str, Any]) -> dict[str, float]:
        before = cpu_seconds()
        run_id = self.server.trigger(dag, conf)
        ended = self.server.wait_for_run(dag, run_id, timeout=1800)
        assert ended["state"] == "success", ended
        queued, end = (datetime.fromisoformat(ended[name]) for name in ("queued_at", "end_date"))
        # The last processes of the run end within moments.
        time.sleep(3)
        return {"seconds": (end - queued).total_seconds(), "cpu_seconds": cpu_seconds() - before}

    def fresh(self, name: str) -> Path:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder


def cpu_seconds() -> float:
    """The CPU seconds of this process's descendants, also of those that have ended."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def report(names: list[str], rounds: list[list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    print(f"{arguments.files} files, medians of {len(rounds)} rounds")
    figures: dict[str, Any] = {"files": arguments.files, "pods": arguments.pods, "rounds": rounds}
    for number, name in enumerate(names):
        seconds = [row[number]["seconds"] for row in rounds]
        ratio = statistics.median(row[number]["seconds"] / row[0]["seconds"] for row in rounds)
        cpu = statistics.median(row[number]["cpu_seconds"] for row in rounds) / arguments.files
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        print(
            f"{name:<20} {statistics.median(seconds):6.1f} s   ({spread})   {ratio:.2f} x the empty DAG   "
            f"{cpu:.3f} CPU s per file"
        )
        figures[name] = {"seconds": statistics.median(seconds), "ratio": ratio, "cpu_seconds_per_file": cpu}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
