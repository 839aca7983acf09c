"""The compose file fits the settings of the service."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.cli.supervisor import GRACE_SECONDS
from service.settings import ENVIRONMENT_PREFIX, Settings

yaml = pytest.importorskip("yaml", reason="pip install PyYAML")
ROOT = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVERS = ("standalone", "lipserve")
BALANCER = (ROOT / "deploy" / "balancer" / "haproxy.cfg").read_text()


@pytest.fixture(params=SERVERS)
def server(request):
    return COMPOSE["services"][request.param]


def test_variables_are_settings(server):
    for name in server["environment"]:
        assert name.removeprefix(ENVIRONMENT_PREFIX).lower() in Settings.model_fields


def test_a_stop_is_waited_for(server):
    settings = Settings()
    drain = float(server["environment"].get("LIPSERVE_DRAIN_SECONDS", settings.drain_seconds))
    longest = drain + settings.shutdown_seconds + GRACE_SECONDS
    assert float(server["stop_grace_period"].removesuffix("s")) > longest


def test_a_job_fits_beside_the_service(server):
    memory = int(server["mem_limit"].removesuffix("g")) * 2**30
    assert int(server["environment"]["LIPSERVE_JOB_BYTES"]) <= memory / 2


def test_one_server_needs_no_other_part():
    assert [name for name, of in COMPOSE["services"].items() if "profiles" not in of] == ["standalone"]
    assert "depends_on" not in COMPOSE["services"]["standalone"]
    assert COMPOSE["services"]["standalone"]["ports"] == ["127.0.0.1:8000:8000"]


def test_replicas_can_be_many():
    replica = COMPOSE["services"]["lipserve"]
    assert "ports" not in replica
    assert "container_name" not in replica
    assert all(volume.endswith(":ro") for volume in replica["volumes"])
    assert COMPOSE["services"]["balancer"]["ports"] == ["127.0.0.1:8080:8000"]
    assert re.search(r"server-template \S+ \d+ lipserve:8000 ", BALANCER)


def test_the_database_is_reached_by_replicas_alone():
    assert COMPOSE["services"]["lipserve"]["environment"]["LIPSERVE_DATABASE"].endswith("@database/lipcert")
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
