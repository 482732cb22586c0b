"""``PredictFileOperator`` in hand-written DAGs: the outcome of each file, and when invalid values are refused."""

from __future__ import annotations

import json
import os
import runpy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from documents import ROOT, blocks
from inline_executions import publish_moody_model
from pandas.testing import assert_frame_equal
from waiting import wait_until

from airflow_batchexec import PredictFileOperator
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.repository.repository import ModelRepository
from airflow_batchexec.engine.storage.local import LocalStorage
from airflow_batchexec.exceptions import ConfigurationError, ResultCollisionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from s3_server import S3Server

# One run for all tests: ``apart`` is mapped over files that an upstream task lists, ``each`` over files with individual
# arguments. Every failed try writes its reason to a file.
DAGS = """
import json
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_batchexec import PredictFileOperator, batch_execution_group

FOLDER = Path("@FOLDER@")


def remember(context):
    ti = context["ti"]
    path = FOLDER / "reasons" / f"{ti.task_id}-{ti.map_index}-{ti.try_number}"
    path.write_text(str(context["exception"]))


def remember_lineage(context):
    lineage = context["task"].get_openlineage_facets_on_complete(context["ti"])
    names = [dataset.name for dataset in (*lineage.inputs, *lineage.outputs)]
    (FOLDER / "reasons" / f"lineage-{context['ti'].task_id}").write_text(json.dumps(names))


COMMON = {
    "retries": 1,
    "retry_delay": timedelta(0),
    "on_failure_callback": remember,
    "on_retry_callback": remember,
}

with DAG("by_hand", schedule=None, default_args={"model_id": "moody"}) as by_hand:

    @task
    def arrived():
        return [f"file://{FOLDER}/north/a.csv", f"file://{FOLDER}/south/b.parquet"]

    @task
    def orders():
        return json.loads((FOLDER / "orders.json").read_text())

    PredictFileOperator(
        task_id="literal",
        file=f"file://{FOLDER}/north/a.csv",
        destination_folder=f"file://{FOLDER}/out/literal",
        output_file_type="parquet",
        on_success_callback=remember_lineage,
        **COMMON,
    )
    PredictFileOperator(
        task_id="template",
        file="{{ dag_run.conf['file'] }}",
        destination_folder=f"file://{FOLDER}/out/template-{{{{ dag.dag_id }}}}",
        build_id="{{ dag_run.conf.get('build_id', '') }}",
        **COMMON,
    )
    PredictFileOperator.partial(
        task_id="apart", destination_folder=f"file://{FOLDER}/out/apart", **COMMON
    ).expand(file=arrived())
    PredictFileOperator.partial(task_id="each", **COMMON).expand_kwargs(orders())
    batch_execution_group(
        "beside",
        model_id="moody",
        source_folder=f"file://{FOLDER}/north",
        destination_folder=f"file://{FOLDER}/beside",
    )
"""

# Backtracks in C while holding the GIL: only a kill ends it.
HANGING = """
import re

def predict(df):
    re.match(r"(a+)+$", "a" * 64 + "b")
    return df
"""


# Changes its input while the model loads, once: after the task has checked the file, before it fetches it.
MEDDLING = """
import os
from pathlib import Path

if not Path(os.environ["SEEN"]).exists():
    Path(os.environ["SEEN"]).touch()
    with open(os.environ["INPUT"], "a") as file:
        file.write("new,2.5,calm\\n")

def predict(df):
    return df
"""

THREADS = """
import os

def predict(df):
    return df.assign(threads=int(os.environ["OMP_NUM_THREADS"]))
"""


def frame(name: str, mood: str = "calm") -> pd.DataFrame:
    return pd.DataFrame({"name": name, "x": [0.5, 1.5], "mood": mood})


def predicted(name: str, mood: str = "calm") -> pd.DataFrame:
    return frame(name, mood).assign(y=[1.0, 3.0])


