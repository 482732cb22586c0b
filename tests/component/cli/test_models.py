from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from airflow_batchexec import __version__
from airflow_batchexec.cli import app

HEAVY = ("pandas", "pyarrow", "boto3", "airflow", "mlflow", "rich")


@pytest.fixture
def repository(tmp_path):
    return f"file://{tmp_path}/repository"


@pytest.fixture
def environment(tmp_path, repository):
    """An environment without the machine's configuration, and with a repository."""
    return {
        "HOME": str(tmp_path),
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW_CONFIG": None,
        "AIRFLOW__BATCHEXEC__MODEL_REPOSITORY": None,
        "AIRFLOW__BATCHEXEC__INSTANCES": None,
        "BATCHEXEC_MODEL_REPOSITORY": repository,
        "COLUMNS": "200",
    }


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "churn"
    folder.mkdir()
    (folder / "model.toml").write_text('entrypoint = "model:predict"\n')
    (folder / "model.py").write_text("def predict(df):\n    return df\n")
    return folder


@pytest.fixture
def batchexec(environment):
    def run(*arguments, code=0, **variables):
        result = CliRunner().invoke(app, ["models", *map(str, arguments)], env={**environment, **variables})
        assert result.exit_code == code, result.output
        return result

    return run


def test_builds_can_be_published_deployed_and_listed(batchexec, folder, repository):
    built = batchexec("build", folder, "--model-id", "churn", "--build-id", "v1")
    assert f"Published build v1 of model churn at {repository}/churn/v1" in built.stdout
    assert "batchexec models deploy --model-id churn --build-id v1" in built.stdout
    deployed = batchexec(
        *("deploy", "--model-id", "churn", "--build-id", "v1", "--pods", 2),
        *("--instance", "LARGE", "--purchase-option", "ondemand"),
    )
    assert "(pods 2, instance large, purchase_option on-demand)" in deployed.stdout
    listed = batchexec("list").stdout.splitlines()
    assert [line.split() for line in listed[1:]] == [["churn", "v1", "2", "large", "on-demand", "v1"]]


def test_json_output_is_a_single_object(batchexec, folder, repository):
    built = json.loads(batchexec("build", folder, "--model-id", "churn", "--output", "json").stdout)
    assert built["location"] == f"{repository}/churn/{built['build_id']}"
    live = {"build_id": built["build_id"], "pods": None, "instance": None, "purchase_option": None}
    deployed = batchexec("deploy", "--model-id=churn", f"--build-id={built['build_id']}", "--output=json")
    assert json.loads(deployed.stdout) == {"model_id": "churn", **live}
    listed = json.loads(batchexec("list", "--output", "json").stdout)
    assert listed == {
        "model_repository": repository,
        "models": [{"model_id": "churn", "builds": [built["build_id"]], "live": live}],
    }


def test_list_can_be_limited_to_one_model(batchexec, folder):
    for model_id in ("churn", "weather"):
        batchexec("build", folder, "--model-id", model_id, "--build-id", "v1")
    assert "churn" not in batchexec("list", "--model-id", "weather").stdout
    refused = batchexec("list", "--model-id", "wether", code=2)
    assert "Did you mean 'weather'" in refused.stderr


def test_ids_are_not_truncated_in_a_narrow_table(batchexec, folder):
    build_id = "b" * 100
    batchexec("build", folder, "--model-id", "churn", "--build-id", build_id)
    shown = batchexec("list", COLUMNS="60").stdout
    assert shown.count("b") >= 100 + "live build builds".count("b")


