from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from threading import Barrier

import boto3
import pandas as pd
import pytest

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.repository.builds import BuildKind, Deployment
from airflow_batchexec.engine.repository.opening import default_cache, open_repository
from airflow_batchexec.engine.repository.repository import (
    ModelRepository,
    ModelSummary,
)
from airflow_batchexec.engine.storage import open_storage
from airflow_batchexec.engine.storage.s3.session import S3Access
from airflow_batchexec.exceptions import (
    AccessDeniedError,
    BucketNotFoundError,
    BuildExistsError,
    BuildNotFoundError,
    ConfigurationError,
    InvalidBuildError,
    ModelNotFoundError,
    NoLiveBuildError,
)

NOON = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
MODEL_PY = "def predict(df):\n    return df\n"
NUMBERS = count()
EXAMPLES = Path(__file__).parents[4] / "models"


@dataclass(frozen=True)
class RepositoryLocation:
    """How to open a repository, in this process or another."""

    root: Location
    cache: Path
    s3: S3Access | None

    def open(self):
        return open_repository(self.root.uri, cache=self.cache, s3=self.s3)


@pytest.fixture(scope="module")
def access(s3_server):
    return S3Access(
        access_key_id=s3_server.access_key_id,
        secret_access_key=s3_server.secret_access_key,
        endpoint_url=s3_server.endpoint_url,
        region_name=s3_server.region,
    )


@pytest.fixture(scope="module")
def bucket(s3_server):
    return s3_server.make_bucket()


@pytest.fixture(scope="module")
def s3_storage(access):
    return open_storage(Location.parse("s3://any"), s3=access)


BUCKET = pytest.param("bucket", marks=pytest.mark.server)


@pytest.fixture(params=["disk", BUCKET])
def repository_location(request, tmp_path):
    if request.param == "disk":
        return RepositoryLocation(Location.of_path(tmp_path / "repository"), tmp_path / "cache", None)
    bucket, access = request.getfixturevalue("bucket"), request.getfixturevalue("access")
    return RepositoryLocation(
        Location.parse(f"s3://{bucket}/{next(NUMBERS)}/models"), tmp_path / "cache", access
    )


@pytest.fixture
def storage(request, repository_location):
    return (
        request.getfixturevalue("s3_storage")
        if repository_location.s3
        else open_storage(repository_location.root)
    )


@pytest.fixture
def repository(repository_location, storage):
    return ModelRepository(root=repository_location.root, storage=storage, cache=repository_location.cache)


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "source")


bucket_only = pytest.mark.parametrize("repository_location", [BUCKET], indirect=True)
disk_only = pytest.mark.parametrize("repository_location", ["disk"], indirect=True)


