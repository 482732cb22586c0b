"""Run the benchmarks and write their tables to ``benchmarks/RESULTS.md``, their figures to ``benchmarks/results.json``.

make bench                                 all but the sensors, about an hour on two cores
python -m benchmarks --only tiny sensors   some of them; the tables of the others stay

A benchmark that fails does not stop the others; then the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.processes import until_parent_dies

FOLDER = Path(__file__).parent
TABLES, FIGURES = FOLDER / "RESULTS.md", FOLDER / "results.json"
PACKAGES = ("apache-airflow", "pandas", "pyarrow", "scikit-learn", "boto3")
HEAD = """# Results

`make bench` runs each benchmark and writes this page and `results.json`; it is not part of the tests. Each benchmark runs
this package and its peer in turn, round by round, on the same machine. Figures are medians over the rounds, and ratios
are computed within a round. A benchmark's docstring says what is measured.
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a benchmark.

    Attributes:
        title: The heading of its table.
        module: The module in this folder.
        arguments: Its arguments.
        by_default: Whether it runs without being named.
    """

    title: str
    module: str
    arguments: tuple[str, ...] = ()
    by_default: bool = True

    @property
    def command(self) -> str:
        """How to run it alone."""
        return " ".join(["python -m", f"benchmarks.{self.module}", *self.arguments])


CASES = {
    "mapped": Case("100 files, one mapped task each", "mapped_files", ("--files", "100")),
    "mapped-365": Case("365 files, one mapped task each", "mapped_files", ("--files", "365")),
    "daily": Case("365 files, two pods", "daily_files", ("--with-ray",)),
    "tiny": Case("3,000 files of ten rows, one pod", "tiny_files"),
    "formats": Case("Reading and writing by file type", "formats", ("--repeat", "3")),
    "big-csv": Case("One CSV file of 3.4 million rows", "big_file"),
    "big-parquet": Case("One Parquet file of 3.4 million rows", "big_file", ("--file-type", "parquet")),
    "big-feather": Case("One Feather file of 3.4 million rows", "big_file", ("--file-type", "feather")),
    "s3-small": Case("365 small files in S3", "s3_small"),
    "s3-large": Case("20 objects of 64 MB in S3", "s3_large"),
    "latency": Case("365 files in S3, 30 ms away", "s3_latency"),
    "api": Case("The REST API over an execution of 1,000 files", "rest_api"),
    "many": Case("100,000 files", "many_files", ("--files", "100000")),
    "million": Case("A million files", "many_files", ("--files", "1000000")),
    "sensors": Case(
        "1,000 deferred sensors in one triggerer", "waiting_sensors", ("--repeat", "1"), by_default=False
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = [name for name, case in CASES.items() if case.by_default]
    parser.add_argument("--only", nargs="+", choices=CASES, default=defaults, help="the benchmarks to run")
    names = parser.parse_args().only
    results: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    failed = []
    for name in names:
        print(f"{CASES[name].title} ...", flush=True)
        started = time.monotonic()
        try:
            results[name] = run(CASES[name])
        except subprocess.CalledProcessError as error:
            print(f"{name} failed: {CASES[name].command} exited with {error.returncode}.", flush=True)
            failed.append(name)
            continue
        print(results[name]["table"], flush=True)
        print(f"({(time.monotonic() - started) / 60:.1f} minutes)", flush=True)
        FIGURES.write_text(json.dumps(results, indent=1) + "\n")
        TABLES.write_text(
            "\n".join([HEAD, *(section(name, results[name]) for name in CASES if name in results)])
        )
    if failed:
        sys.exit(
            f"Failed: {', '.join(failed)}. The tables that earlier runs of them wrote stay, with their dates."
        )


def run(case: Case) -> dict[str, Any]:
    """Run a benchmark; return its table and figures, and where they were measured.

    Raises:
        CalledProcessError: It failed.
    """
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as folder:
        figures = Path(folder) / "figures.json"
        benchmark = [sys.executable, "-m", f"benchmarks.{case.module}", *case.arguments]
        command = [*until_parent_dies(), *benchmark, "--json", str(figures)]
        # Their progress and errors go to the terminal.
        table = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "table": table.strip("\n"),
            "figures": json.loads(figures.read_text()),
        }


def machine() -> str:
    """The machine and the versions, in one sentence."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    model = found[1] if found else platform.machine()
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{len(os.sched_getaffinity(0))} cores ({model}), {gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {packages}"
    )


def section(name: str, result: dict[str, Any]) -> str:
    """A benchmark's part of the page."""
    case = CASES[name]
    return f"## {case.title}\n\n`{case.command}`, {result['date']}. {result['machine']}.\n\n```\n{result['table']}\n```\n"


if __name__ == "__main__":
    main()
