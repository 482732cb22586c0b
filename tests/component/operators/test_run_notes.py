"""Notes on runs in Airflow's own database: their cost to the scheduler, which their failures must not affect."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from airflow.models.dagrun import DagRun, DagRunNote
from airflow.sdk import DAG, BaseOperator
from airflow.settings import get_engine
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from sqlalchemy import event, select, text

from airflow_batchexec.reporting import run_notes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inline_executions import InlineExecutions, Outcome
    from sqlalchemy.orm import Session


def note_of(outcome: Outcome) -> str:
    """Call the listener as the scheduler does, in a transaction that only its owner may commit; return the note."""
    with create_session() as session, prohibit_commit(session) as guard:
        run = session.get(DagRun, outcome.run.id)
        run.dag = outcome.run.dag
        run_notes.on_dag_run_success(dag_run=run, msg="")
        guard.commit()
    return stored_note(outcome)


def stored_note(outcome: Outcome) -> str:
    with create_session() as session:
        of_run = DagRunNote.dag_run_id == outcome.run.id
        return session.scalar(select(DagRunNote.content).where(of_run)) or ""


@contextmanager
def statements(session: Session) -> Iterator[list[str]]:
    """Collect the SQL statements executed within the block."""
    seen: list[str] = []

    def record(*arguments: object) -> None:
        seen.append(str(arguments[2]))

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", record)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", record)


@contextmanager
def notes_refused() -> Iterator[None]:
    """Make the database refuse notes."""
    refuse = "BEGIN SELECT RAISE(ABORT, 'no notes today'); END"
    with create_session() as session:
        session.execute(text(f"CREATE TRIGGER no_notes BEFORE INSERT ON dag_run_note {refuse}"))
    try:
        yield
    finally:
        with create_session() as session:
            session.execute(text("DROP TRIGGER no_notes"))


@contextmanager
def writes_by_others(after: str) -> Iterator[None]:
    """Write from another connection after each statement that contains ``after``, unless the database is locked."""
    engine = get_engine()

    def write(*arguments: object) -> None:
        if after not in str(arguments[2]):
            return
        with (
            closing(sqlite3.connect(engine.url.database, timeout=0)) as other,
            suppress(sqlite3.OperationalError),
            other,
        ):
            other.execute("UPDATE dag_run SET updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now')")

    event.listen(engine, "after_cursor_execute", write)
    try:
        yield
    finally:
        event.remove(engine, "after_cursor_execute", write)


def test_a_run_note_says_that_the_execution_finished(executions: InlineExecutions):
    outcome = executions.run("plain", {"a": "calm", "b": "calm"}, model_id="moody")

    assert note_of(outcome).startswith("Execution FINISHED: 2 of 2 files, 4 rows in ")


def test_a_run_note_names_the_failed_file(executions: InlineExecutions):
    outcome = executions.run("plain", {"a": "calm", "bad": "wrong"}, model_id="moody")

    assert note_of(outcome).startswith("Execution FAILED: 1 of 2 files failed: bad.csv: ")


def test_a_run_note_says_why_the_execution_was_refused(executions: InlineExecutions):
    outcome = executions.run("plain", {"a": "calm"}, model_id="unknown")

    note = note_of(outcome)
    assert note.startswith("Execution FAILED: ")
    assert "unknown" in note


def test_a_note_is_written_despite_concurrent_writers(executions: InlineExecutions):
    outcome = executions.run("plain", {"a": "calm"}, model_id="moody")

    with writes_by_others(after="FROM xcom"):
        assert note_of(outcome).startswith("Execution FINISHED: 1 of 1 files")


def test_the_note_has_a_line_for_each_task_group(executions: InlineExecutions):
    outcome = executions.run("grouped", {"a": "calm"})

    first, second = note_of(outcome).split("\n\n")
    assert first.startswith("Execution first FINISHED: 1 of 1 files")
    assert second.startswith("Execution second FINISHED: 1 of 1 files")


def test_a_refused_note_does_not_affect_the_schedulers_transaction(
    executions: InlineExecutions,
):
    outcome = executions.run("plain", {"a": "calm"}, model_id="moody")

    with notes_refused(), create_session() as session, prohibit_commit(session) as guard:
        run = session.get(DagRun, outcome.run.id)
        run.dag = outcome.run.dag
        run.state = "queued"
        run_notes.on_dag_run_failed(dag_run=run, msg="")
        guard.commit()

    with create_session() as session:
        assert session.get(DagRun, outcome.run.id).state == "queued"
    assert stored_note(outcome) == ""


def test_a_run_without_an_execution_costs_no_statement(executions: InlineExecutions):
    with DAG("without_execution", schedule=None) as dag:
        for number in range(100):
            BaseOperator(task_id=f"task_{number}")
    outcome = executions.run("plain", {"a": "calm"}, model_id="moody")

    with create_session() as session:
        run = session.get(DagRun, outcome.run.id)
        run.dag = dag
        with statements(session) as seen:
            run_notes.on_dag_run_success(dag_run=run, msg="")
    assert seen == []


def test_a_run_with_an_execution_costs_a_handful_of_statements(executions: InlineExecutions):
    outcome = executions.run("plain", {"a": "calm"}, model_id="moody")

    with create_session() as session:
        run = session.get(DagRun, outcome.run.id)
        run.dag = outcome.run.dag
        with statements(session) as seen:
            run_notes.on_dag_run_success(dag_run=run, msg="")
    assert [statement.split()[0] for statement in seen] == [
        "SAVEPOINT",
        "UPDATE",
        "SELECT",
        "SELECT",
        "INSERT",
        "RELEASE",
    ]


def test_a_users_note_is_kept_and_one_being_written_left_alone(
    executions: InlineExecutions,
):
    outcome = executions.run("plain", {"a": "calm"}, model_id="moody")

    with create_session() as session:
        run = session.get(DagRun, outcome.run.id)
        run.dag = outcome.run.dag
        run.note = ("mine", "ada")
        run_notes.on_dag_run_failed(dag_run=run, msg="")
    assert stored_note(outcome) == "mine"

    assert note_of(outcome).startswith("mine\n\nExecution FINISHED: ")
    assert note_of(outcome).count("Execution") == 1
