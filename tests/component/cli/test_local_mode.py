"""``batchexec models execution start`` in local mode: in this process, or as a process to interrupt and kill."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pytest
from predictors import is_running, nothing_left_behind, wait_until
from typer.testing import CliRunner

from airflow_batchexec.cli import app
from airflow_batchexec.engine.repository.opening import open_repository

COMMAND = Path(sys.executable).with_name("batchexec")
FINISHED, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
MODELS = {
    "double": "def predict(df):\n    return df.assign(double=df['value'] * 2)\n",
    # Does what the first row of the file says.
    "obedient": """
    import os, pathlib, time
    def predict(df):
        order = df["order"][0]
        if order == "fail":
            raise ValueError("as requested")
        if order == "hang":
            pathlib.Path(os.environ["MARK"]).touch()
            time.sleep(600)
        return df
    """,
    "parameters": """
    import os, pandas as pd
    def predict(df):
        return pd.DataFrame({"given": [os.environ["GIVEN"]]})
    """,
    # Returns when three pods have been given GPUs.
    "gpus": """
    import os, pathlib, time
    devices, marks = os.environ["CUDA_VISIBLE_DEVICES"], pathlib.Path(os.environ["MARKS"])
    def predict(df):
        (marks / devices).touch()
        while len(list(marks.iterdir())) < 3:
            time.sleep(0.01)
        return df.assign(devices=devices)
    """,
    "chatty": "def predict(df):\n    print('rows', len(df))\n    return df\n",
    "broken": "import nowhere_to_be_found\n",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository of all models with a live build ``v1``, and ``idle`` without a live build."""
    folder = tmp_path_factory.mktemp("models")
    repository = open_repository(str(folder / "repository"))
    for name, source in {**MODELS, "idle": MODELS["double"]}.items():
        build = folder / name
        build.mkdir()
        (build / "model.toml").write_text('entrypoint = "model:predict"\n')
        (build / "model.py").write_text(textwrap.dedent(source))
        repository.publish(build, model_id=name, build_id="v1")
        if name != "idle":
            repository.deploy(name, "v1")
    return folder / "repository"


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    with nothing_left_behind():
        yield


