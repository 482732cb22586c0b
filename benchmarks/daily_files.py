"""A year of flights, as 365 daily files, through the demo's model: a plain loop, local file mode, and Airflow.

Each round runs all three in turn, under the same machine load; prints medians and ratios. The times are those of whole
processes, from start to exit; those of an Airflow run are from queued to success.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from demo.flights import train_build, write_days
from tools.airflow_server import AirflowServer

ROOT = Path(__file__).resolve().parents[1]
PODS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="the number of rounds")
    parser.add_argument("--plain-loop", type=Path, default=ROOT / "benchmarks/peers/plain_loop.py")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the seconds of every round here"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as folder:
        bench = Bench(Path(folder), arguments.plain_loop)
        bench.prepare()
        with bench.server:
            bench.server.wait_for_dag("batch_execution")
            rounds = [
                (bench.plain_loop(), bench.local_mode(), bench.airflow()) for _ in range(arguments.repeat)
            ]
    report(rounds)
    if arguments.json:
        names = ("plain_loop", "local_mode", "airflow")
        arguments.json.write_text(
            json.dumps([dict(zip(names, row, strict=True)) for row in rounds], indent=1)
        )


class Bench:
    def __init__(self, folder: Path, plain_loop: Path) -> None:
        self.folder = folder
        self.plain_loop_script = plain_loop
        self.server = AirflowServer(
            home=folder / "airflow",
            dags_folder=ROOT / "dags",
            settings={
                "AIRFLOW__BATCHEXEC__MODEL_REPOSITORY": str(folder / "repository"),
                "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": f"file://{folder}",
            },
        )

    def prepare(self) -> None:
        write_days(self.folder / "input")
        train_build(self.folder / "build")
        publish(self.folder / "build", self.folder / "repository")

    def plain_loop(self) -> float:
        output = self.fresh("plain-loop")
        model = self.folder / "build" / "model.joblib"
        return run([sys.executable, self.plain_loop_script, self.folder / "input", output, model])

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

    def airflow(self) -> float:
        conf = {
            "model_id": "arrival_delay",
            "source_folder": f"file://{self.folder}/input",
            "destination_folder": f"file://{self.fresh('airflow-results')}",
            "pods": PODS,
        }
        run_id = self.server.trigger("batch_execution", conf)
        ended = self.server.wait_for_run("batch_execution", run_id)
        assert ended["state"] == "success", ended
        queued, end = (datetime.fromisoformat(ended[name]) for name in ("queued_at", "end_date"))
        return (end - queued).total_seconds()

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


def run(command: list[object]) -> float:
    started = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def report(rounds: list[tuple[float, float, float]]) -> None:
    loop_times = [row[0] for row in rounds]
    print(f"365 files, {PODS} pods, medians of {len(rounds)} rounds")
    for name, times in zip(
        ("plain loop", "local file mode", "Airflow run"), zip(*rounds, strict=True), strict=True
    ):
        ratio = statistics.median(t / peer for t, peer in zip(times, loop_times, strict=True))
        spread = f"{min(times):.1f} to {max(times):.1f}"
        print(f"{name:<16} {statistics.median(times):6.2f} s   ({spread})   {ratio:.2f} x the plain loop")


if __name__ == "__main__":
    main()
