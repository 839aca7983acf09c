"""Manifests fit the schemas of Kubernetes and the settings of the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.cli.supervisor import GRACE_SECONDS
from service.settings import ENVIRONMENT_PREFIX, Settings
from service.telemetry.metrics import Metrics

yaml = pytest.importorskip("yaml", reason="pip install PyYAML")
validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "kubernetes"
VERSIONS = ("1.33", "1.37")
MANIFESTS = {
    manifest["kind"]: manifest
    for path in FOLDER.glob("*.yml")
    for manifest in yaml.safe_load_all(path.read_text())
}
PLAIN = sorted(MANIFESTS.keys() - {"InferenceService"})


def pod(kind):
    if kind == "Deployment":
        return MANIFESTS[kind]["spec"]["template"]["spec"]
    return MANIFESTS[kind]["spec"]["predictor"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", PLAIN)
def test_manifests_fit_the_schemas(kind, version):
    validator.validate(MANIFESTS[kind], version, strict=True)


def test_the_schemas_refuse_an_unknown_field():
    broken = MANIFESTS["Deployment"] | {"spec": MANIFESTS["Deployment"]["spec"] | {"replicaz": 2}}
    with pytest.raises(validator.ValidationError, match="replicaz"):
        validator.validate(broken, VERSIONS[-1], strict=True)


def test_the_pod_within_an_inference_service_fits_that_of_kubernetes():
    # KServe's schema is not available offline; its pod, except for its own fields, is one of Kubernetes.
    own = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
    spec = {name: value for name, value in pod("InferenceService").items() if name not in own}
    as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    validator.validate(as_pod, VERSIONS[-1], strict=True)
    assert spec["containers"][0]["name"] == "kserve-container"


def test_every_kind_of_manifest_exists():
    assert {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy",
            "InferenceService"} <= MANIFESTS.keys()  # fmt: skip


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
def test_variables_are_settings(kind):
    for variable in pod(kind)["containers"][0]["env"]:
        assert variable["name"].removeprefix(ENVIRONMENT_PREFIX).lower() in Settings.model_fields


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
def test_probes_and_ports_are_those_of_the_service(kind, tmp_path):
    from service.app import create_app

    app = create_app(Settings(models=tmp_path, state=tmp_path / "state"))
    container = pod(kind)["containers"][0]
    for name in ("livenessProbe", "readinessProbe"):
        assert container[name]["httpGet"]["path"] in app.openapi()["paths"]
    app.state.service.jobs.close()
    serve = (FOLDER.parent / "serve.sh").read_text()
    assert f"--port {container['ports'][0]['containerPort']} " in serve


def test_a_stop_is_waited_for():
    settings, spec = Settings(), pod("Deployment")
    drain = {v["name"]: v.get("value") for v in spec["containers"][0]["env"]}["LIPSERVE_DRAIN_SECONDS"]
    longest = float(drain) + settings.shutdown_seconds + GRACE_SECONDS
    assert spec["terminationGracePeriodSeconds"] > longest


def test_the_autoscaler_looks_at_a_metric_that_is_exported():
    metrics = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (name,) = (m["pods"]["metric"]["name"] for m in metrics if m["type"] == "Pods")
    assert name in {described.name for described in Metrics().descriptions()}


def test_selectors_find_the_pods():
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFESTS["Service"]["spec"]["selector"].items() <= labels.items()
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert MANIFESTS[kind]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert MANIFESTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "lipserve"
