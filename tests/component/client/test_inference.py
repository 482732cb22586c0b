"""The example models over files and frames: on this machine, with real pods, and through a staging folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import API, START, STARTED, Reply, status_of

from airflow_batchexec.client import BatchInferenceClient
from airflow_batchexec.exceptions import (
    ConfigurationError,
    ExecutionFailedError,
    ExecutionRunningError,
    LocationError,
    ModelNotFoundError,
    NoInputFilesError,
    NotAllowedError,
    ObjectNotFoundError,
    PlanningError,
)
from airflow_batchexec.wire.request import read_start_request

MODELS = Path(__file__).resolve().parents[3] / "models"
STATUS = f"GET {API}batch-job/rest__1/status"
CANCEL = f"POST {API}batch-job/rest__1/cancel"
REPORT = f"GET {API}batch-job/rest__1/report"


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """The temporary folder, which must be empty after a test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "no-airflow"))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def inference(client):
    return BatchInferenceClient("fahrenheit", model_repository=str(MODELS), manager=client)


@pytest.fixture
def orders(tmp_path):
    """A folder with two CSV files of orders, and a file of notes."""
    folder = tmp_path / "orders"
    (folder / "more").mkdir(parents=True)
    (folder / "1.csv").write_text("product,quantity\napple,2\n")
    (folder / "more" / "2.csv").write_text("product,quantity\nbread,1\napple,1\n")
    (folder / "notes.txt").write_text("nothing\n")
    return folder


def test_the_call_of_the_guide(orders, tmp_path):
    client = BatchInferenceClient(model_repository=str(MODELS))
    result = client.local_file_run(
        model_id="order_total",
        source_folder=f"file://{orders}",
        destination_folder=f"file://{tmp_path}/totals",
        input_file_type="csv",
        output_file_type="parquet",
        job_timeout=120,
        task_timeout=60,
        executors=2,
        build_id="v1",
        parameters={"TAX_RATE": "0.5"},
        instance="small",
    )
    assert (result.status, result.reason, result.build_id) == ("FINISHED", "", "v1")
    assert (result.total_files, result.finished_files, result.rows, result.skipped_files) == (2, 2, 3, 1)
    assert Path(result.manifest.removeprefix("file://")).is_file()
    totals = pd.read_parquet(tmp_path / "totals" / "more" / "2.parquet")
    assert list(totals["product"]) == ["bread", "apple"]
    assert (totals["total"] > 0).all()
    assert (tmp_path / "totals" / "_SUCCESS").exists()


def test_the_output_file_type_defaults_to_the_input_file_type(orders, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("BATCHEXEC_MODEL_REPOSITORY", str(MODELS))
    monkeypatch.chdir(tmp_path)
    BatchInferenceClient().local_file_run("order_total", "file://orders", "file://out", "CSV")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.csv")) == ["1.csv", "2.csv"]
    assert "Skipped notes.txt: " in caplog.text


def test_a_failed_file_is_an_error_that_names_it(inference, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "bad.csv").write_text("kelvin\n1\n")
    with pytest.raises(ExecutionFailedError, match=r"is FAILED: .*bad\.csv: KeyError: 'celsius'") as caught:
        inference.local_file_run("fahrenheit", f"file://{source}", f"file://{tmp_path}/out", "csv")
    details = caught.value.details
    assert details["status"] == "FAILED"
    assert 'df["celsius"]' in details["traceback"]
    assert Path(details["manifest"].removeprefix("file://")).is_file()


def test_a_timeout_is_an_error_with_status_timeout(tmp_path, orders):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.toml").write_text('entrypoint = "model:predict"\n')
    (tmp_path / "model" / "model.py").write_text("import time\ndef predict(df):\n    time.sleep(600)\n")
    repository = tmp_path / "repository" / "slow" / "v1"
    repository.parent.mkdir(parents=True)
    (tmp_path / "model").rename(repository)
    client = BatchInferenceClient(model_repository=str(tmp_path / "repository"))
    with pytest.raises(ExecutionFailedError) as caught:
        client.local_file_run(
            "slow", f"file://{orders}", f"file://{tmp_path}/out", "csv", job_timeout=2, build_id="v1"
        )
    assert caught.value.details["status"] == "TIMEOUT"


@pytest.mark.parametrize(
    ("argument", "value"),
    [("gpu_type", "NVIDIA_T4"), ("iam_role_arn", "arn:aws:iam::123456789012:role/batch")],
)
def test_arguments_that_do_not_apply_to_local_runs_are_refused(inference, orders, tmp_path, argument, value):
    with pytest.raises(ConfigurationError, match=f"^{argument}: .*on this machine") as caught:
        inference.local_file_run(
            "fahrenheit", f"file://{orders}", f"file://{tmp_path}/out", "csv", **{argument: value}
        )
    assert caught.value.details["field"] == argument
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"source_folder": "s3://bucket/in"},
            ConfigurationError,
            "^source_folder: .*is not a file:// folder",
        ),
        (
            {"destination_folder": "out"},
            ConfigurationError,
            "^destination_folder: 'out' is not a file:// folder",
        ),
        ({"input_file_type": ""}, ConfigurationError, "^input_file_type: it is required"),
        (
            {"input_file_type": "xls"},
            ConfigurationError,
            "^input_file_type: 'xls' is not a supported file type",
        ),
        ({"task_timeout": -1}, ConfigurationError, "^task_timeout: "),
        ({"executors": -1}, ConfigurationError, "^executors: "),
        ({"instance": "huge"}, ConfigurationError, "^instance: unknown instance 'huge'"),
        ({"model_id": "kelvin"}, ModelNotFoundError, "model 'kelvin' not found"),
        ({"input_file_type": "feather"}, NoInputFilesError, "feather|FEATHER"),
    ],
)
def test_invalid_arguments_are_refused_before_any_file_is_touched(
    inference, orders, tmp_path, arguments, error, message
):
    call = {
        "model_id": "fahrenheit",
        "source_folder": f"file://{orders}",
        "destination_folder": f"file://{tmp_path}/out",
        "input_file_type": "csv",
        **arguments,
    }
    with pytest.raises(error, match=message):
        inference.local_file_run(**call)
    assert not (tmp_path / "out").exists()


