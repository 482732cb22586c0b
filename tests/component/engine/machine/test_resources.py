from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.instances import Instance
from airflow_batchexec.engine.machine.resources import (
    MachineResources,
    Reservation,
    available_gpus,
    parse_gpu_list,
)
from airflow_batchexec.exceptions import PodError

GIB = 2**30

LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb)
  MIG 3g.20gb     Device  0: (UUID: MIG-b1)
  MIG 1g.5gb      Device  1: (UUID: MIG-b2)
"""


def test_a_machine_holds_as_many_pods_as_its_scarcest_resource_allows():
    resources = MachineResources(cpus=4, memory_bytes=10 * GIB, gpus=())

    assert count_pods(resources, Instance("small", 1, 1 * GIB)) == 4
    assert count_pods(resources, Instance("wide", 1, 4 * GIB)) == 2
    assert count_pods(resources, Instance("tenth", 0.1, 1)) == 40


def test_an_instance_larger_than_the_machine_gets_the_machine_alone():
    resources = MachineResources(cpus=2, memory_bytes=4 * GIB, gpus=())

    assert count_pods(resources, Instance("large", 8, 32 * GIB)) == 1
    assert resources.reserve(Instance("large", 8, 1), [Reservation(0.5, 1)]) is None


def test_each_pod_gets_gpus_of_its_own():
    resources = MachineResources(cpus=8, memory_bytes=8 * GIB, gpus=("GPU-a", "GPU-b", "MIG-c"))
    one = Instance("one", 1, GIB, "NVIDIA_T4", 1)

    first = resources.reserve(one, [])
    assert first is not None
    assert first.gpus == ("GPU-a",)
    second = resources.reserve(Instance("two", 1, GIB, "NVIDIA_T4", 2), [first])
    assert second is not None
    assert second.gpus == ("GPU-b", "MIG-c")
    assert resources.reserve(one, [first, second]) is None
    assert resources.reserve(one, [second]) == first


def test_more_gpus_than_the_machine_has_are_an_error():
    resources = MachineResources(cpus=8, memory_bytes=8 * GIB, gpus=("0", "1"))

    with pytest.raises(PodError, match="needs 4 GPUs, but this machine has 2"):
        resources.reserve(Instance("four", 1, GIB, "NVIDIA_T4", 4), [])


def test_where_no_gpus_are_found_they_are_not_counted():
    resources = MachineResources(cpus=8, memory_bytes=8 * GIB, gpus=())

    assert resources.reserve(Instance("one", 1, GIB, "NVIDIA_T4", 1), []) == Reservation(1, GIB)


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [("0,1", ("0", "1")), ("GPU-aa, MIG-b1", ("GPU-aa", "MIG-b1")), ("", ()), ("3", ("3",))],
)
def test_visible_gpus_are_those_of_the_environment(visible, gpus):
    assert available_gpus({"CUDA_VISIBLE_DEVICES": visible}) == gpus


def test_the_devices_of_a_partitioned_gpu_take_its_place():
    assert parse_gpu_list(LISTING) == ("GPU-aa", "MIG-b1", "MIG-b2")
    assert parse_gpu_list("No devices were found\n") == ()


@given(
    cpus=st.floats(0.5, 64),
    memory_bytes=st.integers(1, 2**40),
    gpus=st.integers(0, 8),
    instances=st.lists(
        st.builds(
            Instance,
            name=st.just("any"),
            cpus=st.floats(0.1, 16),
            memory_bytes=st.integers(1, 2**40),
            gpu_amount=st.integers(0, 2),
        )
    ),
)
def test_pods_never_occupy_more_than_the_machine_has(cpus, memory_bytes, gpus, instances):
    resources = MachineResources(cpus=cpus, memory_bytes=memory_bytes, gpus=tuple(map(str, range(gpus))))
    pods: list[Reservation] = []
    for instance in instances:
        if not gpus or instance.gpu_amount <= gpus:
            pods += filter(None, [resources.reserve(instance, pods)])

    assert bool(pods) is any(not gpus or instance.gpu_amount <= gpus for instance in instances)
    if len(pods) > 1:
        assert sum(pod.cpus for pod in pods) <= cpus + 1e-3
        assert sum(pod.memory_bytes for pod in pods) <= memory_bytes
    used = [gpu for pod in pods for gpu in pod.gpus]
    assert len(used) == len(set(used))


def count_pods(resources: MachineResources, instance: Instance) -> int:
    pods: list[Reservation] = []
    while pod := resources.reserve(instance, pods):
        pods.append(pod)
    return len(pods)
