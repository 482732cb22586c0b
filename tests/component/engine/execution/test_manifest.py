"""The manifest: the same JSON for every release that has read it, and clear errors for what cannot be read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files

import pytest
from documents import ROOT, blocks
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from manifests import make_manifest

from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, StoredFile
from airflow_batchexec.engine.execution.manifest import (
    MANIFEST_VERSION,
    ExecutionStatus,
    Manifest,
    ManifestHeader,
    Summary,
    schema_text,
)
from airflow_batchexec.engine.execution.plan import SkippedFile
from airflow_batchexec.exceptions import ConfigurationError, ObjectChangedError

URI = "s3://shop/totals/_batchexec/daily/manifest.json"
PAGE = ROOT / "docs" / "manifest.md"
SCHEMA = "manifest.schema.json"
REGENERATE = (
    'python -c "from airflow_batchexec.engine.execution.manifest import schema_text; '
    f"print(schema_text(), end='')\" > airflow_batchexec/engine/execution/{SCHEMA}"
)

VERSION_1 = """{
 "version": 1,
 "execution_id": "daily",
 "status": "FAILED",
 "reason": "1 of 2 files failed: zürich.csv: KeyError: 'quantity'.",
 "model_id": "totals",
 "build_id": "v7",
 "source": "s3://shop/orders",
 "destination": "s3://shop/totals",
 "purchase_option": "spot",
 "input_file_type": "CSV",
 "output_file_type": "PARQUET",
 "manifest": "s3://shop/totals/_batchexec/daily/manifest.json",
 "started_at": 1796071295.34,
 "ended_at": 1796071303.735,
 "seconds": 8.395,
 "total_files": 3,
 "finished_files": 1,
 "failed_files": 1,
 "not_started_files": 1,
 "skipped_files": 1,
 "rows_in": 3,
 "rows": 2,
 "files": [
  {
   "file": "monday.csv",
   "etag": "e1",
   "status": "FINISHED",
   "pod": "pod-0",
   "attempt": 1,
   "at": 1796071303.17,
   "generation": 2,
   "input": {
    "uri": "s3://shop/orders/monday.csv",
    "size_bytes": 43,
    "etag": "e1",
    "rows": 3
   },
   "output": {
    "uri": "s3://shop/totals/monday.parquet",
    "size_bytes": 64,
    "etag": "r1",
    "rows": 2
   },
   "seconds": {
    "fetch": 0.000299,
    "read": 0.00278
   },
   "peak_memory_bytes": 126689280
  },
  {
   "file": "zürich.csv",
   "etag": "e2",
   "status": "FAILED",
   "pod": "pod-0",
   "attempt": 2,
   "at": 1796071303.18,
   "reason": "zürich.csv: KeyError: 'quantity'.",
   "error": "PredictError",
   "traceback": "Traceback (most recent call last):\\n  …\\nKeyError: 'quantity'\\n"
  },
  {
   "file": "tuesday.csv",
   "etag": "e3",
   "status": "NOT_STARTED"
  }
 ],
 "skipped": [
  {
   "file": "notes.txt",
   "reason": "is no CSV file (.csv, .csv.gz, .csv.zst)"
  }
 ]
}"""


def changed(**changes) -> bytes:
    """The document with some values changed; ``None`` removes one."""
    document = json.loads(VERSION_1) | changes
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


def validator() -> Draft202012Validator:
    """A validator by the schema of the package, as users find it."""
    schema = json.loads(files("airflow_batchexec.engine.execution").joinpath(SCHEMA).read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


# ---- documents


def test_a_document_of_version_1_is_read_as_what_it_says_and_written_as_it_was():
    manifest = Manifest.read(VERSION_1.encode(), URI)

    assert (manifest.status, manifest.has_finished) == (ExecutionStatus.FAILED, False)
    assert (manifest.purchase_option, manifest.seconds, manifest.rows) == ("spot", 8.395, 2)
    finished, failed, left = manifest.files
    assert finished.output == StoredFile("s3://shop/totals/monday.parquet", 64, "r1", 2)
    assert finished.seconds == {"fetch": 0.000299, "read": 0.00278}
    assert (failed.file, failed.status, failed.attempt) == ("zürich.csv", FileStatus.FAILED, 2)
    assert left == FileRecord(file="tuesday.csv", etag="e3", status=FileStatus.NOT_STARTED)
    assert manifest.skipped == (SkippedFile("notes.txt", "is no CSV file (.csv, .csv.gz, .csv.zst)"),)
    assert manifest.to_json() == VERSION_1.encode()


def test_a_document_without_what_earlier_releases_did_not_write_is_read_and_written_as_it_was():
    old = changed(purchase_option=None)

    manifest = Manifest.read(old)

    assert manifest.purchase_option == ""
    assert manifest.to_dict() == json.loads(old)
    assert manifest.header().to_dict() == {
        name: value for name, value in json.loads(old).items() if name not in {"files", "skipped"}
    }
    validator().validate(json.loads(old))


def test_fields_that_are_not_known_are_ignored():
    document = json.loads(VERSION_1)
    document["new"] = {"a": 1}
    document["files"][0]["new"] = document["files"][0]["input"]["new"] = document["skipped"][0]["new"] = 1

    assert Manifest.read(json.dumps(document).encode()) == Manifest.read(VERSION_1.encode())
    validator().validate(document)


def test_a_newer_version_is_refused_whatever_else_it_says():
    data = json.dumps({"version": MANIFEST_VERSION + 1}).encode()

    with pytest.raises(ConfigurationError, match=rf"^{re.escape(URI)} has version 2 .* Upgrade") as caught:
        Manifest.read(data, URI)
    assert caught.value.details == {"field": "version", "uri": URI}
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "Expecting value"),
        (VERSION_1.encode()[:-20], "delimiter|Expecting|Unterminated"),
        (b'{"version": "\xff"}', "decode"),
        (b"[]", "dictionary|instance"),
        (b"null", "dictionary|instance"),
        (b"{}", "version: Field required"),
        (changed(version="x"), "version: "),
        (changed(version=0), "version: "),
        (changed(status="PENDING"), "status: "),
        (changed(rows=-1), "rows: "),
        (changed(files=None), "files: Field required"),
        (changed(files=[{"file": "a.csv", "etag": "e"}]), r"files\.0\.status: Field required"),
        (changed(skipped=[{"file": "a.csv"}]), r"skipped\.0\.reason: Field required"),
    ],
)
def test_a_damaged_document_is_refused_with_its_location_and_what_is_wrong(data: bytes, says: str):
    with pytest.raises(ObjectChangedError, match=rf"^{re.escape(URI)} is not a valid manifest: .*") as caught:
        Manifest.read(data, URI)
    assert re.search(says, caught.value.message)
    assert caught.value.details == {"uri": URI}
    assert not caught.value.retryable


def test_a_manifest_cannot_be_changed():
    manifest = make_manifest()
    with pytest.raises(ValueError, match="frozen"):
        manifest.rows = 1


# ---- round trips

_text = st.text(st.characters(codec="utf-8"), max_size=20)
_counts = st.integers(min_value=0, max_value=10**15)
_seconds = st.floats(min_value=0, max_value=1e10).map(lambda value: round(value, 6))
_stored = st.builds(StoredFile, _text, _counts, _text, _counts)
_records = st.builds(
    FileRecord,
    file=_text,
    etag=_text,
    status=st.sampled_from(sorted(set(FileStatus) - {FileStatus.STARTED})),
    pod=_text,
    attempt=_counts,
    at=_seconds,
    generation=_counts,
    input=st.none() | _stored,
    output=st.none() | _stored,
    seconds=st.dictionaries(_text, _seconds, max_size=3),
    peak_memory_bytes=_counts,
    reason=_text,
    error=_text,
    traceback=_text,
)
_manifests = st.builds(
    Manifest,
    version=st.just(MANIFEST_VERSION),
    **{name: _text for name, field in ManifestHeader.model_fields.items() if field.annotation is str},
    **{name: _seconds for name, field in ManifestHeader.model_fields.items() if field.annotation is float},
    **{name: _counts for name in ManifestHeader.model_fields if name.startswith("rows") or "_files" in name},
    status=st.sampled_from(ExecutionStatus),
    files=st.lists(_records, max_size=3),
    skipped=st.lists(st.builds(SkippedFile, _text, _text), max_size=2),
)


@given(_manifests)
def test_what_is_written_is_read_as_it_was_and_fits_the_schema(manifest: Manifest):
    data = manifest.to_json()

    assert Manifest.read(data) == manifest
    assert data.decode() == json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False)
    validator().validate(manifest.to_dict())


def test_a_document_is_plain_json_values():
    document = Manifest.read(VERSION_1.encode()).to_dict()

    assert {type(value) for value in document.values()} == {int, float, str, list}
    assert type(document["files"][0]["status"]) is str


# ---- the schema


def test_the_schema_of_the_package_is_that_of_the_model():
    stored = files("airflow_batchexec.engine.execution").joinpath(SCHEMA).read_text("utf-8")

    assert stored == schema_text(), f"{SCHEMA} is out of date. Run: {REGENERATE}"


def test_the_schema_names_its_version_and_describes_every_field():
    schema = validator().schema

    assert schema["$id"].endswith(f":manifest:{MANIFEST_VERSION}")
    kinds = [schema, *schema["$defs"].values()]
    for kind in kinds:
        assert kind["description"]
        assert all(field.get("description") for field in kind.get("properties", {}).values())


@pytest.mark.parametrize("changes", [{"status": "PENDING"}, {"rows": -1}, {"files": None}, {"seconds": "1"}])
def test_the_schema_refuses_what_is_damaged(changes):
    with pytest.raises(ValidationError):
        validator().validate(json.loads(changed(**changes)))


# ---- summaries


def test_the_summary_of_an_execution_is_its_manifest_without_the_lists_of_files():
    summary = Manifest.read(VERSION_1.encode()).summary(generation=2)

    value = summary.to_dict()
    expected = {n: v for n, v in json.loads(VERSION_1).items() if n not in {"files", "skipped"}}
    assert json.dumps(value) == json.dumps(expected | {"generation": 2})
    assert Summary.read(value) == summary
    assert summary.header is not None
    assert (summary.header.rows, summary.has_finished) == (2, False)


def test_the_summary_of_an_execution_that_was_refused_has_no_counts():
    value = {"execution_id": "daily", "status": "FAILED", "reason": "No such model: \ud800.", "generation": 1}

    summary = Summary.read(value)

    assert summary.header is None
    assert not summary.has_finished
    assert list(summary.to_dict().items()) == list(value.items())


def test_summaries_of_other_releases_are_read():
    value = make_manifest().summary(generation=0).to_dict()
    del value["purchase_option"], value["generation"]

    summary = Summary.read(value | {"new": 1})

    assert summary.header == replace(summary).header
    assert summary.header.purchase_option == ""
    assert summary.to_dict() == value | {"generation": 0}


@pytest.mark.parametrize(
    "changes",
    [{"status": None}, {"execution_id": None}, {"status": "PENDING"}, {"rows": "many"}, {"rows": None}],
)
def test_what_is_not_a_summary_is_refused(changes):
    value = make_manifest().summary(generation=0).to_dict() | changes
    with pytest.raises(ValueError, match=r"status|execution_id|Status|rows"):
        Summary.read({name: entry for name, entry in value.items() if entry is not None})


# ---- the page


def test_the_example_of_the_page_is_a_manifest():
    (example,) = [block.text for block in blocks(PAGE) if block.language == "json"]

    manifest = Manifest.read(example.encode())
    assert manifest.to_json().decode() == example.rstrip("\n")
    assert [record.status.value for record in manifest.files] == ["FINISHED", "FAILED"]
    validator().validate(json.loads(example))


def test_the_page_describes_every_field_and_no_other():
    rows = re.findall(r"^\| (`.+?`) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    described = [name for row in rows for name in re.findall(r"`(\w+)`", row)]

    kinds = (ManifestHeader.model_fields, *(kind.__dataclass_fields__ for kind in (FileRecord, StoredFile)))
    expected = [name for kind in kinds for name in kind]
    assert sorted(described) == sorted([*expected, "files", "skipped", "file", "reason"])