class Workspace:
    """A folder with inputs in ``in`` and results in ``out``, and the command that uses them."""

    def __init__(self, folder, repository, monkeypatch):
        self.folder = folder
        self._monkeypatch = monkeypatch
        self.source, self.results = folder / "in", folder / "out"
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        self.mark = folder / "mark"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(self.scratch),
            "LANG": "C.UTF-8",
            "BATCHEXEC_MODEL_REPOSITORY": str(repository),
        }

    def write(self, **texts):
        """Write input files by name; ``__`` in a name separates folders."""
        for name, text in texts.items():
            path = self.source / f"{name.replace('__', '/')}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def order(self, **orders):
        """Write input files for the model ``obedient``, each larger than the next, so that they start in order."""
        for size, (name, order) in zip(range(len(orders), 0, -1), orders.items(), strict=True):
            self.write(**{name: "order\n" + f"{order}\n" * (10 * size)})

    def arguments(self, model, **options):
        options = {
            "source_folder": f"file://{self.source}",
            "destination_folder": f"file://{self.results}",
            "input_file_type": "csv",
            **options,
        }
        flags = [
            text
            for name, value in options.items()
            if value is not None
            for text in (f"--{name.replace('_', '-')}", str(value))
        ]
        return ["models", "execution", "start", "--model-id", model, *flags]

    def run(self, model, *extra, code=FINISHED, **options):
        """Run the command; check its exit code, and that it leaves nothing in the scratch folder."""
        with self._monkeypatch.context() as patched:
            patched.setattr(tempfile, "tempdir", None)  # read TMPDIR again
            for name in os.environ:
                patched.delenv(name)
            for name, value in self.environment.items():
                patched.setenv(name, value)
            patched.chdir(self.folder)
            done = CliRunner().invoke(app, [*self.arguments(model, **options), *extra])
        assert done.exit_code == code, (done.stderr, done.exception)
        # Where GPUs were reserved, the folder remains in which pods are counted.
        left = [path for path in self.scratch.rglob("*") if path.is_file() and path.name != "lock"]
        assert left == []
        assert list(self.scratch.glob("*/pods/*")) == []
        assert list(self.results.rglob("staging")) == []
        return done

    @contextlib.contextmanager
    def running(self, model, *extra, **options):
        """Start the command and wait until the model hangs; yield the process, and the PIDs of its pods."""
        process = subprocess.Popen(
            [COMMAND, *self.arguments(model, **options), *extra, "-P", f"MARK={self.mark}"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                wait_until(self.mark.exists)
                yield process, [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            finally:
                process.kill()

    def files(self):
        """The files in the destination folder, without the documents of executions."""
        if not self.results.exists():
            return []
        paths = (path.relative_to(self.results) for path in self.results.rglob("*") if path.is_file())
        return sorted(str(path) for path in paths if path.parts[0] != "_batchexec")

    def manifests(self):
        """Each execution's manifest, oldest first."""
        paths = self.results.glob("_batchexec/*/manifest.json")
        return sorted(map(read_json, paths), key=lambda manifest: manifest["started_at"])

    def locks(self):
        return list(self.results.glob("_batchexec/locks/*.json"))


def read_json(path):
    return json.loads(Path(path).read_text())


@pytest.fixture
def workspace(tmp_path, repository, monkeypatch):
    return Workspace(tmp_path, repository, monkeypatch)


# ---- executions that finish


def test_results_match_those_of_plain_pandas(workspace):
    workspace.write(
        a="value,name\n1.5,x\n2.0,\n", sub__deep__b="value,name\n517.0,y\n", sub__c="value,name\n,z\n"
    )
    (workspace.source / "notes.txt").write_text("no input")
    done = workspace.run("double", "--output", "json", pods=2)
    assert workspace.files() == ["_SUCCESS", "a.csv", "sub/c.csv", "sub/deep/b.csv"]
    for file in ("a.csv", "sub/c.csv", "sub/deep/b.csv"):
        expected = pd.read_csv(workspace.source / file)
        expected = expected.assign(double=expected["value"] * 2)
        pd.testing.assert_frame_equal(pd.read_csv(workspace.results / file), expected)
        assert (workspace.results / file).read_text() == expected.to_csv(index=False)
    summary = json.loads(done.stdout)
    manifest = read_json(summary["manifest"].removeprefix("file://"))
    assert {name: summary[name] for name in summary if name.endswith(("files", "rows", "status"))} == {
        "status": "FINISHED",
        "total_files": 3,
        "finished_files": 3,
        "failed_files": 0,
        "not_started_files": 0,
        "skipped_files": 1,
        "rows": 4,
    }
    assert summary["execution_id"].startswith("local-")
    assert summary["seconds"] > 0
    assert {name: manifest[name] for name in summary} == summary
    assert {file["file"]: (file["status"], file["output"]["rows"]) for file in manifest["files"]} == {
        "a.csv": ("FINISHED", 2),
        "sub/c.csv": ("FINISHED", 1),
        "sub/deep/b.csv": ("FINISHED", 1),
    }
    (skipped,) = manifest["skipped"]
    assert skipped["file"] == "notes.txt"
    assert f"skipped notes.txt: {skipped['reason']}" in done.stderr
    assert workspace.locks() == []


def test_the_first_hundred_skipped_files_are_named(workspace):
    workspace.write(a="value\n1\n")
    for number in range(103):
        (workspace.source / f"{number:03d}.txt").write_text("no input")
    done = workspace.run("double")
    (manifest,) = workspace.manifests()
    lines = [line for line in done.stderr.splitlines() if line.startswith("skipped ")]
    assert [line.split(":")[0] for line in lines[:-1]] == [
        f"skipped {number:03d}.txt" for number in range(100)
    ]
    folder = manifest["manifest"].removesuffix("/manifest.json")
    assert lines[-1] == f"skipped 3 more files; see {folder}/skipped.jsonl"
    assert len(manifest["skipped"]) == 103


def test_the_summary_is_complete_and_does_not_wrap_paths(workspace):
    workspace.write(a="value\n1\n")
    (workspace.source / "notes.txt").write_text("no input")
    workspace.results = workspace.folder / ("a-long-folder-name-" * 6)
    done = workspace.run("double")
    (manifest,) = workspace.manifests()
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines == {
        "Status": "FINISHED",
        "Execution": manifest["execution_id"],
        "Build": "double v1",
        "Files": "1 of 1 finished, 1 skipped",
        "Rows": "1",
        "Seconds": f"{manifest['seconds']:.1f}",
        "Results": f"file://{workspace.results}",
        "Manifest": manifest["manifest"],
    }


def test_model_output_goes_to_standard_error(workspace):
    workspace.write(a="value\n1\n2\n")
    done = workspace.run("chatty", "--output", "json")
    assert json.loads(done.stdout)["rows"] == 2
    assert "pod-0 rows 2" in done.stderr.splitlines()


def test_the_source_may_be_a_single_file(workspace):
    workspace.write(a="value\n1\n", b="value\n2\n")
    workspace.run("double", source_folder=f"file://{workspace.source}/b.csv")
    assert workspace.files() == ["_SUCCESS", "b.csv"]


def test_relative_folders_are_resolved_against_the_working_folder(workspace):
    workspace.write(a="value\n1\n")
    workspace.run("double", source_folder="file://in", destination_folder="file://./out")
    assert workspace.files() == ["_SUCCESS", "a.csv"]


def test_all_csv_variants_become_parquet(workspace):
    frame = pd.DataFrame({"value": [1, 2]})
    workspace.source.mkdir()
    for name in ("a.csv", "b.csv.gz", "c.CSV"):
        frame.to_csv(workspace.source / name, index=False, compression="infer")
    with pa.output_stream(str(workspace.source / "d.csv.zst"), compression="zstd") as stream:
        stream.write(frame.to_csv(index=False).encode())
    workspace.run("double", output_file_type="Parquet")
    assert workspace.files() == ["_SUCCESS", "a.parquet", "b.parquet", "c.parquet", "d.parquet"]
    for path in workspace.results.glob("*.parquet"):
        assert pd.read_parquet(path)["double"].tolist() == [2, 4]


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_the_output_file_type_defaults_to_the_input_file_type(workspace, kind):
    workspace.source.mkdir()
    frame = pd.DataFrame({"value": [1, 2]})
    getattr(frame, f"to_{kind}")(workspace.source / f"a.{kind}")
    workspace.run("double", input_file_type=kind.upper())
    assert getattr(pd, f"read_{kind}")(workspace.results / f"a.{kind}")["double"].tolist() == [2, 4]


def test_parameter_values_may_contain_an_equals_sign(workspace):
    workspace.write(a="value\n1\n")
    workspace.run("parameters", "-P", "GIVEN=b=c", "--param-list", "OTHER=")
    assert (workspace.results / "a.csv").read_text() == "given\nb=c\n"


def test_existing_results_are_overwritten(workspace):
    workspace.write(a="value\n1\n")
    workspace.run("double")
    workspace.write(a="value\n2\n")
    workspace.run("double")
    assert (workspace.results / "a.csv").read_text() == "value,double\n2,4\n"
    assert [manifest["status"] for manifest in workspace.manifests()] == ["FINISHED", "FINISHED"]


def test_the_progress_bar_is_drawn_on_a_terminal(workspace):
    workspace.write(a="value\n1\n", b="value\n1\n")
    terminal_end, command_end = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, *workspace.arguments("double", output="json")],
        env={**workspace.environment, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=command_end,
    )
    os.close(command_end)
    drawn = b""
    with process, os.fdopen(terminal_end, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        # Linux reports the end of a terminal as an input/output error.
        while piece := terminal.read(4096):
            drawn += piece
    assert process.returncode == FINISHED
    assert "double v1" in drawn.decode()
    assert "2/2" in drawn.decode()
    assert "2 rows" in drawn.decode()
    assert "━" in drawn.decode()


# ---- executions that fail


def test_each_pod_gets_gpus_of_its_own(workspace):
    workspace.environment["CUDA_VISIBLE_DEVICES"] = "GPU-a,GPU-b,MIG-c"
    workspace.write(**{f"f{number}": "x\n1\n" for number in range(6)})

    (workspace.folder / "marks").mkdir()

    workspace.run("gpus", "-P", f"MARKS={workspace.folder}/marks", pods=4, gpu_amount=1)

    devices = {pd.read_csv(path)["devices"][0] for path in workspace.results.glob("f*.csv")}
    assert len(workspace.files()) == 7
    assert devices == {"GPU-a", "GPU-b", "MIG-c"}


def test_more_gpus_than_the_machine_has_fail_the_execution(workspace):
    workspace.environment["CUDA_VISIBLE_DEVICES"] = "GPU-a"
    workspace.write(only="x\n1\n")

    failed = workspace.run("gpus", gpu_amount=2, code=FAILED)

    assert "needs 2 GPUs, but this machine has 1" in " ".join(failed.output.split())


def test_a_failed_file_fails_the_execution_but_keeps_other_results(workspace):
    workspace.order(a="fine", b="fail", c="fine", d="fine")
    done = workspace.run("obedient", code=FAILED)
    (manifest,) = workspace.manifests()
    assert manifest["status"] == "FAILED"
    assert {file["file"]: file["status"] for file in manifest["files"]} == {
        "a.csv": "FINISHED",
        "b.csv": "FAILED",
        "c.csv": "NOT_STARTED",
        "d.csv": "NOT_STARTED",
    }
    assert workspace.files() == ["a.csv"]
    assert "failed b.csv: ValueError: as requested." in done.stderr.splitlines()
    assert 'raise ValueError("as requested")' in done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["Status"] == "FAILED"
    assert lines["Reason"] == manifest["reason"]
    for part in (
        "1 of 4 files failed",
        "b.csv: ValueError: as requested.",
        "2 files were not started: c.csv, d.csv.",
    ):
        assert part in manifest["reason"]
    assert lines["Files"] == "1 of 4 finished, 1 failed, 2 not started"
    workspace.order(a="fine", b="fine", c="fine", d="fine")
    workspace.run("obedient")
    assert workspace.files() == ["_SUCCESS", "a.csv", "b.csv", "c.csv", "d.csv"]


def test_a_failed_execution_removes_an_earlier_success_file(workspace):
    workspace.order(a="fine")
    workspace.run("obedient")
    assert "_SUCCESS" in workspace.files()
    workspace.order(a="fail")
    workspace.run("obedient", code=FAILED)
    assert workspace.files() == ["a.csv"]


def test_json_output_of_a_failed_execution_is_a_single_object(workspace):
    workspace.order(a="fail")
    done = workspace.run("obedient", "--output", "json", code=FAILED)
    assert json.loads(done.stdout)["status"] == "FAILED"


def test_a_build_that_fails_to_load_is_reported_with_the_reason(workspace):
    workspace.order(a="fine")
    done = workspace.run("broken", code=FAILED)
    assert "No module named 'nowhere_to_be_found'" in done.stdout
    (manifest,) = workspace.manifests()
    assert [file["status"] for file in manifest["files"]] == ["NOT_STARTED"]
    assert workspace.locks() == []


def truncated_parquet(path):
    pd.DataFrame({"order": ["fine"] * 100}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("bad.csv", lambda path: path.write_bytes(b""), "is empty"),
        ("bad.csv", lambda path: path.write_text("a\n1\n1,2\n1,2,3\n"), "is not well-formed CSV"),
        ("bad.csv", lambda path: path.write_bytes(b"order\ncaf\xe9\n"), "UTF-8"),
        ("bad.csv.gz", lambda path: path.write_text("order\nfine\n"), "bad.csv.gz"),
        ("bad.parquet", truncated_parquet, "truncated"),
        ("bad.feather", lambda path: path.write_text("order\nfine\n"), "is not a FEATHER file"),
    ],
    ids=["zero bytes", "ragged", "encoding", "not compressed", "truncated parquet", "feather that is CSV"],
)
def test_unreadable_files_are_reported_with_the_reason(workspace, name, write, reason):
    workspace.source.mkdir()
    write(workspace.source / name)
    done = workspace.run("obedient", code=FAILED, input_file_type=name.split(".")[1])
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"failed {name}: ")]
    assert reason in line
    assert workspace.files() == []