@dataclass(frozen=True)
class ByHand:
    """The finished run of the DAG.

    Attributes:
        folder: The folder of the inputs and results.
        run: The run.
        orders: The names of the cases that ``each`` was mapped over, in order.
    """

    folder: Path
    run: DagRun
    orders: list[str]

    def instance(self, task_id: str, map_index: int = -1) -> TaskInstance:
        (found,) = [
            ti for ti in self.run.get_task_instances() if ti.task_id == task_id and ti.map_index == map_index
        ]
        return found

    def xcom(self, task_id: str, map_index: int = -1) -> Any:
        ti = self.instance(task_id, map_index)
        return ti.xcom_pull(task_ids=task_id, map_indexes=map_index if map_index >= 0 else None)

    def end(self, order: str) -> tuple[str, int, str]:
        """The state, tries and last failure reason of one instance of ``each``."""
        ti = self.instance("each", self.orders.index(order))
        reason = self.folder / "reasons" / f"each-{ti.map_index}-{ti.try_number}"
        return str(ti.state), ti.try_number, reason.read_text() if reason.exists() else ""


def publish_model(folder: Path, model_id: str, source: str) -> None:
    sources = folder / model_id
    sources.mkdir()
    (sources / "model.py").write_text(source)
    (sources / "model.toml").write_text('entrypoint = "model:predict"\n')
    repository = ModelRepository(
        root=Location.of_path(folder / "repository"), storage=LocalStorage(), cache=folder / "cache"
    )
    repository.publish(sources, model_id=model_id, build_id="b1")
    repository.deploy(model_id, "b1", instance="tiny")


def write_inputs(folder: Path) -> None:
    for name in ("north", "south", "seen", "reasons", "scratch"):
        (folder / name).mkdir()
    frame("a").to_csv(folder / "north" / "a.csv", index=False)
    frame("b").to_parquet(folder / "south" / "b.parquet")
    frame("odd").to_parquet(folder / "south" / "odd.data")
    frame("flaky", "flaky").to_csv(folder / "south" / "flaky.csv.gz", index=False)
    for name in ("late", "changing"):
        frame(name).to_csv(folder / "south" / f"{name}.csv", index=False)
    (folder / "south" / "not.parquet").write_text("not, parquet\n")


def orders_of(folder: Path) -> dict[str, dict[str, Any]]:
    def order(file: str, **fields: Any) -> dict[str, Any]:
        destination = f"file://{folder}/out/{len(orders)}"
        return {"file": f"file://{folder}/{file}", "destination_folder": destination, **fields}

    orders: dict[str, dict[str, Any]] = {}
    orders["missing"] = order("north/missing.csv")
    orders["folder"] = order("north", input_file_type="csv")
    orders["no type"] = order("south/odd.data")
    orders["type wins"] = order("south/odd.data", input_file_type="parquet")
    orders["damaged"] = order("south/not.parquet")
    orders["not allowed"] = {**order(""), "file": "file:///etc/passwd", "input_file_type": "csv"}
    orders["overwriting"] = {**order("north/a.csv"), "destination_folder": f"file://{folder}/north"}
    orders["no build"] = order("north/a.csv", build_id="b9")
    orders["flaky"] = order("south/flaky.csv.gz", parameters={"SEEN": str(folder / "seen")})
    orders["hangs"] = {**order("south/late.csv", file_timeout=1), "model_id": "hanging"}
    changing = {"INPUT": str(folder / "south" / "changing.csv"), "SEEN": str(folder / "seen" / "changing")}
    orders["changes"] = {**order("south/changing.csv", parameters=changing), "model_id": "meddling"}
    orders["threads"] = {**order("north/a.csv", cpus=len(os.sched_getaffinity(0))), "model_id": "threads"}
    orders["greedy"] = order("north/a.csv", memory=40)
    return orders


@pytest.fixture(scope="module")
def by_hand(dag_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByHand]:
    folder = tmp_path_factory.mktemp("by-hand")
    write_inputs(folder)
    orders = orders_of(folder)
    (folder / "orders.json").write_text(json.dumps(list(orders.values())))
    file = dag_file.with_name("by_hand.py")
    file.write_text(DAGS.replace("@FOLDER@", str(folder)))
    with pytest.MonkeyPatch.context() as environment:
        set_up(environment, folder, repository=publish_moody_model(folder), allowed=f"file://{folder}")
        for model_id, source in (("hanging", HANGING), ("meddling", MEDDLING), ("threads", THREADS)):
            publish_model(folder, model_id, source)
        dag = runpy.run_path(str(file))["by_hand"]
        run = dag.test(run_conf={"file": f"file://{folder}/south/b.parquet"})
        yield ByHand(folder, run, list(orders))


