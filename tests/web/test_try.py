"""The Try it view: the page shows what the service predicts for the current input."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from fractions import Fraction

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm, vector_norm
from tests.networks import groupsort_net, to_file
from tests.seeds import bundled_models
from tests.service.conftest import lipserve, url_of

COLUMNS = ["age", "height", "weight", "shoe size", "<b>hostile</b>"]
FORGED = {"label": "upper", "certified_radius": 1.0, "adversarial": [0.5, 0.5], "adversarial_label": "lower"}

COUNTED = """() => {
    const real = fetch;
    const pending = {};
    globalThis.maxPending = {};
    globalThis.fetch = async (path, options) => {
        const kind = path.match(/predict|attacks|$/)[0];
        pending[kind] = (pending[kind] ?? 0) + 1;
        globalThis.maxPending[kind] = Math.max(globalThis.maxPending[kind] ?? 0, pending[kind]);
        try { return await real(path, options); } finally { pending[kind] -= 1; }
    };
}"""
"""Script that records the maximum numbers of concurrent predict and attack requests."""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Yield the URL of a service with the bundled models, tabular ones, one without samples, and one that abstains."""
    folder = tmp_path_factory.mktemp("try") / "models"
    folder.mkdir()
    for file in [*bundled_models().glob("*.onnx"), *bundled_models().glob("*.npz")]:
        shutil.copy(file, folder)
    rng = np.random.default_rng(0)
    claims = Claims(norm=Norm.TWO, record={"columns": COLUMNS, "units": "as in the file"})
    (folder / "table.onnx").write_bytes(to_file(groupsort_net((5, 16), 3), claims))
    np.savez(folder / "table.samples.npz", inputs=rng.normal(size=(9, 5)), labels=np.arange(9) % 3)
    (folder / "plain.onnx").write_bytes(to_file(groupsort_net((2, 8), 3)))
    (folder / "nameless.onnx").write_bytes(to_file(groupsort_net((3, 8), 2)))
    ranged = Claims(norm=Norm.TWO, input_box=(0.0, 1.0))
    (folder / "ranged.onnx").write_bytes(to_file(groupsort_net((3, 8), 2), ranged))
    shutil.copy(bundled_models() / "two-moons.onnx", folder / "careful.onnx")
    (folder / "careful.toml").write_text('[policy]\nepsilon = 0.3\naction = "abstain"\n')
    with lipserve("--models", folder, "--port", 0) as process:
        yield url_of(process)


@pytest.fixture(scope="module")
def api(service):
    with httpx.Client(base_url=f"{service}/v1/models", timeout=60) as client:
        yield client


def ready(page):
    """Wait until the first input is predicted and attacked, and return the page."""
    page.wait_for_selector(".trial[data-certificates]")
    rested(page)
    if page.locator(".stage").count():
        page.locator(".handle").wait_for()  # the map is drawn
    return page


def rested(page):
    ends = "^Nearest adversarial example|^No adversarial example was found|^The certificate is refuted"
    page.get_by_text(re.compile(ends)).first.wait_for()


def panel(page):
    """Return the terms and values of the results panel, and the shown label as ``answer``."""
    texts = page.locator(".trial .facts > div").all_inner_texts()
    return dict(text.split("\n", 1) for text in texts) | {"answer": page.locator(".answer").inner_text()}


def number(text):
    return float(re.match(r"[\d.]+", text)[0])


def point(page):
    return [float(box.input_value()) for box in page.locator(".pair input").all()]


def shapes(page):
    return page.evaluate("document.querySelector('.plot.map').layout.shapes")


def ask(api, name, row, norm="2"):
    answer = api.post(f"/{name}/predict", json={"inputs": [row], "norm": norm})
    return answer.json()["predictions"][0]


def settle(page, change):
    """Make a change, and wait until the changed input is predicted and attacked."""
    with page.expect_response(re.compile("/attacks$")):
        change()
    rested(page)


# --- the map -------------------------------------------------------------------------------