def test_a_file_over_its_timeout_fails_the_execution(workspace):
    workspace.order(a="hang", b="fine")
    done = workspace.run("obedient", "-P", f"MARK={workspace.mark}", code=FAILED, file_timeout=1)
    assert "timeout a.csv: exceeded the file_timeout of 1 s" in done.stderr
    (manifest,) = workspace.manifests()
    assert manifest["status"] == "FAILED"
    assert [file["status"] for file in manifest["files"]] == ["TIMEOUT", "NOT_STARTED"]


def test_an_execution_over_its_timeout_lists_the_remaining_files(workspace):
    workspace.order(a="fine", b="hang", c="fine")
    done = workspace.run("obedient", "-P", f"MARK={workspace.mark}", code=FAILED, job_timeout=6)
    (manifest,) = workspace.manifests()
    assert manifest["status"] == "TIMEOUT"
    assert manifest["reason"].startswith("The execution exceeded its job_timeout of 6 s.")
    assert "c.csv" in manifest["reason"]
    assert manifest["reason"] in done.stdout
    # On a busy machine the timeout may come before the first result.
    assert workspace.files() in ([], ["a.csv"])


# ---- executions that are interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_execution_leaves_no_pods_and_no_partial_results(workspace, number):
    workspace.order(a="fine", b="hang", c="fine")
    with workspace.running("obedient") as (process, pods):
        assert pods
        process.send_signal(number)
        _, stderr = process.communicate(timeout=600)
    assert process.returncode == INTERRUPTED
    assert "was interrupted" in stderr
    assert not any(map(is_running, pods))
    (manifest,) = workspace.manifests()
    assert manifest["status"] == "CANCELLED"
    assert [file["status"] for file in manifest["files"]] == ["FINISHED", "CANCELLED", "NOT_STARTED"]
    assert workspace.files() == ["a.csv"]
    assert workspace.locks() == []
    assert list(workspace.scratch.iterdir()) == []


