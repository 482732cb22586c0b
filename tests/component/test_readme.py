"""The documentation matches the code: everything it shows is run or parsed, and its links resolve."""

from __future__ import annotations

import configparser
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from documents import DOCUMENTS, README, ROOT, Block, anchors, blocks, links, needs_server, set_up

from airflow_batchexec import __version__
from airflow_batchexec.cli import parameter_table
from airflow_batchexec.cli.parameter_table import BEGIN, COMMAND, END, with_parameter_table
from airflow_batchexec.client import ClientSettings
from airflow_batchexec.engine.config.instances import InstanceTable
from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.engine.repository.builds import read_build
from airflow_batchexec.get_provider_info import get_provider_info
from airflow_batchexec.placement.rules import PlacementRules

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = ROOT / "docs" / "models.md"
EXECUTIONS = ROOT / "docs" / "executions.md"
MANIFEST = ROOT / "docs" / "manifest.md"
OPTIONS = get_provider_info()["config"]["batchexec"]["options"]

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


@every_document
def test_every_block_is_in_a_language_that_tests_cover(document):
    assert {block.language for block in blocks(document)} <= {
        *("python", "sh", "text", "toml", "csv", "ini"),
        "json",  # policies and manifests, covered by the tests of the credentials and of the manifest
        "yaml",  # parameter files, which the command line's tests send to a real server
        *("mermaid", ""),  # diagrams
    }


