from __future__ import annotations

import json
import string
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.engine.config.locations import Location, Scheme, check_id
from airflow_batchexec.engine.repository.builds import (
    Build,
    BuildKind,
    Deployment,
    format_toml,
    is_build,
    read_build,
)
from airflow_batchexec.exceptions import ConfigurationError, InvalidBuildError

ALPHANUMERIC = string.ascii_letters + string.digits
IDS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
BUILD_IDS = IDS.filter(lambda value: value != "deployment.toml")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.from_regex(r"\A[a-z_][a-z0-9_]{0,9}_\Z")  # the last underscore keeps keywords out
PRINTABLE = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1)
ROOT = Location(Scheme.S3, "bucket", "models")


def read(text, *, mlflow=False, model_id="m", build_id="v1"):
    return read_build(
        model_id=model_id,
        build_id=build_id,
        location=ROOT.join(f"{model_id}/{build_id}"),
        model_toml=text.encode(),
        mlflow=mlflow,
        source="model.toml",
    )


@st.composite
def builds(draw):
    model_id, build_id, kind = draw(IDS), draw(BUILD_IDS), draw(st.sampled_from(BuildKind))
    return Build(
        model_id=model_id,
        build_id=build_id,
        kind=kind,
        entrypoint=f"{draw(NAMES)}.{draw(NAMES)}:{draw(NAMES)}" if kind is BuildKind.PYTHON else None,
        interpreter=draw(st.none() | PRINTABLE.map(lambda path: f"/{path}")),
        requirements=tuple(draw(st.lists(PRINTABLE, max_size=3))),
        location=ROOT.join(f"{model_id}/{build_id}"),
    )


@given(builds())
def test_build_round_trips_through_json(build):
    assert Build.from_dict(json.loads(json.dumps(build.to_dict()))) == build


@given(builds())
def test_model_toml_is_read_as_the_build_it_describes(build):
    lines = format_toml(
        {key: value for key in ("entrypoint", "interpreter") if (value := getattr(build, key)) is not None}
    )
    # A JSON list of printable strings is also a TOML list.
    text = f"{lines}requirements = {json.dumps(list(build.requirements), ensure_ascii=False)}\n"
    mlflow = build.kind is BuildKind.MLFLOW
    assert read(text, mlflow=mlflow, model_id=build.model_id, build_id=build.build_id) == build


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"model_id": "m"},
        Build("m", "v", BuildKind.PYTHON, "a:b", None, (), ROOT).to_dict() | {"kind": "r"},
    ],
)
def test_invalid_build_description_is_rejected(values):
    with pytest.raises(InvalidBuildError, match="not a build description"):
        Build.from_dict(values)


@given(st.dictionaries(st.text(ALPHANUMERIC + "_-", min_size=1), TEXTS | st.integers(-(2**63), 2**63 - 1)))
def test_flat_table_round_trips_through_toml(table):
    assert tomllib.loads(format_toml(table)) == table


@given(
    build_id=BUILD_IDS,
    pods=st.none() | st.integers(1, 10**6),
    instance=st.none() | PRINTABLE,
    purchase_option=st.none() | st.sampled_from(["spot", "on-demand"]),
)
def test_deployment_round_trips_through_toml(build_id, pods, instance, purchase_option):
    deployment = Deployment.of(
        build_id=build_id, pods=pods, instance=instance, purchase_option=purchase_option
    )
    assert Deployment.parse(deployment.to_toml().encode(), source="deployment.toml") == deployment
    assert deployment.to_dict()["pods"] == pods


@pytest.mark.parametrize("spelling", ["on-demand", "ondemand", "on_demand", "ON-DEMAND", "OnDemand"])
def test_on_demand_has_three_spellings_in_any_case(spelling):
    assert Deployment.of(build_id="v1", purchase_option=spelling).purchase_option == "on-demand"


@given(IDS)
def test_id_is_one_part_of_a_location(value):
    check_id(value, field="model_id")
    assert ROOT.join(value).relative(ROOT.join(f"{value}/x")) == "x"
    assert ROOT.join(value).parent == ROOT


@given(
    st.text().filter(
        lambda text: (
            not text
            or len(text) > 128
            or text[0] not in ALPHANUMERIC
            or any(character not in ALPHANUMERIC + "._-" for character in text)
        )
    )
)
def test_anything_else_is_not_an_id(value):
    with pytest.raises(ConfigurationError, match=r"^model_id: ") as caught:
        check_id(value, field="model_id")
    assert caught.value.details == {"field": "model_id"}


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "../up",
        "/abs",
        "a/b",
        "a\\b",
        "a\n",
        "\x00",
        "a b",
        "-rf",
        ".git",
        "é",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "x" * 129,
    ],
)
def test_unsafe_path_is_not_an_id(value):
    with pytest.raises(ConfigurationError):
        check_id(value, field="build_id")


@pytest.mark.parametrize(
    ("names", "complete"),
    [
        ({"model.toml"}, True),
        ({"MLmodel"}, True),
        ({"model.py"}, False),
        (set(), False),
        ({"model.toml", ".publishing"}, False),
        ({"model.toml", ".publishing", ".published"}, True),
        ({".publishing", ".published"}, False),
    ],
)
def test_files_determine_whether_a_folder_is_a_build(names, complete):
    assert is_build(names) is complete


def test_unknown_key_suggests_a_known_one():
    with pytest.raises(InvalidBuildError, match=r"^model.toml: entry_point: .*did you mean 'entrypoint'"):
        read('entry_point = "model:Model"')


@given(st.text())
def test_entrypoint_is_module_and_attribute_or_rejected(text):
    try:
        build = read(format_toml({"entrypoint": text.encode("utf-8", "replace").decode()}))
    except InvalidBuildError:
        return
    module, _, attribute = build.entrypoint.partition(":")
    assert all(name.isidentifier() for name in (*module.split("."), attribute))
