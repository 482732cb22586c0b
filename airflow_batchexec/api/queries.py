"""All queries of the API against Airflow's database. Read in Airflow 3.3.2.

The tables are not part of Airflow's public interface. These queries use them as Airflow's own REST API does, and work on
SQLite, PostgreSQL and MySQL.
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
    "find_run_by_key",
    "load_default_params",
    "lock_dag",
    "run_ids_with_prefix",
    "runs_before",
    "stored_values",
]

_ACTIVE = (DagRunState.QUEUED, DagRunState.RUNNING)
_STATE_KEYS = (PLANNED_ROW, ENDED_ROW, CANCELLED_ROW, PROGRESS_ROW)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of an execution DAG.

    Attributes:
        key: Primary key in the database; later runs have higher ones.
        dag_id: The DAG.
        run_id: The run ID, which is also the execution's ID.
        state: The run's state in Airflow.
        generation: How often the run has been cleared.
        conf: The conf that the run was started with.
        accepted_at: When the run was created.
        started_at: When the run started; ``None`` before.
        ended_at: When the run ended; ``None`` before.
        user: Who started the run; empty if unknown.
        by: What started the run: ``rest_api``, ``ui``, ``operator`` …
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
        """Whether the run has ended; only a clear can change its state."""
        return self.state in ENDED_RUN_STATES


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A row of the task state store, written by a task of a run."""

    run: int
    task_id: str
    map_index: int
    key: str
    text: str

    @property
    def value(self) -> Any:
        """The parsed JSON; ``None`` if it is invalid."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None


_SELECT_RUN = select(
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
    """The run with this ID; if several DAGs have one, that of the first DAG."""
    order = list(dag_ids)
    rows = session.execute(_SELECT_RUN.where(DagRun.run_id == run_id, DagRun.dag_id.in_(order))).all()
    found = sorted((_to_run(row) for row in rows), key=lambda run: order.index(run.dag_id))
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
    default_models: Mapping[str, str] | None = None,
) -> list[Run]:
    """Runs, newest first.

    Args:
        session: The session.
        dag_ids: The DAGs.
        before: Only runs older than the one with this key.
        limit: Maximum number of runs.
        states: Only runs in one of these Airflow states.
        model_id: Only runs of this model.
        build_id: Only runs that may be of this build; the caller must check each one.
        default_models: The model of a run that names none, by DAG.
    """
    query = _SELECT_RUN.where(DagRun.dag_id.in_(list(dag_ids)))
    if before is not None:
        query = query.where(DagRun.id < before)
    if states:
        query = query.where(DagRun.state.in_(list(states)))
    if model_id:
        named = func.trim(DagRun.conf["model_id"].as_string())
        default_dag_ids = [dag_id for dag_id, name in (default_models or {}).items() if name == model_id]
        matches: ColumnElement[bool] = named == model_id
        if default_dag_ids:
            matches = or_(matches, and_(DagRun.dag_id.in_(default_dag_ids), named.is_(None)))
        query = query.where(matches)
    if build_id:
        # The plan records the build. Build IDs contain no characters that JSON escapes.
        planned = exists().where(
            TaskStateStoreModel.dag_run_id == DagRun.id,
            TaskStateStoreModel.key == PLANNED_ROW,
            TaskStateStoreModel.value.contains(f'"{build_id}"', autoescape=True),
        )
        query = query.where(or_(func.trim(DagRun.conf["build_id"].as_string()) == build_id, planned))
    return [_to_run(row) for row in session.execute(query.order_by(DagRun.id.desc()).limit(limit))]


def active_runs(session: Session, dag_ids: Iterable[str]) -> list[tuple[str, str, dict[str, Any]]]:
    """DAG, run ID and conf of every queued or running run, oldest first."""
    query = select(DagRun.id, DagRun.dag_id, DagRun.run_id, DagRun.conf).where(
        DagRun.dag_id.in_(list(dag_ids)), DagRun.state.in_(_ACTIVE)
    )
    # With ORDER BY, SQLite scans all runs by primary key instead of using the index on active runs.
    rows = sorted(session.execute(query), key=lambda row: row.id)
    return [(row.dag_id, row.run_id, row.conf or {}) for row in rows]


def run_ids_with_prefix(session: Session, dag_id: str, prefix: str) -> list[str]:
    """The IDs of all runs of a DAG that start with a prefix."""
    query = select(DagRun.run_id).where(
        DagRun.dag_id == dag_id, DagRun.run_id.startswith(prefix, autoescape=True)
    )
    return list(session.scalars(query))


def find_run_by_key(session: Session, dag_id: str, idempotency_key: str) -> tuple[str, dict[str, Any]] | None:
    """Run ID and conf of the run that was started with an idempotency key, if any."""
    key = DagRun.conf[(CLIENT_KEY, IDEMPOTENCY_KEY)].as_string()
    query = select(DagRun.run_id, DagRun.conf).where(DagRun.dag_id == dag_id, key == idempotency_key)
    row = session.execute(query.order_by(DagRun.id).limit(1)).first()
    return None if row is None else (row.run_id, row.conf or {})


def stored_values(
    session: Session, runs: Iterable[int], *, keys: Collection[str] = _STATE_KEYS
) -> dict[int, list[StoredValue]]:
    """The task state rows of some runs, by run.

    Args:
        session: The session.
        runs: The runs' primary keys.
        keys: The row keys to select; empty for all.
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
    """Count task instances: by DAG and run, then by task and state. A single statement."""
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
    """Lock a DAG's row until the end of the transaction, so that its starts are serialized, and return it.

    SQLite has no row locks; there, the first write of a transaction locks the whole database.
    """
    query = select(
        DagModel.is_paused, DagModel.is_stale, DagModel.has_import_errors, DagModel.allowed_run_types
    )
    return session.execute(query.where(DagModel.dag_id == dag_id).with_for_update()).first()


def load_default_params(session: Session, dag_id: str) -> dict[str, Any]:
    """The default params of a DAG; empty if the DAG cannot be loaded."""
    version = DagVersion.get_latest_version(dag_id, session=session)
    dag = dag_bag().get_dag(version.id, session=session) if version is not None else None
    return {} if dag is None else default_params(dag)


def default_params(dag: SerializedDAG) -> dict[str, Any]:
    """The params of a DAG that have a default value."""
    # Airflow marks required params with a sentinel, which is not a JSON value.
    known = (str, int, float, bool, dict, list)
    return {name: dag.params[name] for name in dag.params if isinstance(dag.params[name], known)}


def add_audit_entry(
    session: Session, event: str, *, user: str, dag_id: str, run_id: str | None, extra: Mapping[str, Any]
) -> Log:
    """Add an entry to Airflow's audit log, as Airflow's own API does for changes."""
    entry = Log(
        event=event,
        owner=user,
        owner_display_name=user,
        extra=as_json(extra),
        dag_id=dag_id,
        run_id=run_id,
    )
    session.add(entry)
    session.flush()
    return entry


def as_json(extra: Mapping[str, Any]) -> str:
    """Serialize the ``extra`` column of an audit entry."""
    return json.dumps(extra)


def _to_run(row: Any) -> Run:
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
