"""A bucket of a real S3 server on loopback, which the benchmarks of S3 start and stop, and the clients that they compare.

It is the server of the tests. It keeps objects in memory and checks signatures.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psutil

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage.s3.session import S3Access
from airflow_batchexec.engine.storage.s3.storage import S3Storage, connect

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from s3_server import S3Server, start_s3_server  # found by the path above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client


CONTENDERS = ("ours", "boto3")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step took, in seconds: by the clock, of this process's CPU, and of the server's."""

    wall: float
    client_cpu: float
    server_cpu: float


#: What the steps of a round took, by contender and step.
Round = dict[str, dict[str, Cost]]


@dataclass(frozen=True)
class Bucket:
    """A bucket, and a temporary folder on the disk.

    Attributes:
        folder: The temporary folder.
        server: The server.
        name: The bucket's name.
        requests: How many requests of each method the clients have sent, by client.
    """

    folder: Path
    server: S3Server
    name: str
    requests: dict[str, Counter[str]] = field(default_factory=dict)

    def location(self, key: str) -> Location:
        return Location.parse(f"s3://{self.name}/{key}")

    def storage(self, endpoint_url: str = "") -> S3Storage:
        """Open our storage; its requests are counted as those of ``ours``.

        Args:
            endpoint_url: A proxy of the server to use instead.
        """
        return connect(
            S3Access(
                session=self._session("ours"),
                endpoint_url=endpoint_url or self.server.endpoint_url,
                region_name=self.server.region,
            )
        )

    def client(self) -> S3Client:
        """Create a client of boto3 with its defaults; its requests are counted as those of ``boto3``."""
        return self._session("boto3").client("s3", endpoint_url=self.server.endpoint_url)

    def _session(self, name: str) -> boto3.Session:
        session = boto3.Session(
            aws_access_key_id=self.server.access_key_id,
            aws_secret_access_key=self.server.secret_access_key,
            region_name=self.server.region,
        )
        counter = self.requests.setdefault(name, Counter())

        def count(request: Any, **_: Any) -> None:
            counter[request.method] += 1

        session.events.register("before-send.s3", count)
        return session

    def measure(self, work: Callable[[], object]) -> Cost:
        server = psutil.Process(self.server.pid)
        before = (time.perf_counter(), time.process_time(), cpu_seconds(server))
        work()
        after = (time.perf_counter(), time.process_time(), cpu_seconds(server))
        return Cost(*(end - start for start, end in zip(before, after, strict=True)))


@contextmanager
def open_bucket() -> Iterator[Bucket]:
    """Start the server and create a bucket; stop the server at the end of the block."""
    with (
        tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as folder,
        start_s3_server(Path(folder)) as server,
    ):
        yield Bucket(Path(folder), server, server.make_bucket("benchmark"))


def orders(rounds: int) -> Iterator[tuple[str, ...]]:
    """Yield the contenders in the order of each round: the other one is first every time."""
    for number in range(rounds):
        yield CONTENDERS[:: -1 if number % 2 else 1]


def figures(rounds: list[Round]) -> list[dict[str, Any]]:
    return [
        {name: {step: asdict(cost) for step, cost in steps.items()} for name, steps in round_.items()}
        for round_ in rounds
    ]


def print_heading() -> None:
    print(f"{'':<24}{'ours':>8}{'boto3':>29}{'ratio':>29}")


def print_row(
    label: str,
    rounds: list[Round],
    value: Callable[[dict[str, Cost]], float],
    *,
    unit: str,
    aim: str = "",
    format_spec: str = ".2f",
) -> None:
    """Print a figure's median, minimum and maximum for both, and the median of the ratios within the rounds."""
    columns = ""
    for name in CONTENDERS:
        values = [value(round_[name]) for round_ in rounds]
        median, *ends = (
            f"{found:{format_spec}}" for found in (statistics.median(values), min(values), max(values))
        )
        columns += f"{median:>8} {unit:<6}{f'({ends[0]} to {ends[1]})':<17}"
    ratio = statistics.median(value(round_["ours"]) / value(round_["boto3"]) for round_ in rounds)
    print(f"{label:<21}{columns}{ratio:.2f} x   {aim}".rstrip())


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
