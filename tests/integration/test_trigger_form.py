"""The trigger form of the execution DAG in a real browser, and the values that Airflow refuses before a run starts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from airflow_models import expected, frame
from browser import open_page
from pandas.testing import assert_frame_equal
from playwright.sync_api import expect

from airflow_batchexec.engine.config.sections import flat_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_deployment import Deployment
    from playwright.sync_api import Locator, Page

REQUIRED = {"model_id": "scaler", "source_folder": "file:///in", "destination_folder": "file:///out"}
ABSENT = object()
TITLES = {name: flat.schema["title"] for name, flat in flat_fields().items()}
SECTIONS = {
    "Run Parameters": [
        *("model_id", "build_id"),
        *("bucket", "source_bucket", "source_folder", "destination_bucket", "destination_folder"),
        *("input_file_type", "output_file_type", "parameters"),
    ],
    "Access to the buckets": [
        *("access_token_name", "access_secret_name", "iam_role_arn", "service_account_key_secret_name")
    ],
    "Timeouts": ["job_timeout", "file_timeout"],
    "Resources": ["pods", "instance", "cpus", "memory", "gpu_type", "gpu_amount", "purchase_option"],
    "Compatibility": ["branch"],
}
RUN_MILLISECONDS = 180_000

WRONG: list[tuple[str, Any]] = [
    *(("model_id", wrong) for wrong in (ABSENT, None, "", "../scaler", "a b")),
    *(("source_folder", wrong) for wrong in (ABSENT, None, "", "  ", 7)),
    *(("destination_folder", wrong) for wrong in (ABSENT, None, "", ["out"])),
    ("build_id", "b/1"),
    ("branch", 1),
    ("bucket", "shop/orders"),
    ("source_bucket", "two words"),
    ("destination_bucket", {}),
    *(("input_file_type", wrong) for wrong in ("xml", "", 7)),
    ("output_file_type", "csv, parquet"),
    ("access_token_name", "a token"),
    ("access_secret_name", "two\nlines"),
    ("service_account_key_secret_name", '{"type": "service_account"}'),
    ("job_timeout", 1.5),
    ("file_timeout", "10 minutes"),
    *(("pods", wrong) for wrong in (-1, 2**31, True, "many")),
    ("instance", 4),
    ("cpus", -0.5),
    ("memory", "8 GiB"),
    ("gpu_type", 1),
    ("gpu_amount", -1),
    ("iam_role_arn", "reader"),
    ("purchase_option", "gift"),
    *(
        ("parameters", wrong)
        for wrong in ({"2BAD": "x"}, {"A": ["x"]}, {"A": None}, {"A": "\0"}, {"Path": "x"})
    ),
    *(("parameters", wrong) for wrong in ("TAX RATE=1", "A=1\nand more", "\tLD_PRELOAD=x.so", ["A=1"])),
]


class TriggerForm:
    """The form as a user sees it, freshly opened."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.dialog = page.get_by_role("dialog")
        if self.dialog.is_visible():
            self.dialog.get_by_role("button", name="Close", exact=True).click()
            expect(self.dialog).to_be_hidden()
        page.get_by_role("button", name="Trigger").first.click()
        expect(self.row("Model ID")).to_be_visible()

    @property
    def trigger(self) -> Locator:
        return self.dialog.get_by_role("button", name="Trigger", exact=True)

    def open_section(self, name: str) -> None:
        button = self.dialog.get_by_role("button", name=name, exact=True)
        if button.get_attribute("aria-expanded") != "true":
            button.click()
        expect(button).to_have_attribute("aria-expanded", "true")

    def row(self, title: str) -> Locator:
        """A field with its label, help and validation message."""
        label = self.page.locator("label", has_text=re.compile(rf"^{re.escape(title)}\s*\*?\s*$"))
        return self.dialog.get_by_role("group").filter(has=label)

    def fill(self, title: str, value: str) -> None:
        self.row(title).locator("input, textarea").first.fill(value)

    def choices(self, title: str) -> list[str]:
        self.row(title).get_by_role("combobox").click()
        expect(self.page.get_by_role("option").first).to_be_visible()
        choices = self.page.get_by_role("option").all_inner_texts()
        self.row(title).get_by_role("combobox").press("Tab")
        return choices

    def choose(self, title: str, choice: str) -> None:
        self.row(title).get_by_role("combobox").click()
        self.page.get_by_role("option", name=choice, exact=True).click()
        expect(self.row(title)).to_contain_text(choice)

    def paste_conf(self, conf: dict[str, Any]) -> None:
        """Replace the whole conf in Airflow's JSON editor."""
        self.open_section("Advanced Options")
        lines = self.dialog.locator(".view-lines")
        expect(lines).to_contain_text(re.compile(r'"model_id":\s*null'))
        self.page.evaluate("text => navigator.clipboard.writeText(text)", json.dumps(conf))
        editor = self.dialog.get_by_role("textbox", name="Editor content")
        editor.press("Control+a")
        editor.press("Control+v")
        expect(lines).to_contain_text(re.compile(rf'"model_id":\s*"{conf["model_id"]}"'))
        # Airflow applies the text when the editor loses focus.
        editor.blur()

    def send(self) -> None:
        # By keyboard: the toast about a refused attempt covers the button for some seconds.
        expect(self.trigger).to_be_enabled()
        self.trigger.press("Enter")

    def expect_refused(self, name: str) -> None:
        refusal = self.dialog.get_by_text(re.compile(rf"Invalid input for param {name}: "))
        refusal.scroll_into_view_if_needed()
        expect(refusal).to_be_in_viewport()