def test_list_reports_an_empty_repository(batchexec, repository):
    assert batchexec("list").stdout == f"There are no models in {repository}.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "nowhere", "--model-id", "m"], "nowhere is not a directory"),
        (["build", ".", "--model-id", "../up"], "model_id: '../up' is not a valid ID"),
        (["deploy", "--model-id", "m", "--build-id", "v1"], "model 'm' not found"),
        (["deploy", "--model-id", "m", "--build-id", "v1", "--instance", "smal"], "Did you mean 'small'?"),
        (
            ["deploy", "--model-id", "m", "--build-id", "v1", "--pods", "0"],
            "pods: 0 is not a positive integer",
        ),
        (
            ["deploy", "--model-id", "m", "--build-id", "v1", "--purchase-option", "free"],
            "purchase_option: 'free'",
        ),
        (
            ["list", "--model-repository", "http://example.org"],
            "model_repository: 'http://example.org' is no",
        ),
    ],
)
def test_refusals_are_one_line_on_stderr_with_exit_code_2(batchexec, arguments, message):
    result = batchexec(*arguments, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_reusing_a_build_id_is_refused(batchexec, folder):
    batchexec("build", folder, "--model-id", "m", "--build-id", "v1")
    assert (
        "Builds are immutable"
        in batchexec("build", folder, "--model-id", "m", "--build-id", "v1", code=2).stderr
    )


def test_wrong_usage_exits_with_2(batchexec):
    assert "--model-id" in batchexec("build", ".", code=2).stderr


def test_missing_repository_error_lists_all_three_ways_to_set_it(batchexec):
    refused = batchexec("list", code=2, BATCHEXEC_MODEL_REPOSITORY=None).stderr
    for way in ("--model-repository", "BATCHEXEC_MODEL_REPOSITORY", "[batchexec]"):
        assert way in refused


def test_repository_option_overrides_environment_which_overrides_airflow_configuration(batchexec, tmp_path):
    airflow = tmp_path / "airflow"
    airflow.mkdir()
    (airflow / "airflow.cfg").write_text(
        f"[core]\nx = 50%\n[batchexec]\nmodel_repository = file://{tmp_path}/cfg\n"
    )

    def used(*arguments, **variables):
        listed = batchexec("list", "--output", "json", *arguments, **variables).stdout
        return json.loads(listed)["model_repository"].rpartition("/")[2]

    variables = {"BATCHEXEC_MODEL_REPOSITORY": None}
    assert used(**variables) == "cfg"
    variables["AIRFLOW__BATCHEXEC__MODEL_REPOSITORY"] = f"file://{tmp_path}/airflow-variable"
    assert used(**variables) == "airflow-variable"
    variables["BATCHEXEC_MODEL_REPOSITORY"] = f"file://{tmp_path}/variable"
    assert used(**variables) == "variable"
    assert used("--model-repository", tmp_path / "option", **variables) == "option"


def test_broken_airflow_configuration_error_names_the_file(batchexec, tmp_path):
    (tmp_path / "mine.cfg").write_text("no section")
    refused = batchexec(
        "list", code=2, BATCHEXEC_MODEL_REPOSITORY=None, AIRFLOW_CONFIG=str(tmp_path / "mine.cfg")
    )
    assert "mine.cfg: Airflow's configuration cannot be read" in refused.stderr


def test_instances_from_airflow_configuration_can_be_deployed(batchexec, folder):
    batchexec("build", folder, "--model-id", "m", "--build-id", "v1")
    deploy = ("deploy", "--model-id", "m", "--build-id", "v1", "--instance", "Mine")
    mine = '{"mine": {"cpus": 1, "memory_gib": 3}}'
    assert "instance mine" in batchexec(*deploy, AIRFLOW__BATCHEXEC__INSTANCES=mine).stdout
    assert "unknown instance 'Mine'" in batchexec(*deploy, code=2).stderr


def run_program(environment, *arguments):
    variables = {key: value for key, value in {**os.environ, **environment}.items() if value is not None}
    command = [
        sys.executable,
        "-c",
        "import sys; from airflow_batchexec.cli import main; sys.exit(main())",
        *arguments,
    ]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=600)


def test_installed_program_works(environment, folder):
    assert run_program(environment, "--version").stdout == f"batchexec {__version__}\n"
    built = run_program(environment, "models", "build", str(folder), "--model-id", "m", "--build-id", "v1")
    assert (built.returncode, built.stderr) == (0, "")
    refused = run_program(environment, "models", "list", "--model-id", "n")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: model_id: model 'n' not found")
    assert "Traceback" not in refused.stderr


def test_importing_the_command_line_does_not_import_heavy_libraries():
    code = f"import sys, airflow_batchexec.cli; print([name for name in {HEAVY} if name in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    assert ended.stdout == "[]\n"
