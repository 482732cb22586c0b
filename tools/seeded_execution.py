"""Write an execution's rows into Airflow's database as its tasks would, without running them, to test and time readers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import delete, select

from airflow_batchexec.engine.journal.packing import pack, pack_in_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session

BUILD_ID = "2024-07-01"
_STARTED_AT = datetime(2024, 7, 1, tzinfo=UTC)


def seed_run(
    session: Session,
    *,
    run_id: str,
    conf: Mapping[str, Any],
    state: str = "queued",
    generation: int = 0,
    dag_id: str = "batch_execution",
) -> DagRun:
    """Create a run and its task instances, in one of Airflow's states."""
    dag = DBDagBag().get_latest_version_of_dag(dag_id, session=session)
    assert dag is not None, f"{dag_id} is not in the database"
    run = dag.create_dagrun(
        run_id=run_id,
        run_after=datetime.now(UTC),
        conf=dict(conf),
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.REST_API,
        triggering_user_name="seed",
        state=DagRunState.QUEUED,
        session=session,
    )
    session.flush()
    run.clear_number = generation
    run.start_date = None if state == "queued" else _STARTED_AT
    run.end_date = _STARTED_AT + timedelta(hours=1) if state in {"success", "failed"} else None
    # Not through the attribute, which would set the dates to now.
    session.execute(DagRun.__table__.update().where(DagRun.id == run.id).values(state=state))
    session.flush()
    session.expire(run)
    return run


def say(session: Session, run: DagRun, task_id: str, key: str, value: Any, *, map_index: int = -1) -> None:
    """Write a value to the state store of one of the run's tasks."""
    session.add(
        TaskStateStoreModel(
            dag_run_id=run.id,
            dag_id=run.dag_id,
            run_id=run.run_id,
            task_id=task_id,
            map_index=map_index,
            key=key,
            value=json.dumps(value),
        )
    )


def seed_plan(
    session: Session, run: DagRun, files: Sequence[tuple[str, int]], *, generation: int = 0
) -> None:
    """Write what ``plan`` reports: the files, and the shard of each."""
    at, conf = _STARTED_AT.timestamp(), run.conf or {}
    shares = len({share for _, share in files})
    planned = {
        "kind": "planned",
        "at": at,
        "files": len(files),
        "bytes": 1_000 * len(files),
        "model_id": conf["model_id"],
        "build_id": BUILD_ID,
        "instance": "small",
        "purchase_option": "",
        "shares": shares,
        "pods": 0,
        "source": conf["source_folder"],
        "destination": conf["destination_folder"],
        "generation": generation,
    }
    say(session, run, "plan", f"journal-{generation}-1-0000", [planned])
    rows = pack_in_rows([list(pair) for pair in files], max_bytes=48_000)
    for number, row in enumerate(rows):
        say(session, run, "plan", f"files-{number:03d}", row)
    say(
        session,
        run,
        "plan",
        "planned",
        {
            "generation": generation,
            "total_files": len(files),
            "shares": shares,
            "model_id": conf["model_id"],
            "build_id": BUILD_ID,
            "files_rows": len(rows),
        },
    )
    _set_states(session, run, "plan", {-1: "success"})


def seed_file(
    session: Session, run: DagRun, file: str, share: int, *, rows: int | None = 100, generation: int = 0
) -> None:
    """Write what ``predict`` reports for a file mapped by itself: it finished, or only started if ``rows`` is ``None``."""
    at = _STARTED_AT.timestamp() + 1 + share
    common: dict[str, Any] = {"file": file, "pod": f"pod-{share}", "generation": generation, "attempt": 1}
    steps = {"fetch": 0.01, "read": 0.02, "predict": 0.1, "write": 0.02, "publish": 0.01}
    entries = [
        {"at": at, "kind": "loaded", "pod": f"pod-{share}", "seconds": 0.8},
        {"at": at + 0.1, "kind": "started", **common},
        {"at": at + 0.2, "kind": "line", "file": file, "stream": "stdout", "text": f"predicting {file}"},
    ]
    if rows is not None:
        entries.append(
            {"at": at + 0.3, "kind": "finished", **common, "rows": rows, "seconds": 0.16, "steps": steps}
        )
    say(session, run, "predict", f"journal-{generation}-1-0000", entries, map_index=share)


def seed_end(
    session: Session, run: DagRun, status: str = "FINISHED", *, generation: int = 0, **fields: Any
) -> None:
    """Write what ``finish`` reports; ``fields`` are added to its ``ended`` value."""
    entry = {
        "at": _STARTED_AT.timestamp() + 3600,
        "kind": "ended",
        "status": status,
        "reason": "",
        "seconds": 3600.0,
    }
    say(
        session,
        run,
        "finish",
        f"journal-{generation}-1-0000",
        [{**entry, "manifest": "file:///manifest.json"}],
    )
    say(
        session,
        run,
        "finish",
        "ended",
        {"generation": generation, "status": status, "reason": "", "not_finished": pack({}), **fields},
    )


def seed_execution(session: Session, *, run_id: str, files: int, conf: Mapping[str, Any]) -> DagRun:
    """Create a finished execution, mapped once per file."""
    run = seed_run(session, run_id=run_id, conf=conf, state="success")
    planned = [(f"2013/day-{number:05d}.csv", number) for number in range(files)]
    seed_plan(session, run, planned)
    map_predict(session, run, dict.fromkeys(range(files), "success"))
    for file, share in planned:
        seed_file(session, run, file, share)
    seed_end(session, run, total_files=files, finished_files=files, rows=100 * files)
    _set_states(session, run, "finish", {-1: "success"})
    return run


def map_predict(session: Session, run: DagRun, states: Mapping[int, str | None]) -> None:
    """Replace the unmapped instance of ``predict`` by mapped ones, in Airflow's states by map index."""
    unmapped = session.scalars(
        select(TaskInstance).where(
            TaskInstance.dag_id == run.dag_id,
            TaskInstance.run_id == run.run_id,
            TaskInstance.task_id == "predict",
        )
    ).first()
    assert unmapped is not None
    dag = DBDagBag().get_latest_version_of_dag(run.dag_id, session=session)
    assert dag is not None
    task, version = dag.get_task("predict"), unmapped.dag_version_id
    for index, state in states.items():
        session.add(
            TaskInstance(
                task=task,
                run_id=run.run_id,
                map_index=index,
                state=TaskInstanceState(state) if state else None,
                dag_version_id=version,
            )
        )
    session.flush()
    session.execute(delete(TaskInstance).where(TaskInstance.id == unmapped.id))
    session.flush()


def _set_states(session: Session, run: DagRun, task_id: str, states: Mapping[int, str]) -> None:
    table = TaskInstance.__table__
    for index, state in states.items():
        session.execute(
            table.update()
            .where(
                table.c.dag_id == run.dag_id,
                table.c.run_id == run.run_id,
                table.c.task_id == task_id,
                table.c.map_index == index,
            )
            .values(state=state)
        )
