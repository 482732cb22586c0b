"""The layer diagrams in docs/design.md match the linter's contracts."""

from __future__ import annotations

import tomllib

import pytest
from documents import ROOT, blocks

_CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}


@pytest.mark.parametrize("contract", [name for name, kind in _CONTRACTS.items() if kind["type"] == "layers"])
def test_the_layer_diagrams_match_the_linters_contracts(contract: str):
    diagrams = [
        block.text.splitlines() for block in blocks(ROOT / "docs" / "design.md") if not block.language
    ]
    assert _CONTRACTS[contract]["layers"] in diagrams


def test_no_import_is_exempted():
    for contract in _CONTRACTS.values():
        assert not {"ignore_imports", "exhaustive_ignores"} & contract.keys()


def test_every_folder_of_the_package_is_described():
    text = (ROOT / "docs" / "design.md").read_text()
    folders = [path.parent for path in (ROOT / "airflow_batchexec").rglob("__init__.py")]
    names = {folder.relative_to(ROOT / "airflow_batchexec").as_posix() for folder in folders} - {
        ".",
        "engine",
    }
    assert {name for name in names if f"`{name.removeprefix('engine/storage/')}/`" not in text} == set()
