"""Skips are listed with their remedy, and fail where the package that they need is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TESTS = """
import pytest
@pytest.mark.parametrize("n", range(3))
def test_page(n):
    pytest.skip("no browser is installed: apt-get install chromium")
def test_store():
    pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
def test_other():
    pass
"""


@pytest.mark.parametrize("processes", [0, 2])
def test_skips_are_listed_with_their_remedy_and_fail_where_required(processes, tmp_path):
    (tmp_path / "test_few.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-n", str(processes), "--rootdir"]

    def run(required):
        return subprocess.run(
            [*command, tmp_path, tmp_path / "test_few.py"], cwd=ROOT, capture_output=True, text=True, timeout=120,
            env=os.environ | {"LIPCERT_REQUIRE": required}, check=False,
        )  # fmt: skip

    if processes == 0:
        lenient = run("nginx")
        assert lenient.returncode == 0, lenient.stdout + lenient.stderr
        assert "    3  no browser is installed: apt-get install chromium\n" in lenient.stdout
    strict = run("chromium nginx")
    assert strict.returncode == 1
    assert "    1  no PostgreSQL server is installed: apt-get install postgresql\n" in strict.stdout
    assert "LIPCERT_REQUIRE names chromium, and the test skipped" in strict.stdout
    assert "3 failed, 1 passed, 1 skipped" in strict.stdout


@pytest.mark.parametrize(
    ("apt_get", "required"),
    [
        ("exit 0", " chromium postgresql"),
        ("exit 100", ""),
        ('case "$*" in *postgresql*) exit 100;; esac', " chromium"),
    ],
    ids=["all", "no network", "one"],
)
def test_the_check_of_a_commit_requires_what_it_could_install(apt_get, required, tmp_path):
    commands = {"apt-get": apt_get, "sudo": 'shift; exec "$@"', "make": 'echo "make $*: [$LIPCERT_REQUIRE]"'}
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("LIPCERT_REQUIRE", None)
    result = subprocess.run(
        [ROOT / ".ci" / "run"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == f"make test: [{required}]\n"
    assert ("could not be installed" in result.stderr) == ("postgresql" not in required)
