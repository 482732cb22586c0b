"""Placement on Airflow's executors, checked against Airflow's and Kubernetes' own code: overrides pass through the
functions with which the Kubernetes executor creates pods.
"""

from __future__ import annotations

import configparser
import json
import logging
import re
import subprocess
import sys
from fractions import Fraction

import pytest
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.sdk import DAG, BaseOperator
from documents import ROOT, blocks
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from kubernetes.utils.quantity import parse_quantity

from airflow_batchexec import create_execution_dag
from airflow_batchexec.engine.config.instances import DEFAULT_INSTANCES, Instance, InstanceTable
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.get_provider_info import get_provider_info
from airflow_batchexec.placement.kubernetes import pod_document, pod_override
from airflow_batchexec.placement.rules import Place, PlacementRules
from airflow_batchexec.placement.tasks import Placement, admission, place_tasks

RESOURCES = ROOT / "docs" / "resources.md"
MIB = 1024**2
KUBERNETES = "airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor"
CELERY = "airflow.providers.celery.executors.celery_executor.CeleryExecutor"
SPOT = {"purchase_option": "spot", "nodeSelector": {"karpenter.sh/capacity-type": "spot"}}
ON_DEMAND = {"purchase_option": "on-demand", "nodeSelector": {"karpenter.sh/capacity-type": "on-demand"}}
T4 = {"gpu_type": "NVIDIA_T4", "nodeSelector": {"karpenter.k8s.aws/instance-gpu-name": "t4"}}
NOT_SPOT = {
    "key": "cloud.google.com/gke-spot",
    "operator": "DoesNotExist",
}
REQUIRED = {"model_id": "delay", "source_folder": "s3://flights/in", "destination_folder": "s3://flights/out"}


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch):
    def configure(executor: str = "KubernetesExecutor", rules: object = (), **options: str) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
        monkeypatch.setenv("AIRFLOW__BATCHEXEC__PLACEMENT", json.dumps(rules))
        for option, value in options.items():
            monkeypatch.setenv(f"AIRFLOW__BATCHEXEC__{option.upper()}", value)

    return configure


def task(**default_args) -> BaseOperator:
    with DAG("some", schedule=None, default_args=default_args):
        return BaseOperator(task_id="plan")


def place(literals=None, *, sibling: BaseOperator | None = None, **own):
    return place_tasks(literals or {}, sibling=sibling or task(), **own)


def constructed(override: k8s.V1Pod) -> dict:
    """The spec of the pod that the Kubernetes executor creates from an override and the deployment's template."""
    template = k8s.V1Pod(
        spec=k8s.V1PodSpec(
            containers=[
                k8s.V1Container(
                    name="base",
                    image="ours:1",
                    env=[k8s.V1EnvVar(name="AIRFLOW__CORE__EXECUTOR", value="LocalExecutor")],
                    resources=k8s.V1ResourceRequirements(requests={"cpu": "100m", "memory": "1Gi"}),
                )
            ],
            service_account_name="airflow-worker",
            restart_policy="Never",
        )
    )
    pod = PodGenerator.construct_pod(
        dag_id="d",
        task_id="predict",
        pod_id="d-predict-1",
        try_number=1,
        kube_image="airflow:3.3.2",
        date=None,
        args=["python", "-m", "airflow.sdk.execution_time.execute_workload"],
        pod_override_object=PodGenerator.from_obj({"pod_override": override}),
        base_worker_pod=template,
        namespace="airflow",
        scheduler_job_id="1",
        map_index=3,
    )
    return ApiClient().sanitize_for_serialization(pod)["spec"]


def refused(placement: Placement | None, instance: Instance, option: str = "", **request) -> str:
    """The message with which an execution is refused; it starts with the field named in the details."""
    with pytest.raises(ConfigurationError) as caught:
        admission(placement, ExecutionConfig.from_fields(**REQUIRED, **request))(instance, option)
    assert caught.value.message.startswith(f"{caught.value.details['field']}: ")
    return caught.value.message


def admitted(placement: Placement | None, instance: Instance, option: str = "", **request) -> None:
    admission(placement, ExecutionConfig.from_fields(**REQUIRED, **request))(instance, option)


# ---- other executors


