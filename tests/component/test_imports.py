"""Importing the package, parsing a DAG and starting the command line import only what they need."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import airflow_batchexec

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = _ROOT / "airflow_batchexec"
_HEAVY = {"boto3", "botocore", "pandas", "pyarrow"}
_PUBLIC_AIRFLOW = "airflow.sdk"
# Imports allowed beyond the task SDK.
_ALLOWED_BEYOND = {
    # The documented location of the plugin's base class.
    "plugin.py": {"airflow.plugins_manager"},
    # Airflow calls it in the scheduler.
    "preload.py": {"airflow.listeners"},
    # The documented way to extend Airflow's command line.
    "airflow_commands.py": {"airflow.cli.cli_config", "airflow.cli.utils"},
    # The only place that uses the Amazon provider's sessions.
    "hooks/aws_connection.py": {"airflow.providers.amazon.aws.hooks.base_aws"},
    # Runs in the scheduler; documents which Airflow version it is based on.
    "reporting/run_notes.py": {
        "airflow.listeners",
        "airflow.models.dagrun",
        "airflow.models.taskinstance",
        "airflow.models.xcom",
    },
    # The task SDK does not have triggers yet.
    "triggers/batch_execution.py": {"airflow.triggers.base"},
    # The types that the OpenLineage provider expects from an operator.
    "reporting/lineage.py": {"airflow.providers.openlineage.extractors"},
    # Builds the executor's pod override with that provider's functions.
    "placement/kubernetes.py": {"airflow.providers.cncf.kubernetes.pod_generator"},
    # The REST API runs in the API server and uses its users, database and services.
    "api/auth.py": {
        "airflow.api_fastapi.app",
        "airflow.api_fastapi.auth.managers.models.base_user",
        "airflow.api_fastapi.auth.managers.models.resource_details",
        "airflow.api_fastapi.core_api.security",
        "airflow.models.dag",
    },
    "api/cancel.py": {
        "airflow.api_fastapi.auth.managers.models.base_user",
        "airflow.api_fastapi.core_api.datamodels.dag_run",
        "airflow.api_fastapi.core_api.services.public.dag_run",
        "airflow.models.dagrun",
        "airflow.state",
    },
    "api/database.py": {
        "airflow.api_fastapi.common.dagbag",
        "airflow.models.dagbag",
        "airflow.utils.session",
    },
    "api/queries.py": {
        "airflow.models.dag",
        "airflow.models.dag_version",
        "airflow.models.dagrun",
        "airflow.models.log",
        "airflow.models.task_state_store",
        "airflow.models.taskinstance",
        "airflow.serialization.definitions.dag",
        "airflow.utils.state",
    },
    "api/reading.py": {"airflow.api_fastapi.auth.managers.models.base_user"},
    "api/start.py": {
        "airflow.api_fastapi.auth.managers.models.base_user",
        "airflow.exceptions",
        "airflow.serialization.definitions.dag",
        "airflow.utils.state",
        "airflow.utils.types",
    },
}
# In the SDK but not public: only internals.py may import these.
_INTERNAL_AIRFLOW = ("airflow.sdk.execution_time", "airflow.sdk._shared")


def top_level_modules(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has imported after running ``code``."""
    program = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_no_heavy_dependency():
    assert not (_HEAVY | {"airflow", "pydantic"}) & top_level_modules("import airflow_batchexec")


def test_importing_wire_and_configuration_imports_neither_airflow_nor_data_libraries():
    assert not (_HEAVY | {"airflow", "numpy", "pydantic"}) & top_level_modules(
        "import airflow_batchexec.wire.request"
    )
    assert not (_HEAVY | {"airflow", "numpy"}) & top_level_modules(
        "import airflow_batchexec.engine.config.model"
    )


def test_importing_the_command_line_imports_neither_airflow_nor_pandas_nor_boto3():
    assert not (_HEAVY | {"airflow"}) & top_level_modules("import airflow_batchexec.cli")


def test_parsing_the_dags_imports_neither_pandas_nor_pyarrow_nor_boto3():
    files = sorted((_ROOT / "dags").glob("*.py"))
    assert files
    parse = "\n".join(f"runpy.run_path({str(file)!r})" for file in files)

    airflow_alone = top_level_modules(
        "import airflow.sdk; from airflow.sdk import DAG, BaseOperator, BaseHook"
    )
    with_dags = top_level_modules(f"import runpy\n{parse}")

    assert "airflow_batchexec" in with_dags
    assert not _HEAVY & (with_dags - airflow_alone)


@pytest.mark.parametrize("name", airflow_batchexec.__all__)
def test_every_public_name_exists_and_is_listed(name: str):
    assert getattr(airflow_batchexec, name) is not None
    assert name in dir(airflow_batchexec)


def test_an_unknown_attribute_raises():
    with pytest.raises(AttributeError, match="'airflow_batchexec' has no attribute 'nothing'"):
        airflow_batchexec.nothing  # noqa: B018  the access itself raises


def test_type_checking_imports_match_the_lazy_ones():
    tree = ast.parse(Path(airflow_batchexec.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    guarded_imports = {name.name: node.module for node in guarded.body for name in node.names}

    assert set(guarded_imports) == set(airflow_batchexec.__all__) - {"__version__"}
    for name, module in guarded_imports.items():
        assert getattr(airflow_batchexec, name).__module__ == module


def airflow_imports(file: Path) -> set[str]:
    """Every Airflow module that a file imports, at any level of nesting."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "airflow"}


@pytest.mark.parametrize(
    "file", sorted(_PACKAGE.rglob("*.py")), ids=lambda file: file.relative_to(_PACKAGE).as_posix()
)
def test_only_the_public_task_sdk_of_airflow_is_imported(file: Path):
    beyond = {name for name in airflow_imports(file) if not (name + ".").startswith(f"{_PUBLIC_AIRFLOW}.")}
    assert beyond <= _ALLOWED_BEYOND.get(file.relative_to(_PACKAGE).as_posix(), set())

    internal = {name for name in airflow_imports(file) if name.startswith(_INTERNAL_AIRFLOW)}
    assert not internal or file.name == "internals.py"


_STANDALONE = _PACKAGE / "engine" / "standalone"


@pytest.mark.parametrize("module", sorted(file.stem for file in _STANDALONE.glob("[a-z]*.py")))
def test_standalone_modules_import_without_installed_packages(module: str):
    # Load the folder as a package, as the supervisor does. With -I -S, no installed package can be imported.
    load = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('alone', {str(_STANDALONE / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(_STANDALONE)!r}])\n"
        "sys.modules['alone'] = importlib.util.module_from_spec(spec)\n"
        f"importlib.import_module('alone.{module}')\n"
        "assert not [m for m in sys.modules if m.startswith('airflow')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", load], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