def write_model(folder, **files):
    folder.mkdir(parents=True)
    for name, text in {"model.toml": 'entrypoint = "model:predict"\n', "model.py": MODEL_PY, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(storage, location):
    return {location.relative(info.location) for info in storage.list(location)}


def local_files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_published_build_can_be_resolved_and_fetched(repository, tmp_path):
    folder = write_model(tmp_path / "m", **{"data/weights.bin": "0123"})
    build = repository.publish(folder, model_id="churn", build_id="v1")
    assert build.kind is BuildKind.PYTHON
    assert build.entrypoint == "model:predict"
    assert build.location == repository.root.join("churn/v1")
    assert repository.resolve("churn", "v1") == (build, None)
    fetched = repository.fetch(build)
    assert local_files(fetched) == {"model.toml", "model.py", "data/weights.bin"}
    assert (fetched / "data/weights.bin").read_text() == "0123"
    assert (folder / "model.py").read_text() == MODEL_PY, "the user's folder is unchanged"


def test_default_build_id_is_the_time_and_the_content_hash(repository, folder, tmp_path):
    first = repository.publish(folder, model_id="a", clock=lambda: NOON)
    assert first.build_id.startswith("20261122-103000-")
    same = write_model(tmp_path / "same")
    assert repository.publish(same, model_id="b", clock=lambda: NOON).build_id == first.build_id
    other = write_model(tmp_path / "other", **{"more.txt": "x"})
    assert repository.publish(other, model_id="a", clock=lambda: NOON).build_id != first.build_id


def test_live_build_is_the_default(repository, folder):
    repository.publish(folder, model_id="churn", build_id="v1")
    v2 = repository.publish(folder, model_id="churn", build_id="v2")
    deployment = repository.deploy("churn", "v1", pods=3, instance="large", purchase_option="ondemand")
    assert deployment == Deployment("v1", 3, "large", "on-demand")
    assert repository.resolve("churn")[0].build_id == "v1"
    assert repository.resolve("churn", "v2") == (v2, deployment), (
        "a named build keeps the deployment's defaults"
    )


def test_deploying_replaces_the_whole_deployment(repository, folder):
    repository.publish(folder, model_id="churn", build_id="v1")
    repository.deploy("churn", "v1", pods=3, instance="large")
    repository.deploy("churn", "v1", purchase_option="spot")
    assert repository.resolve("churn")[1] == Deployment("v1", purchase_option="spot")


def test_models_are_listed_with_builds_and_deployment(repository, folder):
    for model_id, build_id in [("b", "v2"), ("b", "v1"), ("a", "v1")]:
        repository.publish(folder, model_id=model_id, build_id=build_id)
    live = repository.deploy("b", "v2", pods=2)
    assert repository.models() == [ModelSummary("a", ("v1",), None), ModelSummary("b", ("v1", "v2"), live)]
    assert repository.model("b") == ModelSummary("b", ("v1", "v2"), live)


def test_empty_repository_lists_nothing(repository):
    assert repository.models() == []


def test_manually_copied_build_is_a_build(repository, storage):
    for name, text in {
        "model.toml": 'entrypoint = "pkg.model:Model"',
        "pkg/model.py": "class Model: ...",
    }.items():
        storage.write(repository.root.join(f"hand/v1/{name}"), text.encode())
    storage.write(repository.root.join("hand/deployment.toml"), b'build_id = "v1"\n')
    storage.write(repository.root.join("README.md"), b"not a model")
    storage.write(repository.root.join("notes/v1/readme.txt"), b"not a build")
    build, deployment = repository.resolve("hand")
    assert (build.entrypoint, deployment) == ("pkg.model:Model", Deployment("v1"))
    assert local_files(repository.fetch(build)) == {"model.toml", "pkg/model.py"}
    assert [model.model_id for model in repository.models()] == ["hand"]


def test_mlflow_model_needs_no_model_toml(repository, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n")
    build = repository.publish(folder, model_id="m", build_id="v1")
    assert (build.kind, build.entrypoint) == (BuildKind.MLFLOW, None)
    assert repository.resolve("m", "v1")[0] == build


def test_model_toml_adds_interpreter_and_requirements_to_an_mlflow_model(repository, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors:\n  python_function: {}\n")
    (folder / "model.toml").write_text('interpreter = "/opt/venv/bin/python"\nrequirements = ["mlflow>=2"]\n')
    repository.publish(folder, model_id="m", build_id="v1")
    build, _ = repository.resolve("m", "v1")
    assert (build.interpreter, build.requirements) == ("/opt/venv/bin/python", ("mlflow>=2",))


def test_hidden_files_and_caches_are_not_published(repository, tmp_path):
    folder = write_model(
        tmp_path / "m",
        **{
            "__pycache__/model.pyc": "",
            ".git/HEAD": "",
            ".env": "SECRET=1",
            "pkg/__pycache__/x.pyc": "",
            "pkg/a.py": "",
        },
    )
    (folder / "linked.py").symlink_to("pkg/a.py")
    build = repository.publish(folder, model_id="m", build_id="v1")
    fetched = repository.fetch(build)
    assert local_files(fetched) == {"model.toml", "model.py", "pkg/a.py", "linked.py"}
    assert not (fetched / "linked.py").is_symlink()


@disk_only
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_link_out_of_the_folder_is_rejected(repository, folder, tmp_path, target):
    outside = tmp_path / "outside"
    if target == "file":
        outside.write_text("secret")
    elif target == "folder":
        outside.mkdir()
    (folder / "link").symlink_to(outside)
    with pytest.raises(InvalidBuildError, match=r"source/link: it is a symbolic link"):
        repository.publish(folder, model_id="m", build_id="v1")
    assert repository.models() == []


@disk_only
def test_fifo_is_rejected(repository, folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidBuildError, match=r"source/pipe: it is not a regular file"):
        repository.publish(folder, model_id="m", build_id="v1")


def test_folder_that_contains_the_repository_is_rejected(tmp_path):
    folder = write_model(tmp_path / "m")
    with pytest.raises(InvalidBuildError, match="contains the model repository"):
        open_repository(str(folder / "models")).publish(folder, model_id="m")


@disk_only
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.toml": None}, "a build needs a model.toml"),
        ({"model.py": None}, "model.toml: entrypoint: 'model:predict' needs model.py"),
        ({"model.toml": 'entrypoint = "model.py"'}, "model.toml: entrypoint: 'model.py' is not in the form"),
        ({"model.toml": "entrypoint = "}, "model.toml: not valid TOML"),
        ({"MLmodel": "flavors: {}", "model.toml": None}, "MLmodel: the model has no python_function"),
        ({"MLmodel": "python_function"}, "model.toml: entrypoint: remove it"),
    ],
)
def test_invalid_build_is_rejected_and_not_published(repository, storage, folder, files, message):
    for name, text in files.items():
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)
    with pytest.raises(InvalidBuildError) as caught:
        repository.publish(folder, model_id="m", build_id="v1")
    assert str(caught.value).startswith(str(folder))
    assert message in str(caught.value)
    assert names(storage, repository.root) == set()