@pytest.mark.parametrize(
    "executor",
    [
        "LocalExecutor",
        "airflow.executors.local_executor.LocalExecutor",
        "mine:LocalExecutor",
        "acme.Executor",
    ],
)
def test_other_executors_get_no_arguments(configure, executor: str):
    configure(executor, [SPOT, {"queue": "big"}])

    assert place({"instance": "xlarge", "purchase_option": "spot"}) == ({}, None)
    own = {"queue": "mine", "executor_config": {"some": "thing"}, "executor": "mine"}
    assert place(**own) == (own, None)


def test_other_executors_do_not_import_kubernetes():
    program = (
        "import sys\n"
        "from airflow_batchexec import create_execution_dag\n"
        "create_execution_dag(defaults={'instance': 'gpu.t4.xl', 'purchase_option': 'spot'})\n"
        "print('kubernetes' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600
    )

    assert done.stdout.splitlines()[-1] == "False"


# ---- Kubernetes


@pytest.mark.parametrize(
    "executor",
    [
        "KubernetesExecutor",
        KUBERNETES,
        "k8s:KubernetesExecutor",
        f"k8s:{KUBERNETES}",
        "LocalExecutor, KubernetesExecutor",
        f"CeleryExecutor,k8s:{KUBERNETES}",
        "LocalExecutor;team=KubernetesExecutor",
        "acme.executors.OurKubernetesExecutor",
    ],
)
def test_task_gets_a_pod_if_the_kubernetes_executor_is_configured(configure, executor: str):
    configure(executor)

    arguments, _ = place({"instance": "tiny"})

    assert set(arguments) == {"executor_config"}
    (container,) = arguments["executor_config"]["pod_override"].spec.containers
    assert (container.name, container.resources.limits["cpu"]) == ("base", "1")


def test_airflows_pod_has_exactly_the_resources_of_the_instance_and_the_nodes_of_the_rules(configure):
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    configure(rules=[SPOT, T4, ON_DEMAND, {"gpu_type": "*", "tolerations": [toleration]}])

    arguments, placement = place({"instance": "GPU.T4.XL", "purchase_option": "SPOT"})

    spec = constructed(arguments["executor_config"]["pod_override"])
    (container,) = spec.pop("containers")
    assert spec == {
        "nodeSelector": {
            "karpenter.sh/capacity-type": "spot",
            "karpenter.k8s.aws/instance-gpu-name": "t4",
        },
        "tolerations": [toleration],
        "serviceAccountName": "airflow-worker",
        "restartPolicy": "Never",
    }
    amounts = {"cpu": "3", "memory": f"{14 * 1024 + 512}Mi"}
    assert container["resources"] == {"requests": amounts, "limits": {**amounts, "nvidia.com/gpu": "1"}}
    # The image is the executor's, and the template's variables are kept.
    assert (container["name"], container["image"]) == ("base", "airflow:3.3.2")
    assert {"AIRFLOW__CORE__EXECUTOR", "AIRFLOW_IS_K8S_EXECUTOR_POD"} == {e["name"] for e in container["env"]}
    assert placement.instance.name == "gpu.t4.xl"
    assert placement.purchase_option == "spot"


def test_pod_without_rules_and_literals_has_the_default_instance_and_no_node_constraints(configure):
    configure()

    arguments, _ = place()

    spec = constructed(arguments["executor_config"]["pod_override"])
    assert spec["containers"][0]["resources"]["limits"] == {"cpu": "2", "memory": f"{8 * 1024 + 512}Mi"}
    assert not {"nodeSelector", "tolerations", "affinity"} & set(spec)


def test_literal_amounts_override_the_instance_and_options_are_applied(configure):
    configure(
        instances='{"mine": {"cpus": 0.25, "memory_gib": 0.5}}',
        task_memory="300",
        gpu_resource="amd.com/gpu",
        rules=[{"instance": "m*", "resources": {"ephemeral-storage": "20Gi"}}],
    )

    arguments, _ = place({"instance": "mine", "memory": 700, "gpu_type": "AMD_MI300", "cpus": 1.5})

    container = constructed(arguments["executor_config"]["pod_override"])["containers"][0]
    amounts = {"cpu": "1500m", "memory": "1000Mi", "ephemeral-storage": "20Gi"}
    assert container["resources"] == {"requests": amounts, "limits": {**amounts, "amd.com/gpu": "1"}}


