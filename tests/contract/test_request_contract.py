"""The requests of an execution in a bucket: one to read each input, and one to write each result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote
from uuid import uuid4

import pytest
from flaky_proxy import start_flaky_proxy

from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.running.local_execution import LocalExecution
from airflow_batchexec.engine.storage import open_storage
from airflow_batchexec.engine.storage.gcs.access import GcsAccess
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.engine.storage.s3.session import S3Access
from airflow_batchexec.engine.storage.s3.storage import connect
from airflow_batchexec.exceptions import ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flaky_proxy import FlakyProxy
    from gcs_server import GcsServer
    from s3_server import S3Server

    from airflow_batchexec.engine.storage.base import Storage


@dataclass(frozen=True)
class Bucket:
    """A bucket behind a proxy that records the requests."""

    storage: Storage
    root: Location
    proxy: FlakyProxy


@pytest.fixture
def s3(s3_server: S3Server, bucket: str) -> Iterator[Bucket]:
    with start_flaky_proxy(s3_server.endpoint_url) as proxy:
        access = S3Access(
            access_key_id=s3_server.access_key_id,
            secret_access_key=s3_server.secret_access_key,
            endpoint_url=proxy.endpoint_url,
            region_name=s3_server.region,
        )
        yield Bucket(connect(access), Location.parse(f"s3://{bucket}/{uuid4().hex}"), proxy)


@pytest.fixture
def gcs(gcs_server: GcsServer, gcs_bucket: str) -> Iterator[Bucket]:
    with start_flaky_proxy(gcs_server.endpoint_url) as proxy:
        access = GcsAccess(service_account_key=gcs_server.account.key, endpoint_url=proxy.endpoint_url)
        storage = open_storage(Location.parse("gs://any"), gcs=access)
        yield Bucket(storage, Location.parse(f"gs://{gcs_bucket}/{uuid4().hex}"), proxy)


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    """A repository on disk, so that only the files and documents of the execution are in the bucket."""
    build = tmp_path / "build"
    build.mkdir()
    (build / "model.toml").write_text('entrypoint = "model:predict"\n')
    (build / "model.py").write_text("def predict(df):\n    return df\n")
    root = Location.of_path(tmp_path / "models")
    repository = ModelRepository(root=root, storage=LocalStorage(), cache=tmp_path / "cache")
    repository.publish(build, model_id="same", build_id="v1")
    repository.deploy("same", "v1")
    return repository


def run(bucket: Bucket, repository: ModelRepository, files: int) -> list[str]:
    """Run an execution over some files, and return its request lines."""
    folder = bucket.root.join(f"with-{files}-files")
    for number in range(files):
        bucket.storage.write(folder.join(f"in/day/{number:03d}.csv"), b"x\n1\n")
    bucket.proxy.requests.clear()
    execution = LocalExecution(
        execution_id="first",
        config=ExecutionConfig.from_fields(
            model_id="same",
            source_folder=folder.join("in").uri,
            destination_folder=folder.join("out").uri,
        ),
        repository=repository,
        instances=InstanceTable(),
        open_storage=lambda _: bucket.storage,
        allowed=AllowedLocations((folder,)),
    )
    conclusion = execution.run(execution.prepare())
    requests = [unquote(line) for line in bucket.proxy.requests if " /token " not in line]
    assert conclusion.header.finished_files == files
    return requests


def segments(bucket: Bucket, files: int) -> int:
    folder = bucket.root.join(f"with-{files}-files/out/_batchexec/first/ledger")
    return len(list(bucket.storage.list(folder)))


def test_an_execution_in_s3_makes_no_request_per_file_except_to_read_and_to_write(
    s3: Bucket, repository: ModelRepository
):
    assert_no_other_request_per_file(s3, repository)


def test_an_execution_in_gcs_makes_no_request_per_file_except_to_read_and_to_write(
    gcs: Bucket, repository: ModelRepository
):
    assert_no_other_request_per_file(gcs, repository)


def assert_no_other_request_per_file(bucket: Bucket, repository: ModelRepository) -> None:
    """Assert that more files cause no more requests except those that read the inputs and write the results."""
    with pytest.raises(ObjectNotFoundError):
        # A storage verifies that a bucket exists when it first misses an object there.
        bucket.storage.stat(bucket.root.join("none"))
    more = {}
    for files in (20, 60):
        requests = run(bucket, repository, files)
        reads = Counter(
            line for line in requests if line.startswith("GET ") and "/in/day/" in line.partition("?")[0]
        )
        assert len(reads) == reads.total() == files
        assert not [line for line in requests if line.startswith("HEAD ") and "/day/" in line]
        # The number of segments depends on the time that the execution took; each is written and read once.
        more[files] = len(requests) - 2 * files - 2 * segments(bucket, files)
    assert more[60] == more[20]