@disk_only
def test_missing_folder_is_rejected(repository, tmp_path):
    with pytest.raises(InvalidBuildError, match="nowhere is not a directory"):
        repository.publish(tmp_path / "nowhere", model_id="m")


@disk_only
@pytest.mark.parametrize("bad", ["../up", "/abs", "a/b", "", ".hidden", "a\n", "ü", "x" * 129])
def test_ids_that_are_not_plain_names_are_rejected(repository, folder, bad):
    with pytest.raises(ConfigurationError) as caught:
        repository.publish(folder, model_id=bad)
    assert caught.value.details["field"] == "model_id"
    with pytest.raises(ConfigurationError):
        repository.resolve(bad)
    with pytest.raises(ConfigurationError):
        repository.deploy("m", bad)
    if bad:
        with pytest.raises(ConfigurationError) as caught:
            repository.publish(folder, model_id="m", build_id=bad)
        assert caught.value.details["field"] == "build_id"
        with pytest.raises(ConfigurationError):
            repository.resolve("m", bad)


def test_build_cannot_have_the_name_of_the_deployment_file(repository, folder):
    with pytest.raises(ConfigurationError, match="reserved for the deployment file"):
        repository.publish(folder, model_id="m", build_id="deployment.toml")


def test_builds_are_immutable(repository, storage, folder, tmp_path):
    repository.publish(folder, model_id="m", build_id="v1")
    before = {info.location: info.etag for info in storage.list(repository.root)}
    other = write_model(tmp_path / "other", **{"more.py": ""})
    with pytest.raises(BuildExistsError, match="m/v1 "):
        repository.publish(other, model_id="m", build_id="v1")
    assert {info.location: info.etag for info in storage.list(repository.root)} == before


def test_manually_created_folder_is_not_overwritten(repository, storage, folder):
    storage.write(repository.root.join("m/v1/readme.txt"), b"mine")
    with pytest.raises(BuildExistsError):
        repository.publish(folder, model_id="m", build_id="v1")
    assert names(storage, repository.root) == {"m/v1/readme.txt"}


def test_exactly_one_of_eight_concurrent_publishers_wins_with_a_complete_build(repository, tmp_path):
    folders = [
        write_model(tmp_path / f"m{n}", **{f"part{part}.txt": str(n) for part in range(10)}) for n in range(8)
    ]
    barrier = Barrier(8)

    def publish(folder):
        barrier.wait()
        try:
            return repository.publish(folder, model_id="m", build_id="v1")
        except BuildExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [n for n, build in enumerate(pool.map(publish, folders)) if build]
    assert len(won) == 1
    fetched = repository.fetch(repository.resolve("m", "v1")[0])
    assert {(fetched / f"part{part}.txt").read_text() for part in range(10)} == {str(won[0])}
    assert [model.builds for model in repository.models()] == [("v1",)]


