"""The table of planned files: the folders of the results. The rest is tested as part of planning."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.execution.plan import FileTask
from airflow_batchexec.engine.execution.plan_table import open_plan_table

names = st.sampled_from(["a", "a-", "a0", "b", "ü", "\uffee", "\U0001f4c8", "a b"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


@given(st.lists(paths, max_size=12))
def test_each_folder_of_a_result_is_listed_once_in_order(results):
    with open_plan_table(None) as table:
        table.add_tasks(FileTask(f"{number}.csv", 1, "e", path) for number, path in enumerate(results))
        assert list(table.result_folders()) == sorted({path.rpartition("/")[0] for path in results})
