"""Links to a run of this Airflow, and to a folder in the console of its cloud provider."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.reporting.links import ExecutionLink, ResultsLink, console_url, run_url


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://airflow.shop", "https://airflow.shop/dags/totals/runs/daily"),
        ("https://airflow.shop/", "https://airflow.shop/dags/totals/runs/daily"),
        ("https://shop/tools/airflow", "https://shop/tools/airflow/dags/totals/runs/daily"),
        ("", "/dags/totals/runs/daily"),
    ],
)
def test_a_run_is_found_wherever_airflow_is_served(
    base_url: str, expected: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)

    assert run_url(dag_id="totals", run_id="daily") == expected


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_run_id_survives_the_url(run_id: str):
    *_, dag, runs, run = urlsplit(run_url(dag_id="über/all", run_id=run_id)).path.split("/")

    assert (unquote(dag), runs, unquote(run)) == ("über/all", "runs", run_id)


@pytest.mark.parametrize(
    ("folder", "extra", "expected"),
    [
        ("s3://shop/totals", {}, "https://console.aws.amazon.com/s3/buckets/shop?prefix=totals/"),
        (
            "s3://shop/a/b",
            {"region_name": "eu-central-1"},
            "https://console.aws.amazon.com/s3/buckets/shop?region=eu-central-1&prefix=a/b/",
        ),
        ("s3://shop/", {}, "https://console.aws.amazon.com/s3/buckets/shop"),
        (
            "s3://shop/a",
            {"region_name": "cn-north-1"},
            "https://console.amazonaws.cn/s3/buckets/shop?region=cn-north-1&prefix=a/",
        ),
        (
            "s3://shop/a",
            {"region_name": "us-gov-west-1"},
            "https://console.amazonaws-us-gov.com/s3/buckets/shop?region=us-gov-west-1&prefix=a/",
        ),
        (
            "s3://shop/a",
            {"endpoint_url": "https://s3.eu-central-1.amazonaws.com"},
            "https://console.aws.amazon.com/s3/buckets/shop?prefix=a/",
        ),
        ("s3://shop/a", {"endpoint_url": "http://minio.internal:9000"}, ""),
        ("s3://shop/a", {"endpoint_url": "https://amazonaws.com.evil.example"}, ""),
        ("gs://shop/a/b", {}, "https://console.cloud.google.com/storage/browser/shop/a/b"),
        ("gs://shop/a", {"endpoint_url": "http://127.0.0.1:4443"}, ""),
        ("gs://shop/", {}, "https://console.cloud.google.com/storage/browser/shop"),
        ("file:///data/a", {}, ""),
    ],
)
def test_a_folder_links_to_its_cloud_console(folder: str, extra: dict[str, str], expected: str):
    assert console_url(folder, **extra) == expected


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1).filter(
        lambda k: k[-1] != "/"
    )
)
def test_any_key_survives_the_url(key: str):
    query = parse_qs(urlsplit(console_url(f"s3://shop/{key}")).query, keep_blank_values=True)

    assert query["prefix"] == [f"{key}/"]


def test_the_two_links_differ():
    first, second = ExecutionLink(), ResultsLink()

    assert (first.name, second.name) == ("Execution", "Results")
    assert first.xcom_key != second.xcom_key


class TaskInstance:
    """Keeps pushed XComs."""

    def __init__(self) -> None:
        self.xcoms: dict[str, str] = {}

    def xcom_push(self, key: str, value: str) -> None:
        self.xcoms[key] = value


@pytest.mark.parametrize(
    ("destination", "connections", "environment", "expected"),
    [
        ("s3://shop/a", {}, {}, "https://console.aws.amazon.com/s3/buckets/shop?prefix=a/"),
        (
            "s3://shop/a",
            {"batch_execution_default": {"region_name": "eu-central-1"}},
            {"AWS_DEFAULT_REGION": "eu-west-3"},
            "https://console.aws.amazon.com/s3/buckets/shop?region=eu-central-1&prefix=a/",
        ),
        (
            "s3://shop/a",
            {},
            {"AWS_DEFAULT_REGION": "eu-west-3"},
            "https://console.aws.amazon.com/s3/buckets/shop?region=eu-west-3&prefix=a/",
        ),
        (
            "s3://shop/a",
            {"batch_execution_default": {"aws_conn_id": "cloud"}, "cloud": {"region_name": "cn-north-1"}},
            {},
            "https://console.amazonaws.cn/s3/buckets/shop?region=cn-north-1&prefix=a/",
        ),
        ("s3://shop/a", {"batch_execution_default": {"endpoint_url": "http://minio:9000"}}, {}, ""),
        ("s3://shop/a", {}, {"AWS_ENDPOINT_URL": "http://minio:9000"}, ""),
        (
            "s3://shop/a",
            {
                "batch_execution_default": {"aws_conn_id": "cloud"},
                "cloud": {"service_config": {"s3": {"endpoint_url": "http://minio:9000"}}},
            },
            {},
            "",
        ),
        ("gs://shop/a", {}, {}, "https://console.cloud.google.com/storage/browser/shop/a"),
        ("gs://shop/a", {"batch_execution_default": {"gcs_endpoint_url": "http://127.0.0.1:4443"}}, {}, ""),
        ("gs://shop/a", {}, {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:4443"}, ""),
        ("file:///data/a", {}, {}, ""),
    ],
)
def test_the_endpoint_and_region_follow_from_connections_and_environment(
    destination: str,
    connections: dict[str, dict[str, object]],
    environment: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for conn_id, extra in {"batch_execution_default": {}, **connections}.items():
        connection = json.dumps(
            {"conn_type": "aws" if conn_id == "cloud" else "batch_execution", "extra": extra}
        )
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", connection)

    ti = TaskInstance()
    ResultsLink.show(ti, destination, batch_execution_conn_id="batch_execution_default")

    assert ti.xcoms == {ResultsLink().xcom_key: expected}


def test_an_invalid_connection_only_costs_the_link(monkeypatch: pytest.MonkeyPatch):
    connection = json.dumps({"conn_type": "batch_execution", "extra": {"endpoint_url": "nowhere"}})
    monkeypatch.setenv("AIRFLOW_CONN_BATCH_EXECUTION_DEFAULT", connection)

    ti = TaskInstance()
    ResultsLink.show(ti, "s3://shop/a", batch_execution_conn_id="batch_execution_default")

    assert ti.xcoms == {}