PUBLISH_ON_SIGNAL = """
import sys
from pathlib import Path
from airflow_batchexec.engine.repository.opening import open_repository
from airflow_batchexec.engine.storage.s3.session import S3Access
from airflow_batchexec.exceptions import BuildExistsError

uri, folder, *s3 = sys.argv[1:]
access = S3Access(**dict(zip(["access_key_id", "secret_access_key", "endpoint_url", "region_name"], s3))) if s3 else None
repository = open_repository(uri, s3=access)
print("ready", flush=True)
sys.stdin.readline()
try:
    repository.publish(Path(folder), model_id="m", build_id="v1")
except BuildExistsError:
    print("lost")
else:
    print("won")
"""


def test_exactly_one_of_several_publishing_processes_wins(repository_location, repository, tmp_path):
    folders = [write_model(tmp_path / f"m{n}", **{"who.txt": f"m{n}"}) for n in range(4)]
    s3 = repository_location.s3
    keys = [s3.access_key_id, s3.secret_access_key, s3.endpoint_url, s3.region_name] if s3 else []
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-c",
                        PUBLISH_ON_SIGNAL,
                        repository_location.root.uri,
                        str(folder),
                        *keys,
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for folder in folders
        ]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * len(folders)
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=600)[0].strip() for process in processes]
    assert sorted(outputs) == ["lost"] * 3 + ["won"]
    fetched = repository.fetch(repository.resolve("m", "v1")[0])
    assert (fetched / "who.txt").read_text() == folders[outputs.index("won")].name


def test_concurrent_fetches_return_one_complete_build(repository, folder):
    build = repository.publish(folder, model_id="m", build_id="v1")
    barrier = Barrier(8)

    def fetch(_):
        barrier.wait()
        path = repository.fetch(build)
        return path, local_files(path)

    with ThreadPoolExecutor(8) as pool:
        fetched = list(pool.map(fetch, range(8)))
    assert {path for path, _ in fetched} == {repository.fetch(build)}
    assert all(files == {"model.toml", "model.py"} for _, files in fetched)


def test_build_of_another_repository_is_not_fetched(repository, folder, tmp_path):
    other = open_repository(str(tmp_path / "other"))
    build = other.publish(folder, model_id="m", build_id="v1")
    with pytest.raises(BuildNotFoundError, match="another model repository"):
        repository.fetch(build)


def test_unknown_model_suggests_similar_ones(repository, folder):
    for model_id in ("churn", "churn-eu", "weather"):
        repository.publish(folder, model_id=model_id, build_id="v1")
    for unknown in (lambda: repository.resolve("chrun"), lambda: repository.resolve("chrun", "v1")):
        with pytest.raises(ModelNotFoundError, match="model 'chrun' not found") as caught:
            unknown()
        assert "Did you mean 'churn'" in str(caught.value)
        assert "weather" not in str(caught.value)


def test_unknown_model_in_an_empty_repository_is_reported(repository):
    with pytest.raises(ModelNotFoundError, match="It contains no models"):
        repository.resolve("m")


def test_unknown_build_lists_the_available_ones(repository, folder):
    repository.publish(folder, model_id="m", build_id="v1")
    with pytest.raises(BuildNotFoundError, match=r"model 'm' has no build '2026'. Available builds: 'v1'."):
        repository.resolve("m", "2026")
    with pytest.raises(BuildNotFoundError):
        repository.deploy("m", "2026")
    assert repository.model("m").live is None


def test_error_without_a_live_build_shows_how_to_deploy_one(repository, folder):
    repository.publish(folder, model_id="m", build_id="v1")
    with pytest.raises(NoLiveBuildError) as caught:
        repository.resolve("m")
    command = f"batchexec models deploy --model-id m --build-id v1 --model-repository {repository.root.uri}"
    assert command in str(caught.value)