def test_missing_repository_error_lists_the_ways_to_set_it(orders, tmp_path):
    with pytest.raises(ConfigurationError, match=r"BATCHEXEC_MODEL_REPOSITORY.*\[batchexec\]"):
        BatchInferenceClient().local_file_run("m", f"file://{orders}", f"file://{tmp_path}/out", "csv")


indexes = st.one_of(
    st.just(range(7)),
    st.just(range(10, 80, 10)),
    st.just(list("gfedcba")),
    st.just([1, 1, 2, 2, 3, 3, 3]),
    st.just(pd.date_range("2026-01-01", periods=7, tz="UTC")),
    st.just(pd.MultiIndex.from_product([["a"], range(7)], names=["k", None])),
)


@settings(max_examples=8, deadline=None)
@given(index=indexes, rows=st.integers(0, 7), batch_size=st.integers(1, 9), data=st.data())
def test_a_frame_is_predicted_in_order_and_keeps_its_index(index, rows, batch_size, data):
    values = data.draw(st.lists(st.floats(-1e6, 1e6), min_size=rows, max_size=rows))
    df = pd.DataFrame({"celsius": pd.Series(values, dtype="float64")})
    df.index = pd.Index(index)[:rows]
    predicted = BatchInferenceClient("fahrenheit", model_repository=str(MODELS)).run(df, batch_size)
    pd.testing.assert_frame_equal(predicted, df.assign(fahrenheit=df["celsius"] * 9 / 5 + 32))


@pytest.mark.parametrize("file_type", ["csv", "Parquet", "FEATHER"])
def test_a_frame_may_use_files_of_any_type(inference, file_type):
    df = pd.DataFrame({"celsius": [0.0, 100.0, 37.0]}, index=list("abc"))
    predicted = inference.run(df, 2, input_file_type=file_type, output_file_type="csv", executors=2)
    assert predicted["fahrenheit"].to_dict() == {"a": 32.0, "b": 212.0, "c": pytest.approx(98.6)}


def test_a_failed_frame_is_an_error_with_the_models_traceback(inference):
    with pytest.raises(ExecutionFailedError, match=r"part-00000\.parquet: KeyError") as caught:
        inference.run(pd.DataFrame({"kelvin": [1.0]}), 1)
    assert 'df["celsius"]' in caught.value.details["traceback"]
    assert "manifest" not in caught.value.details


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"purchase_option": "spot"}, "purchase_option"),
        ({"access_token_name": "key", "access_secret_name": "secret"}, "access_token_name"),
        ({"input_file_type": "xls"}, "input_file_type"),
        ({"keep": True}, "keep"),
    ],
)
def test_invalid_arguments_for_a_frame_are_refused(inference, arguments, field):
    with pytest.raises(ConfigurationError, match=f"^{field}: ") as caught:
        inference.run(pd.DataFrame({"celsius": [1.0]}), **{"batch_size": 1, **arguments})
    assert caught.value.details["field"] == field