@given(
    cpus=st.floats(0.0001, 512, allow_subnormal=False),
    memory=st.integers(1, 2**44),
    own=st.integers(0, 2**34),
)
def test_quantities_are_never_too_small(cpus: float, memory: int, own: int):
    document = pod_document(
        Instance("any", cpus, memory), Place(), gpu_resource="nvidia.com/gpu", task_memory_bytes=own
    )

    limits = document["spec"]["containers"][0]["resources"]["limits"]
    extra = Fraction(parse_quantity(limits["cpu"])) - Fraction(cpus)
    assert -Fraction(1, 10**9) <= extra <= Fraction(1, 1000)
    assert 0 <= parse_quantity(limits["memory"]) - (memory + own) < MIB


def test_every_default_instance_can_be_placed(configure):
    configure()

    for instance in DEFAULT_INSTANCES:
        pod = place({"instance": instance.name})[0]["executor_config"]["pod_override"]
        limits = pod.spec.containers[0].resources.limits
        assert parse_quantity(limits["cpu"]) == instance.cpus
        assert parse_quantity(limits.get("nvidia.com/gpu", "0")) == instance.gpu_amount


def test_error_for_a_missing_package_names_the_extra(configure, monkeypatch):
    configure()
    monkeypatch.setitem(sys.modules, "airflow.providers.cncf.kubernetes.pod_generator", None)

    with pytest.raises(
        ConfigurationError, match=r"^executor: .*airflow-provider-batchexec\[kubernetes\]"
    ) as caught:
        place()

    assert caught.value.details["field"] == "executor"


# Inside the pod, Airflow's Helm chart configures the local executor.
@pytest.mark.parametrize("executor", ["LocalExecutor", "KubernetesExecutor"])
def test_in_its_pod_a_task_creates_no_pod_but_keeps_its_placement(configure, monkeypatch, executor: str):
    configure(executor)
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")
    monkeypatch.setitem(sys.modules, "airflow.providers.cncf.kubernetes.pod_generator", None)

    arguments, placement = place({"instance": "large"})

    assert arguments == {}
    assert placement.executor == "KubernetesExecutor"
    assert placement.instance.name == "large"


# ---- overrides in the DAG


def test_pod_override_of_the_author_wins_field_by_field(configure):
    configure(rules=[SPOT])
    own = k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(labels={"team": "red"}),
        spec=k8s.V1PodSpec(
            containers=[k8s.V1Container(name="base", image="theirs:2")], node_selector={"pool": "theirs"}
        ),
    )
    config = {"pod_override": own, "pod_template_file": "/templates/gpu.yaml"}

    arguments, placement = place({"instance": "tiny", "purchase_option": "spot"}, executor_config=config)

    assert arguments["executor_config"]["pod_template_file"] == "/templates/gpu.yaml"
    override = arguments["executor_config"]["pod_override"]
    assert override.metadata.labels == {"team": "red"}
    spec = constructed(override)
    assert spec["nodeSelector"] == {"pool": "theirs"}
    assert spec["containers"][0]["image"] == "theirs:2"
    assert spec["containers"][0]["resources"]["limits"]["cpu"] == "1"
    # The author selects the nodes, so their purchase option is unknown; what fits into the pod is known.
    admitted(placement, InstanceTable().get("tiny"), "on-demand", purchase_option="on-demand")
    assert refused(placement, InstanceTable().get("small")).startswith("cpus: ")
    assert own.spec.containers[0].resources is None


def test_nothing_is_refused_if_the_authors_pod_sets_resources(configure):
    configure()
    resources = k8s.V1ResourceRequirements(limits={"cpu": "64"})
    own = k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", resources=resources)]))

    arguments, placement = place(executor_config={"pod_override": own})

    spec = constructed(arguments["executor_config"]["pod_override"])
    assert spec["containers"][0]["resources"] == {"limits": {"cpu": "64"}}
    assert placement is None