def set_up(environment: pytest.MonkeyPatch, folder: Path, *, repository: Path, allowed: str) -> None:
    for option, value in {
        "MODEL_REPOSITORY": repository,
        "ALLOWED_LOCATIONS": allowed,
        "SCRATCH_FOLDER": folder / "scratch",
        "POD_IDLE_TIMEOUT_SECONDS": 1,
    }.items():
        environment.setenv(f"AIRFLOW__BATCHEXEC__{option}", str(value))


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_no_pod_remains(scratch: Path) -> None:
    """Only the folder remains in which pods are counted, once they have been idle for long enough."""
    wait_until(lambda: not list(scratch.glob("*/pods/*")))
    (machine,) = scratch.iterdir()
    assert files_below(machine) == ["lock", "pods"]


def test_a_literal_file_gets_its_result_and_the_task_returns_what_it_read_and_wrote(by_hand: ByHand):
    assert str(by_hand.instance("literal").state) == "success"
    result = by_hand.folder / "out" / "literal" / "a.parquet"
    assert_frame_equal(pd.read_parquet(result), predicted("a"))
    returned = by_hand.xcom("literal")
    for side, path in (("input", by_hand.folder / "north" / "a.csv"), ("output", result)):
        stored = LocalStorage().stat(Location.of_path(path))
        assert returned[side] == {
            "uri": f"file://{path}",
            "size_bytes": stored.size_bytes,
            "etag": stored.etag,
            "rows": 2,
        }
    assert list(returned["seconds"]) == ["load", "fetch", "read", "predict", "write", "publish"]
    assert (returned["model_id"], returned["build_id"]) == ("moody", "b1")
    lineage = json.loads((by_hand.folder / "reasons" / "lineage-literal").read_text())
    build = by_hand.folder / "repository" / "moody" / "b1"
    assert lineage == [str(by_hand.folder / "north" / "a.csv"), str(build), str(result)]


def test_templates_are_rendered_and_the_input_type_is_inferred_from_the_name(by_hand: ByHand):
    assert str(by_hand.instance("template").state) == "success"
    assert_frame_equal(pd.read_csv(by_hand.folder / "out" / "template-by_hand" / "b.csv"), predicted("b"))


def test_a_task_maps_over_files_of_several_folders_and_types(by_hand: ByHand):
    instances = [by_hand.instance("apart", index) for index in range(2)]

    assert [str(ti.state) for ti in instances] == ["success"] * 2
    assert [ti.rendered_map_index for ti in instances] == ["a.csv", "b.parquet"]
    for name in "ab":
        assert_frame_equal(pd.read_csv(by_hand.folder / "out" / "apart" / f"{name}.csv"), predicted(name))
    assert [by_hand.xcom("apart", index)["output"]["rows"] for index in range(2)] == [2, 2]


def test_only_the_results_remain(by_hand: ByHand):
    numbers = {order: number for number, order in enumerate(by_hand.orders)}
    results = {
        *("apart/a.csv", "apart/b.csv", "literal/a.parquet", "template-by_hand/b.csv"),
        *(f"{numbers['flaky']}/flaky.csv", f"{numbers['type wins']}/odd.data.csv"),
        *(f"{numbers['changes']}/changing.csv", f"{numbers['threads']}/a.csv"),
    }
    assert set(files_below(by_hand.folder / "out")) == results | {name.split("/")[0] for name in results}
    assert files_below(by_hand.folder / "north") == ["a.csv"]
    assert_no_pod_remains(by_hand.folder / "scratch")


