"""Lineage for OpenLineage, in the classes of its client."""

from __future__ import annotations

import subprocess
import sys

import pytest
from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.serde import Serde

from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.execution.audit import Audit
from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, StoredFile
from airflow_batchexec.engine.execution.lock import LockOwner
from airflow_batchexec.engine.execution.spec import ExecutionSpec
from airflow_batchexec.engine.repository.builds import Build, BuildKind
from airflow_batchexec.reporting.lineage import Lineage, facets_of


def make_spec(source: str, destination: str) -> ExecutionSpec:
    fields = {"model_id": "totals", "source_folder": source, "destination_folder": destination}
    return ExecutionSpec(
        execution_id="daily",
        round_id="r1",
        config=ExecutionConfig.from_fields(**fields),
        build=Build(
            model_id="totals",
            build_id="v7",
            kind=BuildKind.PYTHON,
            entrypoint="model:predict",
            interpreter=None,
            requirements=(),
            location=Location.parse("s3://models/repository/totals/v7"),
        ),
        instance=InstanceTable.parse("").get("tiny"),
        pods=1,
        source=Location.parse(source),
        root=Location.parse(source),
        destination=Location.parse(destination),
        owner=LockOwner("daily"),
        started_at=0.0,
        total_files=2,
        total_bytes=10,
        skipped_files=0,
    )


SPEC = make_spec("s3://shop/orders", "s3://results/totals")


def audit_of(*records: FileRecord) -> Audit:
    audit = Audit()
    for record in records:
        audit.add(record)
    return audit


def finished(name: str, *, rows: int = 3) -> FileRecord:
    return FileRecord(
        file=f"{name}.csv",
        etag="e",
        status=FileStatus.FINISHED,
        input=StoredFile(f"s3://shop/orders/{name}.csv", 100, "e", rows),
        output=StoredFile(f"s3://results/totals/{name}.csv", 40, "f", rows - 1),
    )


def failed(name: str) -> FileRecord:
    return FileRecord(
        file=f"{name}.csv",
        etag="e",
        status=FileStatus.FAILED,
        input=StoredFile(f"s3://shop/orders/{name}.csv", 100, "e", 3),
        reason="no",
    )


def serialize(lineage: Lineage):
    """Inputs and outputs as they are sent."""
    facets = lineage.facets()
    return [Serde.to_dict(entry) for entry in facets.inputs], [
        Serde.to_dict(entry) for entry in facets.outputs
    ]


def names(datasets):
    return [(dataset["namespace"], dataset["name"]) for dataset in datasets]


def statistics(dataset):
    (facet,) = [*dataset.get("inputFacets", {}).values(), *dataset.get("outputFacets", {}).values()]
    return {name: value for name, value in facet.items() if not name.startswith("_")}


def test_a_task_reports_each_file_and_the_build():
    lineage = Lineage(SPEC)
    for record in (finished("a"), failed("b"), finished("c", rows=5)):
        lineage.add(record)

    inputs, outputs = serialize(lineage)

    assert names(inputs) == [
        ("s3://shop", "orders/a.csv"),
        ("s3://shop", "orders/c.csv"),
        ("s3://models", "repository/totals/v7"),
    ]
    assert names(outputs) == [("s3://results", "totals/a.csv"), ("s3://results", "totals/c.csv")]
    assert statistics(inputs[1]) == {"rowCount": 5, "size": 100, "fileCount": 1}
    assert statistics(outputs[1]) == {"rowCount": 4, "size": 40, "fileCount": 1}
    assert inputs[-1]["facets"]["version"]["datasetVersion"] == "v7"
    assert inputs[-1]["facets"]["datasetType"]["datasetType"] == "MODEL"


@pytest.mark.parametrize(("files", "datasets"), [(4, 4), (5, 1), (5000, 1)])
def test_many_files_are_reported_as_folders_with_totals(files: int, datasets: int):
    lineage = Lineage(SPEC, max_files=4)
    for number in range(files):
        lineage.add(finished(str(number)))

    inputs, outputs = serialize(lineage)

    assert (len(inputs) - 1, len(outputs)) == (datasets, datasets)
    if datasets == 1:
        assert names(inputs)[0] == ("s3://shop", "orders")
        assert names(outputs) == [("s3://results", "totals")]
        assert statistics(inputs[0]) == {"rowCount": 3 * files, "size": 100 * files, "fileCount": files}
        assert statistics(outputs[0]) == {"rowCount": 2 * files, "size": 40 * files, "fileCount": files}


def test_a_failed_execution_reports_its_folders_and_what_was_done():
    inputs, outputs = serialize(Lineage.of_execution(SPEC, audit_of(finished("a"), failed("b"))))

    assert names(inputs) == [("s3://shop", "orders"), ("s3://models", "repository/totals/v7")]
    assert names(outputs) == [("s3://results", "totals")]
    assert statistics(outputs[0]) == {"rowCount": 2, "size": 40, "fileCount": 1}


def test_no_output_is_reported_if_nothing_was_written():
    inputs, outputs = serialize(Lineage.of_execution(SPEC, audit_of(failed("b"))))

    assert names(inputs) == [("s3://models", "repository/totals/v7")]
    assert outputs == []


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("s3://shop/a/b", ("s3://shop", "a/b")),
        ("s3://shop/", ("s3://shop", "/")),
        ("gs://shop/a", ("gs://shop", "a")),
        ("file:///data/a", ("file", "/data/a")),
    ],
)
def test_datasets_are_named_by_openlineages_rules(folder: str, name: tuple[str, str]):
    lineage = Lineage(make_spec("s3://shop/orders", folder), max_files=0)
    lineage.add(finished("a"))

    _, outputs = serialize(lineage)

    assert names(outputs) == [name]


def test_a_task_without_files_reports_nothing():
    assert facets_of(None) == OperatorLineage()


def test_openlineage_is_imported_only_on_demand():
    program = (
        "import sys\n"
        "import airflow_batchexec.operators.finish_execution, airflow_batchexec.operators.predict_file\n"
        "import airflow_batchexec.reporting.lineage\n"
        "client, provider = 'openlineage.', 'airflow.providers.openlineage.extractors.'\n"
        "assert not [name for name in sys.modules if (name + '.').startswith((client, provider))]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
