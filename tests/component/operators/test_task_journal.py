"""What an execution's tasks write to Airflow's task state store, and that they continue without one."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from journals import read_journal

from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, StoredFile
from airflow_batchexec.engine.journal.packing import unpack, unpack_entries
from airflow_batchexec.operators.task_journal import TaskJournal

if TYPE_CHECKING:
    from pathlib import Path

    from inline_executions import InlineExecutions, Outcome
    from journals import Journal


def journal_of(outcome: Outcome) -> Journal:
    return read_journal(os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], outcome.run.run_id)


def test_the_journal_has_every_file_from_plan_to_end(executions: InlineExecutions):
    outcome = executions.run("plain", dict.fromkeys("abc", "calm"), model_id="moody")

    journal = journal_of(outcome)
    assert journal.row("plan", "planned") == {
        "generation": 0,
        "total_files": 3,
        "shares": 3,
        "model_id": "moody",
        "build_id": "b1",
        "files_rows": 1,
    }
    assert dict(journal.files()) == {"a.csv": 0, "b.csv": 1, "c.csv": 2}
    for account in journal.accounts():
        assert (account.status, account.rows, account.reason) == ("FINISHED", 2, "")
        assert account.started_at <= account.ended_at
    ended = journal.row("finish", "ended")
    assert unpack(ended.pop("not_finished")) == {}
    assert ended == {
        "generation": 0,
        "status": "FINISHED",
        "reason": "",
        "total_files": 3,
        "finished_files": 3,
        "rows": 6,
    }
    # With one task per file, no progress rows are needed.
    assert not [key for _, _, key in journal.rows if key == "progress"]


def test_the_report_is_chronological(executions: InlineExecutions):
    outcome = executions.run("plain", {"a": "calm"}, model_id="moody")

    report = journal_of(outcome).report()
    assert [line.split()[0] for line in report] == ["Planned", "pod-0", "a.csv", "a.csv", "Audited:", "The"]
    assert report[2] == "a.csv started in pod-0."
    assert report[3].startswith("a.csv finished in pod-0: 2 rows in ")
    assert report[4] == "Audited: 1 finished, 0 failed, 0 not started; 2 rows."
    assert report[5].startswith("The execution ended as FINISHED after ")
    assert report[5].endswith(f"See {outcome.manifest()['manifest']}.")


def test_the_progress_of_a_pod_includes_files_finished_in_earlier_tries(
    executions: InlineExecutions, tmp_path: Path
):
    seen = tmp_path / "seen"
    seen.mkdir()
    moods = {"a": "calm", "b": "flaky", "c": "calm"}

    outcome = executions.run("plain", moods, model_id="moody", pods=1, parameters={"SEEN": str(seen)})

    journal = journal_of(outcome)
    assert journal.row("predict", "progress", map_index=0) == {"generation": 0, "finished": 3}
    assert set(journal.statuses().values()) == {"FINISHED"}
    report = journal.report()
    failure = report.index("b.csv failed: ValueError: not at the first time.")
    assert (
        "ValueError: not at the first time"
        in report[failure + 1 : report.index("Try 2 of pod-0 started.")][-1]
    )
    again = report.index("b.csv started in pod-0.", failure)
    assert again > report.index("Try 2 of pod-0 started.") > failure


def test_the_report_has_the_reason_of_a_refusal(executions: InlineExecutions):
    outcome = executions.run("plain", {"a": "calm"}, model_id="unknown")

    journal = journal_of(outcome)
    (refused,) = journal.entries("refused")
    assert refused["error"] == "ModelNotFoundError"
    ended = journal.row("finish", "ended")
    assert ended == {"generation": 0, "status": "FAILED", "reason": refused["reason"]}
    assert journal.report()[0] == f"Refused: {refused['reason']}"
    assert journal.row("plan", "planned") is None


def test_the_rest_apis_key_in_the_conf_is_not_a_parameter(executions: InlineExecutions):
    client = {"warnings": ["The field x is unknown and was ignored."], "idempotency_key": "0" * 64}
    outcome = executions.run("plain", {"a": "calm"}, model_id="moody", client=client)

    assert outcome.state == "success"
    assert "client" not in outcome.xcom("plan", "execution")["fields"]


@pytest.mark.parametrize("conf", [{"clients": {}}, {"client": "somebody"}])
def test_any_other_unknown_key_is_refused_by_name(executions: InlineExecutions, conf: dict[str, object]):
    outcome = executions.run("plain", {"a": "calm"}, model_id="moody", **conf)

    assert outcome.state == "failed"
    assert next(iter(conf)) in outcome.xcom("plan", "refused")["reason"]


class Rows(dict[str, Any]):
    """A state store in memory."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value

    def entries(self) -> list[dict[str, Any]]:
        return [
            entry for key, row in self.items() if key.startswith("journal-") for entry in unpack_entries(row)
        ]


