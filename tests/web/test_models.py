"""Models: viewing, uploading, versions."""

import re

import httpx
import pytest
from playwright.sync_api import expect

from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from tests.networks import groupsort_net, to_file
from tests.seeds import bundled_models
from tests.service.conftest import digits


def test_models_are_listed_and_link_to_their_bounds(visit, service):
    page = visit.open()
    expect(page.get_by_role("heading", level=1)).to_have_text("Models")
    assert {"digits", "two-moons"} <= set(page.locator(".card h2").all_inner_texts())
    page.get_by_role("link", name="digits", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("digits")
    told = httpx.get(f"{service}/v1/models/digits").json()
    proved = page.get_by_role("region", name="Proved", exact=True)
    for norm, symbol in (("1", "l1"), ("2", "l2"), ("inf", "linf")):
        row = proved.get_by_role("row").filter(has_text=symbol)
        shown = float(row.get_by_role("cell").first.inner_text())
        assert told["bounds"][norm]["global"] <= shown <= told["bounds"][norm]["global"] * (1 + 1e-5)
    claimed = page.get_by_role("region", name="Claimed")
    expect(claimed).to_contain_text(re.compile(r"proved bound: 0\.99999\d{4}"))
    expect(page.get_by_role("region", name="File", exact=True)).to_contain_text("Gemm × 3")
    expect(page.get_by_role("region", name="Serving")).to_contain_text("all labels are returned")
    copy = page.get_by_role("region", name="File", exact=True).get_by_role("button", name="Copy digest")
    copy.click()
    expect(copy).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == told["sha256"]


def forged(service, name, **record):
    """Serve a model whose file makes unverified claims."""
    claims = Claims(norm=Norm.TWO, lipschitz=1.01, input_box=(0.0, 1.0), record=record)
    content = to_file(groupsort_net((2, 8), 2), claims)
    httpx.put(f"{service}/v1/models/{name}", content=content).raise_for_status()


def test_only_the_claimed_constant_is_marked_as_proved(visit, service):
    held = {"clean_accuracy": 1.0, "average_certified_radius": 9.9, "samples": 1000, "norm": "2"}
    forged(service, "forged", held_out=held | {"certified_accuracy": {"0.5": 1.0}}, units="metres")
    page = visit.open("/#/models/forged")
    claimed = page.get_by_role("region", name="Claimed")
    expect(claimed.locator(".badge.good")).to_have_count(1)
    expect(claimed.locator("dl > div", has=page.locator(".badge.good"))).to_have_text(
        re.compile("^Lipschitz constant1.01 in l2 proved")
    )
    results = claimed.locator("h3", has_text="Results not checked")
    expect(results.locator("xpath=following-sibling::dl[1]")).to_contain_text("9.900")
    data = claimed.locator("h3", has_text="Data not checked")
    expect(data.locator("xpath=following-sibling::dl[1]")).to_contain_text("metres")
    rows = {"inputs": [[0.0, 0.5], [1.0, 0.0]], "labels": [0, 0]}
    asked = httpx.post(f"{service}/v1/models/forged/evaluations", json=rows, headers={"Prefer": "wait=30"})
    result = asked.raise_for_status().json()
    page.reload()
    expect(claimed).to_contain_text("Results measured here")
    expect(claimed).to_contain_text(f"Clean accuracy{100 * result['clean_accuracy']:.1f}%")
    expect(claimed).not_to_contain_text("9.900")
    claimed.get_by_role("link", name="Last evaluation").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Evaluation of forged")


@pytest.mark.parametrize(
    "record",
    [
        {"held_out": {"clean_accuracy": "<b>", "samples": None, "average_certified_radius": {}, "norm": 3}},
        {"held_out": 5, "units": {"a": 1}, "recipe": {"name": []}, "data_sha256": 7},
        {"held_out": {"certified_accuracy": [1, 2]}},
    ],
)
def test_malformed_records_are_shown(visit, service, record):
    forged(service, "odd", **record)
    page = visit.open("/#/models/odd")
    expect(page.get_by_role("region", name="Claimed")).to_contain_text("Data not checked")


def test_constants_of_pairs_follow_the_chosen_norm(visit, service):
    page = visit.open("/#/models/digits")
    bounds = httpx.get(f"{service}/v1/models/digits").json()["bounds"]
    pairs = page.get_by_role("region", name=re.compile("^Proved Lipschitz constants of score differences"))
    for norm in ("2", "inf"):
        page.get_by_label("Norm").select_option(norm)
        cell = pairs.get_by_role("row").nth(1).get_by_role("cell").nth(1)
        expect(cell).to_have_text(re.compile(r"^\d"))
        exact = bounds[norm]["per_pair"][0][1]
        assert exact <= float(cell.inner_text()) <= exact * 1.001


def test_predictions_are_counted(visit, service):
    httpx.post(f"{service}/v1/models/two-moons/predict", json={"inputs": [[0, 1]]}).raise_for_status()
    page = visit.open("/#/models/two-moons")
    counted = page.get_by_role("region", name="Serving")
    expect(counted).to_contain_text(re.compile(r"\d+, mean radius 0\.\d+"))
    expect(counted).to_contain_text("Labels withheld by the policy")


def drop(page, path):
    """Give the file input of the upload zone a file."""
    page.locator(".drop input[type=file]").first.set_input_files(path)


def test_model_is_uploaded_versioned_rolled_back_and_removed(visit, tmp_path):
    page = visit.open()
    (tmp_path / "My model.onnx").write_bytes(digits())
    drop(page, tmp_path / "My model.onnx")
    name = page.get_by_label(re.compile("^Model name for"))
    expect(name).to_have_value("My-model")
    name.fill("added")
    page.get_by_role("button", name="Check and serve").click()
    expect(page.get_by_text("Version 1 of added is served")).to_be_visible()
    expect(page.locator(".notice.good")).to_contain_text("Proved Lipschitz constant of a score")
    page.get_by_role("link", name="Show the model").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("added")
    drop(page, bundled_models() / "digits.onnx")
    refused = page.get_by_text("is incompatible with the model's clients")
    expect(refused).to_be_visible()
    visit.expected("409")
    page.get_by_role("button", name="Make it the default anyway").click()
    expect(page.get_by_text("Version 2 of added is served")).to_be_visible()
    page.reload()
    versions = page.get_by_role("region", name="Versions of added")
    expect(versions.get_by_role("row").nth(1)).to_contain_text("latest")
    page.get_by_role("button", name="Make version 1 the default").click()
    expect(versions.get_by_role("row").nth(2)).to_contain_text("latest")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove version 2").click()
    expect(versions.get_by_role("row")).to_have_count(2)


@pytest.mark.parametrize(("content", "message"), [(b"x", "not an ONNX model"), (b"", "")])
def test_refused_upload_is_explained(visit, tmp_path, content, message):
    page = visit.open()
    (tmp_path / "bad.onnx").write_bytes(content)
    drop(page, tmp_path / "bad.onnx")
    page.get_by_role("button", name="Check and serve").click()
    refused = page.get_by_role("alert")
    expect(refused).to_contain_text("The file was refused and not stored")
    expect(refused).to_contain_text(message)
    visit.expected("422")


def test_unknown_model_and_unknown_view_are_reported(visit):
    page = visit.open("/#/models/nope")
    expect(page.get_by_role("alert")).to_contain_text("no model is named 'nope'")
    page.goto("/#/nowhere")
    expect(page.get_by_role("heading", level=1)).to_have_text("Page not found")
    visit.expected("404")