def test_a_killed_execution_leaves_no_pods_and_its_lock_is_taken_over(workspace):
    workspace.order(a="fine", b="hang")
    with workspace.running("obedient") as (process, pods):
        wait_until(lambda: workspace.files() == ["a.csv"])  # published while the model processes b.csv
        process.kill()
    wait_until(lambda: not any(map(is_running, pods)))
    assert len(workspace.locks()) == 1
    assert workspace.files() == ["a.csv"]
    for path in workspace.scratch.iterdir():
        assert path.name.startswith("batchexec-")
    workspace.scratch = workspace.folder / "tmp2"
    workspace.scratch.mkdir()
    workspace.environment["TMPDIR"] = str(workspace.scratch)
    workspace.order(a="fine", b="fine")
    subprocess.run(
        [COMMAND, *workspace.arguments("obedient")],
        env=workspace.environment,
        check=True,
        capture_output=True,
    )
    assert workspace.files() == ["_SUCCESS", "a.csv", "b.csv"]
    assert workspace.locks() == []


def test_an_identical_execution_is_refused_while_the_first_runs(workspace):
    workspace.order(a="hang")
    with workspace.running("obedient") as (process, _):
        twin = subprocess.run(
            [COMMAND, *workspace.arguments("obedient")],
            env=workspace.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert twin.returncode == REFUSED
        assert "is running: local-" in twin.stderr
        assert f"(process {process.pid} on " in twin.stderr
        assert twin.stdout == ""
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=600)


