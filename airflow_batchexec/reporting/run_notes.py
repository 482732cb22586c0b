"""The note on a run that says how its executions ended.

Workers cannot set notes, so this is a listener for the end of runs, in the scheduler. The server internals that it uses
are as read in the source of Airflow 3.3.2: ``DagRun.update_state`` and ``_schedule_dag_run`` call listeners before they
commit, with the run's DAG loaded, and forbid commits.

The listener must not interfere with the scheduler. For a run without an execution, it only looks at the list of tasks,
which is in memory. Everything else happens behind a savepoint in the scheduler's transaction, so that a failing
statement cannot undo or delay what the scheduler has decided. It never raises.
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

__all__ = ["note_text", "on_dag_run_failed", "on_dag_run_success", "update_note"]

log = logging.getLogger(__name__)

_FINISH_OPERATOR = "FinishExecutionOperator"
# The length of the database column.
_MAX_NOTE_LENGTH = 1000
_MAX_LINE_LENGTH = 400
_PARAGRAPH = "\n\n"
# A paragraph that this module wrote; anything else in a note was written by users or other programs.
_OWN = r"Execution (?:\S+ )?(?:FINISHED|FAILED|CANCELLED|TIMEOUT): [^\n]*"
# With the separators that came with them, and no other blank lines.
_OWN_PARAGRAPHS = re.compile(rf"\A(?:{_OWN}(?:\n\n|\Z))+|(?:\n\n{_OWN})+(?=\n\n|\Z)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:  # noqa: ARG001  Airflow's signature
    """Note how the executions of a successful run ended."""
    _note(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:  # noqa: ARG001  Airflow's signature
    """Note how the executions of a failed run ended."""
    _note(dag_run)


def note_text(summary: Summary, *, group: str = "") -> str:
    """Describe the end of an execution in one line.

    Args:
        summary: The XCom ``summary`` of its last task.
        group: Its task group; empty if the run is the execution.
    """
    header = summary.header
    if summary.has_finished and header is not None:
        text = (
            f"{header.finished_files:,} of {header.total_files:,} files, {header.rows:,} rows in "
            f"{header.seconds:.1f} s"
        )
    else:
        text = summary.reason
    parts = ["Execution", group, f"{summary.status}: {text}"]
    return _shorten(_CONTROL.sub(" ", " ".join(filter(None, parts))).strip(), _MAX_LINE_LENGTH)


def update_note(note: str, lines: Iterable[str], *, by_user: bool) -> str:
    """Replace the lines that this module wrote to a note earlier. Other text stays as it is.

    The UI shows the first line, so a user's text stays on top, and text by a program, such as the operator that started
    the run, goes below.

    Args:
        note: The current note.
        lines: The new lines. Lines that do not fit next to the other text are left out.
        by_user: Whether a user wrote the note.
    """
    lines = list(lines)
    if not lines:
        return note
    text = _OWN_PARAGRAPHS.sub("", note)
    other = [text] if text.strip() else []
    own: list[str] = []
    for line in lines:
        room = _MAX_NOTE_LENGTH - len(_PARAGRAPH.join([*other, *own, ""]))
        if len(line) > room:
            break
        own.append(line)
    return _PARAGRAPH.join([*other, *own] if by_user else [*own, *other])


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _note(dag_run: DagRun) -> None:
    try:
        tasks = _finish_tasks(dag_run)
        if tasks:
            _write(dag_run, tasks)
    except Exception:  # must not interfere with the scheduler
        log.warning(
            "Cannot update the note of run %s of DAG %s.", dag_run.run_id, dag_run.dag_id, exc_info=True
        )


def _finish_tasks(dag_run: DagRun) -> list[str]:
    """The last tasks of a run's executions, which push their summaries."""
    dag = dag_run.dag
    if dag is None:
        return []
    return [task.task_id for task in dag.tasks if task.task_type == _FINISH_OPERATOR]


def _write(dag_run: DagRun, task_ids: Sequence[str]) -> None:
    from airflow.models.dagrun import DagRunNote  # noqa: PLC0415  workers load plugins, too
    from sqlalchemy.orm import object_session  # noqa: PLC0415  as above

    session = object_session(dag_run)
    if session is None or _has_pending_note(session, DagRunNote):
        return
    connection = session.connection()
    # Not session.begin_nested(): the session's savepoints count as commits, which are forbidden here.
    with connection.begin_nested():
        _lock_note(connection, dag_run.id)
        lines = [
            note_text(summary, group=group) for group, summary in _summaries(connection, dag_run, task_ids)
        ]
        changed = bool(lines) and _store(connection, dag_run.id, lines)
    if changed:
        session.expire(dag_run, ["dag_run_note"])


def _has_pending_note(session: Session, note_type: type) -> bool:
    """Whether the session has changes to a note that are not flushed to the database yet."""
    return any(isinstance(entry, note_type) for entry in (*session.new, *session.dirty, *session.deleted))


def _summaries(connection: Connection, dag_run: DagRun, task_ids: Sequence[str]) -> list[tuple[str, Summary]]:
    """Task group and summary of each execution, from the last tasks that have ended."""
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
        # With a custom XCom backend, the value may be a reference to external storage.
        if isinstance(value, dict):
            summary = Summary.read(value)
            last[summary.execution_id] = row.task_id.rpartition(".")[0], summary
    # Failures first, as they matter most if not all lines fit.
    return sorted(last.values(), key=lambda entry: (entry[1].has_finished, entry[0]))


def _lock_note(connection: Connection, dag_run_id: int) -> None:
    """Lock the note until the transaction ends.

    On SQLite, which has a single writer, this waits for that one. Otherwise, if another connection wrote after this
    transaction's first read, SQLite would reject this transaction's write immediately, without a chance to retry.
    """
    from airflow.models.dagrun import DagRunNote  # noqa: PLC0415  workers load plugins, too
    from sqlalchemy import update  # noqa: PLC0415  as above

    unchanged = {DagRunNote.content: DagRunNote.content, DagRunNote.updated_at: DagRunNote.updated_at}
    connection.execute(update(DagRunNote).where(DagRunNote.dag_run_id == dag_run_id).values(unchanged))


def _store(connection: Connection, dag_run_id: int, lines: Sequence[str]) -> bool:
    from airflow.models.dagrun import DagRunNote  # noqa: PLC0415  workers load plugins, too
    from sqlalchemy import insert, select, update  # noqa: PLC0415  as above

    is_run = DagRunNote.dag_run_id == dag_run_id
    found = connection.execute(select(DagRunNote.content, DagRunNote.user_id).where(is_run)).one_or_none()
    old = (found.content or "") if found else ""
    new = update_note(old, lines, by_user=bool(found and found.user_id))
    if new == old:
        return False
    if found:
        connection.execute(update(DagRunNote).where(is_run).values(content=new))
    else:
        connection.execute(insert(DagRunNote).values(dag_run_id=dag_run_id, content=new))
    return True
