"""Single files: validation, predicting, and what is written to the destination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from predictors import nothing_left_behind, write_build

from airflow_batchexec.engine.config.file_request import file_config
from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.execution.ledger import FileStatus
from airflow_batchexec.engine.execution.lock import LockOwner
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.running.session import PredictorSession
from airflow_batchexec.engine.running.single_file import PreparedFile, predict_file, prepare_file
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import (
    ConfigurationError,
    LocationError,
    NoLiveBuildError,
    ObjectChangedError,
    ObjectNotFoundError,
    PredictError,
    ResultCollisionError,
)

if TYPE_CHECKING:
    from pathlib import Path

ECHO = "def predict(df):\n    return df\n"
RAISING = "def predict(df):\n    raise ValueError('as ordered')\n"


class Disk:
    """A folder of files and a model repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source, self.out = folder / "in", folder / "out"
        self.source.mkdir()
        (self.source / "day.csv").write_text("x\n1\n2\n")
        self.storage = LocalStorage()
        self.repository = ModelRepository(
            root=Location.of_path(folder / "repository"), storage=self.storage, cache=folder / "cache"
        )
        (folder / "model").mkdir()
        (folder / "model" / "model.py").write_text(ECHO)
        (folder / "model" / "model.toml").write_text('entrypoint = "model:predict"\n')
        self.repository.publish(folder / "model", model_id="m", build_id="b1")
        self.repository.deploy("m", "b1", instance="tiny")

    def prepare(self, file: str = "in/day.csv", *, allowed: str = "", **fields: Any) -> PreparedFile:
        request = {"destination_folder": f"file://{self.out}", "model_id": "m", **fields}
        return prepare_file(
            config=file_config({"file": f"file://{self.folder}/{file}", **request}),
            owner=LockOwner("manual"),
            started_at=0.0,
            repository=self.repository,
            instances=InstanceTable(),
            open_storage=lambda _: self.storage,
            allowed=AllowedLocations.parse(allowed or f"file://{self.folder}"),
        )

    def files(self) -> set[str]:
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_preparing_resolves_build_and_instance_and_writes_nothing(disk: Disk):
    before = disk.files()

    prepared = disk.prepare(memory=256)

    assert (prepared.spec.build.build_id, prepared.spec.instance.name) == ("b1", "tiny")
    assert prepared.spec.instance.memory_bytes == 256 * 2**20
    assert (prepared.task.file, prepared.task.result) == ("day.csv", "day.csv")
    assert prepared.task.etag == disk.storage.stat(Location.of_path(disk.source / "day.csv")).etag
    assert disk.files() == before
    assert not disk.out.exists()


def test_a_missing_file_and_a_folder_are_refused(disk: Disk):
    with pytest.raises(ObjectNotFoundError, match=r"^file: file://.*/none\.csv does not exist"):
        disk.prepare("in/none.csv")
    (disk.source / "all.csv").mkdir()
    with pytest.raises(ConfigurationError, match=r"^file: file://.*/all\.csv is a folder"):
        disk.prepare("in/all.csv")


def test_a_model_without_a_live_build_is_refused(disk: Disk):
    disk.repository.publish(disk.folder / "model", model_id="undeployed", build_id="b1")
    with pytest.raises(NoLiveBuildError):
        disk.prepare(model_id="undeployed")


@pytest.mark.parametrize("side", ["file", "destination_folder"])
def test_source_and_destination_must_be_allowed_even_through_links(
    disk: Disk, tmp_path_factory: Any, side: str
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "day.csv").write_text("x\n1\n")
    link = disk.folder / "link"
    link.symlink_to(elsewhere)
    locations = {"file": "link/day.csv", "destination_folder": f"file://{link}"}

    with pytest.raises(LocationError, match="may not be used here") as refused:
        disk.prepare(**{side: locations[side]})

    assert refused.value.details["field"] == side


@pytest.mark.parametrize("link", ["folder", "file", "both"])
def test_a_result_never_overwrites_its_input_even_through_links(disk: Disk, link: str):
    names = disk.folder / "names"
    file = "names/day.csv"
    if link == "folder":
        names.symlink_to(disk.source)
    else:
        names.mkdir()
        (names / "day.csv").symlink_to(disk.source / "day.csv")
    destination = names if link == "both" else disk.source

    with pytest.raises(ResultCollisionError, match="would overwrite the input"):
        disk.prepare(file, destination_folder=f"file://{destination}")


def test_a_result_is_named_after_the_requested_link(disk: Disk):
    (disk.source / "today.csv").symlink_to(disk.source / "day.csv")

    assert disk.prepare("in/today.csv", output_file_type="feather").task.result == "today.feather"


class FilePredictor:
    """Predicts prepared files."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.statuses: list[FileStatus] = []

    def predict(self, prepared: PreparedFile, *, model: str = ECHO) -> Any:
        session = PredictorSession(prepared.spec, name="pod-0", on_line=lambda *_: None)
        with session.started(write_build(self.disk.folder / "build", model)):
            return predict_file(
                prepared,
                session=session,
                attempt=3,
                generation=1,
                source=self.disk.storage,
                destination=self.disk.storage,
                record=lambda entry: self.statuses.append(entry.status),
            )


def test_only_the_result_is_written_to_the_destination(disk: Disk):
    predictor = FilePredictor(disk)
    with nothing_left_behind():
        record = predictor.predict(disk.prepare())

    assert [str(path.relative_to(disk.out)) for path in disk.out.rglob("*")] == ["day.csv"]
    assert (disk.out / "day.csv").read_text() == "x\n1\n2\n"
    assert (record.status, record.attempt, record.generation) == (FileStatus.FINISHED, 3, 1)
    assert record.output.uri == f"file://{disk.out}/day.csv"
    assert predictor.statuses == [FileStatus.STARTED, FileStatus.FINISHED]


def test_if_predict_raises_an_earlier_result_stays_unchanged(disk: Disk):
    disk.out.mkdir()
    (disk.out / "day.csv").write_text("earlier\n")
    predictor = FilePredictor(disk)

    with nothing_left_behind(), pytest.raises(PredictError, match="as ordered"):
        predictor.predict(disk.prepare(), model=RAISING)

    assert (disk.out / "day.csv").read_text() == "earlier\n"
    assert list(disk.out.iterdir()) == [disk.out / "day.csv"]
    assert predictor.statuses == [FileStatus.STARTED, FileStatus.FAILED]


def test_a_file_that_changed_since_it_was_prepared_is_not_predicted(disk: Disk):
    prepared = disk.prepare()
    (disk.source / "day.csv").write_text("x\n1\n2\n3\n")

    with nothing_left_behind(), pytest.raises(ObjectChangedError):
        FilePredictor(disk).predict(prepared)

    assert not disk.out.exists()
