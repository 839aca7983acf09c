"""The README shows true answers, commands, files and figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.cli import main
from lipmodel.norms import Norm

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DEMO = ROOT / "examples" / "models" / "two-moons.onnx"


def test_the_answer_shown_is_the_answer_given():
    request = json.loads(re.search(r"-d '(\{.*?\})'", README).group(1))
    shown = json.loads(re.search(r"```json\n(.*?)```", README, re.S).group(1))
    predictor = CertifiedPredictor(DEMO)
    assert shown["model"]["sha256"] == predictor.file.sha256
    result = predictor.predict(request["inputs"], Norm.TWO)
    prediction = shown["predictions"][0]
    assert prediction["certified_radius"] == pytest.approx(result.radii.certified_radius[0], rel=1e-12)
    assert prediction["scores"] == pytest.approx(result.scores[0], rel=1e-12)
    assert prediction["label"] == predictor.class_names[result.radii.label[0]]
    assert prediction["certified"] == (result.radii.certified_radius[0] >= request["epsilon"])


def test_every_command_shown_exists():
    shown = set(re.findall(r"^lipmodel ([a-z]+)", README, re.M))
    assert shown <= set(main.commands)
    assert len(shown) >= 6
    for command in shown:
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


def test_every_make_target_shown_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_file_linked_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_figures_in_the_table_are_those_of_the_bundled_records():
    for name in ("two-moons", "digits"):
        record = json.loads((ROOT / "examples" / "models" / f"{name}.json").read_text())
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}`"))
        assert f"{record['clean_accuracy']:.1%}" in row
        share, epsilon = re.search(r"([\d.]+)% at ([\d.]+)", row).groups()
        assert share == f"{100 * record['certified_accuracy'][epsilon]:.1f}"