def test_default_args_of_the_dag_count_as_the_authors(configure):
    configure("CeleryExecutor", [{"queue": "big"}])
    assert place(sibling=task(queue="theirs")) == ({}, None)

    configure("CeleryExecutor,KubernetesExecutor")
    own = k8s.V1Pod(metadata=k8s.V1ObjectMeta(labels={"a": "b"}), spec=None)
    sibling = task(executor="KubernetesExecutor", executor_config={"pod_override": own})
    arguments, placement = place(sibling=sibling)
    assert arguments["executor_config"]["pod_override"].metadata.labels == {"a": "b"}
    assert placement.executor == "KubernetesExecutor"


def test_pod_override_must_be_a_pod(configure):
    configure()

    with pytest.raises(
        ConfigurationError, match=r"^executor_config: pod_override must be a .*V1Pod, not a dict"
    ) as caught:
        place(executor_config={"pod_override": {"spec": {}}})

    assert caught.value.details["field"] == "executor_config"


# ---- Celery


@pytest.mark.parametrize(
    "executor", ["CeleryExecutor", CELERY, "c:CeleryExecutor", "LocalExecutor,CeleryExecutor"]
)
def test_on_celery_the_last_matching_rule_sets_the_queue(configure, executor: str):
    configure(
        executor,
        [
            {"purchase_option": "spot", "queue": "spot"},
            {"instance": ["xlarge", "2x*"], "queue": "big"},
            {"gpu_type": "NVIDIA_T4", "queue": "t4"},
            {"gpu_type": "NVIDIA_T4", "purchase_option": "on-demand", "queue": "t4-safe"},
        ],
    )

    assert place()[0] == {}
    assert place({"purchase_option": "spot"})[0] == {"queue": "spot"}
    assert place({"purchase_option": "spot", "instance": "XLarge"})[0] == {"queue": "big"}
    assert place({"instance": "2xlarge"})[0] == {"queue": "big"}
    assert place({"instance": "gpu.t4.xl"})[0] == {"queue": "t4"}
    assert place({"gpu_type": "nvidia_t4", "purchase_option": "on_demand"})[0] == {"queue": "t4-safe"}
    assert place({"purchase_option": "spot"}, queue="mine")[0] == {"queue": "mine"}


# ---- executions that do not fit


@pytest.mark.parametrize(
    ("needed", "field", "need"),
    [
        (Instance("huge", 3, 8 * 1024 * MIB), "cpus", "3 cpus"),
        (Instance("small", 2, 9000 * MIB), "memory", "9000 MiB"),
        (Instance("g", 2, 1, "NVIDIA_T4", 1), "gpu_amount", "1 x NVIDIA_T4"),
    ],
)
def test_on_kubernetes_an_instance_that_needs_more_is_refused_with_a_remedy(
    configure, needed: Instance, field: str, need: str
):
    configure()
    _, placement = place({"instance": "small"})

    message = refused(placement, needed, memory=9000 if field == "memory" else 0)

    assert message.startswith(f"{field}: this execution needs {need}")
    assert "made for small (2 cpus, 8 GiB)" in message
    assert f"instance={needed.name!r}" in message
    assert ("memory=9000" in message) == (field == "memory")


def test_different_gpu_type_is_refused_but_less_of_everything_is_not(configure):
    configure()
    _, placement = place({"instance": "gpu.t4.2xl"})

    table = InstanceTable()
    assert refused(placement, table.get("gpu.a10.xl")).startswith(
        "gpu_type: this execution needs GPUs of type NVIDIA_A10G"
    )
    for name in ("tiny", "gpu.t4.xl", "gpu.t4.2xl"):
        admitted(placement, table.get(name), "spot", purchase_option="spot")


def test_nothing_is_refused_if_the_tasks_run_on_another_executor(configure):
    configure("LocalExecutor,KubernetesExecutor")
    for own in ({}, {"executor": "LocalExecutor"}):
        _, placement = place(**own)
        admitted(placement, InstanceTable().get("4xlarge"))

    configure(f"LocalExecutor,k8s:{KUBERNETES}")
    for executor in ("k8s", KUBERNETES):
        _, placement = place(executor=executor)
        assert "cpus" in refused(placement, InstanceTable().get("4xlarge"))


