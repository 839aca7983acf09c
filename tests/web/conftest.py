"""A browser and a running service with the bundled models, for end-to-end tests of the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from lipmodel.signed.key_sets import add_signing_key
from tests.seeds import bundled_models
from tests.service.conftest import lipserve, url_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 20_000

Open = Callable[..., "Page"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Yield the distribution's Chromium."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'lipcert[dev]'"
    )
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    api.expect.set_options(timeout=WAIT_MS)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a service that signs, accepts uploads and serves the two bundled models."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "models").mkdir()
    for file in bundled_models().iterdir():
        shutil.copy(file, folder / "models")
    add_signing_key(folder / "keys.json")
    arguments = (
        "--models",
        folder / "models",
        "--port",
        0,
        "--uploads",
        "--signing-keys",
        folder / "keys.json",
    )
    with lipserve(*arguments) as process:
        yield url_of(process)


class Visit:
    """The pages opened in one test, and the errors and warnings in their consoles."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser, self._url, self._contexts = browser, url, []
        self.complaints: list[str] = []

    def open(self, path: str = "/", **options: Any) -> Page:
        """Open a page at a path in its own context; ``options`` are those of ``Browser.new_context``."""
        context = self._browser.new_context(**{"base_url": self._url, "reduced_motion": "reduce"} | options)
        context.set_default_timeout(WAIT_MS)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._record)
        page.on("pageerror", lambda error: self.complaints.append(f"{error}"))
        page.goto(path)
        return page

    def expected(self, text: str) -> None:
        """Drop the complaints that contain a text; raise AssertionError if there is none."""
        assert any(text in complaint for complaint in self.complaints), self.complaints
        self.complaints = [complaint for complaint in self.complaints if text not in complaint]

    def _record(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.text} ({message.location.get('url')})")

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def visit(browser: Browser, service: str) -> Iterator[Visit]:
    """Yield a ``Visit`` of the service; fail if the console of a page has errors or warnings at the end."""
    visit = Visit(browser, service)
    yield visit
    visit.close()
    assert visit.complaints == []