def test_dragged_point_is_predicted_continuously(visit, api):
    page = visit.open("/#/models")
    page.evaluate(COUNTED)
    page.evaluate("location.hash = '#/try/two-moons'")
    ready(page)
    before = int(page.locator(".trial").get_attribute("data-certificates"))
    at = page.locator(".handle").bounding_box()
    x, y = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    start = point(page)
    for step in range(1, 41):
        page.mouse.move(x + 3 * step, y - step)
    settle(page, lambda: page.mouse.move(x + 125, y - 42))
    page.mouse.up()
    predicted = int(page.locator(".trial").get_attribute("data-certificates")) - before
    assert 8 <= predicted <= 42, "intermediate inputs are predicted as fast as the service responds"
    pending = page.evaluate("globalThis.maxPending")
    assert (pending["predict"], pending["attacks"]) == (1, 1), "one request at a time"
    where = point(page)
    assert where[0] > start[0]
    assert where[1] > start[1]
    answer, shown = ask(api, "two-moons", where), panel(page)
    assert shown["answer"] == answer["label"]
    assert number(shown["Certified radius"]) == pytest.approx(answer["certified_radius"], rel=1e-4)
    assert shown["Runner-up"] == answer["runner_up"]
    ball = next(shape for shape in shapes(page) if shape.get("fillcolor") and "xanchor" not in shape)
    assert (ball["x1"] - ball["x0"]) / 2 == pytest.approx(answer["certified_radius"], rel=1e-4)
    assert (ball["x1"] + ball["x0"]) / 2 == pytest.approx(where[0], rel=1e-4)


def test_adversarial_example_is_drawn_where_the_label_differs(visit, api):
    page = ready(visit.open("/#/try/two-moons"))
    cross = next(shape for shape in shapes(page) if shape["type"] == "path")
    there = [cross["xanchor"], cross["yanchor"]]
    shown = panel(page)
    assert ask(api, "two-moons", there)["label"] != shown["answer"]
    away = vector_norm(np.subtract(there, point(page)), Norm.TWO)
    assert number(shown["Nearest adversarial example"]) == pytest.approx(away, rel=1e-4)
    assert number(shown["Certified radius"]) < number(shown["Nearest adversarial example"])
    assert page.locator("#live").inner_text().startswith(f"Label {shown['answer']}. Certified radius ")


def test_point_moves_by_keys_and_by_numbers(visit, api):
    page = ready(visit.open("/#/try/two-moons"))
    handle, first = page.locator(".handle"), point(page)
    handle.focus()
    settle(page, lambda: handle.press("ArrowRight"))
    second = point(page)
    assert second[0] > first[0]
    assert second[1] == first[1]
    settle(page, lambda: handle.press("Shift+ArrowUp"))
    assert point(page)[1] - second[1] > 5 * (second[0] - first[0]) * 0.5
    assert "x₁" in handle.get_attribute("aria-label")
    box = page.get_by_role("spinbutton", name="x₁")
    box.fill("-0.5")
    settle(page, lambda: box.press("Enter"))
    assert point(page)[0] == -0.5
    assert panel(page)["answer"] == ask(api, "two-moons", point(page))["label"]


def test_ball_has_the_shape_of_its_norm(visit, api):
    page = ready(visit.open("/#/try/two-moons"))
    for norm, form in [("1", "path"), ("inf", "rect"), ("2", "circle")]:
        settle(page, page.locator(f'input[value="{norm}"]').check)
        assert shapes(page)[0]["type"] == form
        answer = ask(api, "two-moons", point(page), norm)
        assert number(panel(page)["Certified radius"]) == pytest.approx(answer["certified_radius"], rel=1e-4)


