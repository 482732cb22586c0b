"""The provider info is valid: its schema, every dotted path, and both entry points."""

from __future__ import annotations

import json
import re
from importlib import import_module
from importlib.metadata import distribution, entry_points
from pathlib import Path

import airflow
import jsonschema
import pytest
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.providers_manager import ProvidersManager
from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

import airflow_batchexec
from airflow_batchexec import BatchExecutionHook, settings
from airflow_batchexec.engine.config.locations import AllowedLocations
from airflow_batchexec.get_provider_info import get_provider_info
from airflow_batchexec.hooks.connection_extra import ConnectionExtra
from airflow_batchexec.reporting import links

_DISTRIBUTION = "airflow-provider-batchexec"
_OPTIONS = get_provider_info()["config"]["batchexec"]["options"]


def entry_point(group: str):
    """This distribution's only entry point in a group."""
    (found,) = [e for e in entry_points(group=group) if e.dist is not None and e.dist.name == _DISTRIBUTION]
    return found


def attribute(path: str):
    """The object at a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("schema", ["provider_info.schema.json", "provider.yaml.schema.json"])
def test_provider_info_conforms_to_airflows_schemas(schema: str):
    document = json.loads((Path(airflow.__file__).parent / schema).read_text())
    properties = document["properties"]

    assert set(get_provider_info()) <= set(properties)
    # The second schema is for a provider's source, which requires more than the runtime info.
    jsonschema.validate(get_provider_info(), {key: document[key] for key in document if key != "required"})


def test_every_listed_module_and_class_can_be_imported():
    info = get_provider_info()
    for kind in ("operators", "sensors", "triggers", "hooks"):
        for entry in info[kind]:
            for module in entry["python-modules"]:
                assert import_module(module).__all__
    for entry in info["connection-types"]:
        assert isinstance(attribute(entry["hook-class-name"]), type)
    for path in info["extra-links"]:
        assert issubclass(attribute(path), BaseOperatorLink)
    (plugin,) = info["plugins"]
    assert attribute(plugin["plugin-class"]).name == plugin["name"]


@pytest.mark.parametrize(
    ("kind", "base"),
    [("operators", "BaseOperator)"), ("sensors", "BaseSensorOperator)"), ("triggers", "BaseTrigger)")],
)
def test_every_operator_sensor_and_trigger_is_listed(kind: str, base: str):
    folder = Path(airflow_batchexec.__file__).parent / kind
    existing = {
        f"airflow_batchexec.{kind}.{file.stem}" for file in folder.glob("*.py") if base in file.read_text()
    }
    listed = {module for entry in get_provider_info()[kind] for module in entry["python-modules"]}

    assert listed == existing


def test_every_link_is_listed():
    of_package = {f"{links.__name__}.{name}" for name in links.__all__ if name.endswith("Link")}

    assert set(get_provider_info()["extra-links"]) == of_package


def test_airflow_finds_what_is_listed():
    found = ProvidersManager()

    assert set(get_provider_info()["extra-links"]) <= set(found.extra_links_class_names)
    assert ProvidersManagerTaskRuntime().hooks["batch_execution"].hook_name == "Batch Execution"
    assert "batchexec" in {section for _, config in found.provider_configs for section in config}
    assert {info.plugin_class for info in found.plugins} >= {
        plugin["plugin-class"] for plugin in get_provider_info()["plugins"]
    }


def test_the_connection_type_matches_the_hook():
    (entry,) = get_provider_info()["connection-types"]

    assert attribute(entry["hook-class-name"]) is BatchExecutionHook
    assert entry["connection-type"] == BatchExecutionHook.conn_type
    assert entry["hook-name"] == BatchExecutionHook.hook_name
    assert BatchExecutionHook.default_conn_name == f"{BatchExecutionHook.conn_type}_default"


def test_the_connection_form_has_a_field_for_every_extra():
    (form,) = [
        f for f in HookMetaService.hook_meta_data() if f.connection_type == BatchExecutionHook.conn_type
    ]

    assert list(form.extra_fields) == ConnectionExtra.names()
    assert all(field["schema"]["title"] and field["description"] for field in form.extra_fields.values())
    assert {name for name, field in form.standard_fields if field and field.hidden} == {
        *("host", "url_schema", "login", "password", "port")
    }


def test_the_forms_suggestions_are_valid():
    (entry,) = get_provider_info()["connection-types"]
    schemas = {name: field["schema"] for name, field in entry["conn-fields"].items()}
    suggested = {name: schema["examples"][0] for name, schema in schemas.items() if "examples" in schema}
    seconds = schemas["role_duration_seconds"]

    assert ConnectionExtra.parse(suggested).role("").external_id == suggested["external_id"]
    for limit in (seconds["minimum"], seconds["maximum"]):
        role = ConnectionExtra.parse({**suggested, "role_duration_seconds": limit}).role("")
        assert role.duration_seconds == limit


def test_the_options_are_those_that_settings_read():
    source = Path(settings.__file__).read_text()
    read = set(re.findall(r'(?:conf\.get\(_SECTION,|_number\()\s*"(\w+)"', source))

    assert read == set(_OPTIONS)


@pytest.mark.parametrize("option", _OPTIONS)
def test_airflow_returns_an_options_default_if_it_is_not_configured(option: str):
    assert conf.get("batchexec", option) == _OPTIONS[option]["default"]


def test_option_examples_are_valid(monkeypatch: pytest.MonkeyPatch):
    for option in ("allowed_locations", "instances"):
        monkeypatch.setenv(f"AIRFLOW__BATCHEXEC__{option.upper()}", _OPTIONS[option]["example"])

    assert settings.allowed_locations() == AllowedLocations.parse("s3://flights,file:///data")
    assert settings.instance_table().get("mine").cpus == 1


def test_both_entry_points_are_installed_and_load():
    provider = entry_point("apache_airflow_provider").load()
    plugin = entry_point("airflow.plugins").load()

    assert provider() == get_provider_info()
    assert plugin.name == "batchexec"


@pytest.mark.parametrize("loader", ["airflow.plugins_manager", "airflow.sdk.plugins_manager"])
def test_the_plugin_is_valid_for_the_server_and_for_the_workers(loader: str):
    plugin = entry_point("airflow.plugins").load()

    assert import_module(loader).is_valid_plugin(plugin)


def test_name_and_version_match_the_distribution():
    installed = distribution(_DISTRIBUTION)

    assert get_provider_info()["package-name"] == installed.name
    assert installed.version == airflow_batchexec.__version__


def test_no_option_is_newer_than_the_package():
    def release(text: str) -> list[int]:
        return [int(part) for part in text.split(".")]

    for option in _OPTIONS.values():
        assert release(option["version_added"]) <= release(airflow_batchexec.__version__)
