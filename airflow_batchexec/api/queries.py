"""What is asked of Airflow's database: every statement of the API. Read in Airflow 3.3.2.

The tables are Airflow's own and no public interface. What stands here is what Airflow's REST API does with them, for
SQLite, PostgreSQL and MySQL alike.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState
from sqlalchemy import and_, exists, func, or_, select

from airflow_batchexec.api.database import dag_bag
from airflow_batchexec.names import (
    CANCELLED_ROW,
    CLIENT_KEY,
    ENDED_ROW,
    ENDED_RUN_STATES,
    IDEMPOTENCY_KEY,
    PLANNED_ROW,
    PROGRESS_ROW,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from airflow.serialization.definitions.dag import SerializedDAG
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

__all__ = [
    "Run",
    "StoredValue",
    "active_runs",
    "add_audit_entry",
    "as_json",
    "count_tasks",
    "default_params",
    "find_run",
    "lock_dag",
    "params_of",
    "run_ids_like",
    "run_of_key",
    "runs_before",
    "stored_values",
]

_ACTIVE = (DagRunState.QUEUED, DagRunState.RUNNING)
_STANDING_KEYS = (PLANNED_ROW, ENDED_ROW, CANCELLED_ROW, PROGRESS_ROW)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of an execution DAG.

    Attributes:
        key: Its number in the database; later runs have higher ones.
        dag_id: Its DAG.
        run_id: Its id, which is the execution's.
        state: Airflow's own state.
        generation: How often it has been cleared.
        conf: What it was started with.
        accepted_at: When.
        started_at: When it began to run; ``None`` before.
        ended_at: When it ended; ``None`` before.
        user: Who started it; empty where that is not known.
        by: By what it was started: ``rest_api``, ``ui``, ``operator`` …
    """

    key: int
    dag_id: str
    run_id: str
    state: str
    generation: int
    conf: dict[str, Any]
    accepted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    user: str
    by: str

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen, unless somebody clears it."""
        return self.state in ENDED_RUN_STATES


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A row of the task state store: what a task of a run has said."""

    run: int
    task_id: str
    map_index: int
    key: str
    text: str

    @property
    def value(self) -> Any:
        """The JSON value; ``None`` where it is none."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None


_RUN = select(
    DagRun.id,
    DagRun.dag_id,
    DagRun.run_id,
    DagRun.state,
    DagRun.clear_number,
    DagRun.conf,
    DagRun.created_at,
    DagRun.run_after,
    DagRun.start_date,
    DagRun.end_date,
    DagRun.triggering_user_name,
    DagRun.triggered_by,
)


def find_run(session: Session, dag_ids: Iterable[str], run_id: str) -> Run | None:
    """The run of that id; where several DAGs have one, that of the first."""
    order = list(dag_ids)
    rows = session.execute(_RUN.where(DagRun.run_id == run_id, DagRun.dag_id.in_(order))).all()
    found = sorted((_run(row) for row in rows), key=lambda run: order.index(run.dag_id))
    return found[0] if found else None


def runs_before(
    session: Session,
    dag_ids: Iterable[str],
    *,
    before: int | None,
    limit: int,
    states: Collection[str] = (),
    model_id: str = "",
    build_id: str = "",
    models_by_default: Mapping[str, str] | None = None,
) -> list[Run]:
    """Runs, newest first.

    Args:
        session: The session.
        dag_ids: Of these DAGs.
        before: Only those that are older than the one of this key.
        limit: How many at most.
        states: Only those in one of these of Airflow's states.
        model_id: Only those of this model.
        build_id: Only those that may be of this build; some may not.
        models_by_default: The model of a run that names none, by DAG.
    """
    query = _RUN.where(DagRun.dag_id.in_(list(dag_ids)))
    if before is not None:
        query = query.where(DagRun.id < before)
    if states:
        query = query.where(DagRun.state.in_(list(states)))
    if model_id:
        named = func.trim(DagRun.conf["model_id"].as_string())
        unnamed = [dag_id for dag_id, name in (models_by_default or {}).items() if name == model_id]
        matches: ColumnElement[bool] = named == model_id
        if unnamed:
            matches = or_(matches, and_(DagRun.dag_id.in_(unnamed), named.is_(None)))
        query = query.where(matches)
    if build_id:
        # The plan says which build it is. An id holds nothing that JSON would write in another way.
        planned = exists().where(
            TaskStateStoreModel.dag_run_id == DagRun.id,
            TaskStateStoreModel.key == PLANNED_ROW,
            TaskStateStoreModel.value.contains(f'"{build_id}"', autoescape=True),
        )
        query = query.where(or_(func.trim(DagRun.conf["build_id"].as_string()) == build_id, planned))
    return [_run(row) for row in session.execute(query.order_by(DagRun.id.desc()).limit(limit))]


def active_runs(session: Session, dag_ids: Iterable[str]) -> list[tuple[str, str, dict[str, Any]]]:
    """DAG, id and conf of every run that is queued or running, the oldest first."""
    query = select(DagRun.id, DagRun.dag_id, DagRun.run_id, DagRun.conf).where(
        DagRun.dag_id.in_(list(dag_ids)), DagRun.state.in_(_ACTIVE)
    )
    # Asked to sort, SQLite goes through all runs in their order, not through the index of those that are active.
    rows = sorted(session.execute(query), key=lambda row: row.id)
    return [(row.dag_id, row.run_id, row.conf or {}) for row in rows]


def run_ids_like(session: Session, dag_id: str, prefix: str) -> list[str]:
    """The ids of all runs of a DAG that begin in a certain way."""
    query = select(DagRun.run_id).where(
        DagRun.dag_id == dag_id, DagRun.run_id.startswith(prefix, autoescape=True)
    )
    return list(session.scalars(query))


def run_of_key(session: Session, dag_id: str, idempotency_key: str) -> tuple[str, dict[str, Any]] | None:
    """Id and conf of the run that was started with a key, if there is one."""
    key = DagRun.conf[(CLIENT_KEY, IDEMPOTENCY_KEY)].as_string()
    query = select(DagRun.run_id, DagRun.conf).where(DagRun.dag_id == dag_id, key == idempotency_key)
    row = session.execute(query.order_by(DagRun.id).limit(1)).first()
    return None if row is None else (row.run_id, row.conf or {})


def stored_values(
    session: Session, runs: Iterable[int], *, keys: Collection[str] = _STANDING_KEYS
) -> dict[int, list[StoredValue]]:
    """What the tasks of some runs have said, by run.

    Args:
        session: The session.
        runs: The runs' keys.
        keys: Of these names only; none for all.
    """
    model = TaskStateStoreModel
    query = select(model.dag_run_id, model.task_id, model.map_index, model.key, model.value).where(
        model.dag_run_id.in_(list(runs))
    )
    if keys:
        query = query.where(model.key.in_(list(keys)))
    found: dict[int, list[StoredValue]] = defaultdict(list)
    for row in session.execute(query.order_by(model.id)):
        found[row.dag_run_id].append(StoredValue(*row))
    return found


def count_tasks(
    session: Session, runs: Iterable[Run], task_ids: Collection[str]
) -> dict[tuple[str, str], dict[tuple[str, str], int]]:
    """How many instances of a task are in a state: by DAG and run, then by task and state. One statement."""
    table = TaskInstance
    ids = [(run.dag_id, run.run_id) for run in runs]
    query = (
        select(table.dag_id, table.run_id, table.task_id, table.state, func.count().label("number"))
        .where(
            table.dag_id.in_({dag_id for dag_id, _ in ids}),
            table.run_id.in_({run_id for _, run_id in ids}),
            table.task_id.in_(list(task_ids)),
        )
        .group_by(table.dag_id, table.run_id, table.task_id, table.state)
    )
    counts: dict[tuple[str, str], dict[tuple[str, str], int]] = defaultdict(dict)
    for row in session.execute(query):
        counts[row.dag_id, row.run_id][row.task_id, row.state or ""] = row.number
    return counts


def lock_dag(session: Session, dag_id: str) -> Any:
    """What Airflow knows of a DAG, held until the end of the transaction: starts of it come one after another.

    SQLite knows no such lock; there, whoever has written holds the whole database.
    """
    query = select(
        DagModel.is_paused, DagModel.is_stale, DagModel.has_import_errors, DagModel.allowed_run_types
    )
    return session.execute(query.where(DagModel.dag_id == dag_id).with_for_update()).first()


def params_of(session: Session, dag_id: str) -> dict[str, Any]:
    """The params that a DAG has by default; none where it cannot be read."""
    version = DagVersion.get_latest_version(dag_id, session=session)
    dag = dag_bag().get_dag(version.id, session=session) if version is not None else None
    return {} if dag is None else default_params(dag)


def default_params(dag: SerializedDAG) -> dict[str, Any]:
    """The params of a DAG that have a value by default."""
    # A required one's is a marker of Airflow's, which is no JSON value.
    known = (str, int, float, bool, dict, list)
    return {name: dag.params[name] for name in dag.params if isinstance(dag.params[name], known)}


def add_audit_entry(
    session: Session, event: str, *, user: str, dag_id: str, run_id: str | None, said: Mapping[str, Any]
) -> Log:
    """Tell Airflow's audit log of a call that changes something, as Airflow's own calls do."""
    entry = Log(
        event=event,
        owner=user,
        owner_display_name=user,
        extra=as_json(said),
        dag_id=dag_id,
        run_id=run_id,
    )
    session.add(entry)
    session.flush()
    return entry


def as_json(said: Mapping[str, Any]) -> str:
    """What an audit entry says beside its columns."""
    return json.dumps(said)


def _run(row: Any) -> Run:
    return Run(
        key=row.id,
        dag_id=row.dag_id,
        run_id=row.run_id,
        state=str(row.state or ""),
        generation=row.clear_number or 0,
        conf=row.conf if isinstance(row.conf, dict) else {},
        accepted_at=row.created_at or row.run_after,
        started_at=row.start_date,
        ended_at=row.end_date,
        user=row.triggering_user_name or "",
        by=row.triggered_by.value if row.triggered_by is not None else "",
    )