@pytest.mark.parametrize("document", [README, MODELS, EXECUTIONS, MANIFEST], ids=lambda path: path.name)
def test_the_commands_of_a_document_work_with_the_files_it_shows(document, tmp_path):
    set_up_later = [set_up().install, *set_up().use]  # run by the next test, and in a real Airflow
    shown = [block for block in blocks(document) if block not in set_up_later]
    scripts = [
        block.text
        for block in shown
        if block.language == "sh" and not (_cannot_run_here(block) or needs_server(block))
    ]
    assert scripts
    for folder in ("dags", "models"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for block in blocks(document):
        if block.file:
            (tmp_path / block.file).parent.mkdir(exist_ok=True)
            (tmp_path / block.file).write_text(block.text)
    done = subprocess.run(
        ["bash", "-eux", "-c", "\n".join(scripts)],
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for block in shown:
        if block.language == "text":
            assert block.text in done.stdout


def test_the_readme_installs_the_package_with_its_commands(tmp_path):
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        # Into a separate folder and without a network: everything that it needs is installed here.
        "PIP_TARGET": str(tmp_path / "installed"),
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # off
    }
    subprocess.run(["bash", "-eux", "-c", set_up().install.text], cwd=ROOT, env=environment, check=True)
    (dist,) = distributions(path=[environment["PIP_TARGET"]])
    assert dist.version == __version__
    assert {point.group for point in dist.entry_points} >= {"apache_airflow_provider", "airflow.plugins"}
    shown = subprocess.run(
        [tmp_path / "installed" / "bin" / "batchexec", "models", "--help"],
        env={**environment, "PYTHONPATH": environment["PIP_TARGET"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "deploy" in shown.stdout


@every_document
def test_airflow_parses_every_dag_and_it_contains_one_of_our_operators(document, tmp_path):
    for number, block in enumerate(_dag_blocks(document)):
        path = tmp_path / f"dag_{number}.py"
        path.write_text(block.text)
        for dag in _parse(path).values():
            assert {task.task_type for task in dag.tasks} & {
                *("BatchExecutionOperator", "PlanExecutionOperator", "PredictFileOperator")
            }


def test_the_readmes_dag_has_at_most_ten_lines():
    (block,) = _dag_blocks(README)
    assert len([line for line in block.text.splitlines() if line]) <= 10


@every_document
def test_every_airflow_and_make_command_exists(document):
    from airflow.cli.cli_parser import get_parser  # noqa: PLC0415  takes seconds to import

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *words in _commands_not_run_here(document):
        if program == "make":
            assert set(words) <= targets
        else:
            arguments = get_parser().parse_args(words)
            json.loads(getattr(arguments, "conn_extra", None) or "{}")


@every_document
def test_every_exported_airflow_setting_exists(document):
    from airflow.configuration import conf  # noqa: PLC0415  takes seconds

    for block in _shell_blocks(document):
        for section, option in re.findall(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+)=", block.text):
            known = (
                OPTIONS
                if section == "BATCHEXEC"
                else conf.configuration_description[section.lower()]["options"]
            )
            assert option.lower() in known


@every_document
def test_every_conf_is_accepted_by_its_dag(document, tmp_path):
    dags = _parse(ROOT / "dags")
    for number, block in enumerate(_dag_blocks(document)):
        (tmp_path / f"{number}.py").write_text(block.text)
        dags |= _parse(tmp_path / f"{number}.py")
    for words in _commands_not_run_here(document):
        if words[:3] == ["airflow", "dags", "trigger"]:
            params = dags[words[3]].params
            params.update(json.loads(words[words.index("--conf") + 1].replace("$PWD", str(tmp_path))))
            ExecutionConfig.from_fields(**params.validate())


@every_document
def test_every_model_toml_and_configuration_file_is_accepted(document, tmp_path):
    for block in blocks(document):
        if block.file == "config.toml":
            (tmp_path / "config.toml").write_text(block.text)
            for profile in re.findall(r"^\[(\w+)\]$", block.text, re.MULTILINE):
                assert ClientSettings.find(config_file=tmp_path / "config.toml", profile=profile)
        elif block.language == "toml":
            read_build(
                model_id="m",
                build_id="b",
                location=Location.of_path(tmp_path),
                model_toml=block.text.encode(),
                mlflow=False,
                source="model.toml",
            )
        if block.language == "ini":
            parser = configparser.ConfigParser(interpolation=None)
            parser.read_string(block.text)
            assert set(parser["batchexec"]) <= set(OPTIONS)
            instances = InstanceTable.parse(parser["batchexec"].get("instances", ""))
            AllowedLocations.parse(parser["batchexec"].get("allowed_locations", ""))
            PlacementRules.parse(parser["batchexec"].get("placement", ""), instances=instances)


@every_document
def test_every_python_block_is_a_dag_a_client_or_a_file_for_the_commands(document):
    others = [block for block in blocks(document) if block.language == "python" and not block.file]
    # The integration tests run those of the client against a real Airflow.
    assert [block for block in others if not needs_server(block)] == _dag_blocks(document)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_documented_with_its_default(option):
    row = re.search(rf"^\| `{option}` \| (.+?) \|", EXECUTIONS.read_text("utf-8"), re.MULTILINE)
    assert row
    assert OPTIONS[option]["default"] in row[1]


@every_document
def test_every_link_within_the_project_resolves(document):
    for link in links(document):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_changelog_has_an_entry_for_the_version():
    assert re.search(rf"^## \[{re.escape(__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_parameter_table_matches_the_configuration():
    text = README.read_text("utf-8")
    assert BEGIN in text, f"README.md has no parameter table: add {BEGIN} and {END} to it, and run: {COMMAND}"
    assert END in text.partition(BEGIN)[2], f"README.md has no {END} after {BEGIN}"
    assert text == with_parameter_table(text), f"README.md's parameter table is out of date. Run: {COMMAND}"


def test_the_table_has_a_row_with_four_cells_for_every_parameter():
    lines = parameter_table.parameter_table().splitlines()
    assert len(lines) == 2 + len(flat_fields())
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {6}
    for line, (name, field) in zip(lines[2:], flat_fields().items(), strict=True):
        assert f"`{name}`" in line
        assert field.schema["description"] in line


def test_the_table_names_the_command_line_flags():
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


def _dag_blocks(document: Path) -> list[Block]:
    found = [b for b in blocks(document) if b.language == "python" and not b.file and "import" in b.text]
    return [block for block in found if not needs_server(block)]


def _parse(path: Path) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag  # noqa: PLC0415  takes seconds to import

    bag = DagBag(dag_folder=str(path))
    assert bag.import_errors == {}
    assert bag.dags
    return dict(bag.dags)


def _shell_blocks(document: Path) -> list[Block]:
    return [block for block in blocks(document) if block.language == "sh"]


def _cannot_run_here(block: Block) -> bool:
    """Whether a block has commands of make, or of an Airflow that does not exist here: they are parsed, not run."""
    return all(words[0] in {"make", "airflow"} for words in _commands(block.text))


def _commands(script: str) -> Iterator[list[str]]:
    """The commands of a script; one may span lines, with a backslash or within quotes."""
    command = ""
    for line in script.replace("\\\n", " ").splitlines(keepends=True):
        command += line
        if command.count("'") % 2 == 0 and command.strip():
            yield shlex.split(command)
            command = ""


def _commands_not_run_here(document: Path) -> list[list[str]]:
    return [
        words
        for block in _shell_blocks(document)
        if _cannot_run_here(block)
        for words in _commands(block.text)
    ]
