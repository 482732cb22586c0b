"""What importing the client loads, and the names it exports."""

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


def test_importing_the_package_loads_no_dependencies():
    assert not {"requests", "rich", "pydantic", "airflow", "pandas"} & modules_after(
        "import airflow_batchexec.client"
    )


def test_using_a_server_client_loads_neither_airflow_nor_frame_or_storage_libraries():
    use = (
        f"from airflow_batchexec.client import {', '.join(client.__all__)}\n"
        "config = ExecutionConfig.from_fields(model_id='m', bucket='b', source_folder='i', destination_folder='o')\n"
        "manager = BatchJobManagerClient('http://127.0.0.1:9', token='t', retries=0)\n"
        "inference = BatchInferenceClient('m', manager=manager)\n"
        "try:\n    manager.run_execution(config)\nexcept Exception as error:\n    assert 'cannot be reached' in str(error)\n"
        "else:\n    raise SystemExit('the call should have failed')\n"
    )
    assert not {"airflow", "pandas", "pyarrow", "boto3", "botocore", "numpy"} & modules_after(use)


@pytest.mark.parametrize("name", client.__all__)
def test_every_public_name_exists_and_is_listed(name):
    assert getattr(client, name).__name__ == name
    assert name in dir(client)


def test_unknown_names_raise_attribute_error():
    with pytest.raises(AttributeError, match=r"'airflow_batchexec\.client' has no attribute 'nothing'"):
        client.nothing  # noqa: B018  the access itself is what fails


def test_names_can_be_imported_from_where_existing_code_does():
    assert results.StartExecutionResult is client.StartExecutionResult
    assert executions_config.ExecutionConfig is client.ExecutionConfig
