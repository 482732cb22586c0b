"""The file tasks that the pods of local mode take: each once, largest first, read as they are taken."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from airflow_batchexec.engine.config.locations import Location
from airflow_batchexec.engine.execution import stored_lines
from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.running.planned_tasks import PlannedTasks
from airflow_batchexec.engine.storage.local import LocalStorage

TASKS = [FileTask(f"ü{number}.csv", 1_000 - number, "e", f"{number}.csv") for number in range(500)]


class Counting(LocalStorage):
    """Counts the bytes that are read."""

    def __init__(self):
        self.read_bytes = 0

    def read(self, location, *, start=0, length=None):
        data = super().read(location, start=start, length=length)
        self.read_bytes += len(data)
        return data


@pytest.fixture
def storage(monkeypatch):
    monkeypatch.setattr(stored_lines, "_READ_BYTES", 1_000)
    return Counting()


@pytest.fixture
def planned(storage, tmp_path):
    document = Location.of_path(tmp_path / "plan.jsonl")
    storage.write(document, "".join(f"{task.to_json()}\n" for task in TASKS).encode())
    spec = SimpleNamespace(total_files=len(TASKS), folder=SimpleNamespace(plan=document))
    return PlannedTasks(storage=storage, spec=spec)


def test_tasks_are_taken_in_the_order_of_the_plan(planned):
    assert list(planned) == TASKS
    assert planned.left == 0
    assert list(planned) == []


def test_the_plan_is_read_as_its_tasks_are_taken(planned, storage):
    assert next(planned) == TASKS[0]
    assert planned.left == len(TASKS) - 1
    assert storage.read_bytes == 1_000


def test_threads_take_each_task_once(planned):
    with ThreadPoolExecutor(8) as threads:
        taken = [task for tasks in threads.map(lambda _: list(planned), range(8)) for task in tasks]
    assert Counter(taken) == Counter(TASKS)
