"""Which requests find the results of an execution, and that whatever a listing lacks is looked up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution.file_table import open_file_table
from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, StoredFile
from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.execution.stored_results import list_results, with_results
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_batchexec.engine.storage.base import Storage

OUT = Location.parse("s3://delays/out")
PUBLISHED = 20


class Bucket(LocalStorage):
    """A bucket with some objects; counts what is listed and what is looked up."""

    def __init__(self, *names: str, unlisted: tuple[str, ...] = (), **changed: int) -> None:
        self.objects = dict.fromkeys(names, PUBLISHED) | {f"{name}.csv": at for name, at in changed.items()}
        self.unlisted = dict.fromkeys(unlisted, PUBLISHED)
        self.folders: list[str] = []
        self.listed = 0
        self.looked_up: list[str] = []

    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        self.folders.append(folder.uri)
        for name in sorted(self.objects):
            location = OUT.join(name)
            if folder.contains(location):
                self.listed += 1
                yield ObjectInfo(location, self.objects[name], "o")

    def stat(self, location: Location) -> ObjectInfo:
        name = OUT.relative(location)
        self.looked_up.append(name)
        found = {**self.objects, **self.unlisted}.get(name)
        if found is None:
            raise ObjectNotFoundError(f"No {name}.", uri=location.uri)
        return ObjectInfo(location, found, "o")


def find(
    bucket: Storage, *names: str, unfinished: tuple[str, ...] = (), destination: Location = OUT
) -> dict[str, int | None]:
    """The size of the stored result of each file, of an execution in which these files have finished."""
    with open_file_table() as table:
        table.add_tasks([FileTask(name, 10, "e", name) for name in (*names, *unfinished)])
        for name in names:
            output = StoredFile(OUT.join(name).uri, PUBLISHED, "o", 3)
            record = FileRecord(file=name, etag="e", status=FileStatus.FINISHED, output=output)
            table.add_records([json.dumps(record.to_dict()).encode()])
        list_results(bucket, destination, table)
        return {row.task.file: row.stored_bytes for row in with_results(bucket, destination, table.rows())}


def days(count: int) -> list[str]:
    return [f"2026/01/day-{number:04d}.csv" for number in range(count)]


def test_a_listing_of_their_common_folder_finds_all_results_without_a_lookup():
    names = days(2_500)
    bucket = Bucket(*names, "2026/02/other.csv", "_batchexec/daily/plan.jsonl")

    assert find(bucket, *names) == dict.fromkeys(names, PUBLISHED)

    assert bucket.folders == ["s3://delays/out/2026/01"]
    assert bucket.looked_up == []


def test_results_in_the_destination_itself_are_listed_there():
    names = [f"{number}.csv" for number in range(20)]
    bucket = Bucket(*names, "z/other.csv")

    assert find(bucket, *names) == dict.fromkeys(names, PUBLISHED)

    assert bucket.folders == ["s3://delays/out"]
    assert bucket.looked_up == []


def test_a_few_results_are_looked_up():
    bucket = Bucket(*days(500))

    assert find(bucket, *days(3)) == dict.fromkeys(days(3), PUBLISHED)

    assert bucket.folders == []
    assert sorted(bucket.looked_up) == days(3)


class UnlistedDisk(LocalStorage):
    """A disk on which nothing may be listed."""

    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        raise AssertionError(f"{folder.uri} was listed")


def test_on_disk_results_are_looked_up(tmp_path: Path):
    disk = UnlistedDisk()
    destination = Location.of_path(tmp_path)
    for name in days(100):
        disk.write(destination.join(name), b"x" * PUBLISHED)

    found = find(disk, *days(100), destination=destination)

    assert found == dict.fromkeys(days(100), PUBLISHED)


def test_the_listing_of_a_folder_of_many_other_objects_ends_early():
    names = [f"z-{number:02d}.csv" for number in range(40)]
    bucket = Bucket(*(f"a-{number:05d}.csv" for number in range(9_000)), *names)

    assert find(bucket, *names) == dict.fromkeys(names, PUBLISHED)

    assert bucket.listed == 4_000
    assert sorted(bucket.looked_up) == names


def test_the_listing_ends_after_the_last_result():
    names = [f"a-{number:02d}.csv" for number in range(500)]
    bucket = Bucket(*names, *(f"b-{number:05d}.csv" for number in range(9_000)))

    assert find(bucket, *names) == dict.fromkeys(names, PUBLISHED)

    assert bucket.listed == 1_000


def test_a_result_that_the_listing_lacks_is_missing_only_if_a_lookup_says_so():
    names = [f"{number:02d}.csv" for number in range(20)]
    bucket = Bucket(*names[2:], unlisted=("00.csv",))

    found = find(bucket, *names)

    assert found == {**dict.fromkeys(names, PUBLISHED), "01.csv": None}
    assert sorted(bucket.looked_up) == ["00.csv", "01.csv"]


def test_a_result_that_differs_in_the_listing_is_looked_up():
    names = [f"{number:02d}.csv" for number in range(20)]
    changed = PUBLISHED + 1
    bucket = Bucket(*names, **{"07": changed})

    assert find(bucket, *names) == {**dict.fromkeys(names, PUBLISHED), "07.csv": changed}
    assert bucket.looked_up == ["07.csv"]


def test_files_without_a_result_are_not_looked_up():
    bucket = Bucket(*days(20))

    found = find(bucket, *days(20), unfinished=("2026/01/late.csv",))

    assert found["2026/01/late.csv"] is None
    assert bucket.looked_up == []
