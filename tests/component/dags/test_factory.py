"""Execution DAGs and task groups: the form, errors at parse time, and the dependencies between the tasks."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, BaseOperator, TaskGroup
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import ApiClient

from airflow_batchexec import batch_execution_group, create_execution_dag
from airflow_batchexec.dags.trigger_form import execution_params
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.engine.standalone.file_types import FileType
from airflow_batchexec.exceptions import ConfigurationError

_DAGS = Path(__file__).resolve().parents[3] / "dags"
REQUIRED = {"model_id": "delay", "source_folder": "s3://flights/in", "destination_folder": "s3://flights/out"}


def run_params(**conf):
    """The params of a run with this conf, as validated by Airflow."""
    params = ParamsDict(execution_params({}))
    params.update(conf)
    return params.validate()


def group_in_a_dag(**fields) -> DAG:
    with DAG("pipeline", schedule=None) as dag:
        batch_execution_group("score", **fields)
    return dag


# ---- the DAG


def test_form_contains_the_whole_parameter_table():
    params = create_execution_dag().params

    assert sorted(params) == sorted(flat_fields())
    for name, flat in flat_fields().items():
        param = params.get_param(name)
        assert param.schema["title"] == flat.schema["title"]
        assert param.description.startswith(flat.schema["description"])


def test_run_with_only_required_params_has_the_default_configuration():
    config = ExecutionConfig.from_fields(**run_params(**REQUIRED))

    assert config == ExecutionConfig.from_fields(**REQUIRED)


@pytest.mark.parametrize("name", REQUIRED)
def test_run_without_a_required_param_is_rejected(name: str):
    conf = {key: value for key, value in REQUIRED.items() if key != name}

    for missing in (conf, {**conf, name: ""}):
        with pytest.raises(ParamValidationError):
            run_params(**missing)


@given(
    file_type=st.sampled_from([t.value for t in FileType]),
    upper=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_file_type_is_case_insensitive(file_type: str, upper: list[bool]):
    written = "".join(c.upper() if up else c.lower() for c, up in zip(file_type, upper, strict=False))

    params = run_params(**REQUIRED, input_file_type=written)

    assert ExecutionConfig.from_fields(**params).execution.input_file_type is FileType(file_type)


@pytest.mark.parametrize("written", ["spot", "SPOT", "on-demand", "On_Demand", "ONDEMAND"])
def test_purchase_option_accepts_the_spellings_of_the_configuration(written: str):
    params = run_params(**REQUIRED, purchase_option=written)

    assert ExecutionConfig.from_fields(**params).advanced_options.purchase_option in {"spot", "on-demand"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_file_type": "xlsx"},
        {"input_file_type": "csv "},
        {"pods": "many"},
        {"pods": -1},
        {"file_timeout": 1.5},
        {"parameters": {"A": ["list"]}},
        {"purchase_option": "gift"},
    ],
    ids=str,
)
def test_invalid_value_is_rejected_before_the_run_starts(wrong):
    with pytest.raises(ParamValidationError):
        run_params(**REQUIRED, **wrong)


def test_empty_optional_string_from_the_form_is_unset():
    texts = [
        name
        for name, flat in flat_fields().items()
        if flat.schema.get("type") == "string" and not flat.required
    ]
    assert "purchase_option" in texts

    params = run_params(**REQUIRED, **dict.fromkeys(texts))

    assert ExecutionConfig.from_fields(**params) == ExecutionConfig.from_fields(**REQUIRED)


def test_parameters_may_be_numbers_and_booleans():
    params = run_params(**REQUIRED, parameters={"FACTOR": 3, "SHARP": True, "NAME": "x"})

    parameters = ExecutionConfig.from_fields(**params).execution.parameters
    assert parameters == {"FACTOR": "3", "SHARP": "true", "NAME": "x"}


def test_defaults_apply_to_params_that_a_run_does_not_set():
    dag = create_execution_dag(defaults={**REQUIRED, "pods": 2})

    assert dag.params.validate()["pods"] == 2
    assert dag.params.validate()["model_id"] == "delay"


@pytest.mark.parametrize(
    ("defaults", "field"),
    [
        ({"podz": 2}, "podz"),
        ({"pods": "many"}, "pods"),
        ({"output_file_type": "xlsx"}, "output_file_type"),
    ],
)
def test_invalid_default_is_rejected_at_parse_time(defaults, field: str):
    with pytest.raises(ConfigurationError, match=f"^{field}: ") as caught:
        create_execution_dag(defaults=defaults)

    assert caught.value.details["field"] == field
    assert "\n" not in caught.value.message


def test_dag_survives_airflows_serialization():
    dag = create_execution_dag(defaults={"pods": 2}, max_active_tasks=7)
    document = json.loads(json.dumps(DagSerialization.to_dict(dag)))

    restored = DagSerialization.from_dict(document)

    assert set(restored.task_ids) == {"plan", "predict", "finish"}
    assert restored.max_active_tasks == 7
    assert set(restored.params) == set(dag.params)
    assert restored.get_task("predict").upstream_task_ids == {"plan"}
    assert restored.get_task("finish").upstream_task_ids == {"predict"}
    assert restored.get_task("finish").is_teardown


def test_dag_arguments_are_passed_on():
    dag = create_execution_dag(
        "nightly", defaults=REQUIRED, schedule=timedelta(days=1), tags=["night"], retries=3
    )

    assert dag.dag_id == "nightly"
    assert dag.tags == {"night"}
    assert dag.schedule == timedelta(days=1)
    assert dag.get_task("predict").retries == 3
    assert create_execution_dag().schedule is None


def test_example_dags_parse_without_errors():
    bag = DagBag(_DAGS)

    assert bag.import_errors == {}
    assert "batch_execution" in bag.dags


# ---- the group


def test_unknown_name_is_rejected_at_parse_time():
    with pytest.raises(ConfigurationError, match=r"^podz: unknown parameter") as caught:
        group_in_a_dag(**REQUIRED, podz=3)

    assert caught.value.details["field"] == "podz"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"pods": -1}, "pods"),
        ({"input_file_type": "xlsx"}, "input_file_type"),
        ({"model_id": "../delay"}, "model_id"),
        ({"parameters": {"LD_PRELOAD": "x"}}, "parameters"),
    ],
)
@pytest.mark.parametrize("source_folder", ["s3://flights/in", "s3://flights/{{ ds }}"])
def test_invalid_literal_is_rejected_at_parse_time_even_next_to_a_template(
    wrong, field: str, source_folder: str
):
    with pytest.raises(ConfigurationError) as caught:
        group_in_a_dag(**{**REQUIRED, "source_folder": source_folder, **wrong})

    assert caught.value.details["field"] == field


@pytest.mark.parametrize("missing", REQUIRED)
def test_missing_required_parameter_is_rejected_at_parse_time(missing: str):
    fields = {name: "{{ ds }}" for name in REQUIRED if name != missing}

    with pytest.raises(ConfigurationError, match=f"^{missing}: it is required"):
        group_in_a_dag(**fields)


@pytest.mark.parametrize("templated", [name for name in flat_fields() if name != "parameters"])
def test_every_parameter_may_be_a_template(templated: str):
    fields = {**REQUIRED, templated: "{{ params.some }}"}

    dag = group_in_a_dag(**fields)

    assert dag.get_task("score.plan").fields[templated] == "{{ params.some }}"


def test_templated_bucket_is_not_checked_against_the_folders():
    group_in_a_dag(
        model_id="delay", bucket="{{ var.value.bucket }}", source_folder="in", destination_folder="out"
    )


def test_parameter_may_be_the_output_of_another_task():
    with DAG("pipeline", schedule=None) as dag:
        first = BaseOperator(task_id="first")
        batch_execution_group("score", **{**REQUIRED, "source_folder": first.output})

    assert dag.get_task("score.plan").upstream_task_ids == {"first"}


@pytest.mark.parametrize(
    ("pods", "limit", "per_file"),
    [
        (3, 3, True),
        ("3", 3, True),
        ("3.0", 3, True),
        (None, None, False),
        ("{{ params.pods }}", None, False),
        (0, None, False),
    ],
)
def test_literal_pods_limit_concurrent_mapped_tasks(configure, pods, limit, per_file):
    configure("CORE", executor="CeleryExecutor")
    fields = REQUIRED if pods is None else {**REQUIRED, "pods": pods}

    dag = group_in_a_dag(**fields)

    assert dag.get_task("score.predict").max_active_tis_per_dagrun == limit
    assert dag.get_task("score.plan").map_per_file is per_file


@pytest.mark.parametrize(
    ("executor", "cpus", "fields", "limit"),
    [
        ("LocalExecutor", "2", {}, 16),
        ("LocalExecutor", "0.5", {}, 4),
        ("LocalExecutor", "2", {"cpus": 0.1}, 20),
        ("LocalExecutor", "2", {"cpus": 64}, 16),
        ("LocalExecutor", "2", {"cpus": 0}, 16),
        ("CeleryExecutor", "2", {}, None),
        ("LocalExecutor,CeleryExecutor", "2", {}, None),
        ("KubernetesExecutor", "2", {}, None),
    ],
)
def test_an_execution_has_no_more_tasks_at_once_than_one_machine_can_use(
    configure, executor, cpus, fields, limit
):
    configure("CORE", executor=executor)
    configure(machine_cpus=cpus)

    execution = create_execution_dag(defaults=fields)
    group = group_in_a_dag(**REQUIRED, **fields)

    assert execution.get_task("predict").max_active_tis_per_dagrun == limit
    assert group.get_task("score.predict").max_active_tis_per_dagrun == limit


def test_an_execution_has_a_task_at_once_for_each_pod_of_the_smallest_instance(configure):
    configure("CORE", executor="LocalExecutor")
    configure(machine_cpus="2", instances='{"nano": {"cpus": 0.05, "memory_gib": 1}}')

    assert create_execution_dag().get_task("predict").max_active_tis_per_dagrun == 40


def test_the_authors_limits_replace_that_of_the_machine(configure):
    configure("CORE", executor="LocalExecutor")
    configure(machine_cpus="2")

    with_pods = create_execution_dag(defaults={"pods": 30})
    with_tasks = create_execution_dag(max_active_tasks=7)

    assert with_pods.get_task("predict").max_active_tis_per_dagrun == 30
    assert with_tasks.get_task("predict").max_active_tis_per_dagrun is None
    assert with_tasks.max_active_tasks == 7


def test_tasks_of_a_group_have_its_name_and_use_its_plan():
    dag = group_in_a_dag(**REQUIRED)

    assert set(dag.task_ids) == {"score.plan", "score.predict", "score.finish", "score.release"}
    assert dag.get_task("score.finish").plan_task_id == "score.plan"
    predict = dag.get_task("score.predict")
    assert predict.upstream_task_ids == {"score.plan"}
    assert predict.partial_kwargs["plan_task_id"] == "score.plan"
    assert predict.partial_kwargs["name"] == dag.get_task("score.plan").name == "score"


def test_groups_with_equal_last_names_are_separate_executions():
    with DAG("pipeline", schedule=None) as dag:
        first = batch_execution_group("first", **REQUIRED)
        second = batch_execution_group("second", **REQUIRED)
        first >> second
        with TaskGroup("outer"):
            batch_execution_group("first", **REQUIRED)

    plans = [task for task in dag.tasks if task.task_id.endswith("plan")]
    assert {task.name for task in plans} == {"first", "second", "outer.first"}
    for plan in plans:
        assert dag.get_task(f"{plan.name}.finish").plan_task_id == plan.task_id
    assert dag.get_task("second.plan").upstream_task_ids == {"first.finish"}
    assert len(DagSerialization.from_dict(DagSerialization.to_dict(dag)).task_ids) == 12


# ---- on Airflow's executors


def serialized(dag: DAG):
    """The DAG as the scheduler sees it, after a round trip through its serialized form."""
    return DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))


def test_literal_resources_set_the_kubernetes_pod_of_predict_and_survive_serialization(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "KubernetesExecutor")
    rules = '[{"purchase_option": "spot", "nodeSelector": {"capacity": "spot"}, "tolerations": [{"key": "spot"}]}]'
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__PLACEMENT", rules)

    fields = {"instance": "gpu.t4.xl", "memory": 3584, "purchase_option": "spot"}
    for dag, group in (
        (group_in_a_dag(**REQUIRED, **fields), "score."),
        (create_execution_dag(defaults=fields), ""),
    ):
        restored = serialized(dag)
        override = restored.get_task(f"{group}predict").executor_config["pod_override"]
        spec = ApiClient().sanitize_for_serialization(override)["spec"]
        (container,) = spec["containers"]
        amounts = {"cpu": "3", "memory": "4096Mi"}
        assert container["resources"] == {"requests": amounts, "limits": {**amounts, "nvidia.com/gpu": "1"}}
        assert spec["nodeSelector"] == {"capacity": "spot"}
        assert spec["tolerations"] == [{"key": "spot"}]
        for other in ("plan", "finish"):
            assert not restored.get_task(f"{group}{other}").executor_config
        placement = dag.get_task(f"{group}plan").placement
        assert (placement.instance.name, placement.purchase_option) == ("gpu.t4.xl", "spot")


def test_parsing_a_dag_again_does_not_create_a_new_version(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "KubernetesExecutor")

    documents = [DagSerialization.to_dict(create_execution_dag(defaults={"instance": "tiny"})) for _ in "ab"]

    assert json.dumps(documents[0], sort_keys=True) == json.dumps(documents[1], sort_keys=True)


def test_templated_instance_is_placed_as_the_default_instance(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "KubernetesExecutor")

    dag = group_in_a_dag(**REQUIRED, instance="{{ params.size }}", cpus=1)

    assert dag.get_task("score.plan").placement.instance.name == "small"
    assert dag.get_task("score.plan").placement.instance.cpus == 1


def test_on_celery_only_predict_has_the_queue_in_the_serialized_dag(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__PLACEMENT", '[{"instance": "large", "queue": "big"}]')

    restored = serialized(group_in_a_dag(**REQUIRED, instance="large"))
    assert [restored.get_task(f"score.{t}").queue for t in ("plan", "predict", "finish")] == [
        "default",
        "big",
        "default",
    ]
    assert not restored.get_task("score.predict").executor_config
    assert serialized(group_in_a_dag(**REQUIRED)).get_task("score.predict").queue == "default"


@pytest.mark.parametrize("executor", ["LocalExecutor", "CeleryExecutor"])
def test_executor_settings_of_the_author_apply_to_predict_only(monkeypatch, executor: str):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", f"{executor},mine:acme.executors.Executor")
    monkeypatch.setenv("AIRFLOW__BATCHEXEC__PLACEMENT", '[{"queue": "any"}]')
    own = {"executor": "mine", "queue": "theirs", "executor_config": {"some": "thing"}}

    for dag, group in ((group_in_a_dag(**REQUIRED, **own), "score."), (create_execution_dag(**own), "")):
        predict = serialized(dag).get_task(f"{group}predict")
        assert (predict.executor, predict.queue) == ("mine", "theirs")
        assert predict.executor_config == {"some": "thing"}
        assert dag.get_task(f"{group}plan").queue == "default"
