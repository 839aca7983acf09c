"""Audits and evaluations: starting, following, reading, comparing, downloading."""

import json
import math
import re

import httpx
import pytest
from playwright.sync_api import expect

from tests.seeds import bundled_models

DRAWN = "(node) => node.data.map(({ name, x, y, fill }) => ({ name, x: [...x], y: [...y], fill }))"


def start(page, kind, model="two-moons", **more):
    page.goto(f"/#/audits?kind={kind}&model={model}")
    for label, value in more.items():
        page.get_by_label(label.replace("_", " ")).fill(value)
    page.get_by_role("button", name=re.compile("^Start (audit|evaluation)$")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(f"{kind} of {model}", re.IGNORECASE))


def result_of(page, service, path):
    return httpx.get(f"{service}{path}/{page.url.rsplit('/', 1)[1]}").json()["result"]


def test_audit_is_followed_and_shown(visit, service):
    page = visit.open()
    start(page, "audit", Random_points="300")
    expect(page.get_by_text("Consistent: no observation contradicts")).to_be_visible()
    told = result_of(page, service, "/v1/audits")
    assert told["points"]["data"] == 300  # the samples beside the model
    shown = float(page.locator(".big dd").first.evaluate("node => node.firstChild.textContent"))
    assert told["bound"] <= shown <= told["bound"] * 1.0001
    plot = page.get_by_role("img", name=re.compile("^Histogram of observed gradient norms"))
    expect(plot.locator(".bars path")).to_have_count(len(told["histogram"]["counts"]))
    expect(page.get_by_role("img", name=re.compile("All points lie above the diagonal"))).to_be_visible()
    figures = page.locator(".big")
    expect(figures).to_contain_text(f"Labels changed within the radius0 of {told['points']['attacked']}")
    found = told["attack"]["found"]
    expect(figures).to_contain_text(f"beyond the radius: {found} of {told['attack']['inputs']}")
    page.get_by_text("Show as table").first.click()
    rows = page.get_by_role("region", name="Gradient norms against the bound").get_by_role("row")
    expect(rows).to_have_count(1 + len(told["histogram"]["counts"]))
    witnesses = page.get_by_role("region", name="Witnesses", exact=True).last.get_by_role("row")
    expect(witnesses).to_have_count(1 + len(told["witnesses"]))


def test_evaluation_shows_certified_accuracy_and_accuracy_under_attack(visit, service):
    page = visit.open()
    start(page, "evaluation", Inputs_to_attack="40")
    expect(page.get_by_role("img", name=re.compile("certified"))).to_be_visible()
    told = result_of(page, service, "/v1/evaluations")
    assert (told["samples"], told["attacked_samples"]) == (300, 40)
    page.get_by_text("Show as table").click()
    rows = page.get_by_role(
        "region", name=re.compile("^Certified accuracy and accuracy under attack")
    ).get_by_role("row")
    expect(rows).to_have_count(42)
    for epsilon, share in told["certified_accuracy"].items():
        row = rows.filter(has=page.get_by_role("rowheader", name=epsilon, exact=True))
        expect(row.get_by_role("cell").first).to_have_text(f"{math.floor(1000 * share) / 10:.1f}%")
    constant = rows.filter(has=page.get_by_role("rowheader", name="any: majority-class baseline"))
    expect(constant.get_by_role("cell").first).to_have_text(f"{100 * told['majority_share']:.1f}%")
    expect(page.get_by_text("40 of 300 inputs were attacked, a stratified random sample")).to_be_visible()
    expect(page.get_by_text(f"balanced accuracy {100 * told['balanced_accuracy']:.1f}%")).to_be_visible()


def test_accuracy_plot_draws_the_numbers_of_the_result(visit, service):
    """All traces end at the same size, also if only small sizes were requested."""
    page = visit.open()
    start(page, "evaluation", Inputs_to_attack="40", Largest_perturbation_size="0.05")
    plot = page.locator(".plot.tall")
    expect(plot.locator(".trace.scatter")).to_have_count(4)
    told = result_of(page, service, "/v1/evaluations")
    curve, sample = told["curve"], told["attacked_sample"]["curve"]
    names = ("certified", "certified, attacked inputs", "under attack", "majority-class baseline")
    drawn = {trace["name"]: trace for trace in plot.evaluate(DRAWN)}
    assert tuple(drawn) == names
    assert len({trace["x"][-1] for trace in drawn.values()}) == 1
    assert drawn["majority-class baseline"]["y"] == [told["majority_share"]] * 2
    assert (drawn["certified"]["x"], drawn["certified"]["y"]) == tuple(curve.values())
    for name, which in ((names[1], "certified_accuracy"), (names[2], "attacked_accuracy")):
        assert (drawn[name]["x"], drawn[name]["y"]) == (sample["epsilon"], sample[which])
    assert drawn["under attack"]["fill"] == "tonexty"
    assert all(
        low <= high
        for low, high in zip(sample["certified_accuracy"], sample["attacked_accuracy"], strict=True)
    )


