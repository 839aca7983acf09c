"""What the compose file promises about the service fits the service's own settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.settings import ENVIRONMENT_PREFIX, Settings
from service.workers import GRACE_SECONDS

yaml = pytest.importorskip("yaml", reason="pip install PyYAML")
ROOT = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVER = COMPOSE["services"]["lipserve"]
BALANCER = (ROOT / "deploy" / "balancer" / "haproxy.cfg").read_text()


def test_variables_are_settings():
    for name in SERVER["environment"]:
        assert name.removeprefix(ENVIRONMENT_PREFIX).lower() in Settings.model_fields


def test_a_stop_is_waited_for():
    settings = Settings()
    drain = float(SERVER["environment"].get("LIPSERVE_DRAIN_SECONDS", settings.drain_seconds))
    longest = drain + settings.shutdown_seconds + GRACE_SECONDS
    assert float(SERVER["stop_grace_period"].removesuffix("s")) > longest


def test_a_job_fits_beside_the_service():
    memory = int(SERVER["mem_limit"].removesuffix("g")) * 2**30
    assert int(SERVER["environment"]["LIPSERVE_JOB_BYTES"]) <= memory / 2


def test_replicas_can_be_many():
    assert "ports" not in SERVER
    assert "container_name" not in SERVER
    assert all(volume.endswith(":ro") for volume in SERVER["volumes"])
    assert re.search(r"server-template \S+ \d+ lipserve:8000 ", BALANCER)


def test_the_service_needs_no_profile():
    for name in ("lipserve", "balancer", "database"):
        assert "profiles" not in COMPOSE["services"][name]
    assert COMPOSE["services"]["balancer"]["ports"] == ["127.0.0.1:8000:8000"]


def test_the_database_is_reached_by_the_service_alone():
    assert SERVER["environment"]["LIPSERVE_DATABASE"].endswith("@database/lipcert")
    networks = {
        name: set(service.get("networks", ["default"])) for name, service in COMPOSE["services"].items()
    }
    assert networks["database"] == {"state"}
    assert {name for name, of in networks.items() if "state" in of} == {"lipserve", "database"}


@pytest.mark.parametrize(
    ("path", "repeatable"),
    [
        ("/v1/models/two-moons/predict", True),
        ("/v1/models/two-moons/versions/2/predict", True),
        ("/v2/models/two-moons/infer", True),
        ("/v2/models/two-moons/versions/2/infer", True),
        ("/v1/models/two-moons/audits", False),
        ("/v1/models/two-moons/evaluations", False),
        ("/v1/models/predict", False),
    ],
)
def test_the_balancer_sends_again_what_changes_nothing(path, repeatable):
    pattern = re.search(r"acl repeatable path_reg (\S+)", BALANCER)[1]
    assert bool(re.search(pattern, path)) is repeatable


def test_the_balancer_can_read_its_configuration(tmp_path):
    if (haproxy := shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")) is None:
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    file = ROOT / "deploy" / "balancer" / "haproxy.cfg"
    subprocess.run([haproxy, "-c", "-f", str(file)], check=True, capture_output=True)