def test_tap_moves_the_point_on_a_phone(visit):
    page = ready(
        visit.open("/#/try/two-moons", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    first = point(page)
    box = page.locator(".plot.map").bounding_box()
    settle(page, lambda: page.touchscreen.tap(box["x"] + 0.8 * box["width"], box["y"] + 0.3 * box["height"]))
    assert point(page)[0] > first[0]


def test_map_shows_regions_radii_and_samples_in_both_themes(visit):
    page = ready(visit.open("/#/try/two-moons"))
    page.get_by_text("Colour: predicted label").wait_for()
    drawn = "document.querySelector('.plot.map')"
    assert page.evaluate(f"{drawn}.layout.images.length") == 1
    assert page.evaluate(f"{drawn}.data.filter((trace) => trace.type === 'contour').length") == 2
    points = f"{drawn}.data.filter((t) => t.type === 'scatter').reduce((n, t) => n + t.x.length, 0)"
    assert page.evaluate(points) == 300
    light = page.evaluate(f"{drawn}.layout.images[0].source")
    page.locator("#theme").click()
    page.wait_for_function(f"(light) => {drawn}.layout.images[0].source !== light", arg=light)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the map as SVG").click()
    assert saved.value.suggested_filename == "two-moons-map.svg"


def test_map_works_without_samples(visit):
    page = ready(visit.open("/#/try/plain"))
    page.get_by_text("This model has no stored samples").wait_for()
    page.locator(".handle").focus()
    before = panel(page)["Certified radius"]
    settle(page, lambda: page.locator(".handle").press("Shift+ArrowRight"))
    assert panel(page)["Certified radius"] != before


@pytest.mark.parametrize("finding", [
    {"found": True, "distance": 0.5, "refuted": True},
    {"found": False, "distance": None, "refuted": False, "adversarial": None, "adversarial_label": None},
], ids=["refuted", "nothing"])  # fmt: skip
def test_refutations_and_failed_searches_are_shown(visit, finding):
    page = visit.open("/#/models")
    body = json.dumps({"model": {}, "norm": "2", "findings": [FORGED | finding]})
    page.route("**/attacks", lambda route: route.fulfill(body=body, content_type="application/json"))
    page.goto("/#/try/two-moons")
    ready(page)
    notice = page.locator(".trial .notice")
    if finding["refuted"]:
        assert "The certificate is refuted" in notice.inner_text()
        assert notice.get_attribute("role") == "alert"
    else:
        assert "No adversarial example was found" in notice.inner_text()
        assert [shape for shape in shapes(page) if shape["type"] == "path"] == []


def test_withheld_labels_are_marked(visit):
    page = ready(visit.open("/#/try/careful"))
    assert panel(page)["answer"] == "Label withheld by the model's policy"
    assert page.locator("#norms input").count() == 1, "the policy allows its own norm only"


def level(canvas):
    """Return the grey levels of a canvas by row, read from a copy: browsers warn about frequent reads of one canvas."""
    copied = "(c) => { const pen = new OffscreenCanvas(8, 8).getContext('2d'); pen.drawImage(c, 0, 0); return [...pen.getImageData(0, 0, 8, 8).data]; }"
    return np.array(canvas.evaluate(copied))[::4].reshape(8, 8)


# --- images --------------------------------------------------------------------------------


def test_sample_is_compared_with_its_adversarial_example(visit, api):
    page = ready(visit.open("/#/try/digits"))
    settle(page, page.get_by_role("button", name=re.compile("^Sample 3: ")).click)
    row = api.get("/digits/samples").json()["inputs"][2]
    answer, shown = ask(api, "digits", row), panel(page)
    assert shown["answer"] == answer["label"]
    assert number(shown["Certified radius"]) == pytest.approx(answer["certified_radius"], rel=1e-4)
    finding = api.post("/digits/attacks", json={"inputs": [row]}).json()["findings"][0]
    other = page.get_by_role("img", name=re.compile("^Nearest adversarial example: "))
    assert finding["adversarial_label"] in other.get_attribute("aria-label")
    expected = np.clip(np.multiply(finding["adversarial"], 255), 0, 255).reshape(8, 8)
    np.testing.assert_allclose(level(other), expected, atol=1)


def test_image_is_drawn_by_pointer_and_by_keys(visit):
    page = ready(visit.open("/#/try/digits"))
    settle(page, page.get_by_role("button", name="Clear").click)
    canvas = page.locator("canvas.drawn")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] / 2, steps=4)
    settle(page, lambda: page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] - 5))
    page.mouse.up()
    assert level(canvas)[4, 4] > 200
    assert level(canvas)[4, 0] == 0
    canvas.press("ArrowLeft")
    settle(page, lambda: canvas.press(" "))
    assert level(canvas)[4, 3] == 255
    assert page.locator("#live").inner_text() != ""
    settle(page, lambda: canvas.press("Backspace"))
    assert level(canvas)[4, 3] == 0


def test_perturbations_within_the_radius_keep_the_label(visit):
    page = ready(visit.open("/#/try/digits"))
    bodies = predict_bodies(page)
    slider, radius = page.get_by_label("Perturbation size"), number(panel(page)["Certified radius"])
    page.get_by_text("Within the radius: the label is certified").wait_for()
    bodies.clear()
    slider.fill("80")
    page.get_by_text("64 of 64 random perturbations of this size keep the label").wait_for()
    rows = np.load(io.BytesIO(bodies[-1]))
    original = api_row(page)
    sizes = vector_norm(rows - original, Norm.TWO, axis=1)
    np.testing.assert_allclose(sizes, number(page.locator("#noise-scale").inner_text()), rtol=1e-3)
    assert sizes.max() <= radius * 1.0001
    assert "within the certified radius" in slider.get_attribute("aria-valuetext")
    page.get_by_label("towards the adversarial example").check()
    slider.fill("200")
    page.get_by_text("Beyond the radius: nothing is certified").wait_for()
    page.get_by_text("The perturbed input is").wait_for()
    assert "beyond the certified radius" in slider.get_attribute("aria-valuetext")


