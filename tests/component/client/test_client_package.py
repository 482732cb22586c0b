"""What importing the client costs, and what it offers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from airflow_batchexec import client
from airflow_batchexec.client import executions_config, results


def modules_after(code):
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_imports_nothing_that_it_stands_on():
    assert not {"requests", "rich", "pydantic", "airflow", "pandas"} & modules_after(
        "import airflow_batchexec.client"
    )


def test_using_the_client_of_a_server_imports_neither_airflow_nor_what_is_for_frames_and_buckets():
    use = (
        f"from airflow_batchexec.client import {', '.join(client.__all__)}\n"
        "config = ExecutionConfig.from_fields(model_id='m', bucket='b', source_folder='i', destination_folder='o')\n"
        "manager = BatchJobManagerClient('http://127.0.0.1:9', token='t', retries=0)\n"
        "inference = BatchInferenceClient('m', manager=manager)\n"
        "try:\n    manager.run_execution(config)\nexcept Exception as error:\n    assert 'cannot be reached' in str(error)\n"
        "else:\n    raise SystemExit('nobody should have answered')\n"
    )
    assert not {"airflow", "pandas", "pyarrow", "boto3", "botocore", "numpy"} & modules_after(use)


@pytest.mark.parametrize("name", client.__all__)
def test_every_public_name_is_there_and_listed(name):
    assert getattr(client, name).__name__ == name
    assert name in dir(client)


def test_a_name_that_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match=r"'airflow_batchexec\.client' has no attribute 'nothing'"):
        client.nothing  # noqa: B018  the access itself is what fails


def test_names_are_where_existing_code_imports_them_from():
    assert results.StartExecutionResult is client.StartExecutionResult
    assert executions_config.ExecutionConfig is client.ExecutionConfig
