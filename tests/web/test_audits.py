"""Audits and evaluations: started, followed, read, compared, taken home."""

import json
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
    page.get_by_role("button", name=re.compile("^Start the")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(f"{kind} of {model}", re.IGNORECASE))


def result_of(page, service, path):
    return httpx.get(f"{service}{path}/{page.url.rsplit('/', 1)[1]}").json()["result"]


def test_an_audit_is_followed_and_read(visit, service):
    page = visit.open()
    start(page, "audit", Random_points="300")
    expect(page.get_by_text("Consistent: nothing observed contradicts")).to_be_visible()
    told = result_of(page, service, "/v1/audits")
    assert told["points"]["data"] == 300  # the samples beside the model
    shown = float(page.locator(".big dd").first.evaluate("node => node.firstChild.textContent"))
    assert told["bound"] <= shown <= told["bound"] * 1.0001
    plot = page.get_by_role("img", name=re.compile("^Histogram of observed gradient norms"))
    expect(plot.locator(".bars path")).to_have_count(len(told["histogram"]["counts"]))
    expect(page.get_by_role("img", name=re.compile("All lie above the diagonal"))).to_be_visible()
    figures = page.locator(".big")
    expect(figures).to_contain_text(f"Labels changed inside the radius0 of {told['points']['attacked']}")
    found = told["attack"]["found"]
    expect(figures).to_contain_text(
        f"outside it an attack reached another for {found} of {told['attack']['inputs']}"
    )
    page.get_by_text("The same as a table").first.click()
    rows = page.get_by_role("region", name="Gradient norms against the bound").get_by_role("row")
    expect(rows).to_have_count(1 + len(told["histogram"]["counts"]))
    witnesses = page.get_by_role("region", name="Witnesses", exact=True).last.get_by_role("row")
    expect(witnesses).to_have_count(1 + len(told["witnesses"]))


def test_an_evaluation_is_read_from_below_and_above(visit, service):
    page = visit.open()
    start(page, "evaluation", Inputs_to_attack="40")
    expect(page.get_by_role("img", name=re.compile("certified"))).to_be_visible()
    told = result_of(page, service, "/v1/evaluations")
    assert (told["samples"], told["attacked_samples"]) == (300, 40)
    page.get_by_text("The same as a table").click()
    rows = page.get_by_role("region", name=re.compile("^Certified and attacked")).get_by_role("row")
    expect(rows).to_have_count(42)
    for epsilon, share in told["certified_accuracy"].items():
        row = rows.filter(has=page.get_by_role("rowheader", name=epsilon, exact=True))
        expect(row.get_by_role("cell").first).to_have_text(f"{100 * share:.1f}%")
    constant = rows.filter(has=page.get_by_role("rowheader", name="any, by a constant answer"))
    expect(constant.get_by_role("cell").first).to_have_text(f"{100 * told['majority_share']:.1f}%")
    expect(page.get_by_text("Attacks saw 40 of 300 inputs, a random sample")).to_be_visible()
    expect(page.get_by_text(f"mean of the classes {100 * told['balanced_accuracy']:.1f}%")).to_be_visible()


def test_the_page_draws_the_numbers_of_the_result_to_one_end(visit, service):
    """Asked for small sizes: what lies beyond is what was measured there, not a line to somewhere."""
    page = visit.open()
    start(page, "evaluation", Inputs_to_attack="40", Largest_size_of_change="0.05")
    plot = page.locator(".plot.tall")
    expect(plot.locator(".trace.scatter")).to_have_count(4)
    told = result_of(page, service, "/v1/evaluations")
    curve, sample = told["curve"], told["attacked_sample"]["curve"]
    names = ("certified", "certified, of those attacked", "after attacks", "a constant answer")
    drawn = {trace["name"]: trace for trace in plot.evaluate(DRAWN)}
    assert tuple(drawn) == names
    assert len({trace["x"][-1] for trace in drawn.values()}) == 1
    assert drawn["a constant answer"]["y"] == [told["majority_share"]] * 2
    assert (drawn["certified"]["x"], drawn["certified"]["y"]) == tuple(curve.values())
    for name, which in ((names[1], "certified_accuracy"), (names[2], "attacked_accuracy")):
        assert (drawn[name]["x"], drawn[name]["y"]) == (sample["epsilon"], sample[which])
    assert drawn["after attacks"]["fill"] == "tonexty"
    assert all(
        low <= high
        for low, high in zip(sample["certified_accuracy"], sample["attacked_accuracy"], strict=True)
    )


