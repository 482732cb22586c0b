"""The README says what the code does."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from airflow_batchexec.cli import parameter_table
from airflow_batchexec.cli.parameter_table import BEGIN, COMMAND, END, with_parameter_table
from airflow_batchexec.config import flat_fields

README = Path(__file__).parents[2] / "README.md"


def test_the_parameter_table_is_that_of_the_configuration():
    text = README.read_text("utf-8")
    assert BEGIN in text, (
        f"README.md has no parameter table: write {BEGIN} and {END} into it, and run: {COMMAND}"
    )
    assert END in text.partition(BEGIN)[2], f"README.md has no {END} after {BEGIN}"
    assert text == with_parameter_table(text), f"README.md's parameter table is out of date. Run: {COMMAND}"


def test_the_table_has_a_row_of_four_cells_for_every_parameter():
    lines = parameter_table.parameter_table().splitlines()
    assert len(lines) == 2 + len(flat_fields())
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {6}
    for line, (name, field) in zip(lines[2:], flat_fields().items(), strict=True):
        assert f"`{name}`" in line
        assert field.schema["description"] in line


def test_a_flag_is_named_where_the_command_line_has_it():
    table = parameter_table.parameter_table()
    assert "`--file-timeout`, `file_timeout`" in table
    assert "`--param-list`, `parameters`" in table


def test_the_command_rewrites_the_table_and_nothing_else(tmp_path, monkeypatch):
    document = tmp_path / "README.md"
    document.write_text(f"# Ü before\n\n{BEGIN}\nold\n{END}\n\nafter\n", "utf-8")
    monkeypatch.setattr(sys, "argv", ["parameter_table", str(document)])
    monkeypatch.delitem(sys.modules, parameter_table.__name__)
    runpy.run_module(parameter_table.__name__, run_name="__main__")
    text = document.read_text("utf-8")
    assert text == f"# Ü before\n\n{BEGIN}\n{parameter_table.parameter_table()}{END}\n\nafter\n"
    assert with_parameter_table(text) == text


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}"])
def test_a_document_without_both_markers_is_refused(text):
    with pytest.raises(ValueError, match="parameters:begin"):
        with_parameter_table(text)