def respond_with_radius(page, radius):
    """Replace the certified radius in responses with a single prediction, not in those for perturbed inputs."""

    def patched(route):
        answer = route.fetch()
        body = answer.json()
        if len(body["predictions"]) == 1:
            body["predictions"][0]["certified_radius"] = radius
        route.fulfill(response=answer, json=body)

    page.route("**/predict*", patched)
    page.route("**/attacks", lambda route: route.abort())


def predict_bodies(page):
    bodies = []
    page.on("request", lambda r: "/predict" in r.url and bodies.append(r.post_data_buffer))
    return bodies


def test_sent_perturbations_are_compared_with_the_radius(visit, api):
    """80/200 of 2.5 radii may round to more than the radius; the perturbations sent are shrunk to within it."""
    row = api.get("/digits/samples").json()["inputs"][0]
    radius = ask(api, "digits", row)["certified_radius"]
    while not 80 / 200 * (2.5 * radius) > radius:
        radius = math.nextafter(radius, 0.0)
    page = visit.open("/#/models")
    bodies = predict_bodies(page)
    respond_with_radius(page, radius)
    page.goto("/#/try/digits")
    page.get_by_text("Within the radius: the label is certified").wait_for()
    slider = page.get_by_label("Perturbation size")
    slider.fill("80")
    page.get_by_text("64 of 64 random perturbations of this size keep the label").wait_for()
    expect(slider).to_have_attribute("aria-valuetext", re.compile("within the certified radius$"))
    page.get_by_text("Within the radius: the label is certified").wait_for()
    rows = np.load(io.BytesIO(bodies[-1]))
    for changed in rows.tolist():
        exact = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(changed, row, strict=True))
        assert exact <= Fraction(radius) ** 2
    page.unroute_all(behavior="ignoreErrors")
    visit.expected("ERR_FAILED")


def test_perturbation_rounded_beyond_the_radius_is_not_within(visit, api):
    """A pixel of 15/16 changes by at least 2⁻⁵³, more than this radius, although the intended change is smaller."""
    row, radius = np.array(api.get("/digits/samples").json()["inputs"][0]), 0.9 * 2.0**-53
    assert row.max() > 0.5
    page = visit.open("/#/models")
    bodies = predict_bodies(page)
    respond_with_radius(page, radius)
    page.goto("/#/try/digits")
    page.locator('input[value="inf"]').check()
    page.get_by_text("Beyond the radius: nothing is certified").wait_for()
    expect(page.get_by_label("Perturbation size")).to_have_attribute("aria-valuetext", re.compile("beyond"))
    assert np.abs(np.load(io.BytesIO(bodies[-1])) - row).max() > radius
    page.unroute_all(behavior="ignoreErrors")
    visit.expected("ERR_FAILED")


def delayed(route):
    route.request.frame.page.wait_for_timeout(300)
    route.continue_()


def test_perturbation_starts_in_either_order_of_prediction_and_search(visit):
    page = visit.open("/#/models")
    page.route("**/attacks", lambda route: route.abort())
    page.route("**/predict*", delayed)
    page.goto("/#/try/digits")
    page.get_by_text("Within the radius: the label is certified").wait_for()
    page.unroute_all(behavior="ignoreErrors")
    visit.expected("ERR_FAILED")


def test_input_far_outside_the_stated_range_is_warned_about(visit):
    page = ready(visit.open("/#/try/ranged"))
    warning = page.get_by_text("A value lies far outside the input range that the file states")
    expect(warning).to_have_count(0)
    settle(page, lambda: page.get_by_label("Feature 2").fill("2.5"))
    expect(warning).to_be_visible()
    settle(page, lambda: page.get_by_label("Feature 2").fill("1.5"))
    expect(warning).to_have_count(0)


