"""The documents say what the code does: whatever they show is run, and whatever they point at is there."""

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
def test_every_kind_of_block_is_one_that_is_tested_here(document):
    assert {block.language for block in blocks(document)} <= {
        *("python", "sh", "text", "toml", "csv", "ini"),
        "json",  # policies and manifests, which tests of the credentials and of the manifest read
        "yaml",  # files of parameters, which a real server is sent in tests of the command line
        *("mermaid", ""),  # pictures
    }


@pytest.mark.parametrize("document", [README, MODELS, EXECUTIONS, MANIFEST], ids=lambda path: path.name)
def test_the_commands_work_on_the_files_that_the_document_shows(document, tmp_path):
    set_up_later = [set_up().install, *set_up().use]  # run by the next test, and in a real Airflow
    shown = [block for block in blocks(document) if block not in set_up_later]
    scripts = [
        block.text
        for block in shown
        if block.language == "sh" and not (_needs_more(block) or needs_server(block))
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
        # Beside this environment rather than into it, and without a network: all that it needs is here.
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
def test_every_dag_is_parsed_by_airflow_and_has_a_task_of_ours(document, tmp_path):
    for number, block in enumerate(_dag_blocks(document)):
        path = tmp_path / f"dag_{number}.py"
        path.write_text(block.text)
        for dag in _parse(path).values():
            assert {task.task_type for task in dag.tasks} & {
                *("BatchExecutionOperator", "PlanExecutionOperator", "PredictFileOperator")
            }


def test_the_dag_of_the_readme_has_ten_lines():
    (block,) = _dag_blocks(README)
    assert len([line for line in block.text.splitlines() if line]) <= 10


@every_document
def test_every_command_of_airflow_and_make_is_one(document):
    from airflow.cli.cli_parser import get_parser  # noqa: PLC0415  takes seconds

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *words in _commands_that_need_more(document):
        if program == "make":
            assert set(words) <= targets
        else:
            arguments = get_parser().parse_args(words)
            json.loads(getattr(arguments, "conn_extra", None) or "{}")


@every_document
def test_every_setting_of_airflow_that_is_exported_is_one(document):
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
def test_every_conf_is_accepted_by_the_dag_that_it_is_for(document, tmp_path):
    dags = _parse(ROOT / "dags")
    for number, block in enumerate(_dag_blocks(document)):
        (tmp_path / f"{number}.py").write_text(block.text)
        dags |= _parse(tmp_path / f"{number}.py")
    for words in _commands_that_need_more(document):
        if words[:3] == ["airflow", "dags", "trigger"]:
            params = dags[words[3]].params
            params.update(json.loads(words[words.index("--conf") + 1].replace("$PWD", str(tmp_path))))
            ExecutionConfig.from_fields(**params.validate())


@every_document
def test_every_model_toml_and_configuration_is_accepted(document, tmp_path):
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
def test_every_python_block_is_a_dag_a_client_or_a_file_that_the_commands_use(document):
    others = [block for block in blocks(document) if block.language == "python" and not block.file]
    # Those of the client are run against a real Airflow, in the integration tests.
    assert [block for block in others if not needs_server(block)] == _dag_blocks(document)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_described_with_its_default(option):
    row = re.search(rf"^\| `{option}` \| (.+?) \|", EXECUTIONS.read_text("utf-8"), re.MULTILINE)
    assert row
    assert OPTIONS[option]["default"] in row[1]


@every_document
def test_every_link_into_the_project_leads_somewhere(document):
    for link in links(document):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_changelog_has_the_version():
    assert re.search(rf"^## \[{re.escape(__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


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


def _dag_blocks(document: Path) -> list[Block]:
    found = [b for b in blocks(document) if b.language == "python" and not b.file and "import" in b.text]
    return [block for block in found if not needs_server(block)]


def _parse(path: Path) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag  # noqa: PLC0415  takes seconds

    bag = DagBag(dag_folder=str(path))
    assert bag.import_errors == {}
    assert bag.dags
    return dict(bag.dags)


def _shell_blocks(document: Path) -> list[Block]:
    return [block for block in blocks(document) if block.language == "sh"]


def _needs_more(block: Block) -> bool:
    """Whether its commands are of make, or of an Airflow that is not here: they are looked at, and not run."""
    return all(words[0] in {"make", "airflow"} for words in _commands(block.text))


def _commands(script: str) -> Iterator[list[str]]:
    """The commands of a script; one may run over lines, by a backslash or within quotes."""
    command = ""
    for line in script.replace("\\\n", " ").splitlines(keepends=True):
        command += line
        if command.count("'") % 2 == 0 and command.strip():
            yield shlex.split(command)
            command = ""


def _commands_that_need_more(document: Path) -> list[list[str]]:
    return [
        words for block in _shell_blocks(document) if _needs_more(block) for words in _commands(block.text)
    ]
