"""365 small files in S3: fetched and published by our storage, beside a loop of boto3's get_object and put_object.

The files are the demo's daily flights. Both use eight threads, as many as a pod has for fetches and for publications, and
read from and write to the disk. Each round runs both in turn, the other one first every time; prints medians and ratios.
Ours fetches the listed version of an object, and publishes with a checksum. The aim is at most 1.2 times the time of
boto3, with one GET and one PUT per file.

The server is one Python process, on the same machine: its CPU time is in the table, too.

    python -m benchmarks.s3_small --repeat 10
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.s3_bucket import (
    CONTENDERS,
    Bucket,
    Cost,
    Round,
    figures,
    open_bucket,
    orders,
    print_heading,
    print_row,
)
from demo.flights import write_days

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_batchexec.engine.storage.base import ObjectInfo

THREADS = 8
AIM = "(aim: at most 1.20 x)"
STEPS = ("fetch", "publish")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=365, help="the number of files, at most 365")
    parser.add_argument("--repeat", type=int, default=10, help="the number of rounds")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures of every round here"
    )
    arguments = parser.parse_args()
    # The threads outlive the rounds, as a pod's outlive its files.
    with open_bucket() as bucket, ThreadPoolExecutor(THREADS) as threads:
        bench = Bench(bucket, threads, arguments.files)
        bench.round(CONTENDERS)
        bench.check_results()
        for counter in bucket.requests.values():
            counter.clear()
        rounds = [bench.round(order) for order in orders(arguments.repeat)]
    transfers = arguments.files * arguments.repeat
    requests = {
        name: {method: count / transfers for method, count in sorted(counter.items())}
        for name, counter in bucket.requests.items()
    }
    report(bench, rounds, requests)
    if arguments.json:
        found = {"requests_per_file": requests, "rounds": figures(rounds)}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


class Bench:
    def __init__(self, bucket: Bucket, threads: ThreadPoolExecutor, files: int) -> None:
        self.bucket = bucket
        self.threads = threads
        self.storage = bucket.storage()
        self.client = bucket.client()
        write_days(bucket.folder / "days")
        self.scratch = bucket.folder / "scratch"
        self.scratch.mkdir()
        self.days = sorted((bucket.folder / "days").iterdir())[:files]
        self.bytes = sum(day.stat().st_size for day in self.days)
        for day in self.days:
            self.storage.write(bucket.location(f"in/{day.name}"), day.read_bytes())
        self.inputs = list(self.storage.list(bucket.location("in")))

    def round(self, order: tuple[str, ...]) -> Round:
        """Let each fetch all files to the disk, and publish them again."""
        steps: dict[str, dict[str, Callable[[ObjectInfo], object]]] = {
            "ours": {"fetch": self.fetch, "publish": self.publish},
            "boto3": {"fetch": self.get, "publish": self.put},
        }
        return {
            name: {step: self.bucket.measure(partial(self.each, call)) for step, call in steps[name].items()}
            for name in order
        }

    def each(self, call: Callable[[ObjectInfo], object]) -> None:
        for _ in self.threads.map(call, self.inputs):
            pass

    def fetch(self, info: ObjectInfo) -> None:
        self.storage.fetch(info, self.scratch / info.location.name)

    def publish(self, info: ObjectInfo) -> None:
        name = info.location.name
        self.storage.publish(self.scratch / name, self.bucket.location(f"ours/{name}"))

    def get(self, info: ObjectInfo) -> None:
        response = self.client.get_object(Bucket=self.bucket.name, Key=info.location.key)
        (self.scratch / info.location.name).write_bytes(response["Body"].read())

    def put(self, info: ObjectInfo) -> None:
        path = self.scratch / info.location.name
        self.client.put_object(Bucket=self.bucket.name, Key=f"boto3/{path.name}", Body=path.read_bytes())
        path.unlink()

    def check_results(self) -> None:
        for name in CONTENDERS:
            for day in self.days:
                assert self.storage.read(self.bucket.location(f"{name}/{day.name}")) == day.read_bytes()


def report(bench: Bench, rounds: list[Round], requests: dict[str, dict[str, float]]) -> None:
    files = len(bench.days)
    print(
        f"{files} files, {bench.bytes / files / 1e3:.0f} kB on average, {THREADS} threads, "
        f"medians of {len(rounds)} rounds"
    )
    print_heading()
    for step in STEPS:
        print_row(step, rounds, partial(seconds, step), unit="s", aim=AIM)
    print_row("both", rounds, lambda steps: total(steps, "wall"), unit="s", aim=AIM)
    print_row("client's CPU", rounds, lambda steps: total(steps, "client_cpu"), unit="s")
    print_row("server's CPU", rounds, lambda steps: total(steps, "server_cpu"), unit="s")
    sent = (
        ", ".join(f"{count:.2f} {method}" for method, count in requests[name].items()) for name in CONTENDERS
    )
    print(f"{'requests per file':<24}{next(sent):<31}{next(sent):<31}(aim: 1 GET, 1 PUT)")


def seconds(step: str, steps: dict[str, Cost]) -> float:
    return steps[step].wall


def total(steps: dict[str, Cost], quantity: str) -> float:
    return sum(float(getattr(cost, quantity)) for cost in steps.values())


if __name__ == "__main__":
    main()
