"""What the compose file promises about the service fits the service's own settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings
from service.workers import GRACE_SECONDS

yaml = pytest.importorskip("yaml", reason="pip install PyYAML")
COMPOSE = yaml.safe_load((Path(__file__).resolve().parents[1] / "docker-compose.yml").read_text())
LIPSERVE = COMPOSE["services"]["lipserve"]


def test_a_stop_is_waited_for():
    settings = Settings()
    longest = settings.drain_seconds + settings.shutdown_seconds + GRACE_SECONDS
    assert float(LIPSERVE["stop_grace_period"].removesuffix("s")) > longest


def test_a_job_fits_beside_the_service():
    memory = int(LIPSERVE["mem_limit"].removesuffix("g")) * 2**30
    assert int(LIPSERVE["environment"]["LIPSERVE_JOB_BYTES"]) <= memory / 2