# ---- executions that are refused


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("doubel", {}, "doubel"),
        ("double", {"build_id": "v2"}, "v2"),
        ("idle", {}, "idle"),
        ("../double", {}, "model_id: '../double'"),
        ("double", {"build_id": "../v1"}, "build_id: '../v1'"),
        ("double", {"source_folder": "file:///nowhere/at/all"}, "source_folder: file:///nowhere/at/all"),
        (
            "double",
            {"source_folder": "s3://bucket/in"},
            "source_folder: 's3://bucket/in' is not a file:// folder",
        ),
        ("double", {"destination_folder": "out"}, "destination_folder: 'out' is not a file:// folder"),
        (
            "double",
            {"destination_folder": "file://"},
            "destination_folder: 'file://' is not a file:// folder",
        ),
        ("double", {"source_folder": "file://../in"}, "source_folder: "),
        ("double", {"input_file_type": None}, "input_file_type: it is required"),
        ("double", {"input_file_type": "xlsx"}, "input_file_type: 'xlsx'"),
        ("double", {"input_file_type": "parquet"}, "contains no PARQUET files"),
        ("double", {"instance": "huge"}, "instance: "),
        ("double", {"file_timeout": -1}, "file_timeout: "),
        ("double", {"pods": "many"}, "--pods"),
    ],
)
def test_invalid_arguments_are_refused_and_nothing_is_written(workspace, model, options, message):
    workspace.write(a="value\n1\n")
    done = workspace.run(model, code=REFUSED, **options)
    assert message in done.stderr
    assert done.stdout == ""
    assert not workspace.results.exists()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "parameter", ["LD_PRELOAD=x", "PYTHONPATH=/x", "PATH=/x", "path=/x", "no value", "a-b=1"]
)
def test_reserved_or_malformed_parameters_are_refused(workspace, parameter):
    workspace.write(a="value\n1\n")
    done = workspace.run("double", "-P", parameter, code=REFUSED)
    assert f"parameters: '{parameter.partition('=')[0]}'" in done.stderr
    assert not workspace.results.exists()


