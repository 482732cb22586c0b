"""Executions of very many files: the cost of everything that is not done per file by a pod.

Plans an execution of a synthetic bucket, writes the records that its pods would have written, and concludes it. The
documents are on the disk, in a temporary folder; the inputs and results exist only in listings. Each step is a fresh
process: its wall and CPU seconds, its peak memory, and that of its imports alone. The last step measures what the tasks
of the execution would store in Airflow: XComs, and rows of the task state store.

    python -m benchmarks.many_files --files 100000 --json many.json
"""

# ruff: noqa: PLC0415  each step imports only what it measures

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.storage.base import ObjectInfo, Storage
from airflow_batchexec.engine.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.execution.preparation import Prepared
    from airflow_batchexec.operators.task_journal import TaskJournal

STEPS = ("plan", "pods", "conclude", "report")
SOURCE = Location.parse("s3://flights/daily")
DESTINATION = Location.parse("s3://flights/delays")
RESULT_BYTES = 4_096
SEGMENT_FILES = 200
FILES_PER_DAY = 300
MAX_MAPPED_TASKS = 1_024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--pods", type=int, default=0, help="0 maps the largest number of tasks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments.step, Bucket(arguments.folder, arguments.files), arguments.pods)
        return
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as folder:
        for step in STEPS:
            figures[step] = in_fresh_process(step, Path(folder), arguments.files, arguments.pods)
    report({"files": arguments.files, "pods": arguments.pods, **figures})
    if arguments.json:
        arguments.json.write_text(json.dumps({"files": arguments.files, **figures}, indent=1) + "\n")