def test_deployment_of_a_missing_build_names_its_file(repository, storage, folder):
    repository.publish(folder, model_id="m", build_id="v1")
    storage.write(repository.root.join("m/deployment.toml"), b'build_id = "v9"\n')
    with pytest.raises(BuildNotFoundError, match=r"m/deployment.toml names a missing build.*'v9'"):
        repository.resolve("m")


@disk_only
@pytest.mark.parametrize(
    ("file", "text", "key"),
    [
        ("deployment.toml", "", "build_id"),
        ("deployment.toml", 'build_id = "../x"', "build_id"),
        ("deployment.toml", "build_id = 4", "build_id"),
        ("deployment.toml", 'build_id = "v1"\npods = 0', "pods"),
        ("deployment.toml", 'build_id = "v1"\npods = true', "pods"),
        ("deployment.toml", 'build_id = "v1"\ninstance = 3', "instance"),
        ("deployment.toml", 'build_id = "v1"\npurchase_option = "free"', "purchase_option"),
        ("deployment.toml", 'build_id = "v1"\npod = 2', "pod"),
        ("v1/model.toml", "", "entrypoint"),
        ("v1/model.toml", 'url = "https://example.org"', "url"),
        ("v1/model.toml", "entrypoint = 1", "entrypoint"),
        ("v1/model.toml", 'entrypoint = "model:class"', "entrypoint"),
        ("v1/model.toml", 'entrypoint = "../model:Model"', "entrypoint"),
        ("v1/model.toml", 'entrypoint = "model:M"\ninterpreter = "python3"', "interpreter"),
        ("v1/model.toml", 'entrypoint = "model:M"\nrequirements = "pandas"', "requirements"),
        ("v1/model.toml", 'entrypoint = "model:M"\nrequirement = ["pandas"]', "requirement"),
    ],
)
def test_invalid_file_is_named_with_its_key(repository, storage, file, text, key):
    storage.write(repository.root.join("m/v1/model.toml"), b'entrypoint = "model:predict"')
    storage.write(repository.root.join("m/deployment.toml"), b'build_id = "v1"\n')
    storage.write(repository.root.join(f"m/{file}"), text.encode())
    with pytest.raises(InvalidBuildError) as caught:
        repository.resolve("m")
    assert str(caught.value).startswith(f"{repository.root.uri}/m/{file}: {key}: ")
    assert caught.value.details["field"] == key


@disk_only
@pytest.mark.parametrize("content", [b"\xff\xfe", b"[[["])
def test_file_that_is_not_toml_is_named(repository, storage, folder, content):
    repository.publish(folder, model_id="m", build_id="v1")
    storage.write(repository.root.join("m/deployment.toml"), content)
    with pytest.raises(InvalidBuildError, match=r"m/deployment.toml: not valid "):
        repository.resolve("m")


@disk_only
@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"pods": 0}, "pods"),
        ({"purchase_option": "free"}, "purchase_option"),
        ({"instance": " "}, "instance"),
    ],
)
def test_invalid_default_is_not_deployed(repository, folder, wrong, field):
    repository.publish(folder, model_id="m", build_id="v1")
    with pytest.raises(ConfigurationError, match=f"^{field}: "):
        repository.deploy("m", "v1", **wrong)
    assert repository.model("m").live is None


# Buckets only ----------------------------------------------------------------------------------------------------


@bucket_only
def test_claimed_build_is_not_a_build_and_informs_the_next_publisher(repository, storage, folder):
    claim = {"publisher": "ann@host, process 7", "started_at": "2026-11-22T10:30:00+00:00"}
    storage.create(repository.root.join("m/v1/.publishing"), json.dumps(claim).encode())
    storage.write(repository.root.join("m/v1/model.toml"), b'entrypoint = "model:predict"')
    assert repository.models() == []
    repository.publish(folder, model_id="m", build_id="v2")
    with pytest.raises(BuildNotFoundError, match=r"being published to .*, or its publishing was interrupted"):
        repository.resolve("m", "v1")
    with pytest.raises(
        BuildExistsError, match=r"being published by ann@host, process 7, since 2026-11-22T10:30"
    ):
        repository.publish(folder, model_id="m", build_id="v1")
    assert names(storage, repository.root.join("m/v1")) == {".publishing", "model.toml"}


