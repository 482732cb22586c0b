"""Many tiny files: what local file mode with one pod costs per file, beside a plain loop in one process.

Writes 3,000 CSV files of ten flights each, and predicts them with the demo's model, limited to one thread in both. Each
round runs both in turn, under the same machine load; prints medians and ratios. Wall times are those of whole
processes, from start to exit; CPU times are user and system time, including the pod's. The share of the time in which
the pod had nothing to do is computed from the ledger and the manifest: from the first file's start to the last file's
end, less the time in which files were read, predicted and written.

    python -m benchmarks.tiny_files --repeat 5 --json tiny_files.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from demo.flights import flights_of_2013, train_build

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(sys.executable).with_name("batchexec")
ROWS = 10
POD_STEPS = ("read", "predict", "write")


@dataclass(frozen=True, slots=True)
class Cost:
    """The seconds that a process and its children took."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Round:
    loop: Cost
    ours: Cost
    idle_share: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--repeat", type=int, default=5, help="the number of rounds")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures of every round here"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as name:
        folder = Path(name)
        prepare(folder, arguments.files)
        rounds = [run_round(folder) for _ in range(arguments.repeat)]
    report(rounds, arguments.files)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in rounds], indent=2) + "\n")


def prepare(folder: Path, files: int) -> None:
    flights = flights_of_2013()
    (folder / "in").mkdir()
    for number in range(files):
        start = number * ROWS % len(flights)
        flights[start : start + ROWS].to_csv(folder / "in" / f"{number:06}.csv", index=False)
    train_build(folder / "build")
    model = ("--model-id", "arrival_delay", "--build-id", "v1", "--model-repository", folder / "repository")
    run([PROGRAM, "models", "build", folder / "build", *model])
    run([PROGRAM, "models", "deploy", *model, "--instance", "tiny"])


def run_round(folder: Path) -> Round:
    loop_results, results = folder / "loop", folder / "out"
    for previous in (loop_results, results):
        shutil.rmtree(previous, ignore_errors=True)
    loop = run(
        [
            *(sys.executable, ROOT / "benchmarks/peers/plain_loop.py"),
            *(folder / "in", loop_results, folder / "build" / "model.joblib"),
        ]
    )
    ours = run(
        [
            *(PROGRAM, "models", "execution", "start"),
            *("--model-id", "arrival_delay", "--model-repository", folder / "repository"),
            *("--source-folder", f"file://{folder}/in", "--input-file-type", "csv"),
            *("--destination-folder", f"file://{results}", "--pods", 1),
        ]
    )
    return Round(loop, ours, idle_share(results))


def run(command: list[object]) -> Cost:
    started, before = time.perf_counter(), cpu_seconds()
    subprocess.run(
        [str(word) for word in command],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Cost(time.perf_counter() - started, cpu_seconds() - before)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def idle_share(results: Path) -> float:
    segments = results.glob("_batchexec/*/ledger/**/*.jsonl")
    records = [json.loads(line) for segment in segments for line in segment.read_text().splitlines()]
    times = [record["at"] for record in records]
    busy = sum(
        record["seconds"][step] for record in records if record["status"] == "FINISHED" for step in POD_STEPS
    )
    return float(1 - busy / (max(times) - min(times)))


def report(rounds: list[Round], files: int) -> None:
    print(f"{files:,} files of {ROWS} rows, one pod, medians of {len(rounds)} rounds")
    for name in ("wall", "cpu"):
        loop, ours = ([getattr(getattr(each, who), name) for each in rounds] for who in ("loop", "ours"))
        ratio = statistics.median(mine / peer for mine, peer in zip(ours, loop, strict=True))
        print(
            f"{name:<5} plain loop {statistics.median(loop):6.2f} s   local file mode {statistics.median(ours):6.2f} s "
            f"({min(ours):.2f} to {max(ours):.2f})   {ratio:.2f} x the plain loop"
        )
    print(f"the pod was idle {statistics.median(each.idle_share for each in rounds):.0%} of the time")


if __name__ == "__main__":
    main()