def test_an_empty_source_folder_is_refused(workspace):
    workspace.source.mkdir()
    done = workspace.run("double", code=REFUSED)
    assert f"source_folder: file://{workspace.source} is missing or empty." in done.stderr
    assert not workspace.results.exists()


def test_two_inputs_with_the_same_result_are_refused(workspace):
    workspace.write(a="value\n1\n")
    (workspace.source / "a.csv.gz").write_bytes(b"")
    done = workspace.run("double", code=REFUSED)
    assert "a.csv and a.csv.gz would both produce a.csv" in done.stderr
    assert not workspace.results.exists()


def test_a_destination_that_overwrites_the_source_is_refused(workspace):
    workspace.write(a="value\n1\n")
    done = workspace.run("double", code=REFUSED, destination_folder=f"file://{workspace.source}")
    assert "the result of a.csv would overwrite the input" in done.stderr
    assert [path.name for path in workspace.source.rglob("*")] == ["a.csv"]
    assert (workspace.source / "a.csv").read_text() == "value\n1\n"


def test_a_missing_model_repository_is_refused(workspace):
    workspace.write(a="value\n1\n")
    del workspace.environment["BATCHEXEC_MODEL_REPOSITORY"]
    done = workspace.run("double", code=REFUSED)
    assert "--model-repository" in done.stderr


def test_a_destination_that_is_a_file_is_refused(workspace):
    workspace.write(a="value\n1\n")
    workspace.results.write_text("a file")
    done = workspace.run("double", code=REFUSED)
    assert str(workspace.results) in done.stderr
    assert workspace.results.read_text() == "a file"
