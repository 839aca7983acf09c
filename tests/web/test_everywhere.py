"""Properties of every view: accessibility, narrow screens, keyboard use, no requests to other hosts."""

from __future__ import annotations

import shutil
import subprocess

import httpx
import pytest
from playwright.sync_api import expect

from tests.seeds import bundled_models
from tests.service.conftest import COMMAND, lipserve, url_of

NARROW = {"width": 390, "height": 844}
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module")
def views(service):
    """Return an address of each view, with content to show."""
    asked = {"inputs": [[0, 1], [1, -0.5]], "labels": [0, 1], "epsilons": [0.1, 0.5, 1], "attack": 2}
    with httpx.Client(
        base_url=f"{service}/v1/models/two-moons", headers={"Prefer": "wait=60"}, timeout=90
    ) as api:
        started = api.post("/audits", json={"samples": 50}), api.post("/evaluations", json=asked)
    places = [answer.headers["Content-Location"].removeprefix("/v1") for answer in started]
    return [
        "/models",
        "/models/digits",
        "/audits",
        "/audits?kind=evaluation",
        *places,
        "/compare",
        "/certificate",
        "/nowhere",
    ]


def settled(page):
    page.wait_for_load_state("networkidle")
    expect(page.locator(".loading")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_views_have_no_serious_accessibility_violations(visit, views, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = visit.open(color_scheme=scheme)
    for view in views:
        page.goto(f"/#{view}")
        settled(page)
        for summary in page.locator("details > summary").all():
            summary.click()
        found = Axe().run(page).response["violations"]
        serious = [
            f"{one['id']}: {node['html']}"
            for one in found
            if one["impact"] in SERIOUS
            for node in one["nodes"]
        ]
        assert serious == [], view


def test_views_fit_a_narrow_screen(visit, views):
    page = visit.open(viewport=NARROW)
    for view in views:
        page.goto(f"/#{view}")
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], view


def test_views_request_no_other_host(visit, views, service):
    page, urls = visit.open(), []
    page.on("request", lambda request: urls.append(request.url))
    for view in (*views, "/docs"):
        page.goto(view if view == "/docs" else f"/#{view}")
        settled(page)
    assert len(urls) > 20
    assert [url for url in urls if not url.startswith((service, "data:", "blob:"))] == []


def test_inline_scripts_do_not_run(visit):
    page = visit.open()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.bad = 1'}))"
    )
    assert page.evaluate("window.bad") is None
    visit.expected("Content Security Policy")
    policy = page.request.get("/").headers["content-security-policy"]
    assert "unsafe" not in policy


def test_page_is_usable_by_keyboard(visit):
    page = visit.open()
    settled(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to main content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("digits")
    expect(page).to_have_title("digits · Lipcert")


def test_theme_is_chosen_and_kept(visit):
    page = visit.open(color_scheme="light")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Switch to the dark theme").click()
    assert page.evaluate(background) != light
    page.reload()
    assert page.evaluate(background) != light
    page.get_by_role("button", name="Switch to the light theme").click()
    assert page.evaluate(background) == light


def test_unreachable_service_is_reported_and_retried(visit):
    page = visit.open()
    settled(page)
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_role("link", name="Audits").click()
    expect(page.get_by_role("alert")).to_contain_text("The service does not respond")
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Audits and evaluations")
    visit.expected("ERR_FAILED")


def test_empty_service_shows_how_to_add_a_model(browser, tmp_path):
    (tmp_path / "models").mkdir()
    with lipserve("--models", tmp_path / "models", "--port", 0) as process:
        page = browser.new_page()
        page.goto(url_of(process))
        expect(page.get_by_text("No models yet")).to_be_visible()
        page.close()


def test_key_is_requested_once_and_forgotten(browser, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(bundled_models() / "two-moons.onnx", models)
    create = [*COMMAND, "--models", str(models), "keys", "create", "--name", "page", "--scope", "admin"]
    key = subprocess.run(create, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    with lipserve("--models", models, "--port", 0) as process:
        page = browser.new_page()
        page.goto(url_of(process))
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("no credentials were sent")
        dialog.get_by_label("API key or token").fill("wrong")
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog.get_by_label("API key or token")).to_have_value("")
        dialog.get_by_label("API key or token").fill(key)
        dialog.get_by_role("button", name="Use key").click()
        expect(page.get_by_role("link", name="two-moons", exact=True)).to_be_visible()
        page.get_by_role("link", name="Audits").click()
        expect(page.get_by_text("No audits or evaluations yet")).to_be_visible()
        page.get_by_role("button", name="Forget key").click()
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("alert")).to_contain_text("Authentication required")
        page.close()


def test_api_reference_executes_requests(visit):
    page = visit.open("/docs")
    page.locator("#operations-operations-health_healthz_get").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text("alive")
