"""20 objects of 64 MB in S3: downloaded and uploaded by our storage, beside boto3's transfer manager.

The objects are random bytes, transferred one after another, each in parts that are in parallel: ours with
``Storage.fetch`` and ``Storage.publish``, as a pod does with large files, and boto3 with ``download_file`` and
``upload_file`` and their defaults. Each round runs both in turn, the other one first every time; prints medians and
ratios of the throughput. Ours fetches the listed version of an object, and verifies the size and a checksum of an upload.
The aim is at least the throughput of boto3.

The server is one Python process, on the same machine: its CPU time is in the table, too. For an upload, it needs about
three times the CPU time of either client, so it limits the throughput of both.

    python -m benchmarks.s3_large --repeat 5
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.s3_bucket import Bucket, Cost, Round, figures, open_bucket, orders, print_heading, print_row

if TYPE_CHECKING:
    from collections.abc import Callable

MEGABYTE = 1_000_000
DIRECTIONS = ("download", "upload")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=64, help="the size of each object")
    parser.add_argument("--repeat", type=int, default=5, help="the number of rounds")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures of every round here"
    )
    arguments = parser.parse_args()
    with open_bucket() as bucket:
        bench = Bench(bucket, arguments.objects, arguments.megabytes * MEGABYTE)
        rounds = [bench.round(order) for order in orders(arguments.repeat)]
    report(arguments, rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures(rounds), indent=1) + "\n")


class Bench:
    """Transfers the same objects again and again, so that they exist once on the server and the disk holds two files."""

    def __init__(self, bucket: Bucket, objects: int, size: int) -> None:
        self.bucket = bucket
        self.storage = bucket.storage()
        self.client = bucket.client()
        self.keys = [f"objects/{number:02}" for number in range(objects)]
        self.source = bucket.folder / "source"
        self.target = bucket.folder / "target"
        self.link = bucket.folder / "link"
        with self.source.open("wb") as file:
            for start in range(0, size, MEGABYTE):
                file.write(os.urandom(min(MEGABYTE, size - start)))
        for key in self.keys:
            self.upload(key)
        self.list()
        for download in (self.download, self.download_file):
            download(self.keys[0])
            assert filecmp.cmp(self.source, self.target, shallow=False)

    def round(self, order: tuple[str, ...]) -> Round:
        """Let each download all objects, and upload them again."""
        calls: dict[str, dict[str, Callable[[str], None]]] = {
            "ours": {"download": self.download, "upload": self.upload},
            "boto3": {"download": self.download_file, "upload": self.upload_file},
        }
        return {name: {step: self.measure(call) for step, call in calls[name].items()} for name in order}

    def measure(self, call: Callable[[str], None]) -> Cost:
        def transfer_all() -> None:
            for key in self.keys:
                call(key)

        self.list()
        return self.bucket.measure(transfer_all)

    def list(self) -> None:
        """List the objects, as the plan of an execution does."""
        self.infos = {info.location.key: info for info in self.storage.list(self.bucket.location("objects"))}

    def download(self, key: str) -> None:
        self.target.unlink(missing_ok=True)
        self.storage.fetch(self.infos[key], self.target)

    def upload(self, key: str) -> None:
        # Publishing consumes the file.
        self.link.hardlink_to(self.source)
        self.storage.publish(self.link, self.bucket.location(key))

    def download_file(self, key: str) -> None:
        self.target.unlink(missing_ok=True)
        self.client.download_file(self.bucket.name, key, str(self.target))

    def upload_file(self, key: str) -> None:
        self.client.upload_file(str(self.source), self.bucket.name, key)


def report(arguments: argparse.Namespace, rounds: list[Round]) -> None:
    megabytes = arguments.objects * arguments.megabytes
    gigabytes = megabytes / 1000
    print(f"{arguments.objects} objects of {arguments.megabytes} MB, medians of {len(rounds)} rounds")
    print_heading()
    for step in DIRECTIONS:
        rate = partial(throughput, step, megabytes)
        print_row(step, rounds, rate, unit="MB/s", aim="(aim: at least 1.00 x)", format_spec=".0f")
        for who in ("client", "server"):
            print_row(f"  {who}'s CPU", rounds, partial(cpu_per, gigabytes, step, f"{who}_cpu"), unit="s/GB")


def throughput(step: str, megabytes: float, steps: dict[str, Cost]) -> float:
    return megabytes / steps[step].wall


def cpu_per(gigabytes: float, step: str, quantity: str, steps: dict[str, Cost]) -> float:
    return float(getattr(steps[step], quantity)) / gigabytes


if __name__ == "__main__":
    main()