def test_default_args_of_the_dag_do_not_affect_an_execution_in_it(by_hand: ByHand):
    assert by_hand.xcom("beside.finish")["finished_files"] == 1


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("missing", "missing.csv does not exist."),
        ("folder", "is a folder"),
        ("no type", "input_file_type: cannot be inferred from 'odd.data'"),
        ("damaged", "not.parquet: is not a PARQUET file"),
        ("not allowed", "file: file:///etc/passwd may not be used here"),
        ("overwriting", "destination_folder: the result would overwrite the input"),
        ("no build", "b9"),
        ("hangs", "late.csv: exceeded the file_timeout of 1 s"),
        ("greedy", "of memory, more than its instance"),
    ],
)
def test_a_permanent_error_fails_the_task_at_once_with_its_reason(by_hand: ByHand, order: str, reason: str):
    state, tries, actual_reason = by_hand.end(order)

    assert (state, tries) == ("failed", 1)
    assert reason in actual_reason


def test_a_file_name_replaces_the_map_index_even_if_the_task_fails(by_hand: ByHand):
    labels = {order: by_hand.instance("each", i).rendered_map_index for i, order in enumerate(by_hand.orders)}

    assert labels["missing"] == "missing.csv"
    assert labels["hangs"] == "late.csv"


def test_a_file_that_fails_once_is_retried(by_hand: ByHand):
    assert by_hand.end("flaky")[:2] == ("success", 2)
    index = by_hand.orders.index("flaky")
    result = pd.read_csv(by_hand.folder / "out" / str(index) / "flaky.csv")
    assert_frame_equal(result, predicted("flaky", "flaky"))
    assert "not at the first time" in (by_hand.folder / "reasons" / f"each-{index}-1").read_text()


def test_a_file_that_changes_during_loading_is_read_by_the_next_try(by_hand: ByHand):
    assert by_hand.end("changes")[:2] == ("success", 2)
    returned = by_hand.xcom("each", by_hand.orders.index("changes"))
    assert (returned["input"]["rows"], returned["output"]["rows"]) == (3, 3)


def test_a_pod_uses_as_many_threads_as_its_instance_has_cores(by_hand: ByHand):
    index = by_hand.orders.index("threads")
    result = pd.read_csv(by_hand.folder / "out" / str(index) / "a.csv")
    assert set(result["threads"]) == {min(2, len(os.sched_getaffinity(0)))}


def test_an_explicit_input_type_overrides_the_file_name(by_hand: ByHand):
    assert by_hand.end("type wins")[0] == "success"
    result = by_hand.folder / "out" / str(by_hand.orders.index("type wins")) / "odd.data.csv"
    assert_frame_equal(pd.read_csv(result), predicted("odd"))


def test_the_example_of_the_documentation_runs_against_a_real_bucket(
    dag_file: Path, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
):
    (example,) = [
        block.text for block in blocks(ROOT / "docs" / "executions.md") if "PredictFileOperator" in block.text
    ]
    (tmp_path / "scratch").mkdir()
    bucket = s3_server.make_bucket()
    example = example.replace("s3://shop", f"s3://{bucket}")
    file = dag_file.with_name("documented.py")
    file.write_text(example)
    set_up(monkeypatch, tmp_path, repository=ROOT / "models", allowed=f"s3://{bucket}")
    connection = {
        "conn_type": "batch_execution",
        "extra": {"endpoint_url": s3_server.endpoint_url, "region_name": s3_server.region},
    }
    monkeypatch.setenv("AIRFLOW_CONN_BATCH_EXECUTION_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW_VAR_SHOP_KEY", s3_server.access_key_id)
    monkeypatch.setenv("AIRFLOW_VAR_SHOP_SECRET", s3_server.secret_access_key)
    orders = pd.DataFrame({"product": ["apple", "bread"], "quantity": [10, 1]})
    client = s3_server.client
    client.put_object(Bucket=bucket, Key="orders/north/monday.csv", Body=orders.to_csv(index=False).encode())
    client.put_object(Bucket=bucket, Key="orders/south/tuesday.parquet", Body=orders.to_parquet())

    run = runpy.run_path(str(file))["totals"].dag.test()

    assert str(run.state) == "success"
    keys = {entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]}
    day = run.logical_date.date().isoformat()
    assert {key for key in keys if not key.startswith("orders/")} == {
        f"totals/{day}/monday.csv",
        f"totals/{day}/tuesday.csv",
    }
    for name in ("monday", "tuesday"):
        body = client.get_object(Bucket=bucket, Key=f"totals/{day}/{name}.csv")["Body"]
        assert pd.read_csv(body)["total"].round(2).tolist() == [6.0, 3.84]
    assert_no_pod_remains(tmp_path / "scratch")