@pytest.fixture
def restricted_repository(s3_server, repository_location):
    """The repository as opened by a user who may do anything except write ``forbidden.bin``."""
    iam = boto3.client(
        "iam",
        endpoint_url=s3_server.endpoint_url,
        region_name=s3_server.region,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    iam.create_user(UserName="restricted_repository")
    statements = [
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
        {
            "Effect": "Deny",
            "Action": "s3:PutObject",
            "Resource": f"arn:aws:s3:::{repository_location.root.bucket}/*/forbidden.bin",
        },
    ]
    iam.put_user_policy(
        UserName="restricted_repository",
        PolicyName="all-but-one",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statements}),
    )
    key = iam.create_access_key(UserName="restricted_repository")["AccessKey"]
    access = replace(
        repository_location.s3, access_key_id=key["AccessKeyId"], secret_access_key=key["SecretAccessKey"]
    )
    return replace(repository_location, s3=access).open()


@bucket_only
def test_failed_upload_is_rolled_back(repository, restricted_repository, storage, folder):
    (folder / "forbidden.bin").write_text("x")
    with pytest.raises(AccessDeniedError, match=r"forbidden\.bin"):
        restricted_repository.publish(folder, model_id="m", build_id="v1")
    assert names(storage, repository.root) == set()
    repository.publish(folder, model_id="m", build_id="v1")


@bucket_only
def test_build_in_a_bucket_is_downloaded_once(repository, storage, folder, repository_location):
    build = repository.publish(folder, model_id="m", build_id="v1")
    first = repository.fetch(build)
    assert first.is_relative_to(repository_location.cache)
    for info in list(storage.list(repository.root)):
        storage.delete(info.location)
    assert repository.fetch(build) == first
    assert local_files(repository_location.cache) == {
        (first.relative_to(repository_location.cache) / name).as_posix()
        for name in ("model.toml", "model.py")
    }


@bucket_only
def test_leftovers_of_a_crashed_download_are_discarded(repository, folder, repository_location, tmp_path):
    build = repository.publish(folder, model_id="m", build_id="v1")
    elsewhere = repository.fetch(build)
    partial = elsewhere.with_name(".v1.partial")
    elsewhere.rename(partial)
    (partial / "model.py").write_text("half")
    (partial / "left.over").write_text("")
    fetched = repository.fetch(build)
    assert local_files(fetched.parent) == {"v1/model.toml", "v1/model.py"}
    assert (fetched / "model.py").read_text() == MODEL_PY


@bucket_only
def test_deleted_build_leaves_nothing_in_the_cache(repository, storage, folder, repository_location):
    build = repository.publish(folder, model_id="m", build_id="v1")
    repository.publish(folder, model_id="m", build_id="v2")
    for info in list(storage.list(build.location)):
        storage.delete(info.location)
    with pytest.raises(BuildNotFoundError):
        repository.fetch(build)
    assert local_files(repository_location.cache) == set()


@bucket_only
def test_key_outside_the_folder_is_not_downloaded(repository, folder, repository_location, s3_server):
    build = repository.publish(folder, model_id="m", build_id="v1")
    s3_server.client.put_object(
        Bucket=build.location.bucket, Key=f"{build.location.key}/sub/../../../../../evil.py", Body=b"evil"
    )
    with pytest.raises(InvalidBuildError, match=r"evil\.py: this key is not a valid file name"):
        repository.fetch(build)
    assert local_files(repository_location.cache) == set()


@bucket_only
def test_folder_markers_are_not_files(repository, folder, s3_server):
    build = repository.publish(folder, model_id="m", build_id="v1")
    for key in (
        f"{repository.root.key}/",
        f"{repository.root.key}/m/",
        f"{build.location.key}/",
        f"{build.location.key}/sub/",
    ):
        s3_server.client.put_object(Bucket=build.location.bucket, Key=key, Body=b"")
    assert repository.models() == [ModelSummary("m", ("v1",), None)]
    assert local_files(repository.fetch(repository.resolve("m", "v1")[0])) == {"model.toml", "model.py"}