@pytest.fixture(scope="module")
def run_of_a_client(deployment: Deployment) -> str:
    """A run started through REST, with choices in different cases; it continues during the other tests."""
    folders = deployment.write_files("client", {"a": "calm"})
    choices = {"input_file_type": "csv", "output_file_type": "Feather", "instance": "TINY"}
    return deployment.start(**folders, **choices)


@pytest.fixture(scope="module")
def page(deployment: Deployment, run_of_a_client: str) -> Iterator[Page]:
    with open_page() as page:
        page.goto(f"{deployment.airflow.url}/dags/batch_execution")
        yield page


@pytest.fixture
def form(page: Page) -> TriggerForm:
    return TriggerForm(page)


# ---- the server


def test_every_parameter_has_an_invalid_value() -> None:
    assert {name for name, _ in WRONG} == set(flat_fields())


@pytest.mark.parametrize(
    ("name", "wrong"),
    WRONG,
    ids=[f"{name}-{'absent' if wrong is ABSENT else wrong!r}" for name, wrong in WRONG],
)
def test_a_conf_with_an_invalid_value_is_refused_by_name(
    deployment: Deployment, name: str, wrong: Any
) -> None:
    conf = {key: value for key, value in {**REQUIRED, name: wrong}.items() if value is not ABSENT}

    with pytest.raises(
        RuntimeError, match=rf'^Airflow returned 400: {{"detail":"Invalid input for param {name}: '
    ):
        deployment.airflow.trigger("batch_execution", conf)


# ---- the form


def test_the_form_shows_every_parameter_with_its_title_and_help(form: TriggerForm) -> None:
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(flat_fields())
    for section, names in SECTIONS.items():
        form.open_section(section)
        titles = [re.compile(rf"^{re.escape(TITLES[n])}\s*{'[*]' * (n in REQUIRED)}\s*$") for n in names]
        expect(form.dialog.get_by_role("region").locator("label")).to_have_text(titles)
        for name in names:
            row = form.row(TITLES[name])
            expect(row).to_be_visible()
            expect(row).to_contain_text(flat_fields()[name].schema["description"])


def test_required_fields_are_open_at_first_and_have_their_defaults(form: TriggerForm) -> None:
    for name in REQUIRED:
        expect(form.row(TITLES[name])).to_contain_text("This field is required")
    expect(form.row("Input file type")).to_contain_text("CSV")
    form.open_section("Timeouts")
    expect(form.row("Job timeout").get_by_role("spinbutton")).to_have_value("0")
    form.open_section("Resources")
    expect(form.row("Pods").get_by_role("spinbutton")).to_have_value("")


