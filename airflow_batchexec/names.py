"""Names shared by several modules: tasks, XComs, conf, rows of the task state store, run states.

Runs started by earlier releases use them too, so their values must not change.
"""

from __future__ import annotations

__all__ = [
    "CANCELLED_ROW",
    "CLIENT_KEY",
    "ENDED_ROW",
    "ENDED_RUN_STATES",
    "EXECUTION_DAG_ID",
    "EXECUTION_KEY",
    "FILES_ROWS",
    "FINISH_TASK_ID",
    "IDEMPOTENCY_KEY",
    "JOURNAL_ROWS",
    "PLANNED_ROW",
    "PLAN_TASK_ID",
    "PREDICT_TASK_ID",
    "PROGRESS_ROW",
    "REFUSED_KEY",
    "RELEASE_TASK_ID",
    "RUN_KEY",
    "STARTED_ROW",
    "SUMMARY_KEY",
    "WARNINGS",
]

# ---- DAG runs

EXECUTION_DAG_ID = "batch_execution"
"""The default execution DAG."""
ENDED_RUN_STATES = ("success", "failed")
"""Airflow's terminal states of a DAG run."""
CLIENT_KEY = "client"
"""The key in a run's conf that the REST API stores start request metadata under; no parameter has this name."""
WARNINGS = "warnings"
"""In the conf's ``client``: the warnings for the report."""
IDEMPOTENCY_KEY = "idempotency_key"
"""In the conf's ``client``: the digest of user and idempotency key."""

# ---- the tasks of an execution

PLAN_TASK_ID = "plan"
PREDICT_TASK_ID = "predict"
FINISH_TASK_ID = "finish"
RELEASE_TASK_ID = "release"

# ---- XComs

EXECUTION_KEY = "execution"
"""Pushed by ``plan``: the handle of the planned execution."""
REFUSED_KEY = "refused"
"""Pushed by ``plan``: why the execution was refused (``error``, ``reason``)."""
SUMMARY_KEY = "summary"
"""Pushed by ``finish``: how the execution ended, whether or not it succeeded."""
RUN_KEY = "execution_run"
"""Pushed by operators and sensors: the execution that they start or wait for (``dag_id``, ``run_id``)."""

# ---- rows of the task state store; ``operators/task_journal.py`` describes them

STARTED_ROW = "batch_execution"
"""Written by a task that starts an execution: which one it started."""
PLANNED_ROW = "planned"
PROGRESS_ROW = "progress"
ENDED_ROW = "ended"
CANCELLED_ROW = "cancelled"
JOURNAL_ROWS = "journal-"
"""The prefix of the rows with journal entries."""
FILES_ROWS = "files-"
"""The prefix of the rows that say which shard each file is in."""