@bucket_only
def test_missing_bucket_is_named(repository_location, folder):
    missing = open_repository(
        "s3://no-such-bucket-here/models", cache=repository_location.cache, s3=repository_location.s3
    )
    for refused in (
        missing.models,
        lambda: missing.resolve("m"),
        lambda: missing.publish(folder, model_id="m"),
    ):
        with pytest.raises(BucketNotFoundError, match="no-such-bucket-here"):
            refused()


# Disk only -------------------------------------------------------------------------------------------------------


@disk_only
def test_build_on_disk_is_used_in_place(repository, folder, repository_location):
    build = repository.publish(folder, model_id="m", build_id="v1")
    assert repository.fetch(build) == build.location.path
    assert not repository_location.cache.exists()


@disk_only
def test_other_users_can_read_a_published_build(repository, folder):
    build = repository.publish(folder, model_id="m", build_id="v1")
    mask = os.umask(0)
    os.umask(mask)
    assert build.location.path.stat().st_mode & 0o777 == 0o777 & ~mask


@disk_only
def test_killed_publisher_leaves_no_build(repository, tmp_path, repository_location):
    folder = write_model(tmp_path / "m")
    # The child kills itself between staging and the rename, at the last fsync of a folder.
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from airflow_batchexec.engine.repository import build_transfer\n"
        "from airflow_batchexec.engine.repository.opening import open_repository\n"
        "build_transfer.sync_folder = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_repository(sys.argv[1]).publish(Path(sys.argv[2]), model_id='m', build_id='v1')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, repository_location.root.uri, str(folder)], check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert repository.models() == []
    build = repository.publish(folder, model_id="m", build_id="v1")
    assert repository.models() == [ModelSummary("m", ("v1",), None)]
    assert local_files(build.location.path) == {"model.toml", "model.py"}


# Opening ---------------------------------------------------------------------------------------------------------


def test_plain_path_is_a_folder_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_repository("models").root == Location.parse(f"file://{tmp_path}/models")
    assert open_repository("../x/./y").root == Location.parse(f"file://{tmp_path.parent}/x/y")
    assert open_repository("~/models").root == Location.parse(f"file://{tmp_path}/models")


def test_environment_variable_sets_the_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("BATCHEXEC_MODEL_REPOSITORY", f"file://{tmp_path}")
    assert open_repository().root.path == tmp_path
    assert open_repository(f"file://{tmp_path}/other").root.path == tmp_path / "other"


def test_error_without_a_repository_lists_three_ways_to_set_it(monkeypatch):
    monkeypatch.delenv("BATCHEXEC_MODEL_REPOSITORY", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        open_repository()
    for way in ("--model-repository", "BATCHEXEC_MODEL_REPOSITORY", "[batchexec]"):
        assert way in str(caught.value)


@pytest.mark.parametrize(("xdg", "expected"), [("", ".cache"), ("relative", ".cache"), ("{}/xdg", "xdg")])
def test_cache_is_in_the_users_cache_folder(tmp_path, monkeypatch, xdg, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", xdg.format(tmp_path))
    assert default_cache() == tmp_path / expected / "batchexec" / "builds"


def test_example_repository_resolves(tmp_path):
    repository = open_repository(str(EXAMPLES))
    assert [model.model_id for model in repository.models()] == ["fahrenheit", "order_total"]
    for model in repository.models():
        build, deployment = repository.resolve(model.model_id)
        assert deployment.build_id == build.build_id
        copy = open_repository(str(tmp_path / "copy"))
        assert copy.publish(repository.fetch(build), model_id=model.model_id).entrypoint == build.entrypoint


def load_example(name):
    repository = open_repository(str(EXAMPLES))
    build, _ = repository.resolve(name)
    module_name, _, attribute = build.entrypoint.partition(":")
    spec = importlib.util.spec_from_file_location(name, repository.fetch(build) / f"{module_name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, attribute)


def test_example_models_predict(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("TAX_RATE", "0.1")
    model = load_example("order_total")()
    model.initialize_model()
    orders = pd.DataFrame({"product": ["bread", "apple"], "quantity": [1, 4]})
    assert model.predict(orders)["total"].tolist() == [3.52, 2.2]
    assert load_example("fahrenheit")(pd.DataFrame({"celsius": [100.0]}))["fahrenheit"].tolist() == [212.0]
