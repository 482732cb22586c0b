"""``make demo``: train and publish a model, start Airflow, run one execution over the year, and check its results."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demo.flights import Errors, measure, train_build, write_days
from tools.airflow_server import AirflowServer

if TYPE_CHECKING:
    from types import FrameType

_ROOT = Path(__file__).resolve().parents[1]
_FOLDER = _ROOT / ".demo"
_DAG = "batch_execution"
_MODEL = "arrival_delay"
_BUILD = "v1"
_PODS = 2
_DAYS = 365
_FLIGHTS = 336_776
_FILES_PER_LINE = 50
_console = Console(highlight=False)


@dataclass(frozen=True)
class Summary:
    """The contents of ``.demo/summary.json``.

    Attributes:
        files: The number of files with a result.
        rows: The number of rows in all results.
        seconds: The time from queueing the run to its success.
        mae: The mean absolute error of all predictions, in minutes.
        mae_unseen_days: The same over the days that the model was not trained on.
        results: The folder of the results.
        manifest: The path of the execution's manifest.
        ui: The URL of Airflow's UI.
    """

    files: int
    rows: int
    seconds: float
    mae: float
    mae_unseen_days: float
    results: str
    manifest: str
    ui: str


def main() -> int:
    """Run the demo.

    Returns:
        0 if all checks pass.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    (_FOLDER / "summary.json").unlink(missing_ok=True)
    try:
        _make_model()
        _say(f"Writing the year as {_DAYS} daily CSV files")
        write_days(_FOLDER / "input")
        _say("Starting Airflow (API server, scheduler, DAG processor, triggerer)")
        with _server() as server:
            summary, problems = _execute(server)
            _show(summary)
            (_FOLDER / "summary.json").write_text(json.dumps(asdict(summary), indent=1) + "\n")
            for problem in problems:
                _console.print(f"[red]{problem}[/]")
            if sys.stdin.isatty() and sys.stdout.isatty():
                _console.print("\nAirflow stays up until you press Ctrl-C.")
                signal.pause()
    except KeyboardInterrupt:
        _console.print("\nStopped.")
        return 0 if (_FOLDER / "summary.json").exists() else 130
    except RuntimeError as error:
        _console.print(f"[red]{error}[/]")
        return 1
    return 1 if problems else 0


def _make_model() -> None:
    _say("Training a model of arrival delays (scikit-learn, 60,000 flights)")
    build = _FOLDER / "build"
    train_build(build)
    repository = _FOLDER / "repository"
    if not (repository / _MODEL / _BUILD).is_dir():
        _batchexec("build", str(build), "--model-id", _MODEL, "--build-id", _BUILD)
    # One CPU per pod: on a small machine, two pods that each used both cores would be slower than one.
    _batchexec(
        "deploy", "--model-id", _MODEL, "--build-id", _BUILD, "--pods", str(_PODS), "--instance", "tiny"
    )


def _batchexec(command: str, *arguments: str) -> None:
    words = ["batchexec", "models", command, *arguments, "--model-repository", str(_FOLDER / "repository")]
    _console.print(f"  [dim]$ {' '.join(words).replace(str(_ROOT) + '/', '')}[/]", soft_wrap=True)
    program = Path(sys.executable).with_name(words[0])
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())


def _server() -> AirflowServer:
    return AirflowServer(
        home=_FOLDER / "airflow",
        dags_folder=_ROOT / "dags",
        settings={
            "AIRFLOW__BATCHEXEC__MODEL_REPOSITORY": str(_FOLDER / "repository"),
            "AIRFLOW__BATCHEXEC__ALLOWED_LOCATIONS": f"file://{_FOLDER}",
        },
    )


def _execute(server: AirflowServer) -> tuple[Summary, list[str]]:
    """Run one execution; return its summary and the failed checks."""
    results = _FOLDER / "results"
    shutil.rmtree(results, ignore_errors=True)
    server.wait_for_dag(_DAG)
    _say(f"Starting an execution with {_PODS} pods; watch it at {server.url}/dags/{_DAG}")
    started = time.time()
    run_id = server.trigger(
        _DAG,
        {
            "model_id": _MODEL,
            "source_folder": f"file://{_FOLDER}/input",
            "destination_folder": f"file://{results}",
            "pods": _PODS,
        },
    )
    run = _watch(server, run_id, results)
    if run["state"] != "success":
        raise RuntimeError(
            f"The execution failed: {server.task_log(_DAG, run_id, 'finish').splitlines()[-1]}"
        )
    manifest: dict[str, Any] = server.xcom(_DAG, run_id, "finish")
    seconds = _seconds(run) or time.time() - started
    errors = measure(results)
    summary = Summary(
        files=manifest["finished_files"],
        rows=manifest["rows"],
        seconds=round(seconds, 1),
        mae=round(errors.mae, 3),
        mae_unseen_days=round(errors.mae_unseen_days, 3),
        results=str(results),
        manifest=manifest["manifest"].removeprefix("file://"),
        ui=server.url,
    )
    return summary, _problems(summary, errors, results)


def _watch(server: AirflowServer, run_id: str, results: Path) -> dict[str, Any]:
    """Show the number of results while the execution runs."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TimeElapsedColumn(),
    )
    printed = 0
    # Without a terminal, print a line now and then instead of the bar.
    has_bar = _console.is_terminal
    with Progress(*columns, console=_console, transient=True, disable=not has_bar) as progress:
        bar = progress.add_task("queued", total=_DAYS)

        def poll() -> None:
            nonlocal printed
            done = len(list(results.glob("*.csv")))
            progress.update(bar, completed=done, description="predicting" if done else "planning, loading")
            if not has_bar and done - printed >= _FILES_PER_LINE:
                printed = done
                _console.print(f"  {done} of {_DAYS} files")

        return server.wait_for_run(_DAG, run_id, on_poll=poll)


def _problems(summary: Summary, errors: Errors, results: Path) -> list[str]:
    checks = {
        f"{summary.files} files have a result, not {_DAYS}": summary.files == _DAYS,
        f"the manifest counts {summary.rows} rows, not {_FLIGHTS}": summary.rows == _FLIGHTS,
        f"the results hold {errors.rows} rows, not {_FLIGHTS}": errors.rows == _FLIGHTS,
        "the manifest is missing": Path(summary.manifest).is_file(),
        "_SUCCESS is missing": (results / "_SUCCESS").is_file(),
        # Using the departure delay as the prediction is 14.5 minutes off.
        f"the predictions are {summary.mae_unseen_days} minutes off": summary.mae_unseen_days < 12,
    }
    return [problem for problem, passed in checks.items() if not passed]


def _show(summary: Summary) -> None:
    _console.print()
    for label, value in (
        ("Files", f"{summary.files}"),
        ("Rows", f"{summary.rows:,}"),
        ("Seconds", f"{summary.seconds:.1f}, from queued to success"),
        (
            "Error",
            f"{summary.mae:.2f} minutes on average; {summary.mae_unseen_days:.2f} on unseen days",
        ),
        ("Results", summary.results),
        ("Manifest", summary.manifest),
        ("Airflow", summary.ui),
    ):
        _console.print(f"  [bold]{label:<9}[/] {value}", soft_wrap=True)


def _seconds(run: dict[str, Any]) -> float:
    queued, ended = (datetime.fromisoformat(run[name]) for name in ("queued_at", "end_date"))
    return (ended - queued).total_seconds()


def _say(text: str) -> None:
    _console.print(f"[bold]•[/] {text}", soft_wrap=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
