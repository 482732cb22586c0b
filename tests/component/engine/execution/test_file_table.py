"""The table of files: whatever the order of the records, the latest of each planned file counts."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.execution.file_table import open_file_table
from airflow_batchexec.engine.execution.ledger import FileRecord, FileStatus, StoredFile, latest
from airflow_batchexec.engine.execution.plan import FileTask

TASKS = [FileTask(f"{name}.csv", 10, "e", f"{name}.parquet") for name in ("ü", "b", "a/c")]
RESULT = StoredFile("s3://out/x", 20, "o", 3)
records = st.builds(
    FileRecord,
    file=st.sampled_from([*(task.file for task in TASKS), "unplanned.csv"]),
    etag=st.just("e"),
    status=st.sampled_from([FileStatus.STARTED, FileStatus.FINISHED, FileStatus.FAILED]),
    attempt=st.integers(1, 2),
    generation=st.integers(0, 1),
    at=st.sampled_from([0.1, 0.2, 1e9 + 0.1]),
    reason=st.sampled_from(["", "zürich"]),
)


def line(record: FileRecord) -> bytes:
    return json.dumps(record.to_dict(), ensure_ascii=False).encode()


def finished(file: str) -> FileRecord:
    return FileRecord(file=file, etag="e", status=FileStatus.FINISHED, output=RESULT)


@given(st.lists(records, max_size=8))
def test_each_planned_file_has_its_latest_record_in_the_order_of_the_plan(made: list[FileRecord]):
    with open_file_table() as table:
        table.add_tasks(TASKS)
        table.add_records(map(line, made[:3]))
        table.add_records(map(line, made[3:]))
        rows = list(table.rows())

        last = latest(made)
        assert [row.task for row in rows] == TASKS
        assert [row.record for row in rows] == [last.get(task.file) for task in TASKS]
        ended = [row for row in rows if row.record and row.record.status is FileStatus.FINISHED]
        assert table.finished_files() == len(ended)


def test_only_the_results_of_finished_files_are_kept_and_each_counts_once():
    with open_file_table() as table:
        table.add_tasks(TASKS)
        table.add_records([line(finished("b.csv"))])
        assert table.result_range() == ("a/c.parquet", "ü.parquet")
        found = [(name, 20) for name in ("a/c.parquet", "b.parquet", "b.csv", "_SUCCESS")]

        assert table.add_stored(found) == 1
        assert table.add_stored(found) == 0

        assert [row.stored_bytes for row in table.rows()] == [None, 20, None]