def test_on_celery_an_instance_that_needs_more_is_refused_if_its_queue_differs(configure):
    configure("CeleryExecutor", [{"instance": ["xlarge", "2xlarge"], "queue": "big"}])
    _, placement = place({"instance": "small"})

    table = InstanceTable()
    assert "in the default queue, which is for small" in refused(placement, table.get("xlarge"))
    admitted(placement, table.get("large"))
    _, placement = place({"instance": "xlarge"})
    admitted(placement, table.get("2xlarge"))
    admitted(placement, table.get("tiny"))
    assert place({"instance": "tiny"}, queue="mine")[1] is None


@pytest.mark.parametrize(
    ("executor", "rules"),
    [
        ("KubernetesExecutor", [SPOT, ON_DEMAND]),
        ("CeleryExecutor", [{"purchase_option": "spot", "queue": "spot"}]),
    ],
)
def test_different_purchase_option_is_refused_if_requested_and_logged_if_deployed(
    configure, caplog, executor: str, rules
):
    configure(executor, rules)
    _, placement = place({"purchase_option": "spot"})
    small = InstanceTable().get("small")

    admitted(placement, small, "spot", purchase_option="spot")
    message = refused(placement, small, "on-demand", purchase_option="on-demand")
    assert message.startswith("purchase_option: this execution requests on-demand")
    assert "placed for spot" in message
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        admitted(placement, small, "on-demand")
    assert "deployment requests on-demand" in caplog.text


def test_purchase_option_without_a_rule_is_logged(configure, caplog):
    configure(rules=[T4])
    _, placement = place({"purchase_option": "spot"})

    admitted(placement, InstanceTable().get("small"), "on-demand", purchase_option="on-demand")

    assert "no rule of [batchexec] placement uses purchase_option" in caplog.text


def test_configured_purchase_option_applies_to_dags_that_set_none(configure):
    configure(rules=[SPOT, ON_DEMAND], purchase_option="Spot")

    assert place()[1].purchase_option == "spot"
    arguments, placement = place({"purchase_option": "on-demand"})
    assert placement.purchase_option == "on-demand"
    selector = arguments["executor_config"]["pod_override"].spec.node_selector
    assert selector == {"karpenter.sh/capacity-type": "on-demand"}


# ---- rules


def test_matching_rules_are_merged_and_later_ones_win():
    def affinity(*expressions):
        terms = [{"matchExpressions": [expression]} for expression in expressions]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        return {"affinity": {"nodeAffinity": required}}

    fast, large = ({"key": key, "operator": "Exists"} for key in ("fast", "large"))
    rules = [
        {"nodeSelector": {"pool": "any", "zone": "a"}, "resources": {"x": 1}, "tolerations": [{"key": "a"}]},
        {"instance": "tiny", "nodeSelector": {"pool": "none"}},
        {"instance": "small", "nodeSelector": {"pool": "small"}, "tolerations": [{"key": "b"}]},
        affinity(NOT_SPOT),
        {"instance": "s*", **affinity(fast, large)},
    ]

    place = PlacementRules.parse(json.dumps(rules), instances=InstanceTable()).place(
        InstanceTable().get("small"), ""
    )

    assert place.pod["nodeSelector"] == {"pool": "small", "zone": "a"}
    assert place.pod["tolerations"] == [{"key": "a"}, {"key": "b"}]
    assert place.resources == {"x": "1"}
    # A node must not be spot, and must be fast or large.
    required = place.pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"] == [
        {"matchExpressions": [NOT_SPOT, fast]},
        {"matchExpressions": [NOT_SPOT, large]},
    ]


