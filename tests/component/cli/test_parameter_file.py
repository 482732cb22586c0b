"""The YAML file of --from-file and --out-conf."""

from __future__ import annotations

import pytest
import yaml
from execution_fields import valid_fields
from hypothesis import HealthCheck, given, settings

from airflow_batchexec.cli.parameter_file import read_parameter_file, render_parameter_file
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.exceptions import ConfigurationError

BUCKETS = ("--model-id", "churn", "--bucket", "data", "--source-folder", "in", "--destination-folder", "out")


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path."""

    def write(text):
        path = tmp_path / "job.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=valid_fields)
def test_a_rendered_file_round_trips(file, fields):
    config = ExecutionConfig.from_fields(**fields)
    text = render_parameter_file(config)
    assert ExecutionConfig.from_fields(**read_parameter_file(file(text)).fields) == config
    # Plain YAML sections also work with the Python client.
    sections = yaml.safe_load(text)
    assert ExecutionConfig(**sections) == config


def test_out_conf_prints_the_file_without_starting_anything(execution, server):
    printed = execution(
        *("start", *BUCKETS, "--out-conf", "--pods", "4", "-P", "RATE=0.20", "-P", "FLAG=yes"),
        *("--purchase-option", "SPOT", "--instance", "large", "--input-file-type", "parquet"),
    )
    assert yaml.safe_load(printed.stdout) == {
        "execution": {
            "model_id": "churn",
            "bucket": "data",
            "source_folder": "in",
            "destination_folder": "out",
            "input_file_type": "PARQUET",
            "output_file_type": "CSV",
            "parameters": {"RATE": "0.20", "FLAG": "yes"},
        },
        "resources": {"pods": 4, "instance_size": "large"},
        "advanced_options": {"purchase_option": "spot"},
    }
    assert server.received == []


def test_out_conf_output_can_be_piped_into_from_file(execution, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags in (BUCKETS, ("--model-id=m", "--source-folder=file://a", "--destination-folder=file:///b")):
        printed = execution("start", *flags, "--input-file-type", "csv", "--out-conf").stdout
        assert execution("start", "--from-file", "-", "--out-conf", input=printed).stdout == printed
    assert f"file://{tmp_path}/a" in printed


def test_flags_override_the_file(execution, file):
    path = file(
        "execution: {model_id: churn, bucket: data, source_folder: in, destination_folder: out,\n"
        "            parameters: {A: 1, B: 2}}\n"
        "resources: {pods: 4, instance: small, cpus: 0.5}\n"
        "advanced_options: {iam_role_arn: 'arn:aws:iam::123456789012:role/a'}\n"
    )
    printed = execution(
        *("start", "-f", path, "--out-conf", "--source-folder", "other", "--pods", "0", "-P", "B=x=y"),
        *("--custom-iam-role-arn", "arn:aws:iam::123456789012:role/b"),
    )
    sections = yaml.safe_load(printed.stdout)
    assert sections["execution"]["source_folder"] == "other"
    assert sections["execution"]["parameters"] == {"A": "1", "B": "x=y"}
    assert sections["resources"] == {"instance_size": "small", "cpus": 0.5}
    assert sections["advanced_options"] == {"custom_iam_role_arn": "arn:aws:iam::123456789012:role/b"}


def test_strings_are_kept_as_written(file):
    text = "execution: {build_id: 1.10, model_id: 0123, parameters: {A: yes, B: 1.10, C: 2013-01-01, D: , E: '~'}}"
    assert read_parameter_file(file(text)).fields == {
        "build_id": "1.10",
        "model_id": "0123",
        "parameters": {"A": "yes", "B": "1.10", "C": "2013-01-01", "D": "", "E": "~"},
    }


def test_parameters_may_be_lines(execution, file):
    path = file("execution:\n  parameters: |\n    A=1\n    B=2\n")
    printed = execution("start", "-f", path, *BUCKETS, "--out-conf", "-P", "B=3")
    assert yaml.safe_load(printed.stdout)["execution"]["parameters"] == {"A": "1", "B": "3"}


def test_advanced_google_key_overrides_the_executions_and_a_flag_overrides_both(execution, file):
    path = file(
        "advanced_options: {service_account_key_secret_name: b}\n"
        "execution: {service_account_key_secret_name: a}\n"
    )
    assert read_parameter_file(path).fields == {"service_account_key_secret_name": "b"}
    flags = ("--service-account-key-secret-name", "c")
    printed = execution("start", "-f", path, *BUCKETS, *flags, "--out-conf").stdout
    assert yaml.safe_load(printed)["execution"]["service_account_key_secret_name"] == "c"


@pytest.mark.parametrize("text", ["", "# nothing", "execution:\n", "~", "resources: {pods: }"])
def test_a_file_may_be_empty(file, text):
    assert read_parameter_file(file(text)).fields == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("executoin: {}", "job.yaml, line 1: unknown section 'executoin'"),
        ("execution:\n  model: m", "job.yaml, line 2: unknown parameter 'model' in execution"),
        ("execution:\n  pods: 1", "job.yaml, line 2: unknown parameter 'pods' in execution"),
        ("resources:\n  pods: 1\n  pods: 2", "job.yaml, line 3: 'pods' is set twice in resources"),
        ("resources: {instance: a,\n instance_size: b}", "line 2: 'instance_size' is set twice, first in "),
        ("execution: {parameters: {A: 1,\n A: 2}}", "line 2: 'A' is set twice in parameters"),
        ("execution:\n  model_id: [m]", "line 2: model_id must be a single value"),
        ("execution:\n  parameters: [A=1]", "line 2: parameters must be a single value"),
        ("execution: {parameters: {A: [1]}}", "line 1: A must be a single value"),
        ("execution: m", "line 1: execution must be a mapping"),
        ("- execution", "line 1: the file must be a mapping"),
        ("[a]: 1", "line 1: names in the file must be strings"),
        ("execution: {", "job.yaml, line 1: not valid YAML"),
        ("a: 1\n---\nb: 1", "not valid YAML"),
        (b"\xff\xfe\xff", "job.yaml: not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("resources: {pods: !!python/name:os.system }", "line 1: pods: '' is not a valid value"),
        ("resources: {pods: 2020-99-99}", "line 1: pods: '2020-99-99' is not a valid value"),
    ],
)
def test_errors_name_file_and_line(file, text, message):
    path = file(text)
    with pytest.raises(ConfigurationError) as refused:
        read_parameter_file(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(path)


def test_invalid_values_are_reported_with_their_line_unless_overridden_by_a_flag(execution, file):
    path = file("resources:\n  instance: small\n  pods: many\n")
    refused = execution("start", "-f", path, *BUCKETS, code=2)
    assert refused.stderr.startswith(f"error: {path}, line 3: pods: ")
    assert refused.stderr.count("\n") == 1
    execution("start", "-f", path, *BUCKETS, "--pods", "2", "--out-conf")
    refused = execution("start", "-f", path, *BUCKETS, "--pods", "-2", code=2)
    assert refused.stderr.startswith("error: pods: ")


def test_missing_file_error_names_the_file(execution):
    refused = execution("start", "-f", "nowhere.yaml", code=2)
    assert refused.stderr == "error: nowhere.yaml: cannot be read: No such file or directory.\n"
