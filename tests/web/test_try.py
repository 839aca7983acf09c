"""An input is moved as a person moves it; what the page then says is what the service says of that input."""

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
    globalThis.most = {};
    globalThis.fetch = async (path, options) => {
        const kind = path.match(/predict|attacks|$/)[0];
        pending[kind] = (pending[kind] ?? 0) + 1;
        globalThis.most[kind] = Math.max(globalThis.most[kind] ?? 0, pending[kind]);
        try { return await real(path, options); } finally { pending[kind] -= 1; }
    };
}"""
"""How many predictions and attacks are asked for at a time, at most."""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The bundled models, one of columns, one of the plane without samples, one that withholds answers."""
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


def begun(page):
    """Once the first input is answered and attacked."""
    page.wait_for_selector(".trial[data-certificates]")
    rested(page)
    if page.locator(".stage").count():
        page.locator(".handle").wait_for()  # the map is drawn
    return page


def rested(page):
    page.get_by_text(
        re.compile("^Closest attack|^No input with another|^The certificate is refuted")
    ).first.wait_for()


def told(page):
    """Terms of the panel and what stands beside them."""
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
    """Makes a change, and waits until the input that came of it is answered and attacked."""
    with page.expect_response(re.compile("/attacks$")):
        change()
    rested(page)


# --- the map -------------------------------------------------------------------------------


def test_a_point_is_dragged_and_its_certificate_keeps_up(visit, api):
    page = visit.open("/#/models")
    page.evaluate(COUNTED)
    page.evaluate("location.hash = '#/try/two-moons'")
    begun(page)
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
    shown = int(page.locator(".trial").get_attribute("data-certificates")) - before
    assert 8 <= shown <= 42, "as many as there is time for, in between as well"
    most = page.evaluate("globalThis.most")
    assert (most["predict"], most["attacks"]) == (1, 1), "one request at a time"
    where = point(page)
    assert where[0] > start[0]
    assert where[1] > start[1]
    answer, said = ask(api, "two-moons", where), told(page)
    assert said["answer"] == answer["label"]
    assert number(said["Certified radius"]) == pytest.approx(answer["certified_radius"], rel=1e-4)
    assert said["Runner-up"] == answer["runner_up"]
    ball = next(shape for shape in shapes(page) if shape.get("fillcolor") and "xanchor" not in shape)
    assert (ball["x1"] - ball["x0"]) / 2 == pytest.approx(answer["certified_radius"], rel=1e-4)
    assert (ball["x1"] + ball["x0"]) / 2 == pytest.approx(where[0], rel=1e-4)


def test_the_attack_found_is_drawn_where_the_service_answers_otherwise(visit, api):
    page = begun(visit.open("/#/try/two-moons"))
    cross = next(shape for shape in shapes(page) if shape["type"] == "path")
    there = [cross["xanchor"], cross["yanchor"]]
    said = told(page)
    assert ask(api, "two-moons", there)["label"] != said["answer"]
    away = vector_norm(np.subtract(there, point(page)), Norm.TWO)
    assert number(said["Closest attack"]) == pytest.approx(away, rel=1e-4)
    assert number(said["Certified radius"]) < number(said["Closest attack"])
    assert page.locator("#live").inner_text().startswith(f"Answer {said['answer']}. Certified radius ")


def test_the_point_moves_by_keys_and_by_numbers(visit, api):
    page = begun(visit.open("/#/try/two-moons"))
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
    assert told(page)["answer"] == ask(api, "two-moons", point(page))["label"]


def test_the_ball_has_the_form_of_its_norm(visit, api):
    page = begun(visit.open("/#/try/two-moons"))
    for norm, form in [("1", "path"), ("inf", "rect"), ("2", "circle")]:
        settle(page, page.locator(f'input[value="{norm}"]').check)
        assert shapes(page)[0]["type"] == form
        answer = ask(api, "two-moons", point(page), norm)
        assert number(told(page)["Certified radius"]) == pytest.approx(answer["certified_radius"], rel=1e-4)