def test_condition_does_not_match_an_unset_value():
    rules = PlacementRules.parse(
        '[{"gpu_type": "*", "queue": "gpu"}, {"purchase_option": "*", "queue": "bought"}]',
        instances=InstanceTable(),
    )

    assert rules.place(Instance("a", 1, 1), "").queue is None
    assert rules.place(Instance("a", 1, 1, None, 2), "").queue == "gpu"
    assert rules.place(Instance("a", 1, 1), "spot").queue == "bought"


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ("nonsense", "placement"),
        ('{"queue": "a"}', "placement"),
        ('["spot"]', "placement[0]"),
        ('[{"queue": "a"}, {"purchase_option": "spot"}]', "placement[1]"),
        ('[{"nodeselector": {"a": "b"}}]', "placement[0].nodeselector"),
        ('[{"nodeSelector": {"spot": true}}]', "placement[0].nodeSelector.spot"),
        ('[{"nodeSelector": ["a"]}]', "placement[0].nodeSelector"),
        ('[{"tolerations": {"key": "a"}}]', "placement[0].tolerations"),
        ('[{"affinity": "a"}]', "placement[0].affinity"),
        ('[{"purchase_option": "sport", "queue": "a"}]', "placement[0].purchase_option"),
        ('[{"instance": "smal", "queue": "a"}]', "placement[0].instance"),
        ('[{"instance": 3, "queue": "a"}]', "placement[0].instance"),
        ('[{"instance": [], "queue": "a"}]', "placement[0].instance"),
        ('[{"queue": ""}]', "placement[0].queue"),
        ('[{"queue": null}]', "placement[0].queue"),
        ('[{"resources": {"memory": "1Gi"}}]', "placement[0].resources.memory"),
        ('[{"resources": {"disk": true}}]', "placement[0].resources.disk"),
        ('[{"resources": "1Gi"}]', "placement[0].resources"),
    ],
)
def test_error_for_an_invalid_rule_names_its_number_and_key(configure, monkeypatch, rules: str, field: str):
    configure()
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__PLACEMENT", rules)

    with pytest.raises(ConfigurationError) as caught:
        place()

    assert caught.value.details["field"] == field
    assert caught.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "asks",
    [
        {"tolerations": [{"key": "a", "opertor": "Exists"}]},
        {"tolerations": [{"key": "a", "tolerationSeconds": "30"}]},
        {"tolerations": ["a"]},
        {"affinity": {"nodeAfinity": {}}},
        {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}},
    ],
    ids=str,
)
def test_fields_that_kubernetes_would_drop_or_misread_are_rejected(configure, asks):
    configure(rules=[asks])

    with pytest.raises(ConfigurationError, match=r"^placement: ") as caught:
        place()

    assert caught.value.details["field"] == "placement"


# ---- a whole DAG


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"instance": "smal"}, "instance"), ({"purchase_option": "sport"}, "purchase_option")],
)
def test_invalid_default_is_rejected_at_parse_time(configure, wrong, field: str):
    configure()

    with pytest.raises(ConfigurationError) as caught:
        create_execution_dag(defaults=wrong)

    assert caught.value.details["field"] == field


# ---- documentation


def test_documented_instances_are_the_defaults():
    rows = re.findall(r"^\| `(.+?)` \| (\S+) \| (\S+) \| (.*)\|$", RESOURCES.read_text("utf-8"), re.MULTILINE)

    assert rows == [
        (
            instance.name,
            f"{instance.cpus:g}",
            f"{instance.memory_bytes / MIB / 1024:g}",
            f"{instance.gpu_amount} x `{instance.gpu_type}` " if instance.gpu_amount else "",
        )
        for instance in DEFAULT_INSTANCES
    ]


def test_kubernetes_accepts_every_documented_rule_unchanged():
    parser = configparser.ConfigParser(interpolation=None)
    blocks_of_rules = [block.text for block in blocks(RESOURCES) if block.language == "ini"]
    assert len(blocks_of_rules) == 5
    for text in blocks_of_rules:
        parser.read_string(text)
        rules = PlacementRules.parse(parser["batchexec"]["placement"], instances=InstanceTable())
        for option in ("spot", "on-demand"):
            for instance in DEFAULT_INSTANCES:
                document = pod_document(
                    instance,
                    rules.place(instance, option),
                    gpu_resource="nvidia.com/gpu",
                    task_memory_bytes=0,
                )
                assert ApiClient().sanitize_for_serialization(pod_override(document)) == document
        assert rules.place(InstanceTable().get("gpu.t4.xl"), "spot") != Place()


def test_example_of_the_option_is_a_valid_rule(configure):
    configure(placement=get_provider_info()["config"]["batchexec"]["options"]["placement"]["example"])

    override = place({"purchase_option": "spot"})[0]["executor_config"]["pod_override"]
    assert override.spec.node_selector == {"karpenter.sh/capacity-type": "spot"}