def test_data_plots_and_report_are_downloaded(visit):
    page = visit.open()
    page.goto("/#/audits?kind=evaluation&model=two-moons")
    page.get_by_role("radio", name="Rows").check()
    page.get_by_label(re.compile("^One input per line")).fill("0.0, 1.0, 0\n1.0 -0.5 1\n")
    page.get_by_label("Also create a report").check()
    page.get_by_role("button", name="Start evaluation").click()
    expect(page.locator(".trace.scatter")).to_have_count(3, timeout=60_000)  # the report takes seconds
    with page.expect_download() as data:
        page.get_by_role("button", name="Data (JSON)").click()
    assert json.loads(data.value.path().read_text())["result"]["samples"] == 2
    for format_, start_ in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with page.expect_download() as plot:
            page.get_by_role("button", name=re.compile(f"as {format_}$")).click()
        assert plot.value.suggested_filename == f"accuracy.{format_.lower()}"
        assert plot.value.path().read_bytes().startswith(start_)
    page.get_by_text("Report", exact=True).click()
    with page.expect_download() as report:
        page.get_by_role("button", name="evaluation.html").click()
    assert b"two-moons" in report.value.path().read_bytes()


def test_extreme_value_estimate_is_capped_at_the_bound(visit, service):
    """Results of earlier versions are not capped."""
    page = visit.open()
    start(page, "audit", Random_points="700")
    expect(page.get_by_text("Consistent: no observation contradicts")).to_be_visible()
    body = httpx.get(f"{service}/v1/audits/{page.url.rsplit('/', 1)[1]}").json()
    for pair in body["result"]["per_pair"]:
        del pair["extreme_value_capped"]
        pair["extreme_value_estimate"] = 1.78 * pair["bound"]
    page.route(re.compile("/v1/audits/[^/]*$"), lambda route: route.fulfill(json=body))
    page.reload()
    table = page.get_by_role("region", name=re.compile("^Each score, and each difference"))
    expect(table.get_by_role("columnheader", name="Estimate (CLEVER), not proved")).to_be_visible()
    expect(table.get_by_role("cell", name=re.compile(", capped at the bound$"))).to_have_count(
        len(body["result"]["per_pair"])
    )


def test_running_audit_is_cancelled(visit):
    page = visit.open()
    start(page, "audit", "digits", Random_points="10000")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Audit cancelled")).to_be_visible()
    page.goto("/#/audits")
    row = page.get_by_role("region", name=re.compile("^Audits and evaluations")).get_by_role("row").nth(1)
    expect(row).to_contain_text("digits")
    expect(row).to_contain_text("cancelled")


@pytest.mark.parametrize(
    ("kind", "fill", "message"),
    [
        ("audit", {"Random points": "100000"}, "samples is 100000; at most 10000 is accepted"),
        ("evaluation", {"Inputs to attack": "5000"}, "attack is 5000; at most 1000 is accepted"),
    ],
)
def test_invalid_parameters_are_reported(visit, kind, fill, message):
    page = visit.open(f"/#/audits?kind={kind}&model=two-moons")
    for label, value in fill.items():
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name=re.compile("^Start (audit|evaluation)$")).click()
    expect(page.get_by_role("alert")).to_contain_text(message)
    visit.expected("422")


def test_edited_fields_keep_their_values_when_the_model_arrives(visit):
    page = visit.open("/#/models")

    def edit_first(route):
        page.get_by_label("Inputs to attack").fill("7")
        route.continue_()

    page.route("**/v1/models/two-moons", edit_first)
    page.goto("/#/audits?kind=evaluation&model=two-moons")
    expect(page.get_by_label("Largest perturbation size")).not_to_have_value("")
    expect(page.get_by_label("Inputs to attack")).to_have_value("7")


def test_invalid_rows_are_reported_before_they_are_sent(visit):
    page = visit.open("/#/audits?kind=evaluation&model=two-moons")
    page.get_by_role("radio", name="Rows").check()
    page.get_by_label(re.compile("^One input per line")).fill("0, 1, 0\n0, x, 1")
    page.get_by_role("button", name="Start evaluation").click()
    expect(page.get_by_role("alert")).to_contain_text("Line 2")


def test_compare_shows_two_models(visit, service):
    rows = {"two-moons": [[0.0, 1.0], [1.0, -0.5]], "digits": [[0.0] * 64, [1.0] * 64]}
    for name, inputs in rows.items():
        asked = {"inputs": inputs, "labels": [0, 1], "epsilons": [0.1]}
        httpx.post(
            f"{service}/v1/models/{name}/evaluations", json=asked, headers={"Prefer": "wait=30"}
        ).raise_for_status()
    page = visit.open("/#/compare")
    page.get_by_label("First model").select_option("digits@1")
    page.get_by_label("Second model").select_option("two-moons@1")
    expect(page.locator(".trace.scatter")).to_have_count(4)
    proved = page.get_by_role("region", name="Proved bounds")
    expect(proved.locator(".badge")).to_have_text(["proved", "proved"])
    expect(proved).not_to_contain_text("held-out")
    record = json.loads((bundled_models() / "digits.json").read_text())
    claimed = page.get_by_role("region", name="Claims of the files")
    expect(claimed).to_contain_text(f"{record['clean_accuracy']:.1%}")
    expect(proved.get_by_role("row").filter(has_text="Bound of a score, linf")).to_contain_text("8.00000")
    measured = page.get_by_role("region", name="Measured results")
    expect(measured.get_by_role("row").filter(has_text="Last evaluation")).to_contain_text("2 inputs, l2")
