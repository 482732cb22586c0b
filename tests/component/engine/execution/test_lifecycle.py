"""The start and end of an execution: what is written, in which order, and what a refused one leaves behind."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.execution import lock
from airflow_batchexec.engine.execution.conclusion import conclude, read_header, read_manifest, wait_for_pods
from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, LedgerWriter, StoredFile
from airflow_batchexec.engine.execution.lock import LockOwner, OwnerState
from airflow_batchexec.engine.execution.manifest import ExecutionStatus
from airflow_batchexec.engine.execution.plan import read_tasks
from airflow_batchexec.engine.execution.preparation import prepare
from airflow_batchexec.engine.execution.spec import ExecutionFolder, ExecutionSpec, read_spec
from airflow_batchexec.engine.execution.stop import StopMark
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import (
    BatchExecError,
    BuildNotFoundError,
    ConfigurationError,
    DiskFullError,
    ExecutionCancelledError,
    ExecutionRunningError,
    LocationError,
    ModelNotFoundError,
    NoInputFilesError,
    NoLiveBuildError,
    ObjectChangedError,
    ObjectNotFoundError,
    ResultCollisionError,
    StorageError,
)

EVERYWHERE = AllowedLocations((Location.parse("file:///"),))
DOCUMENTS = ["execution.json", "plan.jsonl", "skipped.jsonl"]


class Recording(LocalStorage):
    """Records changes in order; fails at ``full_at`` like a full disk."""

    def __init__(self, full_at=None):
        self.changes = []
        self.full_at = full_at

    def _change(self, verb, location):
        self.changes.append((verb, location.name))
        if self.full_at == (verb, location.name):
            raise DiskFullError(f"No room for {location.uri}.", uri=location.uri)

    def write(self, location, data):
        self._change("write", location)
        return super().write(location, data)

    def create(self, location, data):
        self._change("create", location)
        return super().create(location, data)

    def publish(self, path, location):
        self._change("publish", location)
        return super().publish(path, location)

    def delete(self, location, *, etag=None):
        self._change("delete", location)
        super().delete(location, etag=etag)


class World:
    """A repository with one model, a source folder with files, and a destination that does not exist."""

    def __init__(self, path):
        self.path = path
        self.source = path / "in"
        self.destination = path / "out"
        self.storage = Recording()
        build = path / "models" / "delay" / "v1"
        build.mkdir(parents=True)
        (build / "model.toml").write_text('entrypoint = "model:predict"\n')
        self.source.mkdir()
        self.deploy()

    def deploy(self, text='build_id = "v1"\n'):
        (self.path / "models" / "delay" / "deployment.toml").write_text(text)

    def put(self, *files):
        for file in files:
            path = self.source / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a\n1\n" + file)

    def config(self, **fields):
        folders = {
            "source_folder": f"file://{self.source}",
            "destination_folder": f"file://{self.destination}",
        }
        return ExecutionConfig.from_fields(**{"model_id": "delay", **folders, **fields})

    def prepare(
        self, execution_id="first", *, ended=(), allowed=EVERYWHERE, owner=None, started_at=100.0, **fields
    ):
        names = ("admit", "default_purchase_option", "map_per_file", "scratch_root")
        options = {name: fields.pop(name) for name in names if name in fields}
        return prepare(
            config=self.config(**fields),
            owner=owner or LockOwner(execution_id),
            owner_state=lambda o: OwnerState.ENDED if o.execution_id in ended else OwnerState.RUNNING,
            round_id="0",
            started_at=started_at,
            repository=ModelRepository(
                root=Location.of_path(self.path / "models"), storage=LocalStorage(), cache=self.path / "cache"
            ),
            instances=InstanceTable(),
            open_storage=lambda _: self.storage,
            allowed=allowed,
            default_pods=0,
            max_shards=1000,
            **options,
        )

    def planned(self, spec):
        """The file tasks in the plan document."""
        return read_tasks(self.storage.read(spec.folder.plan))

    def record(self, spec, *statuses, **values):
        """Process the first tasks of the plan like pods: publish results and write the ledger."""
        ledger = LedgerWriter(storage=self.storage, folder=spec.folder.ledger(spec.round_id), writer="pod-0")
        for task, status in zip(self.planned(spec), statuses, strict=False):
            entry = FileRecord(
                file=task.file, etag=task.etag, status=status, pod="pod-0", attempt=1, at=101.0, **values
            )
            if status is FileStatus.FINISHED:
                info = self.storage.write(spec.destination.join(task.result), b"result")
                source = StoredFile(spec.root.join(task.file).uri, task.size_bytes, task.etag, 3)
                entry = replace(entry, input=source, output=StoredFile.of(info, rows=2))
            ledger.add(entry)
        ledger.close()

    def conclude(self, spec, ended_at=107.5, **end):
        return conclude(spec=spec, storage=self.storage, ended_at=ended_at, **end).header

    def destination_paths(self):
        """Every file and folder in the destination."""
        return sorted(str(p.relative_to(self.destination)) for p in self.destination.rglob("*"))

    def locks(self):
        return list(self.destination.glob("_batchexec/locks/*"))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


# ---- the start


def test_preparing_writes_all_documents(world):
    world.put("a.csv", "sub/b.csv", "notes.txt")
    prepared = world.prepare(pods=2, parameters={"A": "b"}, output_file_type="parquet")
    folder = prepared.spec.folder
    assert sorted(path.name for path in folder.location.path.iterdir()) == DOCUMENTS
    assert read_spec(world.storage, folder) == prepared.spec
    assert {task.result for task in world.planned(prepared.spec)} == {"a.parquet", "sub/b.parquet"}
    assert json.loads(folder.skipped.path.read_text())["file"] == "notes.txt"
    assert len(world.locks()) == 1
    spec = prepared.spec
    assert (spec.total_files, spec.skipped_files, spec.pods, spec.instance.name) == (2, 1, 2, "small")
    assert spec.total_bytes == sum(len("a\n1\n" + file) for file in ("a.csv", "sub/b.csv"))


def test_the_specification_survives_a_round_trip_through_json(world):
    world.put("a.csv")
    owner = LockOwner("x", host="h", pid=3, started=1.25)
    spec = world.prepare(owner=owner, instance="tiny", cpus=0.5, build_id="v1", file_timeout=3).spec
    assert ExecutionSpec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json())["config"]["file_timeout"] == 3


def test_the_specification_document_has_the_same_keys_as_in_earlier_releases(world):
    world.put("a.csv", "b.csv")
    spec = world.prepare(pods=1).spec
    document = json.loads(spec.to_json())
    assert list(document) == [
        *("execution_id", "round_id", "config", "build", "instance", "pods", "source", "root", "destination"),
        *("owner", "started_at", "total_files", "total_bytes", "skipped_files", "purchase_option", "shares"),
        "version",
    ]
    assert document["shares"] == spec.shards == 1
    del document["shares"]
    assert ExecutionSpec.from_json(json.dumps(document).encode()) == replace(spec, shards=0)


def test_the_specification_is_written_last_before_an_old_success_marker_is_deleted(world):
    world.put("a.csv", "notes.txt")
    world.destination.mkdir()
    (world.destination / "_SUCCESS").write_text("{}")
    world.prepare()
    (_, lock_name), *changes = world.storage.changes
    assert changes == [
        ("publish", "plan.jsonl"),
        ("publish", "skipped.jsonl"),
        ("write", "execution.json"),
        ("delete", "_SUCCESS"),
    ]
    assert lock_name == world.locks()[0].name
    assert not (world.destination / "_SUCCESS").exists()


def test_a_source_that_is_a_single_file(world):
    world.put("day.csv")
    prepared = world.prepare(source_folder=f"file://{world.source}/day.csv", output_file_type="feather")
    assert prepared.spec.root == Location.of_path(world.source)
    assert prepared.spec.source == Location.of_path(world.source / "day.csv")
    assert [task.result for task in world.planned(prepared.spec)] == ["day.feather"]
    assert read_spec(world.storage, prepared.spec.folder).lock == prepared.spec.lock


@pytest.mark.parametrize(
    ("requested", "deployed", "pods", "shards"),
    [(0, "", 0, 5), (2, "", 2, 2), (0, "pods = 3\n", 3, 3), (2, "pods = 3\n", 2, 2), (9, "", 9, 5)],
)
def test_the_number_of_pods_is_the_requests_else_the_deployments(world, requested, deployed, pods, shards):
    world.deploy(f'build_id = "v1"\n{deployed}')
    world.put(*(f"{n}.csv" for n in range(5)))
    prepared = world.prepare(pods=requested)
    assert (prepared.spec.pods, prepared.spec.shards) == (pods, shards)
    assert len(prepared.plan.shards) == shards


def test_mapping_per_file_makes_each_file_a_shard_regardless_of_pods(world):
    world.put("a.csv", "b.csv", "c.csv")
    assert len(world.prepare(pods=1, map_per_file=True).plan.shards) == 3


# ---- refusals


@pytest.mark.parametrize(
    ("files", "fields", "error"),
    [
        ([], {}, NoInputFilesError),
        (["notes.txt"], {}, NoInputFilesError),
        (["a.csv"], {"source_folder": "file:///no/such/folder"}, NoInputFilesError),
        (["a.csv", "a.csv.gz"], {}, ResultCollisionError),
        (["a.csv"], {"model_id": "other"}, ModelNotFoundError),
        (["a.csv"], {"build_id": "v2"}, BuildNotFoundError),
        (["a.csv"], {"instance": "huge"}, ConfigurationError),
        (["a.csv"], {"execution_id": "../../up"}, ConfigurationError),
        (["a.csv"], {"allowed": AllowedLocations()}, LocationError),
        (["a\nb.csv"], {}, LocationError),
    ],
)
def test_a_refused_execution_leaves_nothing(world, files, fields, error):
    world.put(*files)
    with pytest.raises(error) as caught:
        world.prepare(**fields)
    assert isinstance(caught.value, BatchExecError)
    assert not world.destination.exists()
    assert world.storage.changes == []


def test_a_model_without_a_live_build_is_refused(world):
    (world.path / "models/delay/deployment.toml").unlink()
    world.put("a.csv")
    with pytest.raises(NoLiveBuildError):
        world.prepare()
    assert not world.destination.exists()


def test_a_destination_that_is_the_source_is_refused_and_left_as_it_was(world):
    world.put("a.csv")
    with pytest.raises(ResultCollisionError):
        world.prepare(destination_folder=f"file://{world.source}")
    assert [path.name for path in world.source.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("where", ["source", "destination"])
def test_links_are_resolved_before_source_and_destination_are_compared(world, where):
    """Without that, the destination would overwrite its source through a link."""
    world.put("a.csv")
    (world.path / "link").symlink_to(world.source)
    fields = {"destination_folder": f"file://{world.source}", f"{where}_folder": f"file://{world.path}/link"}
    with pytest.raises(ResultCollisionError):
        world.prepare(**fields)


def test_an_execution_with_the_same_identity_through_a_link_is_refused(world):
    world.put("a.csv")
    world.prepare("first")
    (world.path / "link").symlink_to(world.source)
    with pytest.raises(ExecutionRunningError):
        world.prepare("second", source_folder=f"file://{world.path}/link")


@pytest.mark.parametrize("where", ["source_folder", "destination_folder"])
def test_a_loop_of_links_is_refused(world, where):
    world.put("a.csv")
    (world.path / "loop").symlink_to(world.path / "loop")
    with pytest.raises(LocationError) as caught:
        world.prepare(**{where: f"file://{world.path}/loop"})
    assert caught.value.details["field"] == where
    assert not world.destination.exists()


@pytest.mark.parametrize(
    "execution_id", ["..", ".", "", "../x", "a/b", "/etc", "a\0b", "a b", "x" * 251, "locks", "ä", "a\n"]
)
def test_an_invalid_execution_id_is_refused(world, execution_id):
    with pytest.raises(ConfigurationError) as caught:
        ExecutionFolder(Location.of_path(world.destination), execution_id)
    assert caught.value.details["field"] == "execution_id"


@pytest.mark.parametrize("execution_id", ["manual__2026-01-01T00:00:00+00:00_x~1", "...", ".a", "x" * 250])
def test_any_valid_run_id_is_a_valid_execution_id(world, execution_id):
    folder = ExecutionFolder(Location.of_path(world.destination), execution_id)
    assert folder.location.parent == folder.destination.join("_batchexec")


# ---- allowed locations


def allowed_only(*paths):
    return AllowedLocations(tuple(Location.of_path(path) for path in paths))


def test_allowed_locations_are_accepted(world):
    world.put("a.csv")
    world.prepare(allowed=allowed_only(world.source, world.destination))


@pytest.mark.parametrize(
    ("missing", "field"), [("source", "source_folder"), ("destination", "destination_folder")]
)
def test_a_folder_that_is_not_allowed_is_refused(world, missing, field):
    world.put("a.csv")
    allowed = allowed_only(world.destination if missing == "source" else world.source)
    with pytest.raises(LocationError) as caught:
        world.prepare(allowed=allowed)
    assert caught.value.details["field"] == field
    assert not world.destination.exists()


def outside(world):
    secret = world.path / "secret"
    (secret / "sub").mkdir(parents=True)
    (secret / "x.csv").write_text("a\n1\n")
    return secret


def test_a_source_folder_that_links_out_of_the_allowed_locations_is_refused(world):
    outside(world)
    (world.source / "link").symlink_to(world.path / "secret")
    with pytest.raises(LocationError):
        world.prepare(
            source_folder=f"file://{world.source}/link", allowed=allowed_only(world.source, world.destination)
        )


@pytest.mark.parametrize("target", ["secret/x.csv", "secret"])
def test_an_input_that_links_out_of_the_allowed_locations_is_refused(world, target):
    outside(world)
    world.put("a.csv")
    (world.source / ("link.csv" if target.endswith(".csv") else "link")).symlink_to(world.path / target)
    with pytest.raises(LocationError, match="source_folder: ") as caught:
        world.prepare(allowed=allowed_only(world.source, world.destination))
    assert "/in/link" in caught.value.message
    assert not world.destination.exists()


def test_a_result_folder_that_links_out_of_the_allowed_locations_is_refused(world):
    outside(world)
    world.put("sub/a.csv")
    world.destination.mkdir()
    (world.destination / "sub").symlink_to(world.path / "secret" / "sub")
    with pytest.raises(LocationError, match="destination_folder: "):
        world.prepare(allowed=allowed_only(world.source, world.destination))
    assert world.destination_paths() == ["sub"]


def test_a_link_within_the_allowed_locations_is_followed(world):
    world.put("a.csv")
    (world.source / "b.csv").symlink_to(world.source / "a.csv")
    prepared = world.prepare(allowed=allowed_only(world.source, world.destination))
    assert {task.file for task in world.planned(prepared.spec)} == {"a.csv", "b.csv"}


# ---- the lock


def test_a_second_execution_is_refused_and_the_first_is_unaffected(world):
    world.put("a.csv")
    first = world.prepare("first").spec
    before = world.destination_paths()
    with pytest.raises(ExecutionRunningError) as caught:
        world.prepare("second", file_timeout=9)
    assert caught.value.details["execution_id"] == "first"
    assert world.destination_paths() == before
    assert read_spec(world.storage, first.folder) == first


@pytest.mark.parametrize("difference", ["build", "source"])
def test_executions_with_different_identities_may_run_concurrently(world, difference):
    world.put("a.csv", "sub/b.csv")
    build = world.path / "models/delay/v2"
    build.mkdir()
    (build / "model.toml").write_text('entrypoint = "model:predict"\n')
    world.prepare("first")
    other = {"build": {"build_id": "v2"}, "source": {"source_folder": f"file://{world.source}/sub"}}
    world.prepare("second", **other[difference])
    assert len(world.locks()) == 2


def test_naming_the_live_build_does_not_change_the_identity(world):
    world.put("a.csv")
    world.prepare("first")
    with pytest.raises(ExecutionRunningError):
        world.prepare("second", build_id="v1")


def test_the_lock_of_a_crashed_execution_is_taken_over(world):
    world.put("a.csv")
    crashed = world.prepare("crashed").spec
    second = world.prepare("second", ended={"crashed"}).spec
    assert json.loads(second.lock.path.read_bytes())["execution_id"] == "second"
    world.conclude(crashed)
    assert second.lock.path.exists()


def test_planning_again_keeps_the_lock(world):
    world.put("a.csv")
    world.prepare("first")
    world.put("b.csv")
    assert world.prepare("first").spec.total_files == 2


@pytest.mark.parametrize(
    "full_at", [("publish", "plan.jsonl"), ("publish", "skipped.jsonl"), ("write", "execution.json")]
)
def test_a_disk_that_fills_up_during_planning_leaves_neither_plan_nor_lock(world, full_at):
    world.put("a.csv", "notes.txt")
    world.destination.mkdir()
    (world.destination / "_SUCCESS").write_text("{}")
    world.storage = Recording(full_at)
    with pytest.raises(DiskFullError):
        world.prepare()
    assert [path for path in world.destination.rglob("*") if path.is_file()] == [
        world.destination / "_SUCCESS"
    ]


def test_a_disk_that_is_already_full_leaves_nothing(world):
    world.put("a.csv")
    first = world.prepare("first").spec
    world.conclude(first)
    before = world.destination_paths()
    world.storage = Recording(("create", first.lock.name))
    with pytest.raises(DiskFullError):
        world.prepare("second")
    assert world.destination_paths() == before


def test_a_scratch_folder_that_cannot_be_used_refuses_the_execution(world):
    world.put("a.csv")
    scratch = world.path / "scratch"
    with pytest.raises(StorageError, match=f"in {scratch}"):
        world.prepare(scratch_root=scratch)
    assert not world.destination.exists()


def test_planning_and_the_end_leave_nothing_in_the_scratch_folder(world, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(world.path / "missing"))
    world.put("a.csv", "notes.txt")
    scratch = world.path / "scratch"
    scratch.mkdir()
    spec = world.prepare(scratch_root=scratch).spec
    world.conclude(spec, scratch_root=scratch)
    assert list(scratch.iterdir()) == []


# ---- the end


def test_a_finished_execution_writes_its_manifest_and_then_the_success_marker(world):
    world.put("a.csv", "b.csv", "notes.txt")
    spec = world.prepare().spec
    world.record(spec, FileStatus.FINISHED, FileStatus.FINISHED)
    world.storage.changes.clear()
    manifest = world.conclude(spec)
    assert world.storage.changes == [
        ("publish", "manifest.json"),
        ("write", "_SUCCESS"),
        ("delete", "cancel"),
        ("delete", spec.lock.name),
    ]
    written = read_manifest(world.storage, spec.folder)
    assert manifest == written.header() == read_header(world.storage, spec.folder)
    assert spec.folder.manifest.path.read_bytes() == written.to_json()
    counts = {name: value for name, value in manifest.to_dict().items() if name.endswith("_files")}
    assert counts == {
        "total_files": 2,
        "finished_files": 2,
        "failed_files": 0,
        "not_started_files": 0,
        "skipped_files": 1,
    }
    assert (manifest.status, manifest.reason, manifest.seconds) == ("FINISHED", "", 7.5)
    assert (manifest.rows, manifest.rows_in) == (4, 6)
    assert [record.status for record in written.files] == [FileStatus.FINISHED] * 2
    assert written.skipped[0].file == "notes.txt"
    marker = json.loads((world.destination / "_SUCCESS").read_text())
    assert marker == manifest.model_dump(include={"execution_id", "finished_files", "rows", "manifest"})
    assert world.locks() == []


def test_a_failed_execution_accounts_for_every_file_without_a_success_marker(world):
    world.put("a.csv", "b.csv", "c.csv", "d.csv")
    spec = world.prepare().spec
    world.record(spec, FileStatus.FINISHED, FileStatus.FAILED, FileStatus.STARTED, reason="It is broken.")
    manifest = world.conclude(spec)
    assert manifest.status == "FAILED"
    assert (manifest.total_files, manifest.finished_files) == (4, 1)
    assert (manifest.failed_files, manifest.not_started_files) == (2, 1)
    assert [record.status.value for record in read_manifest(world.storage, spec.folder).files] == [
        *("FINISHED", "FAILED", "FAILED", "NOT_STARTED")
    ]
    assert not (world.destination / "_SUCCESS").exists()
    assert world.locks() == []


def test_an_execution_that_fails_after_it_had_finished_loses_its_success_marker(world):
    """A finished run whose task is cleared is not planned again."""
    world.put("a.csv")
    spec = world.prepare().spec
    world.record(spec, FileStatus.FINISHED)
    world.conclude(spec)
    (world.destination / "a.csv").unlink()
    world.storage.changes.clear()
    assert world.conclude(spec).status == "FAILED"
    assert world.storage.changes[:2] == [("delete", "_SUCCESS"), ("publish", "manifest.json")]
    assert not (world.destination / "_SUCCESS").exists()


@pytest.mark.parametrize("status", [ExecutionStatus.TIMEOUT, ExecutionStatus.CANCELLED])
def test_an_externally_terminated_execution_has_the_given_status_and_reason(world, status):
    world.put("a.csv", "b.csv")
    spec = world.prepare().spec
    world.record(spec, FileStatus.FINISHED)
    manifest = world.conclude(spec, end_status=status, end_reason="It is over.")
    assert manifest.status is status
    assert manifest.reason == "It is over. 1 file was not started: b.csv."
    assert not (world.destination / "_SUCCESS").exists()


def test_a_late_cancel_does_not_affect_the_next_clear(world):
    world.put("a.csv")
    spec = world.prepare().spec
    world.record(spec, FileStatus.FINISHED)
    cancel = StopMark(storage=world.storage, location=spec.folder.cancel)
    cancel.set(ExecutionCancelledError("Too late."))
    assert world.conclude(spec).status == "FINISHED"
    assert cancel.read() is None


def test_concluding_twice_gives_the_same_manifest(world):
    world.put("a.csv")
    spec = world.prepare().spec
    world.record(spec, FileStatus.FINISHED)
    assert world.conclude(spec) == world.conclude(spec)


@pytest.mark.parametrize("status", [FileStatus.FINISHED, FileStatus.FAILED])
def test_a_repeated_end_does_not_touch_the_marker_and_lock_of_a_later_execution(world, status):
    world.put("a.csv")
    first = world.prepare("first").spec
    world.record(first, status)
    world.conclude(first)
    second = world.prepare("second").spec
    marks = [world.destination / "_SUCCESS", second.lock.path]
    if status is FileStatus.FAILED:
        marks[0].write_text("of the second")
    before = [mark.exists() and mark.read_text() for mark in marks]
    world.conclude(first)
    assert [mark.exists() and mark.read_text() for mark in marks] == before


def test_an_execution_that_was_never_prepared_has_no_specification(world):
    folder = ExecutionFolder(Location.of_path(world.destination), "x")
    with pytest.raises(ObjectNotFoundError):
        read_spec(world.storage, folder)
    with pytest.raises(ObjectNotFoundError):
        read_manifest(world.storage, folder)


def test_an_execution_whose_scratch_folder_cannot_be_used_keeps_its_lock(world):
    world.put("a.csv")
    spec = world.prepare().spec
    scratch = world.path / "scratch"
    with pytest.raises(StorageError, match=f"to {scratch}"):
        world.conclude(spec, scratch_root=scratch)
    assert spec.lock.path.exists()


def test_an_execution_holds_its_lock_until_its_manifest_is_written(world):
    world.put("a.csv")
    spec = world.prepare().spec
    world.storage = Recording(("publish", "manifest.json"))
    with pytest.raises(DiskFullError):
        world.conclude(spec)
    assert spec.lock.path.exists()
    assert spec.lock.parent.name == lock.FOLDER


# ---- reading the manifest


class Counting(LocalStorage):
    """Counts the bytes that are read, by name of the document."""

    def __init__(self):
        self.read_bytes = Counter()

    def read(self, location, *, start=0, length=None):
        data = super().read(location, start=start, length=length)
        self.read_bytes[location.name] += len(data)
        return data


@pytest.fixture
def concluded(world):
    world.put(*(f"{number:04d}.csv" for number in range(1_000)))
    spec = world.prepare().spec
    world.conclude(spec)
    return spec


def test_reading_the_header_of_a_manifest_does_not_read_its_files(concluded):
    storage = Counting()

    header = read_header(storage, concluded.folder)

    assert header == read_manifest(storage, concluded.folder).header()
    assert (header.total_files, header.not_started_files) == (1_000, 1_000)
    assert storage.read_bytes["manifest.json"] == 64 * 1024 + concluded.folder.manifest.path.stat().st_size


def test_the_header_is_read_from_any_layout_of_the_document(world, concluded):
    before = read_header(world.storage, concluded.folder)
    path = concluded.folder.manifest.path
    document = json.loads(path.read_text())

    for values in (document, dict(reversed(document.items()))):
        path.write_text(json.dumps(values))
        assert read_header(world.storage, concluded.folder) == before


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"version": 1', '"version": 2', ConfigurationError),
        ('"rows": 0', '"rows": "many"', ObjectChangedError),
        ('"files": [', "", ObjectChangedError),
        ('"version": 1,', '"version": 1', ObjectChangedError),
    ],
)
def test_a_header_that_cannot_be_read_is_an_error(world, concluded, old, new, error):
    path = concluded.folder.manifest.path
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(error, match="manifest"):
        read_header(world.storage, concluded.folder)


# ---- waiting for pods


def ended_pod(file, pod, status=FileStatus.CANCELLED, *, attempt=1, at=101.0):
    return FileRecord(file=file, etag="e", status=status, pod=pod, attempt=attempt, at=at)


def wait(spec, storage, *, pods, seconds=0.0):
    return wait_for_pods(spec=spec, storage=storage, generation=0, pods=pods, seconds=seconds)


def add_records(spec, writer, *records):
    ledger = LedgerWriter(storage=LocalStorage(), folder=spec.folder.ledger(spec.round_id), writer=writer)
    for record in records:
        ledger.add(record)
    ledger.close()


def test_pods_have_ended_when_their_last_attempt_has(world):
    world.put("a.csv", "b.csv", "c.csv")
    spec = world.prepare().spec
    add_records(spec, "0", ended_pod("a.csv", "pod-0"), ended_pod("b.csv", "pod-0", FileStatus.FINISHED))
    add_records(spec, "1", ended_pod("c.csv", "pod-1", FileStatus.FAILED))
    assert wait(spec, world.storage, pods=2)

    add_records(spec, "1-again", ended_pod("c.csv", "pod-1", FileStatus.STARTED, attempt=2, at=90.0))
    assert not wait(spec, world.storage, pods=2)
    assert wait(spec, world.storage, pods=1)


def test_waiting_for_pods_reads_each_segment_once(world):
    world.put("a.csv")
    spec = world.prepare().spec
    add_records(spec, "0", ended_pod("a.csv", "pod-0"))
    (segment,) = world.storage.list(spec.folder.ledger(spec.round_id))

    class Awaited(Counting):
        """The other pod ends while the ledger is listed for the second time."""

        listings = 0

        def list(self, folder):
            self.listings += 1
            if self.listings == 2:
                add_records(spec, "1", ended_pod("a.csv", "pod-1"))
            return super().list(folder)

    storage = Awaited()
    assert wait(spec, storage, pods=2, seconds=60.0)
    assert storage.read_bytes[segment.location.name] == segment.size_bytes


# ---- purchase option and placement


@pytest.mark.parametrize(
    ("requested", "deployed", "configured", "resolved"),
    [
        ("on-demand", "spot", "spot", "on-demand"),
        ("", "spot", "on-demand", "spot"),
        ("", None, "spot", "spot"),
        ("", None, "", ""),
    ],
)
def test_the_purchase_option_is_the_requests_else_the_deployments_else_the_configured_one(
    world, requested, deployed, configured, resolved
):
    world.put("a.csv")
    world.deploy(f'build_id = "v1"\npurchase_option = "{deployed}"\n' if deployed else 'build_id = "v1"\n')

    spec = world.prepare(purchase_option=requested, default_purchase_option=configured).spec

    assert read_spec(world.storage, spec.folder).purchase_option == resolved
    assert world.conclude(spec).purchase_option == resolved


def test_an_execution_that_is_not_admitted_leaves_nothing(world):
    world.put("a.csv")
    world.deploy('build_id = "v1"\ninstance = "large"\n')
    admitted = []

    def admit(instance, purchase_option):
        admitted.append((instance.name, instance.cpus, purchase_option))
        raise ConfigurationError("cpus: too many.", field="cpus")

    with pytest.raises(ConfigurationError, match=r"^cpus: too many"):
        world.prepare(admit=admit, cpus=12, purchase_option="spot")

    assert admitted == [("large", 12, "spot")]
    assert world.storage.changes == []
    assert not world.destination.exists()
