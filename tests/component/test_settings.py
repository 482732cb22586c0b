"""The ``[batchexec]`` section: read on use, with invalid options rejected by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_batchexec import settings
from airflow_batchexec.engine.config.locations import AllowedLocations, Location
from airflow_batchexec.engine.storage import open_storage
from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.placement.tasks import placement_rules


def test_defaults_match_their_descriptions():
    assert settings.allowed_locations() == AllowedLocations.parse("")
    assert settings.load_timeout_seconds() == 1800
    assert settings.scratch_folder() is None
    assert settings.instance_table().get("small").cpus == 2


def test_a_deployment_is_identified_by_its_name_or_else_by_its_base_url(configure):
    configure("API", base_url="http://airflow.example")
    assert settings.deployment_name() == "http://airflow.example"

    configure(deployment_name="production")
    assert settings.deployment_name() == "production"


def test_changes_apply_without_a_reimport(configure):
    configure(load_timeout="60", scratch_folder="/scratch")

    assert settings.load_timeout_seconds() == 60
    assert settings.scratch_folder() == Path("/scratch")


@pytest.mark.parametrize("wrong", ["soon", "0", "-1", "nan", "inf"])
def test_an_invalid_load_timeout_is_rejected_by_name(configure, wrong: str):
    configure(load_timeout=wrong)

    with pytest.raises(ConfigurationError, match=r"^load_timeout: ") as caught:
        settings.load_timeout_seconds()

    assert caught.value.details["field"] == "load_timeout"


def test_a_missing_model_repository_names_the_option_to_set():
    with pytest.raises(ConfigurationError, match=r"\[batchexec\] model_repository") as caught:
        settings.model_repository(open_storage)

    assert caught.value.details["field"] == "model_repository"


def test_a_model_repository_is_a_folder_or_a_uri(configure, tmp_path: Path):
    opened: list[Location] = []

    def open_and_record(location: Location):
        opened.append(location)
        return open_storage(location)

    for root in (tmp_path, f"file://{tmp_path}"):
        configure(model_repository=root)
        settings.model_repository(open_and_record)

    assert opened == [Location.of_path(tmp_path)] * 2


@pytest.mark.parametrize(
    ("executor", "shared"),
    [
        ("LocalExecutor", True),
        ("airflow.executors.local_executor.LocalExecutor", True),
        ("LocalExecutor,CeleryExecutor", False),
        ("CeleryExecutor", False),
        ("CeleryExecutor, LocalExecutor", False),
    ],
)
def test_tasks_share_one_machine_under_the_local_executor_alone(configure, executor, shared):
    configure("CORE", executor=executor)

    assert settings.tasks_share_one_machine() is shared


def test_max_mapped_tasks_is_airflows_limit(configure):
    configure("CORE", max_map_length=30)

    assert settings.max_mapped_tasks() == 30


def test_a_task_in_a_kubernetes_pod_shares_neither_machine_nor_pods(
    configure, monkeypatch: pytest.MonkeyPatch
):
    configure("CORE", executor="LocalExecutor")
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")

    assert settings.in_kubernetes_pod()
    assert not settings.tasks_share_one_machine()
    assert not settings.shares_pods()


@pytest.mark.parametrize(
    ("executor", "found"),
    [
        ("LocalExecutor", {"LocalExecutor": "LocalExecutor"}),
        (
            "a.b.CeleryExecutor, LocalExecutor",
            {"CeleryExecutor": "CeleryExecutor", "LocalExecutor": "LocalExecutor"},
        ),
        ("k:KubernetesExecutor,own:acme.Mine", {"k": "KubernetesExecutor", "own": "Mine"}),
        (
            "=LocalExecutor;red=k:a.K,CeleryExecutor",
            {"LocalExecutor": "LocalExecutor", "k": "K", "CeleryExecutor": "CeleryExecutor"},
        ),
    ],
)
def test_executors_are_keyed_by_alias_with_the_default_first(configure, executor, found):
    configure("CORE", executor=executor)

    assert list(settings.executors().items()) == list(found.items())


@pytest.mark.parametrize(
    ("option", "wrong", "read"),
    [
        ("task_memory", "half", settings.task_memory_bytes),
        ("task_memory", "-1", settings.task_memory_bytes),
        ("purchase_option", "sport", settings.default_purchase_option),
        ("placement", "[3]", placement_rules),
    ],
)
def test_invalid_machine_options_are_rejected_by_name(configure, option: str, wrong: str, read):
    configure(**{option: wrong})

    with pytest.raises(ConfigurationError, match=f"^{option}") as caught:
        read()

    assert caught.value.details["field"].startswith(option)


def test_machine_option_defaults_match_their_descriptions(configure):
    assert settings.task_memory_bytes() == 512 * 1024**2
    assert settings.default_purchase_option() == ""
    assert settings.gpu_resource() == "nvidia.com/gpu"
    assert settings.default_queue() == "default"
    configure(task_memory="0", gpu_resource="amd.com/gpu")
    assert settings.task_memory_bytes() == 0
    assert settings.gpu_resource() == "amd.com/gpu"


def test_the_machine_is_all_of_it_unless_limited(configure, tmp_path):
    configure("BATCHEXEC", scratch_folder=str(tmp_path))
    everything = settings.machine().resources
    configure("BATCHEXEC", machine_cpus="1.5", machine_memory="100")
    limited = settings.machine().resources

    assert everything.cpus == len(os.sched_getaffinity(0))
    assert everything.memory_bytes > 2**30
    assert (limited.cpus, limited.memory_bytes) == (1.5, 100 * 2**20)


@pytest.mark.parametrize("option", ["machine_cpus", "machine_memory"])
@pytest.mark.parametrize("text", ["0", "-1", "many", "nan", "inf"])
def test_an_invalid_limit_of_the_machine_is_refused(configure, tmp_path, option, text):
    configure("BATCHEXEC", scratch_folder=str(tmp_path), **{option: text})

    with pytest.raises(ConfigurationError, match=option) as error:
        settings.machine()
    assert error.value.details["field"] == option


@pytest.mark.parametrize(("text", "seconds"), [("", 60), ("0", 0), ("2.5", 2.5)])
def test_the_idle_timeout_of_pods_is_a_number_of_seconds(configure, text, seconds):
    configure("BATCHEXEC", **({"pod_idle_timeout_seconds": text} if text else {}))

    assert settings.pod_idle_timeout_seconds() == seconds


@pytest.mark.parametrize("text", ["-1", "soon", "inf"])
def test_an_invalid_idle_timeout_is_refused(configure, text):
    configure("BATCHEXEC", pod_idle_timeout_seconds=text)

    with pytest.raises(ConfigurationError, match="pod_idle_timeout_seconds"):
        settings.pod_idle_timeout_seconds()
