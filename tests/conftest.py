"""Hooks and fixtures of all tests."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")


REQUIRED = os.environ.get("LIPCERT_REQUIRE", "").split()
"""Packages of the distribution whose tests must run: a skip that names one in its remedy is a failure."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn skips for want of a required package into failures."""
    report = yield
    missing = re.search(r"apt-get install (\S+)$", _reason(report)) if report.skipped else None
    if missing and missing[1] in REQUIRED:
        report.outcome = "failed"
        report.longrepr = f"LIPCERT_REQUIRE names {missing[1]}, and the test skipped: {_reason(report)}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List skipped tests by reason; each reason names the remedy, where there is one."""
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", ()))
    if skipped:
        terminalreporter.section("skipped")
        for reason, count in skipped.most_common():
            terminalreporter.write_line(f"{count:5d}  {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the reason of a skip; of an xfail, pytest's own."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return getattr(report, "wasxfail", "")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets: LIPCERT_DATA, else ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LIPCERT_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set LIPCERT_DATA to one that holds mnist/")
    return folder
