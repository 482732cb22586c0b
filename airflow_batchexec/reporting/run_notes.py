"""The note on a run that says how its executions have ended.

Workers can set no notes, so this listens to the end of runs, in the scheduler. What it uses of Airflow's server was read in
Airflow 3.3.2: ``DagRun.update_state`` and ``_schedule_dag_run`` call listeners before they commit, with the run's DAG at
hand, and forbid commits.

The scheduler must not suffer from it: of a run without an execution only the list of its tasks is looked at, which is in
memory; all else happens behind a savepoint of the scheduler's own transaction, so that no statement that fails can undo
or delay what the scheduler has decided; and nothing is ever raised.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

from airflow_batchexec.names import ENDED_RUN_STATES, SUMMARY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow.models.dagrun import DagRun
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

    from airflow_batchexec.engine.execution.manifest import Summary

__all__ = ["note_text", "on_dag_run_failed", "on_dag_run_success", "with_lines"]

_log = logging.getLogger(__name__)

_OPERATOR = "FinishExecutionOperator"
# The length of the column.
_LONGEST_NOTE = 1000
_LONGEST_LINE = 400
_PARAGRAPH = "\n\n"
# A line of ours; anything else in a note is somebody's.
_OURS = re.compile(r"Execution (\S+ )?(FINISHED|FAILED|CANCELLED|TIMEOUT): ")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:  # noqa: ARG001  Airflow's signature
    """Note how the executions of a run that succeeded have ended."""
    _note(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:  # noqa: ARG001  Airflow's signature
    """Note how the executions of a run that failed have ended."""
    _note(dag_run)


def note_text(summary: Summary, *, group: str = "") -> str:
    """An execution's end in a line.

    Args:
        summary: The XCom ``summary`` of its last task.
        group: Its task group; empty where the run is the execution.
    """
    header = summary.header
    if summary.has_finished and header is not None:
        text = (
            f"{header.finished_files:,} of {header.total_files:,} files, {header.rows:,} rows in "
            f"{header.seconds:.1f} s"
        )
    else:
        text = summary.reason
    words = ["Execution", group, f"{summary.status}: {text}"]
    return _shorten(_CONTROL.sub(" ", " ".join(filter(None, words))).strip(), _LONGEST_LINE)


def with_lines(note: str, lines: Iterable[str], *, is_a_persons: bool) -> str:
    """A note with new lines of ours in place of the old ones; what else is in it is never shortened.

    The UI shows the first line. So what a person has written stays on top; what a program has, such as the operator that
    began the run, goes below.

    Args:
        note: The note as it is.
        lines: What is to be said. Where the rest leaves no room, less is; where it leaves none, nothing.
        is_a_persons: Whether a person has written it.
    """
    theirs = [part for part in note.split(_PARAGRAPH) if part.strip() and not _OURS.match(part)]
    ours: list[str] = []
    for line in lines:
        room = _LONGEST_NOTE - len(_PARAGRAPH.join([*theirs, *ours, ""]))
        if len(line) > room:
            break
        ours.append(line)
    if not ours:
        return note
    return _PARAGRAPH.join([*theirs, *ours] if is_a_persons else [*ours, *theirs])


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _note(dag_run: DagRun) -> None:
    try:
        tasks = _last_tasks(dag_run)
        if tasks:
            _write(dag_run, tasks)
    except Exception:  # noqa: BLE001  the scheduler has more important things to do
        _log.warning("The run %s of %s gets no note.", dag_run.run_id, dag_run.dag_id, exc_info=True)


def _last_tasks(dag_run: DagRun) -> list[str]:
    """The tasks of a run that say how an execution has ended."""
    dag = dag_run.dag
    return [task.task_id for task in dag.tasks if task.task_type == _OPERATOR] if dag is not None else []


def _write(dag_run: DagRun, task_ids: Sequence[str]) -> None:
    from airflow.models.dagrun import DagRunNote  # noqa: PLC0415  workers load plugins, too
    from sqlalchemy.orm import object_session  # noqa: PLC0415  as above

    session = object_session(dag_run)
    if session is None or _is_being_noted(session, DagRunNote):
        return
    connection = session.connection()
    # Not the session's own: its savepoints count as commits, which are forbidden here.
    with connection.begin_nested():
        _hold(connection, dag_run.id)
        lines = [
            note_text(summary, group=group) for group, summary in _summaries(connection, dag_run, task_ids)
        ]
        changed = bool(lines) and _store(connection, dag_run.id, lines)
    if changed:
        session.expire(dag_run, ["dag_run_note"])


def _is_being_noted(session: Session, note_type: type) -> bool:
    """Whether somebody writes a note in this very transaction, of which the database does not know yet."""
    return any(isinstance(entry, note_type) for entry in (*session.new, *session.dirty, *session.deleted))


def _summaries(connection: Connection, dag_run: DagRun, task_ids: Sequence[str]) -> list[tuple[str, Summary]]:
    """The summary of each execution, with its task group, from those of its last tasks that came to their end."""
    from airflow.models.taskinstance import TaskInstance  # noqa: PLC0415  workers load plugins, too
    from airflow.models.xcom import XComModel  # noqa: PLC0415  as above
    from sqlalchemy import and_, select  # noqa: PLC0415  as above

    from airflow_batchexec.engine.execution.manifest import Summary  # noqa: PLC0415  as above

    same_task = and_(
        TaskInstance.dag_id == XComModel.dag_id,
        TaskInstance.run_id == XComModel.run_id,
        TaskInstance.task_id == XComModel.task_id,
        TaskInstance.map_index == XComModel.map_index,
    )
    query = (
        select(XComModel.task_id, XComModel.value)
        .join(TaskInstance, same_task)
        .where(XComModel.dag_run_id == dag_run.id, XComModel.key == SUMMARY_KEY)
        .where(XComModel.task_id.in_(task_ids), TaskInstance.state.in_(ENDED_RUN_STATES))
        .order_by(XComModel.timestamp)
    )
    last: dict[str, tuple[str, Summary]] = {}
    for row in connection.execute(query):
        value = XComModel.deserialize_value(row)
        # With an XCom backend of the deployment's own it may be the name of something elsewhere.
        if isinstance(value, dict):
            summary = Summary.read(value)
            last[summary.execution_id] = row.task_id.rpartition(".")[0], summary
    # Where there is no room for all, failures say more.
    return sorted(last.values(), key=lambda entry: (entry[1].has_finished, entry[0]))


def _hold(connection: Connection, dag_run_id: int) -> None:
    """Let nobody else write the note until the transaction ends.

    SQLite has one writer, whom this waits for. It would refuse at once, and for good, what is written on the strength of
    what was read before somebody else wrote.
    """
    from airflow.models.dagrun import DagRunNote  # noqa: PLC0415  workers load plugins, too
    from sqlalchemy import update  # noqa: PLC0415  as above

    as_it_is = {DagRunNote.content: DagRunNote.content, DagRunNote.updated_at: DagRunNote.updated_at}
    connection.execute(update(DagRunNote).where(DagRunNote.dag_run_id == dag_run_id).values(as_it_is))


def _store(connection: Connection, dag_run_id: int, lines: Sequence[str]) -> bool:
    from airflow.models.dagrun import DagRunNote  # noqa: PLC0415  workers load plugins, too
    from sqlalchemy import insert, select, update  # noqa: PLC0415  as above

    of_run = DagRunNote.dag_run_id == dag_run_id
    found = connection.execute(select(DagRunNote.content, DagRunNote.user_id).where(of_run)).one_or_none()
    old = (found.content or "") if found else ""
    new = with_lines(old, lines, is_a_persons=bool(found and found.user_id))
    if new == old:
        return False
    if found:
        connection.execute(update(DagRunNote).where(of_run).values(content=new))
    else:
        connection.execute(insert(DagRunNote).values(dag_run_id=dag_run_id, content=new))
    return True
