"""The monitoring profile, as far as can be told without its images: files are whole and fit what we expose."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.jobs.store import State
from service.telemetry.metrics import FamilyDescription, Metrics, job_facts

yaml = pytest.importorskip("yaml", reason="pip install PyYAML")
ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "lipcert.json").read_text())


def read(*parts):
    return yaml.safe_load(ROOT.joinpath(*parts).read_text())


def expressions():
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def exposed(client):
    """Names of samples and their labels, of a server that has answered; those of all families, asked or not."""
    client.post("/v1/models/two-moons/predict", json={"inputs": [[0.5, 0.25]]})
    client.get("/nope")
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    for described in Metrics().descriptions():
        found |= {name: {*described.labels, "le"} for name in names(described)}
    assert {metric.name for metric in job_facts(dict.fromkeys(State, 0))} <= set(found)
    return found


def names(described: FamilyDescription):
    if described.kind == "histogram":
        return [f"{described.name}_{end}" for end in ("bucket", "sum", "count")]
    return [described.name + ("_total" if described.kind == "counter" else "")]


def test_every_metric_and_label_of_the_dashboard_is_exposed(client):
    known = exposed(client)
    asked = set()
    for expression in expressions():
        here = set(re.findall(r"\blipserve_\w+", expression))
        assert here, expression
        assert here <= set(known), here - set(known)
        labels = set().union(*(known[name] for name in here))
        used = {label for by in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", by)}
        used |= set(re.findall(r"[{,]\s*(\w+)=~?\"", expression))
        assert used <= labels, (expression, used - labels)
        asked |= here
    for part in ("stage", "requests_", "radius", "abstentions", "problems", "margin", "batch", "queued"):
        assert any(part in name for name in asked), part


def test_parentheses_of_expressions_are_closed():
    for expression in expressions():
        for pair in ("()", "[]", "{}"):
            assert expression.count(pair[0]) == expression.count(pair[1])


def test_the_dashboard_is_laid_out_without_overlap():
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for p in [panel["gridPos"]]
        for x in range(p["x"], p["x"] + p["w"])
        for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_parts_fit_together():
    compose = read("docker-compose.yml")
    services = compose["services"]
    monitoring = {name for name, service in services.items() if service.get("profiles") == ["monitoring"]}
    assert monitoring == {"prometheus", "grafana"}
    for name in monitoring:
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", services[name]["image"])
        for volume in services[name]["volumes"]:
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"]
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])
    [scrape] = read("deploy", "monitoring", "prometheus.yml")["scrape_configs"]
    [found] = scrape["dns_sd_configs"]
    assert found.items() >= {"names": ["standalone", "lipserve"], "type": "A", "port": 8000}.items()
    provisioning = ("deploy", "monitoring", "grafana", "provisioning")
    [source] = read(*provisioning, "datasources", "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    uids = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    assert uids == {source["uid"]}
    [provider] = read(*provisioning, "dashboards", "lipcert.yml")["providers"]
    mounts = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounts
