"""What tasks import is imported in the scheduler before it forks them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import airflow_batchexec
from airflow_batchexec import preload
from airflow_batchexec.plugin import BatchExecPlugin

PACKAGE = Path(airflow_batchexec.__file__).parent
# What tasks run of the package, and what only some of them need: buckets, other runs, and lineage.
FOLDERS = ("operators", "runs", "hooks")
OTHERS = (
    "airflow_batchexec.engine.storage.s3",
    "airflow_batchexec.engine.storage.gcs",
    "airflow_batchexec.triggers",
)


def test_nothing_that_a_task_imports_later_is_left_out():
    code = """
import json, sys
from airflow_batchexec.plugin import BatchExecPlugin
for listener in BatchExecPlugin.listeners:
    getattr(listener, "on_starting", print)(None)
print(json.dumps([name for name in sys.modules if name.startswith("airflow_batchexec")]))
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    imported = set(json.loads(output.splitlines()[-1]))

    modules = [PACKAGE / "settings.py", *(path for name in FOLDERS for path in (PACKAGE / name).glob("*.py"))]
    later = {name for path in modules for name in imports_in_functions(path)}
    assert len(later) > 20
    assert {name for name in later if not name.startswith(OTHERS)} <= imported


def test_buckets_are_not_imported_by_every_process_of_airflow():
    assert preload in BatchExecPlugin.listeners
    assert not any(name.startswith(OTHERS) for name in preload.MODULES)


def imports_in_functions(path: Path) -> set[str]:
    """The modules of this package that a module's functions import."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return {
        node.module
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_batchexec")
    }
