"""365 small files in S3, with and without 30 ms between the pods and the storage.

Runs the demo's model over the daily flights, on this machine with two pods, from and to a bucket: once directly, and once
through a proxy that adds 30 ms to every round trip. Each round runs both in turn; prints medians and the ratio. The times
are those of whole executions, from their plan to their end, including the start of the pods.

While a file is predicted, others are fetched and published, so the delay of most requests costs no time; the last line
says what it would cost if each file's two requests were sent one after another, in each of the two pods.

    python -m benchmarks.s3_latency --repeat 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.running.local_execution import LocalExecution
from airflow_batchexec.engine.storage.local import LocalStorage
from benchmarks.daily_files import publish
from benchmarks.delaying_proxy import delayed
from benchmarks.s3_bucket import Bucket, open_bucket
from demo.flights import train_build, write_days

if TYPE_CHECKING:
    from airflow_batchexec.engine.storage.base import Storage

PODS = 2


@dataclass(frozen=True, slots=True)
class Round:
    """The seconds of an execution in each case."""

    direct: float
    delayed: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=365, help="the number of files, at most 365")
    parser.add_argument("--milliseconds", type=float, default=30.0, help="the delay of each round trip")
    parser.add_argument("--repeat", type=int, default=5, help="the number of rounds")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the seconds of every round here"
    )
    arguments = parser.parse_args()
    with (
        open_bucket() as bucket,
        delayed(bucket.server.endpoint_url, seconds=arguments.milliseconds / 1000) as proxy_url,
    ):
        bench = Bench(bucket, arguments.files)
        direct, far = bucket.storage(), bucket.storage(proxy_url)
        rounds = [Round(bench.execution(direct), bench.execution(far)) for _ in range(arguments.repeat)]
    report(arguments, rounds)
    if arguments.json:
        figures = [{"direct": round_.direct, "delayed": round_.delayed} for round_ in rounds]
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


class Bench:
    def __init__(self, bucket: Bucket, files: int) -> None:
        self.bucket = bucket
        self.files = files
        folder = bucket.folder
        write_days(folder / "days")
        storage = bucket.storage()
        for day in sorted((folder / "days").iterdir())[:files]:
            storage.write(bucket.location(f"in/{day.name}"), day.read_bytes())
        train_build(folder / "build")
        publish(folder / "build", folder / "repository")
        self.repository = ModelRepository(
            root=Location.of_path(folder / "repository"), storage=LocalStorage(), cache=folder / "cache"
        )
        self.executions = 0

    def execution(self, storage: Storage) -> float:
        """Run an execution, and return its seconds."""
        self.executions += 1
        execution = LocalExecution(
            execution_id=f"number-{self.executions}",
            config=ExecutionConfig.from_fields(
                model_id="arrival_delay",
                source_folder=self.bucket.location("in").uri,
                destination_folder=self.bucket.location(f"out-{self.executions}").uri,
                pods=PODS,
            ),
            repository=self.repository,
            instances=InstanceTable(),
            open_storage=lambda _: storage,
            allowed=AllowedLocations(),
        )
        started = time.perf_counter()
        header = execution.run(execution.prepare()).header
        seconds = time.perf_counter() - started
        assert header.finished_files == self.files, header
        return seconds


def report(arguments: argparse.Namespace, rounds: list[Round]) -> None:
    delay = f"{arguments.milliseconds:g} ms per round trip"
    print(f"{arguments.files} files in S3, {PODS} pods, medians of {len(rounds)} rounds")
    for name, seconds in (
        ("directly", [round_.direct for round_ in rounds]),
        (delay, [round_.delayed for round_ in rounds]),
    ):
        spread = f"({min(seconds):.1f} to {max(seconds):.1f})"
        print(f"{name:<22} {statistics.median(seconds):6.2f} s   {spread}")
    ratio = statistics.median(round_.delayed / round_.direct for round_ in rounds)
    added = statistics.median(round_.delayed - round_.direct for round_ in rounds)
    in_turn = arguments.files / PODS * 2 * arguments.milliseconds / 1000
    print(f"{'ratio':<22} {ratio:6.2f} x   {added:+.2f} s")
    print(f"{'one after another':<22} {'':>10} {in_turn:+.2f} s")


if __name__ == "__main__":
    main()