def test_a_finger_drags_the_point_on_a_phone(visit):
    page = begun(
        visit.open("/#/try/two-moons", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    first = point(page)
    box = page.locator(".plot.map").bounding_box()
    settle(page, lambda: page.touchscreen.tap(box["x"] + 0.8 * box["width"], box["y"] + 0.3 * box["height"]))
    assert point(page)[0] > first[0]


def test_regions_radii_and_samples_are_drawn_in_either_theme(visit):
    page = begun(visit.open("/#/try/two-moons"))
    page.get_by_text("Colour: the answer").wait_for()
    drawn = "document.querySelector('.plot.map')"
    assert page.evaluate(f"{drawn}.layout.images.length") == 1
    assert page.evaluate(f"{drawn}.data.filter((trace) => trace.type === 'contour').length") == 2
    assert (
        page.evaluate(f"{drawn}.data.filter((t) => t.type === 'scatter').reduce((n, t) => n + t.x.length, 0)")
        == 300
    )
    light = page.evaluate(f"{drawn}.layout.images[0].source")
    page.locator("#theme").click()
    page.wait_for_function(f"(light) => {drawn}.layout.images[0].source !== light", arg=light)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the map as SVG").click()
    assert saved.value.suggested_filename == "two-moons-map.svg"


def test_without_samples_the_map_says_so_and_works(visit):
    page = begun(visit.open("/#/try/plain"))
    page.get_by_text("No samples lie beside this model").wait_for()
    page.locator(".handle").focus()
    before = told(page)["Certified radius"]
    settle(page, lambda: page.locator(".handle").press("Shift+ArrowRight"))
    assert told(page)["Certified radius"] != before


@pytest.mark.parametrize("finding", [
    {"found": True, "distance": 0.5, "refuted": True},
    {"found": False, "distance": None, "refuted": False, "adversarial": None, "adversarial_label": None},
], ids=["refuted", "nothing"])  # fmt: skip
def test_a_refutation_is_shown_as_one_and_nothing_as_nothing(visit, finding):
    page = visit.open("/#/models")
    body = json.dumps({"model": {}, "norm": "2", "findings": [FORGED | finding]})
    page.route("**/attacks", lambda route: route.fulfill(body=body, content_type="application/json"))
    page.goto("/#/try/two-moons")
    begun(page)
    notice = page.locator(".trial .notice")
    if finding["refuted"]:
        assert "The certificate is refuted" in notice.inner_text()
        assert notice.get_attribute("role") == "alert"
    else:
        assert "No input with another answer was found" in notice.inner_text()
        assert [shape for shape in shapes(page) if shape["type"] == "path"] == []


def test_answers_that_the_policy_withholds_are_said_to_be(visit):
    page = begun(visit.open("/#/try/careful"))
    assert told(page)["answer"] == "Withheld by the model's policy"
    assert page.locator("#norms input").count() == 1, "in another norm the policy would refuse"


def level(canvas):
    """Of grey, row by row; from a copy, as the browser warns of reading one canvas often."""
    copied = "(c) => { const pen = new OffscreenCanvas(8, 8).getContext('2d'); pen.drawImage(c, 0, 0); return [...pen.getImageData(0, 0, 8, 8).data]; }"
    return np.array(canvas.evaluate(copied))[::4].reshape(8, 8)


# --- images --------------------------------------------------------------------------------


def test_a_sample_is_taken_and_compared_with_the_closest_image_answered_otherwise(visit, api):
    page = begun(visit.open("/#/try/digits"))
    settle(page, page.get_by_role("button", name=re.compile("^Sample 3: ")).click)
    row = api.get("/digits/samples").json()["inputs"][2]
    answer, said = ask(api, "digits", row), told(page)
    assert said["answer"] == answer["label"]
    assert number(said["Certified radius"]) == pytest.approx(answer["certified_radius"], rel=1e-4)
    finding = api.post("/digits/attacks", json={"inputs": [row]}).json()["findings"][0]
    other = page.get_by_role("img", name=re.compile("The closest image found with another answer"))
    assert finding["adversarial_label"] in other.get_attribute("aria-label")
    expected = np.clip(np.multiply(finding["adversarial"], 255), 0, 255).reshape(8, 8)
    np.testing.assert_allclose(level(other), expected, atol=1)


def test_an_image_is_drawn_by_pointer_and_by_keys(visit):
    page = begun(visit.open("/#/try/digits"))
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


def test_noise_up_to_the_radius_keeps_the_answer_and_the_page_says_where_that_ends(visit):
    page = begun(visit.open("/#/try/digits"))
    bodies = []
    page.on("request", lambda r: "/predict" in r.url and bodies.append(r.post_data_buffer))
    slider, radius = page.get_by_label("Size of the change"), number(told(page)["Certified radius"])
    page.get_by_text("Within the radius: the answer holds").wait_for()
    bodies.clear()
    slider.fill("80")
    page.get_by_text("64 of 64 random changes of this size keep the answer").wait_for()
    rows = np.load(io.BytesIO(bodies[-1]))
    original = api_row(page)
    sizes = vector_norm(rows - original, Norm.TWO, axis=1)
    np.testing.assert_allclose(sizes, number(page.locator("#noise-scale").inner_text()), rtol=1e-3)
    assert sizes.max() <= radius * 1.0001
    assert "within the certified radius" in slider.get_attribute("aria-valuetext")
    page.get_by_label("towards the closest attack").check()
    slider.fill("200")
    page.get_by_text("Past the radius: nothing is promised").wait_for()
    page.get_by_text("The changed input is").wait_for()
    assert "past the certified radius" in slider.get_attribute("aria-valuetext")


def answered_with_radius(page, radius):
    """Changes the certified radius of inputs asked about one by one: not those of the changes tried."""

    def patched(route):
        answer = route.fetch()
        body = answer.json()
        if len(body["predictions"]) == 1:
            body["predictions"][0]["certified_radius"] = radius
        route.fulfill(response=answer, json=body)

    page.route("**/predict*", patched)
    page.route("**/attacks", lambda route: route.abort())


def sent_by(page):
    bodies = []
    page.on("request", lambda r: "/predict" in r.url and bodies.append(r.post_data_buffer))
    return bodies


def test_the_change_that_is_sent_is_the_one_that_is_judged(visit, api):
    """Two fifths of 2.5 radii may be a bit above the radius: what is sent is below it, and so within."""
    row = api.get("/digits/samples").json()["inputs"][0]
    radius = ask(api, "digits", row)["certified_radius"]
    while not 80 / 200 * (2.5 * radius) > radius:
        radius = math.nextafter(radius, 0.0)
    page = visit.open("/#/models")
    bodies = sent_by(page)
    answered_with_radius(page, radius)
    page.goto("/#/try/digits")
    page.get_by_text("Within the radius: the answer holds").wait_for()
    slider = page.get_by_label("Size of the change")
    slider.fill("80")
    page.get_by_text("64 of 64 random changes of this size keep the answer").wait_for()
    expect(slider).to_have_attribute("aria-valuetext", re.compile("within the certified radius$"))
    page.get_by_text("Within the radius: the answer holds").wait_for()
    rows = np.load(io.BytesIO(bodies[-1]))
    for changed in rows.tolist():
        exact = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(changed, row, strict=True))
        assert exact <= Fraction(radius) ** 2
    page.unroute_all(behavior="ignoreErrors")
    visit.expected("ERR_FAILED")


def test_a_change_that_rounding_takes_past_the_radius_is_not_within_it(visit, api):
    """A pixel of 15/16 can be moved by 2⁻⁵³ and no less: more than this radius, though less was meant."""
    row, radius = np.array(api.get("/digits/samples").json()["inputs"][0]), 0.9 * 2.0**-53
    assert row.max() > 0.5
    page = visit.open("/#/models")
    bodies = sent_by(page)
    answered_with_radius(page, radius)
    page.goto("/#/try/digits")
    page.locator('input[value="inf"]').check()
    page.get_by_text("Past the radius: nothing is promised").wait_for()
    expect(page.get_by_label("Size of the change")).to_have_attribute("aria-valuetext", re.compile("past"))
    assert np.abs(np.load(io.BytesIO(bodies[-1])) - row).max() > radius
    page.unroute_all(behavior="ignoreErrors")
    visit.expected("ERR_FAILED")


def slowly(route):
    route.request.frame.page.wait_for_timeout(300)
    route.continue_()


def test_noise_begins_whichever_comes_first_the_answer_or_the_end_of_the_search(visit):
    page = visit.open("/#/models")
    page.route("**/attacks", lambda route: route.abort())
    page.route("**/predict*", slowly)
    page.goto("/#/try/digits")
    page.get_by_text("Within the radius: the answer holds").wait_for()
    page.unroute_all(behavior="ignoreErrors")
    visit.expected("ERR_FAILED")


def test_an_input_far_outside_the_files_range_is_warned_of(visit):
    page = begun(visit.open("/#/try/ranged"))
    warning = page.get_by_text("A number lies far outside the range that the file names for its inputs")
    expect(warning).to_have_count(0)
    settle(page, lambda: page.get_by_label("Number 2").fill("2.5"))
    expect(warning).to_be_visible()
    settle(page, lambda: page.get_by_label("Number 2").fill("1.5"))
    expect(warning).to_have_count(0)


def test_noise_is_of_the_size_said_in_whatever_norm_is_chosen_meanwhile(visit):
    page = begun(visit.open("/#/try/digits"))
    page.get_by_text("Within the radius: the answer holds").wait_for()
    bodies = []
    page.on("request", lambda r: "/predict" in r.url and bodies.append(r.post_data_buffer))
    page.get_by_role("button", name="Sample 1: 3").click()  # the same again, and before it is attacked:
    settle(page, page.locator('input[value="1"]').check)
    page.get_by_text("64 of 64 random changes").wait_for()
    rows = np.load(io.BytesIO(bodies[-1]))
    assert len(rows) == 64
    said = number(page.locator("#noise-scale").inner_text())
    np.testing.assert_allclose(vector_norm(rows - api_row(page), Norm.ONE, axis=1), said, rtol=1e-3)


def api_row(page):
    """The first sample, which the page begins with."""
    return np.array(page.evaluate("fetch('/v1/models/digits/samples').then((a) => a.json())")["inputs"][0])


# --- columns -------------------------------------------------------------------------------


def test_a_form_is_filled_in_and_answered(visit, api):
    page = begun(visit.open("/#/try/table"))
    row = api.get("/table/samples").json()["inputs"][0]
    assert [label.inner_text() for label in page.locator(".numbers label").all()] == COLUMNS
    page.get_by_text("Units: as in the file.").wait_for()
    assert told(page)["answer"] == ask(api, "table", row)["label"]
    box = page.get_by_label("height")
    settle(page, lambda: box.fill("2.5"))
    row[1] = 2.5
    answer, said = ask(api, "table", row), told(page)
    assert said["answer"] == answer["label"]
    assert number(said["Certified radius"]) == pytest.approx(answer["certified_radius"], rel=1e-3)
    box.fill("")
    assert box.get_attribute("aria-invalid") == "true"
    finding = api.post("/table/attacks", json={"inputs": [row]}).json()["findings"][0]
    table = page.get_by_role("table")
    assert f"answered {finding['adversarial_label']}" in table.inner_text()
    settle(page, lambda: page.get_by_label("Begin with").select_option(index=4))
    row = api.get("/table/samples").json()["inputs"][4]
    assert told(page)["answer"] == ask(api, "table", row)["label"]


def test_a_model_that_names_nothing_has_plain_fields(visit):
    page = begun(visit.open("/#/try/nameless"))
    assert page.locator(".numbers label").all_inner_texts() == ["Number 1", "Number 2", "Number 3"]
    page.get_by_text("No samples lie beside this model").wait_for()
    settle(page, lambda: page.get_by_label("Number 2").fill("1"))


# --- all of them ---------------------------------------------------------------------------


def test_a_model_is_chosen(visit):
    page = begun(visit.open("/#/try"))
    assert page.url.endswith("#/try/careful"), "the first there is"
    page.get_by_label("Model").select_option("digits")
    page.locator("canvas.drawn").wait_for()
    assert page.url.endswith("#/try/digits")
    begun(page)


def test_a_service_that_goes_away_is_told_and_comes_back(visit):
    page = begun(visit.open("/#/try/two-moons"))
    page.route("**/predict*", lambda route: route.abort())
    page.locator(".handle").press("ArrowRight")
    page.get_by_text("The service does not answer").first.wait_for()
    page.unroute("**/predict*")
    settle(page, lambda: page.locator(".handle").press("ArrowLeft"))
    assert told(page)["answer"] in {"upper", "lower"}
    assert all("Failed to load resource" in complaint for complaint in visit.complaints)
    visit.complaints.clear()


def test_without_leave_to_attack_the_certificate_is_shown_all_the_same(visit):
    page = visit.open("/#/models")
    body = {"type": "/problems/forbidden", "title": "The caller may not do this", "status": 403,
            "detail": "this takes the scope 'audit'", "error": "this takes the scope 'audit'"}  # fmt: skip
    page.route(
        "**/attacks",
        lambda route: route.fulfill(
            status=403, body=json.dumps(body), content_type="application/problem+json"
        ),
    )
    page.goto("/#/try/two-moons")
    page.get_by_text("this takes the scope 'audit'").wait_for()
    assert number(told(page)["Certified radius"]) > 0
    assert all("403" in complaint for complaint in visit.complaints)
    visit.complaints.clear()


@pytest.mark.parametrize("name", ["two-moons", "digits", "table"])
def test_nothing_keeps_anybody_out_and_a_phone_is_wide_enough(visit, name):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install 'lipcert[dev]'"
    ).Axe()
    page = begun(visit.open(f"/#/try/{name}", viewport={"width": 390, "height": 844}))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for _ in ("light", "dark"):
        found = [v for v in axe.run(page).response["violations"] if v["impact"] in {"serious", "critical"}]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
        page.locator("#theme").click()