def test_a_closed_set_is_a_list_of_choices(form: TriggerForm) -> None:
    assert (
        form.choices("Input file type") == form.choices("Output file type") == ["CSV", "Parquet", "Feather"]
    )
    form.open_section("Resources")
    assert form.choices("Purchase option") == ["(the deployment's)", "Spot", "On-demand"]
    instances = form.choices("Instance")
    assert instances[:3] == ["(the deployment's, else small)", "tiny: 1 CPU, 2 GiB", "small: 2 CPUs, 8 GiB"]
    assert "gpu.t4.xl: 3 CPUs, 14 GiB, 1 x NVIDIA_T4" in instances


def test_a_form_without_a_required_value_cannot_be_submitted(form: TriggerForm) -> None:
    expect(form.trigger).to_be_disabled()
    for name, value in REQUIRED.items():
        form.fill(TITLES[name], value)
    expect(form.trigger).to_be_enabled()

    form.fill("Source folder", "")

    expect(form.row("Source folder")).to_contain_text("This field is required")
    expect(form.trigger).to_be_disabled()


def test_a_number_below_zero_cannot_be_entered(form: TriggerForm) -> None:
    form.open_section("Resources")
    pods = form.row("Pods").get_by_role("spinbutton")

    pods.fill("-1")
    pods.press("Tab")

    expect(pods).to_have_value("0")


@pytest.mark.parametrize(
    ("section", "name", "wrong"),
    [
        ("Run Parameters", "parameters", "2BAD=x"),
        ("Run Parameters", "parameters", '{"2BAD": "x"}'),
        ("Access to the buckets", "iam_role_arn", "reader"),
    ],
)
def test_an_invalid_value_is_shown_with_its_name_and_stays_editable(
    form: TriggerForm, section: str, name: str, wrong: str
) -> None:
    for required, value in REQUIRED.items():
        form.fill(TITLES[required], value)
    form.open_section(section)
    form.fill(TITLES[name], wrong)

    form.send()

    form.expect_refused(name)
    expect(form.row(TITLES[name]).locator("input, textarea")).to_have_value(re.compile("2BAD|reader"))
    expect(form.trigger).to_be_enabled()


@pytest.mark.parametrize(("name", "wrong"), [("input_file_type", "xml"), ("pods", -1)])
def test_an_invalid_value_in_the_forms_json_is_shown_with_its_name(
    form: TriggerForm, name: str, wrong: Any
) -> None:
    form.paste_conf({**REQUIRED, name: wrong})

    form.send()

    form.expect_refused(name)


def test_a_submitted_form_runs_an_execution(form: TriggerForm, deployment: Deployment) -> None:
    folders = deployment.write_files("filled", {"monday": "calm", "tuesday": "calm"})
    form.fill("Model ID", "scaler")
    form.fill("Source folder", folders["source_folder"])
    form.fill("Destination folder", folders["destination_folder"])
    form.choose("Output file type", "Parquet")
    form.fill("Parameters", "FACTOR=3\nGREETING=good morning")
    form.open_section("Timeouts")
    form.fill("File timeout", "120")
    form.open_section("Resources")
    form.choose("Instance", "tiny: 1 CPU, 2 GiB")

    form.send()

    expect(form.dialog).to_be_hidden()
    page = form.page
    expect(page).to_have_url(re.compile(r"/dags/batch_execution/runs/manual__"))
    run_id = re.search(r"/runs/([^/?]+)", page.url)[1]
    heading = page.get_by_role("heading", level=2, name=run_id)
    expect(heading.locator("xpath=../..")).to_contain_text("Success", timeout=RUN_MILLISECONDS)
    for file in ("monday.csv", "tuesday.csv"):
        expect(page.get_by_role("row", name=re.compile(f"predict {file} Success"))).to_be_visible()
    for name in ("monday", "tuesday"):
        result = pd.read_parquet(deployment.folder / "filled" / "out" / f"{name}.parquet")
        assert_frame_equal(result, expected(frame(name, 5), factor=3))
    manifest = deployment.manifest("filled", run_id)
    assert manifest["finished_files"] == 2


def test_a_client_may_send_choices_in_any_case(deployment: Deployment, run_of_a_client: str) -> None:
    run = deployment.airflow.wait_for_run("batch_execution", run_of_a_client)

    assert run["state"] == "success"
    result = pd.read_feather(deployment.folder / "client" / "out" / "a.feather")
    assert_frame_equal(result, expected(frame("a", 5)))
