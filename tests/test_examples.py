"""The bundled models agree with their records and their recipes; the examples run."""

from __future__ import annotations

import json
import runpy
import shutil

import numpy as np
import pytest

from lipmodel.audit.report import audit
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.load import load_labelled
from lipmodel.display import rounded_down
from lipmodel.evaluate import evaluate
from lipmodel.norms import Norm
from tests.seeds import BUNDLED, bundled_models

EXAMPLES = BUNDLED.parent
NAMES = sorted(path.stem for path in BUNDLED.glob("*.onnx"))


def record(name):
    return json.loads((BUNDLED / f"{name}.json").read_text())


def test_there_are_two():
    assert NAMES == ["digits", "two-moons"]


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_agrees_with_its_record(name):
    written = record(name)
    predictor = CertifiedPredictor(BUNDLED / f"{name}.onnx")
    assert predictor.file.sha256 == written["model"]["sha256"]
    assert predictor.claim_proved
    data = load_labelled(name)
    again = evaluate(predictor, data.inputs, data.labels, Norm.TWO, written["recipe"]["epsilons"])
    assert again.clean_accuracy == written["clean_accuracy"]
    assert again.certified_accuracy == pytest.approx(written["certified_accuracy"], abs=1e-9)
    assert data.digest == written["data"]["held_out"]["sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_the_audit_of_a_bundled_model_is_consistent(name):
    predictor = CertifiedPredictor(bundled_models() / f"{name}.onnx")
    report = audit(predictor, inputs=load_labelled(name).inputs, samples=100, attacked=50)
    assert report.verdict == "consistent"
    assert report.tightness > 0.85


def test_a_training_loop_of_ones_own(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    script = runpy.run_path(str(EXAMPLES / "training_loop.py"))
    monkeypatch.setitem(script["main"].__globals__, "EPOCHS", 3)
    script["main"](tmp_path / "digits.onnx")
    predictor = CertifiedPredictor(tmp_path / "digits.onnx")
    assert predictor.claim_proved
    data = load_labelled("digits")
    found = evaluate(predictor, data.inputs, data.labels, Norm.TWO, (0.25,))
    assert found.clean_accuracy > 0.9
    assert found.certified_accuracy["0.25"] > 0.75
    assert f"clean {found.clean_accuracy:.1%}" in capsys.readouterr().out


def test_retraining_gives_the_same_model(tmp_path):
    """Training reproduces the file bit for bit on the machine that made it; elsewhere the results agree."""
    pytest.importorskip("torch")
    from lipmodel.training.train import carry_out, plan

    trained = carry_out(plan("two-moons"), tmp_path)
    written = record("two-moons")
    assert abs(trained.evaluation.clean_accuracy - written["clean_accuracy"]) < 0.01
    assert abs(trained.evaluation.average_certified_radius - written["average_certified_radius"]) < 0.02
    ours = CertifiedPredictor(BUNDLED / "two-moons.onnx")
    x = np.asarray(load_labelled("two-moons").inputs, dtype=float)
    same = trained.predictor.predict(x).radii.label == ours.predict(x).radii.label
    assert same.mean() > 0.99


def served(tmp_path, monkeypatch, example, host=False, **settings):
    """Run an example against a server of the bundled models."""
    from tests.service.conftest import running

    script = runpy.run_path(str(EXAMPLES / example))
    shutil.copytree(bundled_models(), tmp_path / "models")
    with running(tmp_path / "models", **settings) as client:
        url = client.base_url.netloc.decode() if host else str(client.base_url)
        monkeypatch.setattr("sys.argv", [example, "--url", url])
        script["main"]()


def test_certificates_are_verified_downstream(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jwt")
    from lipmodel.signed.key_sets import add_signing_key

    add_signing_key(tmp_path / "keys")
    served(tmp_path, monkeypatch, "verify_downstream.py", signing_keys=tmp_path / "keys")
    accepted, altered, other = capsys.readouterr().out.splitlines()
    predictor = CertifiedPredictor(bundled_models() / "two-moons.onnx")
    label = predictor.predict(np.array([[0.0, 1.0]])).radii.label[0]
    assert accepted == f"accepted: {predictor.class_names[label]}"
    count = int(altered.split()[1])
    assert count > 500
    assert altered == f"refused: {count} of {count} with one character altered"
    assert "another reading" in other


def test_tritons_client_reads_labels_and_radii(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tritonclient.http")
    served(tmp_path, monkeypatch, "kserve_client.py", host=True)
    lines = capsys.readouterr().out.splitlines()
    predictor = CertifiedPredictor(bundled_models() / "two-moons.onnx")
    radii = predictor.predict(np.array([[0.5, 0.25], [0.0, 1.0], [-1.0, 0.5]])).radii
    assert len(lines) == 3
    for line, label, radius in zip(lines, radii.label, radii.certified_radius, strict=True):
        assert f": {predictor.class_names[label]}, certified radius {rounded_down(radius)}, " in line
        assert ("not certified" in line) == (radius < 0.1)


def test_an_abstaining_client_decides_nothing_that_the_sensor_could_change(tmp_path, monkeypatch, capsys):
    served(tmp_path, monkeypatch, "abstaining_client.py")
    output = capsys.readouterr().out
    assert "decisions changed by the sensor's error: 0" in output
    counts = {line.rpartition(": ")[0]: int(line.rpartition(": ")[2]) for line in output.splitlines()}
    assert counts["left to a person"] > 0
    assert counts["lower"] + counts["upper"] > 100