def file_record(file: str, status: FileStatus) -> FileRecord:
    output = StoredFile(f"s3://out/{file}", 4, "o", 2) if status is FileStatus.FINISHED else None
    return FileRecord(file=file, etag="e", status=status, pod="pod-0", attempt=1, at=5.0, output=output)


def journal_in(rows: Rows) -> TaskJournal:
    context: Any = {
        "ti": SimpleNamespace(try_number=1),
        "dag_run": SimpleNamespace(clear_number=0),
        "task_state_store": rows,
    }
    return TaskJournal(context, name="pod-0", log=logging.getLogger("task"))


@pytest.mark.parametrize("omit", [True, False])
def test_a_task_of_too_many_files_reports_its_progress_and_names_only_failures(*, omit: bool):
    rows = Rows()
    journal = journal_in(rows)
    if omit:
        journal.omit_files()
    journal.add_line("", "stdout", "loading")
    for file, end in (("a.csv", FileStatus.FINISHED), ("b.csv", FileStatus.FAILED)):
        journal.add_record(file_record(file, FileStatus.STARTED))
        journal.add_line(file, "stdout", f"predicting {file}")
        journal.add_record(file_record(file, end))
    journal.set_progress(1)
    journal.close()

    kinds = [(entry["kind"], entry.get("file")) for entry in rows.entries()]
    all_kinds = [("line", ""), *((kind, "a.csv") for kind in ("started", "line", "finished"))]
    all_kinds += [(kind, "b.csv") for kind in ("started", "line", "failed")]
    assert kinds == ([("line", ""), ("failed", "b.csv")] if omit else all_kinds)
    assert rows["progress"] == {"generation": 0, "finished": 1}


def test_long_rows_of_the_journal_are_packed():
    rows = Rows()
    journal = journal_in(rows)
    for number in range(100):
        journal.add_record(file_record(f"{number}.csv", FileStatus.STARTED))
    journal.close()

    (row,) = rows.values()
    assert isinstance(row, str)
    assert [entry["file"] for entry in rows.entries()] == [f"{number}.csv" for number in range(100)]


class BrokenStore:
    """A state store whose every request fails."""

    def set(self, key: str, value: object) -> None:
        raise ConnectionError("no response")

    def get(self, key: str) -> object:
        raise ConnectionError("no response")


@pytest.mark.parametrize("store", [BrokenStore(), None])
def test_a_task_continues_without_a_state_store(store: BrokenStore | None, caplog: pytest.LogCaptureFixture):
    context = {
        "ti": SimpleNamespace(try_number=2),
        "dag_run": SimpleNamespace(clear_number=0),
        **({"task_state_store": store} if store else {}),
    }
    with caplog.at_level(logging.WARNING):
        journal = TaskJournal(context, name="pod-0", log=logging.getLogger("task"))  # type: ignore[arg-type]
        assert journal.put("planned", {}) is (store is None)
        assert journal.put("planned", {}) is (store is None)
        assert journal.get("cancelled") is None
        journal.add_line("a.csv", "stdout", "a line")
        journal.set_progress(1)
        journal.close()
    assert len([record for record in caplog.records if record.name == "task"]) == (1 if store else 0)
    assert len(caplog.records) == (2 if store else 0)