# ---- at parse time

ONE_FILE = {"file": "s3://shop/in/day.csv", "destination_folder": "s3://shop/out", "model_id": "m"}
LATER = "{{ params.later }}"


def make(**fields: Any) -> PredictFileOperator:
    return PredictFileOperator(task_id="predict", **fields)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "file"),
        ({"destination_folder": "s3://shop/out", "model_id": "m"}, "file"),
        ({"file": "s3://shop/in/day.csv", "model_id": "m"}, "destination_folder"),
        ({"file": "s3://shop/in/day.csv", "destination_folder": "s3://shop/out"}, "model_id"),
        ({"file": LATER, "destination_folder": LATER}, "model_id"),
        ({**ONE_FILE, "file": "in/day.csv"}, "file"),
        ({**ONE_FILE, "file": "s3://shop/in/"}, "file"),
        ({**ONE_FILE, "file": "s3://shop"}, "file"),
        ({**ONE_FILE, "file": "file:///"}, "file"),
        ({**ONE_FILE, "file": 7}, "file"),
        ({**ONE_FILE, "file": "s3://shop/../day.csv", "model_id": LATER}, "file"),
        ({**ONE_FILE, "file": "s3://shop/in/day"}, "input_file_type"),
        ({**ONE_FILE, "file": "s3://shop/in/day", "model_id": LATER}, "input_file_type"),
        ({**ONE_FILE, "input_file_type": "excel"}, "input_file_type"),
        ({**ONE_FILE, "output_file_type": "excel", "file": LATER}, "output_file_type"),
        ({**ONE_FILE, "destination_folder": "out"}, "destination_folder"),
        ({**ONE_FILE, "destination_folder": "out", "file": LATER}, "destination_folder"),
        ({**ONE_FILE, "model_id": "no/id"}, "model_id"),
        ({**ONE_FILE, "build_id": "no/id"}, "build_id"),
        ({**ONE_FILE, "file_timeout": -1}, "file_timeout"),
        ({**ONE_FILE, "file_timeout": "soon"}, "file_timeout"),
        ({**ONE_FILE, "parameters": {"LD_PRELOAD": "x"}}, "parameters"),
        ({**ONE_FILE, "iam_role_arn": "me", "file": LATER}, "iam_role_arn"),
        ({**ONE_FILE, "cpus": "many"}, "cpus"),
    ],
)
def test_an_invalid_literal_is_refused_at_parse_time_and_named(fields: dict[str, Any], field: str):
    with pytest.raises(ConfigurationError) as refused:
        make(**fields)

    assert refused.value.details["field"] == field
    assert refused.value.message.startswith(field)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model_id": LATER},
        {"file": "s3://shop/out/day.csv.gz"},
        {"file": "s3://shop/out/day.parquet", "output_file_type": "parquet", "parameters": {"A": LATER}},
        {"file": "s3://shop/out/day.csv", "input_file_type": LATER},
    ],
)
def test_a_result_that_would_overwrite_its_input_is_refused_at_parse_time(fields: dict[str, Any]):
    literals = {**ONE_FILE, "file": "s3://shop/out/day.csv", **fields}
    if fields.get("file", "").endswith(".gz"):
        make(**literals)
        return
    with pytest.raises(ResultCollisionError, match="overwrite") as refused:
        make(**literals)
    assert refused.value.details["field"] == "destination_folder"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"input_file_type": "parquet", "file": "s3://shop/in/day"},
        {"input_file_type": LATER, "file": "s3://shop/in/day"},
        {"output_file_type": LATER, "destination_folder": "s3://shop/in"},
        {"file": LATER, "destination_folder": LATER, "model_id": LATER},
        {"file": "s3://shop/in/day.feather", "file_timeout": "60", "cpus": "0.5", "build_id": ""},
    ],
)
def test_values_that_may_be_valid_are_accepted_at_parse_time(fields: dict[str, Any]):
    make(**{**ONE_FILE, **fields})
