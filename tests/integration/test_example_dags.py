"""The example DAGs, each run in a real Airflow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

if TYPE_CHECKING:
    from airflow_deployment import Deployment

ROOT = Path(__file__).resolve().parents[2]
DAY = "2026-02-03"
ORDERS = {
    "monday": pd.DataFrame({"product": ["apple", "bread"], "quantity": [10, 1]}),
    "tuesday": pd.DataFrame({"product": ["cheese"], "quantity": [2]}),
}
PRICES = pd.read_csv(ROOT / "models" / "order_total" / "v1" / "prices.csv").set_index("product")["price"]


def totals(orders: pd.DataFrame, tax_rate: float = 0.0) -> list[float]:
    return [
        round(float(row.quantity * PRICES[row.product] * (1 + tax_rate)), 2) for row in orders.itertuples()
    ]


@pytest.fixture(scope="module")
def shop(deployment: Deployment) -> Deployment:
    """The deployment with the examples' model and DAGs."""
    deployment.add_example_model("order_total")
    for path in sorted((ROOT / "dags").glob("*.py")):
        deployment.add_dags(path.name, path.read_text(), path.stem)
    return deployment


@pytest.fixture
def folders(shop: Deployment, request: pytest.FixtureRequest) -> dict[str, str]:
    """A local folder of orders, and a folder for their totals."""
    root = shop.folder / request.node.name
    (root / "orders").mkdir(parents=True)
    for name, orders in ORDERS.items():
        orders.to_csv(root / "orders" / f"{name}.csv", index=False)
    return {
        "source_folder": f"file://{root}/orders",
        "destination_folder": f"file://{root}/totals",
    }


def assert_totals(folders: dict[str, str]) -> None:
    out = Path(folders["destination_folder"].removeprefix("file://"))
    for name, orders in ORDERS.items():
        assert pd.read_csv(out / f"{name}.csv")["total"].tolist() == totals(orders)


def test_the_daily_pipeline_starts_paused_and_reads_its_own_day(shop: Deployment) -> None:
    airflow, client = shop.airflow, shop.s3.client
    for name, orders in ORDERS.items():
        key = f"orders/{DAY}/{name}.csv"
        client.put_object(Bucket=shop.bucket, Key=key, Body=orders.to_csv(index=False).encode())
    dag = airflow.api("GET", "dags/example_daily_pipeline")
    assert dag["is_paused"]
    assert dag["timetable_summary"] is not None

    conf = {"bucket": shop.bucket, "access_token_name": "bucket_key", "access_secret_name": "bucket_secret"}
    body = {"logical_date": f"{DAY}T00:00:00Z", "conf": conf}
    # A manual run waits while the DAG is paused; unpausing also starts the run of the last day.
    run = airflow.api("POST", "dags/example_daily_pipeline/dagRuns", json=body)
    airflow.api("PATCH", "dags/example_daily_pipeline", json={"is_paused": False})

    run_id = run["dag_run_id"]
    assert airflow.wait_for_run("example_daily_pipeline", run_id)["state"] == "success"
    for name, orders in ORDERS.items():
        result = client.get_object(Bucket=shop.bucket, Key=f"totals/{DAY}/{name}.parquet")["Body"].read()
        assert pd.read_parquet(io.BytesIO(result))["total"].tolist() == totals(orders, 0.2)
    report = airflow.xcom("example_daily_pipeline", run_id, "report")
    assert report == f"3 rows from 2 files are in s3://{shop.bucket}/totals/{DAY}."


@pytest.mark.parametrize("dag_id", ["example_operator_and_sensor", "example_task_group"])
def test_the_other_examples_run(shop: Deployment, folders: dict[str, str], dag_id: str) -> None:
    run_id = shop.airflow.trigger(dag_id, folders)

    assert shop.airflow.wait_for_run(dag_id, run_id)["state"] == "success"
    assert_totals(folders)
    assert (Path(folders["destination_folder"].removeprefix("file://")) / "_SUCCESS").exists()


def test_the_task_after_the_group_waits_for_its_end_and_reads_its_summary(
    shop: Deployment, folders: dict[str, str]
) -> None:
    run_id = shop.airflow.trigger("example_task_group", folders)

    assert shop.airflow.wait_for_run("example_task_group", run_id)["state"] == "success"
    assert shop.airflow.xcom("example_task_group", run_id, "report").startswith("2 files in ")
    predicted = [
        i
        for i in shop.airflow.task_instances("example_task_group", run_id)
        if i["task_id"] == "totals.predict"
    ]
    assert {i["rendered_map_index"] for i in predicted} == {"monday.csv", "tuesday.csv"}
