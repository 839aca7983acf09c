"""The files of an evaluation's report open and agree with the evaluation."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.display import certified_percent
from lipmodel.errors import DataError
from lipmodel.evaluate import evaluate
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from lipmodel.report.evaluation import evaluation_files
from lipmodel.report.page import write_files
from tests.networks import groupsort_net, to_file
from tests.report.test_audit import pictures
from tests.test_architecture import modules_after

matplotlib = pytest.importorskip("matplotlib")

NAMES = ("<b>cat</b>", "dog|pipe", "öwl")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def made():
    claims = Claims(norm=Norm.TWO, lipschitz=1.0, classes=NAMES)
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8), 3), claims))
    x = RNG.normal(size=(300, 4))
    y = np.where(RNG.uniform(size=300) < 0.9, predictor.predict(x).radii.label, 0)
    result = evaluate(predictor, x, y, None, [0.05, 0.3], attacked=30)
    return result, evaluation_files(predictor, result, model="a & b", data="c < d")


def test_json_is_the_evaluation(made):
    result, files = made
    told = json.loads(files["evaluation.json"])
    assert told.items() >= json.loads(json.dumps(result.to_dict())).items()
    assert told["curve"]["certified_accuracy"][0] == ((result.radii > 0) & result.correct).mean()


def test_pictures_open(made):
    _, files = made
    assert ElementTree.fromstring(files["curve.svg"]).tag.endswith("svg")
    pixels = matplotlib.image.imread(io.BytesIO(files["curve.png"]))
    assert pixels.shape[0] > 300
    assert pixels[..., :3].std() > 0.05


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(made):
    result, files = made
    page = files["evaluation.html"].decode()
    HTMLParser().feed(page)
    assert len(pictures(page)) == 3
    for kind, content in pictures(page):
        assert kind == "data:image/svg+xml;base64"
        ElementTree.fromstring(base64.b64decode(content))
    for share in (result.clean_accuracy, result.majority_share):
        assert f"<b>{share:.2%}</b>" in page
    for share in result.certified_accuracy.values():
        assert f"<b>{certified_percent(share)}</b>" in page
    for epsilon, share in result.attacked_accuracy.items():
        row = next(line for line in page.splitlines() if line.startswith(f"<tr><td>{epsilon}</td>"))
        certified = result.attacked_sample.certified_accuracy[epsilon]
        assert [certified_percent(certified), f"{share:.2%}"] == re.findall(r"<td>([\d.]+%)<", row)
    assert "a &amp; b" in page
    assert "<b>cat</b>" not in page
    assert "&lt;b&gt;cat&lt;/b&gt;" in page


def test_markdown_has_a_row_for_each_figure_and_class(made):
    result, files = made
    lines = files["evaluation.md"].decode().splitlines()
    assert "| execution | float64: predictions and radii hold for this format |" in lines
    rows = [line for line in lines if line.startswith("|")]
    # heads and rules; five figures; none and two sizes; three classes; five facts
    assert len(rows) == 2 + 5 + 2 + 3 + 2 + 3 + 2 + 5
    assert f"| clean accuracy | {result.clean_accuracy:.2%} |" in rows[2]
    assert all(row.replace("\\|", "").count("|") == 7 for row in rows[12:17])


def test_without_attacks_nothing_is_said_of_them(made):
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8), 3)))
    x = RNG.normal(size=(20, 4))
    files = evaluation_files(predictor, evaluate(predictor, x, np.zeros(20, int)), model="m", data="d")
    assert b"attack" not in files["evaluation.html"] + files["evaluation.md"]


def test_nothing_certified_is_drawn_too():
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8), 3)))
    x = RNG.normal(size=(20, 4))
    wrong = (predictor.predict(x).radii.label + 1) % 3
    result = evaluate(predictor, x, wrong, attacked=20)
    assert evaluation_files(predictor, result, model="m", data="d")["curve.png"]


def test_files_are_written(made, tmp_path):
    write_files(made[1], tmp_path / "new" / "folder")
    assert {p.name for p in (tmp_path / "new" / "folder").iterdir()} == set(made[1])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="writable folder"):
        write_files(made[1], tmp_path / "file")


def test_no_torch():
    assert "torch" not in modules_after("import lipmodel.report.evaluation")
