"""Response times of the REST API for an execution of a thousand files, and for a list over many runs.

Creates Airflow's database in SQLite, with one execution of many files as its tasks would leave it and many other runs,
starts a real API server on loopback, and times each route from the client; prints the median and the maximum.

    python -m benchmarks.rest_api --files 1000 --runs 2000 --repeat 30
"""

# ruff: noqa: PLC0415  Airflow is imported only in the process whose environment sets its home

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from tools.airflow_server import free_port

CONF = {
    "model_id": "arrival_delay",
    "source_folder": "s3://flights/2013",
    "destination_folder": "s3://delays/2013",
}
EXECUTION = "thousand"
ROUTES = {
    "status": f"batch-job/{EXECUTION}/status",
    "report": f"batch-job/{EXECUTION}/report",
    "details": f"batch-job/{EXECUTION}",
    "list": "batch-jobs",
    "list, one build": "batch-jobs?build_id=2024-07-01",
    "list, failed only": "batch-jobs?status=FAILED",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=2000, help="other runs in the database")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the seconds of every request here"
    )
    parser.add_argument("--seed", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.seed:
        seed(arguments.files, arguments.runs)
        return
    with tempfile.TemporaryDirectory(prefix="batchexec-benchmark-") as folder:
        seconds = measure(Path(folder), arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds, indent=1) + "\n")


def seed(files: int, runs: int) -> None:
    from airflow.utils.session import create_session

    from tools.seeded_execution import seed_execution, seed_run

    with create_session() as session:
        for number in range(runs):
            seed_run(
                session, run_id=f"other-{number}", conf=CONF, state="failed" if number % 2 else "success"
            )
        seed_execution(session, run_id=EXECUTION, files=files, conf=CONF)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    root = Path(__file__).resolve().parent.parent
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "PYTHONPATH": str(root),
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API_AUTH__JWT_SECRET": os.urandom(32).hex(),
    }

    def run(*arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", *arguments],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    run("airflow", "db", "migrate")
    run("airflow", "dags", "reserialize")
    run("benchmarks.rest_api", "--seed", "--files", str(arguments.files), "--runs", str(arguments.runs))
    words = ["airflow", "api-server", "--apps", "core", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "api-server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *words], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            return time_routes(f"http://127.0.0.1:{port}", server, arguments.repeat)
        finally:
            server.terminate()
            server.wait(timeout=30)


def time_routes(url: str, server: subprocess.Popen[bytes], repeat: int) -> dict[str, list[float]]:
    """Time each route, print its median, and return the seconds of its requests."""
    times: dict[str, list[float]] = {}
    with requests.Session() as session:
        wait_until_up(url, server, session)
        token = session.get(f"{url}/auth/token", timeout=30).json()["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"
        session.get(f"{url}/batchexec/api/v1/batch-jobs", timeout=60).raise_for_status()
        for name, path in ROUTES.items():
            seconds = times.setdefault(name, [])
            size = 0
            for _ in range(repeat):
                started = time.perf_counter()
                response = session.get(f"{url}/batchexec/api/v1/{path}", timeout=60)
                seconds.append(time.perf_counter() - started)
                response.raise_for_status()
                size = len(response.content)
            print(
                f"{name:20} median {statistics.median(seconds) * 1000:7.1f} ms, "
                f"maximum {max(seconds) * 1000:7.1f} ms, {size:,} bytes"
            )
    return times


def wait_until_up(url: str, server: subprocess.Popen[bytes], session: requests.Session) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            if session.get(f"{url}/api/v2/version", timeout=5).ok:
                return
        except requests.RequestException:
            pass
        assert server.poll() is None, "the API server exited"
        assert time.monotonic() < deadline, "the API server did not start in time"
        time.sleep(0.2)


if __name__ == "__main__":
    main()
