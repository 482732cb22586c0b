"""tests/typing, which mypy checks as part of ``make lint``, covers all public names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import airflow_batchexec
import airflow_batchexec.client

CHECKED = Path(__file__).resolve().parents[1] / "typing" / "public_names.py"


@pytest.mark.parametrize("package", [airflow_batchexec, airflow_batchexec.client])
def test_every_public_name_is_type_checked(package):
    tree = ast.parse(CHECKED.read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == package.__name__
        for alias in node.names
    }
    assert imported == {*package.__all__} - {"__version__"}