def test_the_model_is_required():
    with pytest.raises(ConfigurationError, match=r"^model_id: it is required"):
        BatchInferenceClient(model_repository=str(MODELS)).run(pd.DataFrame({"x": [1]}), 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_ends_the_pods_and_leaves_no_files(tmp_path, scratch, number):
    build = tmp_path / "repository" / "slow" / "v1"
    build.mkdir(parents=True)
    (build / "model.toml").write_text('entrypoint = "model:predict"\n')
    (build / "model.py").write_text(
        "import os, time\ndef predict(df):\n    open(os.environ['MARK'], 'w').write(str(os.getpid()))\n    time.sleep(600)\n"
    )
    mark = tmp_path / "mark"
    program = (
        "import pandas as pd\nfrom airflow_batchexec.client import BatchInferenceClient\n"
        f"client = BatchInferenceClient('slow', 'v1', model_repository={str(tmp_path / 'repository')!r})\n"
        f"client.run(pd.DataFrame({{'x': [1]}}), 1, parameters={{'MARK': {str(mark)!r}}})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    try:
        while not (mark.exists() and mark.read_text()):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)  # between two polls of a condition
        process.send_signal(number)
        _, errors = process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
    assert "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


# ---- through a staging folder, with a scripted server


@pytest.fixture
def staging(tmp_path):
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


@pytest.fixture
def df():
    return pd.DataFrame({"celsius": [0.0, 100.0, 37.0]}, index=list("abc"))


def execute(document):
    """Run the execution on this machine; return the server's response."""
    fields = read_start_request(document).fields
    BatchInferenceClient(model_repository=str(MODELS)).local_file_run(
        fields["model_id"],
        fields["source_folder"],
        fields["destination_folder"],
        fields["input_file_type"],
        fields["output_file_type"],
    )
    return STARTED


def test_a_staged_frame_is_predicted_and_its_folder_is_removed(server, inference, df, staging):
    server.on(f"POST {START}", Reply(body=execute))
    server.on(STATUS, status_of("FINISHED", 2, 2))
    predicted = inference.run(
        df, 2, staging=f"file://{staging}", gpus=1, gpu_type="NVIDIA_T4", purchase_option="spot"
    )
    pd.testing.assert_frame_equal(predicted, df.assign(fahrenheit=[32.0, 212.0, 98.6]))
    assert list(staging.iterdir()) == []
    fields = read_start_request(server.received[0].document).fields
    assert (fields["gpu_amount"], fields["purchase_option"]) == (1, "spot")
    assert fields["source_folder"].startswith(f"file://{staging}/run-")


def test_keep_leaves_the_staged_files(server, inference, df, staging):
    server.on(f"POST {START}", Reply(body=execute))
    server.on(STATUS, status_of("FINISHED", 2, 2))
    inference.run(df, 2, staging=f"file://{staging}", keep=True)
    (folder,) = staging.iterdir()
    assert sorted(path.name for path in (folder / "in").iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert (folder / "out" / "_SUCCESS").exists()


def test_two_frames_use_different_staging_folders(server, inference, df, staging):
    server.on(f"POST {START}", Reply(body=execute))
    server.on(STATUS, status_of("FINISHED", 2, 2))
    for _ in range(2):
        inference.run(df, 2, staging=f"file://{staging}")
    starts = [request.document for request in server.received if request.path == START]
    assert len({read_start_request(document).fields["source_folder"] for document in starts}) == 2


@pytest.mark.parametrize(("status", "error"), [(400, PlanningError), (409, ExecutionRunningError)])
def test_a_refused_execution_is_an_error_and_leaves_no_files(server, inference, df, staging, status, error):
    refused = {"batch_id": "rest__0", "success": False, "failure_message": "model_id: there is none."}
    server.on(f"POST {START}", Reply(status, refused))
    with pytest.raises(error, match=r"refused the execution: model_id: there is none\.") as caught:
        inference.run(df, 2, staging=f"file://{staging}")
    assert caught.value.details == {"execution_id": "rest__0", "status_code": status}
    assert list(staging.iterdir()) == []
    assert len(server.received) == 1


def test_a_failed_execution_is_an_error_with_its_report_and_leaves_no_files(server, inference, df, staging):
    server.on(f"POST {START}", STARTED)
    server.on(STATUS, status_of("FAILED", 1, 2))
    lines = ["2026-11-22T10:00:00.000Z Accepted.", "2026-11-22T10:00:01.000Z The execution FAILED: why."]
    server.on(REPORT, {"successful": True, "failure_message": "", "report_messages": lines})
    with pytest.raises(ExecutionFailedError, match=r"rest__1 is FAILED\. .* why\.") as caught:
        inference.run(df, 2, staging=f"file://{staging}")
    assert caught.value.details["status"] == "FAILED"
    assert caught.value.details["report"] == lines
    assert list(staging.iterdir()) == []


def test_an_execution_is_cancelled_before_its_files_are_removed_if_waiting_fails(
    server, inference, df, staging
):
    server.on(f"POST {START}", STARTED)
    server.on(STATUS, Reply(403, {"detail": "no"}), status_of("RUNNING"), status_of("CANCELLED"))
    server.on(CANCEL, {"success": True, "failure_message": ""})
    with pytest.raises(NotAllowedError):
        inference.run(df, 2, staging=f"file://{staging}")
    assert server.calls() == [f"POST {START}", STATUS, CANCEL, STATUS, STATUS]
    assert list(staging.iterdir()) == []


def test_a_missing_result_is_an_error_that_names_it(server, inference, df, staging):
    server.on(f"POST {START}", STARTED)
    server.on(STATUS, status_of("FINISHED", 2, 2))
    with pytest.raises(ObjectNotFoundError, match=r"part-00000\.parquet"):
        inference.run(df, 2, staging=f"file://{staging}")
    assert list(staging.iterdir()) == []


def test_the_staging_folder_must_be_a_uri(inference, df):
    with pytest.raises(LocationError, match=r"^staging: 'bucket' is not an s3://"):
        inference.run(df, 2, staging="bucket")