def in_fresh_process(step: str, folder: Path, files: int, pods: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.many_files", "--step", step, "--folder", str(folder)]
    command += ["--files", str(files), "--pods", str(pods)]
    completed = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    figures: dict[str, float] = json.loads(completed.stdout.splitlines()[-1])
    return figures


def run_step(step: str, bucket: Bucket, pods: int) -> None:
    steps: dict[str, Callable[[Bucket, int], dict[str, float]]] = {
        "plan": plan,
        "pods": write_records,
        "conclude": conclude,
        "report": measure_rows,
    }
    print(json.dumps(steps[step](bucket, pods)))


@dataclass
class Bucket(Storage):
    """Inputs and results that exist only in listings; everything below ``_batchexec`` is on the disk.

    Args:
        folder: The folder on the disk.
        files: The number of inputs, and of results.
    """

    folder: Path
    files: int

    def __post_init__(self) -> None:
        self._disk = LocalStorage()
        self.requests = 0

    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        if "_batchexec" in folder.key:
            for info in self._disk.list(self._on_disk(folder)):
                yield replace(info, location=self._in_bucket(info.location))
            return
        for number in range(self.files):
            name = file_name(number)
            if folder == SOURCE:
                yield ObjectInfo(SOURCE.join(name), input_bytes(number), etag_of(name))
            elif DESTINATION.contains(folder):
                yield self._result(name)

    def stat(self, location: Location) -> ObjectInfo:
        self.requests += 1
        return self._result(DESTINATION.relative(location))

    def read(self, location: Location, *, start: int = 0, length: int | None = None) -> bytes:
        return self._disk.read(self._on_disk(location), start=start, length=length)

    def read_with_etag(self, location: Location) -> tuple[bytes, str]:
        return self._disk.read_with_etag(self._on_disk(location))

    def fetch(self, info: ObjectInfo, scratch_file: Path) -> Path:
        raise NotImplementedError("Neither planning nor the end of an execution reads an input.")

    def publish(self, path: Path, location: Location) -> ObjectInfo:
        return replace(self._disk.publish(path, self._on_disk(location)), location=location)

    def write(self, location: Location, data: bytes) -> ObjectInfo:
        return replace(self._disk.write(self._on_disk(location), data), location=location)

    def create(self, location: Location, data: bytes) -> ObjectInfo:
        return replace(self._disk.create(self._on_disk(location), data), location=location)

    def replace(self, location: Location, data: bytes, *, etag: str) -> ObjectInfo:
        return replace(self._disk.replace(self._on_disk(location), data, etag=etag), location=location)

    def delete(self, location: Location, *, etag: str | None = None) -> None:
        self._disk.delete(self._on_disk(location), etag=etag)

    def staging(self, folder: Location) -> Path | None:  # noqa: ARG002  as in a bucket
        return None

    def _result(self, name: str) -> ObjectInfo:
        return ObjectInfo(DESTINATION.join(name), RESULT_BYTES, etag_of(f"result of {name}"))

    def _on_disk(self, location: Location) -> Location:
        return Location.of_path(self.folder).join(location.key)

    def _in_bucket(self, location: Location) -> Location:
        return replace(SOURCE, key=Location.of_path(self.folder).relative(location))


def file_name(number: int) -> str:
    """A realistic name, such as ``2026/01/02/part-00017-abcdef.csv``; sorted as a bucket lists them."""
    day, part = divmod(number, FILES_PER_DAY)
    month, day = divmod(day, 28)
    year, month = divmod(month, 12)
    return f"{1990 + year}/{month + 1:02d}/{day + 1:02d}/part-{part:05d}-{etag_of(str(number))[:6]}.csv"


def input_bytes(number: int) -> int:
    return 20_000 + number * 7_919 % 100_000


def etag_of(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def plan(bucket: Bucket, pods: int) -> dict[str, float]:
    publish_model(bucket.folder)
    with measured() as figures:
        prepared = prepare(bucket, pods)
    return {**figures, "shards": len(prepared.plan.shards)}


def publish_model(folder: Path) -> None:
    build = folder / "models" / "delay" / "v1"
    build.mkdir(parents=True)
    (build / "model.toml").write_text('entrypoint = "model:predict"\n')
    (build.parent / "deployment.toml").write_text('build_id = "v1"\n')


def prepare(bucket: Bucket, pods: int) -> Prepared:
    from airflow_batchexec.engine.config.instances import InstanceTable
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState
    from airflow_batchexec.engine.execution.preparation import prepare
    from airflow_batchexec.engine.repository.repository import ModelRepository

    return prepare(
        config=ExecutionConfig.from_fields(
            model_id="delay",
            source_folder=SOURCE.uri,
            destination_folder=DESTINATION.uri,
            **({"pods": pods} if pods else {}),
        ),
        owner=LockOwner("daily"),
        owner_state=lambda _: OwnerState.RUNNING,
        round_id="0",
        started_at=time.time(),
        repository=ModelRepository(
            root=Location.of_path(bucket.folder / "models"),
            storage=LocalStorage(),
            cache=bucket.folder / "cache",
        ),
        instances=InstanceTable(),
        open_storage=lambda _: bucket,
        allowed=AllowedLocations(),
        default_pods=0,
        max_shards=MAX_MAPPED_TASKS,
    )


def write_records(bucket: Bucket, pods: int) -> dict[str, float]:  # noqa: ARG001  the plan has its shards
    """Write the ledger as if each shard's pod had finished all its files, in segments of a few hundred records."""
    from airflow_batchexec.engine.execution.spec import ExecutionFolder, read_spec

    spec = read_spec(bucket, ExecutionFolder(DESTINATION, "daily"))
    ledger = spec.folder.ledger(spec.round_id)
    lines: list[str] = []
    segments = 0
    with bucket._on_disk(spec.folder.plan).path.open() as document:  # noqa: SLF001  the benchmark's own class
        for number, line in enumerate(document):
            lines += record_lines(json.loads(line), number)
            if len(lines) >= 2 * SEGMENT_FILES:
                bucket.write(
                    ledger.join(f"{segments % 100}/0-1-{segments:06d}.jsonl"), "".join(lines).encode()
                )
                lines, segments = [], segments + 1
    bucket.write(ledger.join(f"0/0-1-{segments:06d}.jsonl"), "".join(lines).encode())
    return {"segments": segments + 1}


def record_lines(task: dict[str, Any], number: int) -> list[str]:
    from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, StoredFile

    file = task["file"]
    started = FileRecord(
        file=file,
        etag=task["etag"],
        status=FileStatus.STARTED,
        pod=f"pod-{number % 64}",
        attempt=1,
        at=1.7e9 + number,
    )
    finished = replace(
        started,
        status=FileStatus.FINISHED,
        at=started.at + 0.5,
        input=StoredFile(SOURCE.join(file).uri, task["size_bytes"], task["etag"], 500),
        output=StoredFile(
            DESTINATION.join(task["result"]).uri, RESULT_BYTES, etag_of(f"result of {task['result']}"), 500
        ),
        seconds={"fetch": 0.0123, "read": 0.0234, "predict": 0.1234, "write": 0.0345, "publish": 0.0456},
        peak_memory_bytes=150_000_000,
    )
    return [json.dumps(record.to_dict(), ensure_ascii=False) + "\n" for record in (started, finished)]


def conclude(bucket: Bucket, pods: int) -> dict[str, float]:  # noqa: ARG001  the plan has its shards
    from airflow_batchexec.engine.execution.conclusion import conclude
    from airflow_batchexec.engine.execution.spec import ExecutionFolder, read_spec

    spec = read_spec(bucket, ExecutionFolder(DESTINATION, "daily"))
    with measured() as figures:
        conclude(spec=spec, storage=bucket, ended_at=spec.started_at + 3_600)
    mark = json.loads(bucket.read(spec.folder.success))
    assert mark["finished_files"] == bucket.files
    return {**figures, "lookups": bucket.requests}


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Measure the block: seconds by the clock and of the CPU, and the process's peak memory before and after."""
    figures: dict[str, float] = {"memory_before": peak_memory()}
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield figures
    figures |= {
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(cpu_seconds() - cpu, 2),
        "peak_memory": peak_memory(),
    }


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_memory() -> int:
    """The peak memory of this process, in bytes; unlike ``ru_maxrss``, without that of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


def report(figures: dict[str, Any]) -> None:
    print(f"{figures['files']:,} files")
    for step in ("plan", "conclude"):
        found = figures[step]
        print(
            f"{step:<10} {found['wall_seconds']:8.2f} s  {found['cpu_seconds']:8.2f} s CPU  "
            f"{found['peak_memory'] / 1e6:7.0f} MB peak ({found['memory_before'] / 1e6:.0f} MB before)"
        )
    print(f"{'lookups':<10} {figures['conclude']['lookups']:8,} results looked up one by one")
    for name, size in figures["report"].items():
        print(f"{name:<32} {size:10,} bytes")


def measure_rows(bucket: Bucket, pods: int) -> dict[str, float]:
    """The sizes, in bytes of JSON, of what the tasks store in Airflow: XComs, and rows of the task state store.

    ``finish`` reports an execution in which no file has a result, which is the longest row.
    """
    from airflow_batchexec.engine.execution.audit import Audit
    from airflow_batchexec.engine.execution.conclusion import Conclusion, read_header
    from airflow_batchexec.engine.execution.stored_lines import stored_lines
    from airflow_batchexec.operators.finish_execution import _report_end
    from airflow_batchexec.operators.plan_execution import _report

    prepared = prepare(bucket, pods)
    plan_rows, finish_rows = Store(), Store()
    with plan_rows.journal("plan") as journal:
        _report(journal, prepared, 0)
    predict_rows = [report_shard(bucket, prepared, number) for number in range(len(prepared.plan.shards))]
    audit = Audit()
    for line in stored_lines(bucket, prepared.spec.folder.plan):
        audit.add(failed_record(json.loads(line)["file"]))
    header = read_header(bucket, prepared.spec.folder)
    context: Any = finish_rows.context()
    with finish_rows.journal("finish") as journal:
        summary = header.summary(generation=0)
        _report_end(journal, context, summary, Conclusion(header=header, audit=audit))
    sizes = {
        "xcom of plan": len(json.dumps([shard.to_descriptor() for shard in prepared.plan.shards])),
        "xcom of finish": len(json.dumps(summary.to_dict())),
        "rows of plan": plan_rows.size(),
        "rows of predict": sum(rows.size() for rows in predict_rows),
        "rows of finish": finish_rows.size(),
    }
    return {**sizes, "total": sum(sizes.values())}


def report_shard(bucket: Bucket, prepared: Prepared, number: int) -> Store:
    """Report what the pod of a shard does, if it finishes all its files."""
    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.execution.plan import read_tasks
    from airflow_batchexec.engine.journal.listed_files import are_listed

    rows = Store()
    shard = prepared.plan.shards[number]
    tasks = read_tasks(bucket.read(prepared.spec.folder.plan, start=shard.offset, length=shard.length))
    with rows.journal(f"pod-{number}") as journal:
        if not are_listed(prepared.spec.total_files):
            journal.omit_files()
        journal.add("loaded", pod=f"pod-{number}", seconds=0.812)
        for task in tasks:
            for line in record_lines(asdict(task), number):
                journal.add_record(FileRecord.from_dict(json.loads(line)))
        if len(prepared.plan.shards) < prepared.spec.total_files:
            journal.set_progress(len(tasks))
    return rows


def failed_record(file: str) -> FileRecord:
    from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus

    return FileRecord(file=file, etag="", status=FileStatus.FAILED)


class Store:
    """A task state store that only counts."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def get(self, key: str) -> None:
        """No row is read."""

    def set(self, key: str, value: Any) -> None:
        self.rows[key] = len(json.dumps(value))

    def size(self) -> int:
        return sum(self.rows.values())

    def context(self) -> dict[str, Any]:
        return {
            "ti": SimpleNamespace(try_number=1),
            "dag_run": SimpleNamespace(clear_number=0),
            "task_state_store": self,
        }

    @contextmanager
    def journal(self, name: str) -> Iterator[TaskJournal]:
        from airflow_batchexec.operators.task_journal import TaskJournal

        context: Any = self.context()
        journal = TaskJournal(context, name=name, log=logging.getLogger("task"))
        yield journal
        journal.close()


if __name__ == "__main__":
    main()
