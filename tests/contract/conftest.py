"""The storages that the contract applies to, each with a separate folder for every test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.storage import open_storage
from airflow_batchexec.engine.storage.gcs.access import GcsAccess
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.engine.storage.s3.session import S3Access
from airflow_batchexec.engine.storage.s3.storage import connect

if TYPE_CHECKING:
    from pathlib import Path

    from gcs_server import GcsServer
    from s3_server import S3Server

    from airflow_batchexec.engine.storage.base import ObjectInfo, Storage
    from airflow_batchexec.engine.storage.s3.storage import S3Storage


@dataclass(frozen=True)
class Place:
    """A storage, a folder in it that does not exist yet, and a local folder for scratch files."""

    storage: Storage
    folder: Location
    scratch: Path

    def put(self, name: str, data: bytes = b"data") -> ObjectInfo:
        return self.storage.write(self.folder.join(name), data)

    def source(self, data: bytes) -> Path:
        path = self.scratch / f"source-{uuid4().hex}"
        path.write_bytes(data)
        return path

    def names(self, folder: Location | None = None) -> list[str]:
        return [self.folder.relative(info.location) for info in self.storage.list(folder or self.folder)]


@pytest.fixture(scope="session")
def s3_storage(s3_server: S3Server) -> S3Storage:
    return connect(
        S3Access(
            access_key_id=s3_server.access_key_id,
            secret_access_key=s3_server.secret_access_key,
            endpoint_url=s3_server.endpoint_url,
            region_name=s3_server.region,
        )
    )


@pytest.fixture(scope="session")
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket()


@pytest.fixture(scope="session")
def gcs_storage(gcs_server: GcsServer) -> Storage:
    access = GcsAccess(service_account_key=gcs_server.account.key, endpoint_url=gcs_server.endpoint_url)
    return open_storage(Location.parse("gs://any"), gcs=access)


@pytest.fixture(scope="session")
def gcs_bucket(gcs_server: GcsServer) -> str:
    return gcs_server.make_bucket()


@pytest.fixture(params=["local", *(pytest.param(name, marks=pytest.mark.server) for name in ("s3", "gcs"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    if request.param == "local":
        return Place(LocalStorage(), Location.of_path(tmp_path / "stored" / "in"), scratch)
    if request.param == "gcs":
        folder = Location.parse(f"gs://{request.getfixturevalue('gcs_bucket')}/{uuid4().hex}/in")
        return Place(request.getfixturevalue("gcs_storage"), folder, scratch)
    folder = Location.parse(f"s3://{request.getfixturevalue('bucket')}/{uuid4().hex}/in")
    return Place(request.getfixturevalue("s3_storage"), folder, scratch)
