"""The temporary database: where its file is, what is in it, and errors of its folder."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_batchexec.engine.execution.file_table import open_file_table
from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.execution.plan_table import open_plan_table
from airflow_batchexec.engine.execution.scratch_database import open_scratch_database
from airflow_batchexec.exceptions import AccessDeniedError, DiskFullError, ObjectNotFoundError, StorageError

SCHEMA = "CREATE TABLE line (number INTEGER PRIMARY KEY, text TEXT);"
MEBIBYTE = 1024**2


def insert(database, mebibytes):
    rows = (["x" * 10_000] for _ in range(mebibytes * 100))
    database.executemany("INSERT INTO line (text) VALUES (?)", rows)


def open_files(folder):
    """The deleted files of the folder that this process has open, with their sizes."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = entry.readlink()
        except FileNotFoundError:
            continue
        if target.is_relative_to(folder):
            found[target.name] = entry.stat().st_size
    return found


def test_the_file_is_in_the_folder_but_has_no_name(tmp_path):
    with open_scratch_database(SCHEMA, tmp_path) as database:
        insert(database, 1)
        assert list(tmp_path.iterdir()) == []
        ((name, size),) = open_files(tmp_path).items()
        assert name.endswith("(deleted)")
        assert size < MEBIBYTE
    assert open_files(tmp_path) == {}


def test_what_exceeds_the_cache_is_in_the_file(tmp_path):
    with open_scratch_database(SCHEMA, tmp_path) as database:
        insert(database, 48)
        (size,) = open_files(tmp_path).values()
        assert size > 8 * MEBIBYTE
        assert database.execute("SELECT count(*), sum(length(text)) FROM line").fetchone() == (
            4_800,
            48_000_000,
        )


def test_without_a_folder_the_systems_temporary_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_scratch_database(SCHEMA, None):
        assert len(open_files(tmp_path)) == 1


@contextmanager
def limited_file_size(limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_grow_is_an_error_that_names_the_folder(tmp_path):
    with (
        pytest.raises(StorageError, match=f"temporary database in {tmp_path}"),
        open_scratch_database(SCHEMA, tmp_path) as database,
        limited_file_size(MEBIBYTE),
    ):
        insert(database, 48)


@pytest.mark.parametrize(
    ("code", "expected"), [(sqlite3.SQLITE_FULL, DiskFullError), (sqlite3.SQLITE_IOERR, StorageError)]
)
def test_a_full_folder_is_distinguished_from_other_errors(tmp_path, code, expected):
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = code
    with pytest.raises(expected, match="temporary folder") as raised, open_scratch_database(SCHEMA, tmp_path):
        raise error
    assert type(raised.value) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, DiskFullError), (errno.EACCES, AccessDeniedError), (errno.ENOENT, ObjectNotFoundError)],
)
def test_a_folder_in_which_no_file_can_be_made_is_an_error(tmp_path, monkeypatch, code, expected):
    def fail(**_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.mkstemp", fail)
    with pytest.raises(expected, match=f"database in {tmp_path}"), open_scratch_database(SCHEMA, tmp_path):
        pass


# ---- the tables


def tasks():
    return [FileTask(f"{n % 7}/{n}.csv", n * 7919 % 1000, "e", f"{n % 7}/{n}.parquet") for n in range(100)]


def use_plan_table(table):
    table.add_tasks(tasks())
    assert table.totals()[0] == 100
    assert table.same_result() is table.result_in_result() is table.result_on_input("") is None
    assert len(list(table.files())) == 100
    assert list(table.result_folders()) == [str(number) for number in range(7)]
    table.place(number % 3 for number, _ in enumerate(table.sizes()))
    assert [len(list(shard)) for shard in table.shards()] == [34, 33, 33]


def use_file_table(table):
    table.add_tasks(tasks())
    assert table.result_range() == ("0/0.parquet", "6/97.parquet")
    assert table.add_stored([("0/0.parquet", 1)]) == 0
    assert len(list(table.rows())) == 100


@pytest.mark.parametrize(
    ("open_table", "use"), [(open_plan_table, use_plan_table), (open_file_table, use_file_table)]
)
def test_no_table_sorts_its_files_outside_the_database(tmp_path, open_table, use):
    """What SQLite sorts without an index is in its own temporary files; a query for one row keeps one."""
    statements = set()
    with open_table(tmp_path) as table:
        database = table._database
        database.set_trace_callback(statements.add)
        use(table)
        database.set_trace_callback(None)
        large = [text for text in statements if "SELECT" in text and "LIMIT 1" not in text]
        plans = [str(database.execute(f"EXPLAIN QUERY PLAN {text}").fetchall()) for text in large]
    assert len(plans) >= 4
    assert not any("TEMP B-TREE" in plan for plan in plans)
    assert not any("CREATE INDEX" in text for text in statements)
