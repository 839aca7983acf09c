"""The page in Chromium, against ``lipserve`` on the same machine: its speed, and pictures of it.

    python -m benchmarks.page [--rounds 5] [--pictures FOLDER]

The first view, with 20 models: from the navigation of a browser with an empty cache until all of them are
shown. A point dragged on the map of two-moons: certificates shown, counted by the page itself, a second of
dragging. Medians. The pictures are of every view in light, dark and at the width of a phone.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
import httpx

from lipmodel.signed.key_sets import add_signing_key
from tests.networks import groupsort_net, to_file
from tests.seeds import bundled_models
from tests.service.conftest import lipserve, url_of
from tests.web.conftest import BROWSERS

MODELS = 20
DRAG_SECONDS = 3.0
LARGEST_ROWS = 200
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
}


@contextmanager
def served(count: int) -> Iterator[str]:
    """Serve the bundled models, and others up to a count; yield the URL."""
    with tempfile.TemporaryDirectory() as name:
        models, keys = Path(name) / "models", Path(name) / "keys.json"
        shutil.copytree(bundled_models(), models)
        add_signing_key(keys)
        for index in range(count - len(list(models.glob("*.onnx")))):
            content = to_file(groupsort_net((16, 64, 64), 4, seed=index))
            (models / f"model-{index:02d}.onnx").write_bytes(content)
        with lipserve("--models", models, "--signing-keys", keys, "--uploads", "--port", 0) as process:
            yield url_of(process)


def first_view(browser: Any, url: str) -> float:
    """Return the milliseconds until every model is shown, with an empty cache."""
    with browser.new_context(**LOOKS["light"]) as context:
        page = context.new_page()
        begun = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.locator(".card h2").nth(MODELS - 1).wait_for()
        return 1000 * (time.perf_counter() - begun)


def dragged(browser: Any, url: str) -> float:
    """Return the certificates a second shown while the point is dragged."""
    with browser.new_context(**LOOKS["light"]) as context:
        page = context.new_page()
        page.goto(f"{url}/#/try/two-moons")
        page.locator(".handle").wait_for()
        handle = page.locator(".handle").bounding_box()
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        shown = page.locator(".trial")
        before, begun, step = int(shown.get_attribute("data-certificates")), time.perf_counter(), 0
        while time.perf_counter() - begun < DRAG_SECONDS:
            step += 1
            page.mouse.move(x + 60 * ((step % 40) / 20 - 1), y + 30 * ((step % 70) / 35 - 1))
        seconds = time.perf_counter() - begun
        return (int(shown.get_attribute("data-certificates")) - before) / seconds


def take_pictures(browser: Any, url: str, folder: Path) -> None:
    """Take a picture of every view in every look, as ``VIEW-LOOK.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    with httpx.Client(base_url=f"{url}/v1/models/digits", headers={"Prefer": "wait=60"}, timeout=90) as api:
        samples = api.get("/samples").json()
        inputs, labels = samples["inputs"][:LARGEST_ROWS], samples["labels"][:LARGEST_ROWS]
        epsilons = [0.04 * step for step in range(1, 41)]
        asked = {"inputs": inputs, "labels": labels, "epsilons": epsilons, "attack": LARGEST_ROWS}
        started = api.post("/audits", json={"inputs": inputs}), api.post("/evaluations", json=asked)
        audit, evaluation = (answer.headers["Content-Location"].removeprefix("/v1/") for answer in started)
        signed = api.post("/predict", json={"inputs": inputs[:1], "certificate": True}).text
    views = {
        "models": "models", "model": "models/digits", "map": "try/two-moons", "image": "try/digits",
        "audits": "audits", "audit": audit, "evaluation": evaluation, "certificate": "certificate",
    }  # fmt: skip
    for look, options in LOOKS.items():
        context = browser.new_context(reduced_motion="reduce", **options)
        page = context.new_page()
        for view, place in views.items():
            page.goto(f"{url}/#/{place}")
            if view == "certificate":
                page.get_by_label("Certificate", exact=True).fill(signed)
                page.get_by_label("Input", exact=True).fill(str(inputs[0]))
                page.get_by_role("button", name="Check", exact=True).click()
                page.locator(".notice.good").wait_for()
            if place.startswith("try/"):
                page.get_by_text("Nearest adversarial example").first.wait_for()
            if view == "map":
                page.locator(".handle").wait_for()
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(1000)  # plots are drawn after what they draw has come
            page.screenshot(path=folder / f"{view}-{look}.png", full_page=look == "phone")
        context.close()


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--pictures", type=click.Path(path_type=Path), help="Folder to put them into.")
def main(rounds: int, pictures: Path | None) -> None:
    """Measure the page, and take pictures of it."""
    from playwright.sync_api import sync_playwright

    found = next(path for path in map(shutil.which, BROWSERS) if path)
    with sync_playwright() as playwright, served(MODELS) as url:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        measured = {f"first view with {MODELS} models, ms": first_view}
        measured |= {"certificates shown a second while dragging": dragged}
        for title, measure in measured.items():
            values = [measure(browser, url) for _ in range(rounds)]
            click.echo(f"{title}: {median(values):.0f} ({min(values):.0f} to {max(values):.0f})")
        browser.close()
    if pictures is not None:
        with sync_playwright() as playwright, served(2) as url:
            browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
            take_pictures(browser, url, pictures)
            browser.close()


if __name__ == "__main__":
    main()