def test_perturbation_has_the_stated_size_after_a_norm_change(visit):
    page = ready(visit.open("/#/try/digits"))
    page.get_by_text("Within the radius: the label is certified").wait_for()
    bodies = predict_bodies(page)
    page.get_by_role(
        "button", name="Sample 1: 3"
    ).click()  # the same one; the norm changes before its attack:
    settle(page, page.locator('input[value="1"]').check)
    page.get_by_text("64 of 64 random perturbations").wait_for()
    rows = np.load(io.BytesIO(bodies[-1]))
    assert len(rows) == 64
    shown = number(page.locator("#noise-scale").inner_text())
    np.testing.assert_allclose(vector_norm(rows - api_row(page), Norm.ONE, axis=1), shown, rtol=1e-3)


def api_row(page):
    """Return the first sample, which the page starts with."""
    return np.array(page.evaluate("fetch('/v1/models/digits/samples').then((a) => a.json())")["inputs"][0])


# --- columns -------------------------------------------------------------------------------


def test_form_is_filled_in_and_predicted(visit, api):
    page = ready(visit.open("/#/try/table"))
    row = api.get("/table/samples").json()["inputs"][0]
    assert [label.inner_text() for label in page.locator(".numbers label").all()] == COLUMNS
    page.get_by_text("Units: as in the file.").wait_for()
    assert panel(page)["answer"] == ask(api, "table", row)["label"]
    box = page.get_by_label("height")
    settle(page, lambda: box.fill("2.5"))
    row[1] = 2.5
    answer, shown = ask(api, "table", row), panel(page)
    assert shown["answer"] == answer["label"]
    assert number(shown["Certified radius"]) == pytest.approx(answer["certified_radius"], rel=1e-3)
    box.fill("")
    assert box.get_attribute("aria-invalid") == "true"
    finding = api.post("/table/attacks", json={"inputs": [row]}).json()["findings"][0]
    table = page.get_by_role("table")
    assert f"adversarial example: {finding['adversarial_label']}" in table.inner_text()
    settle(page, lambda: page.get_by_label("Start from").select_option(index=4))
    row = api.get("/table/samples").json()["inputs"][4]
    assert panel(page)["answer"] == ask(api, "table", row)["label"]


def test_model_without_column_names_has_numbered_fields(visit):
    page = ready(visit.open("/#/try/nameless"))
    assert page.locator(".numbers label").all_inner_texts() == ["Feature 1", "Feature 2", "Feature 3"]
    page.get_by_text("This model has no stored samples").wait_for()
    settle(page, lambda: page.get_by_label("Feature 2").fill("1"))


# --- all of them ---------------------------------------------------------------------------


def test_model_is_chosen(visit):
    page = ready(visit.open("/#/try"))
    assert page.url.endswith("#/try/careful"), "the first served model"
    page.get_by_label("Model").select_option("digits")
    page.locator("canvas.drawn").wait_for()
    assert page.url.endswith("#/try/digits")
    ready(page)


def test_unreachable_service_is_reported_and_recovers(visit):
    page = ready(visit.open("/#/try/two-moons"))
    page.route("**/predict*", lambda route: route.abort())
    page.locator(".handle").press("ArrowRight")
    page.get_by_text("The service does not respond").first.wait_for()
    page.unroute("**/predict*")
    settle(page, lambda: page.locator(".handle").press("ArrowLeft"))
    assert panel(page)["answer"] in {"upper", "lower"}
    assert all("Failed to load resource" in complaint for complaint in visit.complaints)
    visit.complaints.clear()


def test_certificate_is_shown_without_the_scope_to_attack(visit):
    page = visit.open("/#/models")
    body = {"type": "/problems/forbidden", "title": "The caller may not do this", "status": 403,
            "detail": "this takes the scope 'audit'", "error": "this takes the scope 'audit'"}  # fmt: skip
    refusal = {"status": 403, "body": json.dumps(body), "content_type": "application/problem+json"}
    page.route("**/attacks", lambda route: route.fulfill(**refusal))
    page.goto("/#/try/two-moons")
    page.get_by_text("this takes the scope 'audit'").wait_for()
    assert number(panel(page)["Certified radius"]) > 0
    assert all("403" in complaint for complaint in visit.complaints)
    visit.complaints.clear()


@pytest.mark.parametrize("name", ["two-moons", "digits", "table"])
def test_view_is_accessible_and_fits_a_narrow_screen(visit, name):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install 'lipcert[dev]'"
    ).Axe()
    page = ready(visit.open(f"/#/try/{name}", viewport={"width": 390, "height": 844}))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for _ in ("light", "dark"):
        found = [v for v in axe.run(page).response["violations"] if v["impact"] in {"serious", "critical"}]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
        page.locator("#theme").click()