def test_data_plots_and_report_are_taken_home(visit):
    page = visit.open()
    page.goto("/#/audits?kind=evaluation&model=two-moons")
    page.get_by_role("radio", name="A few rows").check()
    page.get_by_label(re.compile("^One input a line")).fill("0.0, 1.0, 0\n1.0 -0.5 1\n")
    page.get_by_label("Also keep a report").check()
    page.get_by_role("button", name="Start the evaluation").click()
    expect(page.locator(".trace.scatter")).to_have_count(3)
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


def test_an_estimate_above_the_bound_is_never_shown_as_possible(visit, service):
    """Whatever wrote the result: an older version did not cap."""
    page = visit.open()
    start(page, "audit", Random_points="700")
    expect(page.get_by_text("Consistent: nothing observed contradicts")).to_be_visible()
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


def test_what_runs_is_cancelled(visit):
    page = visit.open()
    start(page, "audit", "digits", Random_points="10000")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("It was cancelled")).to_be_visible()
    page.goto("/#/audits")
    row = page.get_by_role("region", name=re.compile("^Audits and evaluations")).get_by_role("row").nth(1)
    expect(row).to_contain_text("digits")
    expect(row).to_contain_text("cancelled")


@pytest.mark.parametrize(
    ("kind", "fill", "told"),
    [
        ("audit", {"Random points": "100000"}, "samples: is 100000; at most 10000 is accepted"),
        ("evaluation", {"Inputs to attack": "5000"}, "attack: is 5000; at most 1000 is accepted"),
    ],
)
def test_what_is_refused_is_told(visit, kind, fill, told):
    page = visit.open(f"/#/audits?kind={kind}&model=two-moons")
    for label, value in fill.items():
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name=re.compile("^Start the")).click()
    expect(page.get_by_role("alert")).to_contain_text(told)
    visit.expected("422")


def test_rows_that_are_no_numbers_are_told_before_they_are_sent(visit):
    page = visit.open("/#/audits?kind=evaluation&model=two-moons")
    page.get_by_role("radio", name="A few rows").check()
    page.get_by_label(re.compile("^One input a line")).fill("0, 1, 0\n0, x, 1")
    page.get_by_role("button", name="Start the evaluation").click()
    expect(page.get_by_role("alert")).to_contain_text("Line 2")


def test_two_models_are_compared(visit, service):
    rows = {"two-moons": [[0.0, 1.0], [1.0, -0.5]], "digits": [[0.0] * 64, [1.0] * 64]}
    for name, inputs in rows.items():
        asked = {"inputs": inputs, "labels": [0, 1], "epsilons": [0.1]}
        httpx.post(
            f"{service}/v1/models/{name}/evaluations", json=asked, headers={"Prefer": "wait=30"}
        ).raise_for_status()
    page = visit.open("/#/compare")
    page.get_by_label("One").select_option("digits@1")
    page.get_by_label("The other").select_option("two-moons@1")
    expect(page.locator(".trace.scatter")).to_have_count(4)
    proved = page.get_by_role("region", name="Proved of each")
    expect(proved.locator(".badge")).to_have_text(["proved", "proved"])
    expect(proved).not_to_contain_text("held-out")
    record = json.loads((bundled_models() / "digits.json").read_text())
    claimed = page.get_by_role("region", name="Claimed of each")
    expect(claimed).to_contain_text(f"{record['clean_accuracy']:.1%}")
    expect(proved.get_by_role("row").filter(has_text="Bound in ℓ∞")).to_contain_text("8.00000")
    measured = page.get_by_role("region", name="Measured of each")
    expect(measured.get_by_role("row").filter(has_text="Last evaluation")).to_contain_text("2 inputs, ℓ₂")
