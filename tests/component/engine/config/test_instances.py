from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.instances import DEFAULT_INSTANCES, Instance, InstanceTable
from airflow_batchexec.exceptions import ConfigurationError

GIB = 1024**3
NAMES = st.sampled_from([instance.name for instance in DEFAULT_INSTANCES])


@pytest.mark.parametrize(
    ("name", "cpus", "memory_gib"),
    [
        ("tiny", 1, 2),
        ("small", 2, 8),
        ("medium", 4, 16),
        ("large", 8, 32),
        ("xlarge", 16, 64),
        ("2xlarge", 32, 128),
    ],
)
def test_default_sizes_match_the_guide(name, cpus, memory_gib):
    instance = InstanceTable().get(name)
    assert (instance.cpus, instance.memory_bytes) == (cpus, memory_gib * GIB)
    assert instance.gpu_amount == 0


def test_gpu_instance_has_type_and_amount():
    instance = InstanceTable().get("gpu.a10.12xl")
    assert (instance.gpu_type, instance.gpu_amount) == ("NVIDIA_A10G", 4)
    assert str(instance) == "gpu.a10.12xl (47 cpus, 189 GiB, 4 x NVIDIA_A10G)"


@given(name=NAMES, upper=st.booleans())
def test_names_are_case_insensitive(name, upper):
    assert InstanceTable().get(name.upper() if upper else name.title()).name == name


def test_unknown_name_lists_known_names_and_suggests_the_closest():
    with pytest.raises(ConfigurationError, match=r"instance: unknown instance 'smal'") as caught:
        InstanceTable().get("smal")
    assert "Did you mean 'small'?" in str(caught.value)
    assert all(instance.name in str(caught.value) for instance in DEFAULT_INSTANCES)
    assert caught.value.details == {"field": "instance"}


def test_configured_instances_override_the_defaults():
    table = InstanceTable.parse(
        '{"mine": {"cpus": 0.5, "memory_gib": 3}, "Small": {"cpus": 3, "memory_gib": 1.5}}'
    )
    assert table.get("MINE") == Instance("mine", 0.5, 3 * GIB)
    assert table.get("small").memory_bytes == 1.5 * GIB
    assert table.get("tiny").cpus == 1


def test_configured_gpu_type_alone_means_one_gpu():
    table = InstanceTable(extra={"g": {"cpus": 1, "memory_gib": 1, "gpu_type": "NVIDIA_T4"}})
    assert table.get("g").gpu_amount == 1


def test_empty_string_adds_no_instances():
    assert list(InstanceTable.parse("  ")) == list(DEFAULT_INSTANCES)


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ('{"mine": {"cpus": 1}}', "instances.mine.memory_gib"),
        ('{"mine": {"cpus": true, "memory_gib": 1}}', "instances.mine.cpus"),
        ('{"mine": {"cpus": "2", "memory_gib": 1}}', "instances.mine.cpus"),
        ('{"mine": {"cpus": 0, "memory_gib": 1}}', "instances.mine.cpus"),
        ('{"mine": {"cpus": NaN, "memory_gib": 1}}', "instances.mine.cpus"),
        ('{"mine": {"cpus": 1, "memory_gib": Infinity}}', "instances.mine.memory_gib"),
        ('{"mine": {"cpus": 1, "memory_gib": 1, "gpu_amount": -1}}', "instances.mine.gpu_amount"),
        ('{"mine": {"cpus": 1, "memory_gib": 1, "gpu_amount": 1.5}}', "instances.mine.gpu_amount"),
        ('{"mine": {"cpus": 1, "memory_gib": 1, "gpu_type": 4}}', "instances.mine.gpu_type"),
        ('{"mine": {"cpus": 1, "memory": 1}}', "instances.mine.memory"),
        ('{"mine": 4}', "instances.mine"),
        ('{" ": {"cpus": 1, "memory_gib": 1}}', "instances"),
        ("[]", "instances"),
        ("{", "instances"),
    ],
)
def test_error_in_the_table_names_instance_and_key(extra, field):
    with pytest.raises(ConfigurationError) as caught:
        InstanceTable.parse(extra)
    assert caught.value.details["field"] == field
    assert str(caught.value).startswith(field)


@given(requested=NAMES, deployed=st.none() | NAMES)
def test_request_takes_precedence_over_deployment(requested, deployed):
    table = InstanceTable()
    assert table.resolve(requested=requested, deployed=deployed) == table.get(requested)


@given(deployed=NAMES)
def test_deployment_takes_precedence_over_default(deployed):
    table = InstanceTable()
    assert table.resolve(requested="", deployed=deployed) == table.get(deployed)
    assert table.resolve() == table.get("small")


@given(name=NAMES, cpus=st.integers(1, 99), memory_mib=st.integers(1, 10**6))
def test_explicit_resources_override_the_instance(name, cpus, memory_mib):
    resolved = InstanceTable().resolve(requested=name, cpus=cpus, memory_mib=memory_mib)
    assert (resolved.cpus, resolved.memory_bytes) == (cpus, memory_mib * 1024**2)
    assert resolved.gpu_type == InstanceTable().get(name).gpu_type


@given(name=NAMES)
def test_zero_means_unset(name):
    table = InstanceTable()
    assert table.resolve(requested=name, cpus=0, memory_mib=0, gpu_type="", gpu_amount=0) == table.get(name)


def test_gpu_type_alone_means_one_gpu_unless_the_instance_has_more():
    table = InstanceTable()
    assert table.resolve(gpu_type="NVIDIA_T4").gpu_amount == 1
    assert table.resolve(requested="gpu.a10.12xl", gpu_type="NVIDIA_T4").gpu_amount == 4
    assert table.resolve(gpu_type="NVIDIA_T4", gpu_amount=2).gpu_amount == 2


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"cpus": -1}, "cpus"), ({"memory_mib": -1}, "memory"), ({"gpu_amount": -1}, "gpu_amount")],
)
def test_negative_amount_is_rejected(wrong, field):
    with pytest.raises(ConfigurationError, match=f"^{field}: -1 is not a valid amount"):
        InstanceTable().resolve(**wrong)


def test_unknown_deployed_instance_is_reported_as_the_deployments():
    with pytest.raises(ConfigurationError, match=r"^deployment\.instance: unknown instance 'huge'"):
        InstanceTable().resolve(deployed="huge")


@given(
    extra=st.dictionaries(
        st.text("abcxyz.-", min_size=1),
        st.fixed_dictionaries({"cpus": st.integers(1, 64), "memory_gib": st.integers(1, 999)}),
        max_size=4,
    )
)
def test_every_configured_instance_is_found(extra):
    table = InstanceTable.parse(json.dumps(extra))
    for name, entry in extra.items():
        assert table.get(name) == Instance(name, entry["cpus"], entry["memory_gib"] * GIB)
