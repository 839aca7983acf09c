"""The files of an audit's report open and agree with the audit."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from lipmodel.audit.report import audit
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.display import rounded_up
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from lipmodel.report.audit import audit_files
from tests.networks import groupsort_net, to_file

pytest.importorskip("matplotlib")

NAMES = ("<b>cat</b>", "dog|pipe", "öwl")
RNG = np.random.default_rng(0)


def made_of(sizes, classes, claims=None, **options):
    predictor = CertifiedPredictor(to_file(groupsort_net(sizes, classes), claims or Claims()))
    report = audit(predictor, **{"samples": 40} | options)
    return report, audit_files(predictor, report, model="a & b", data="c < d")


@pytest.fixture(scope="module")
def made():
    claims = Claims(norm=Norm.TWO, lipschitz=1.0, classes=NAMES)
    return made_of((4, 8), 3, claims, inputs=RNG.normal(size=(30, 4)), attacked=20)


def pictures(page):
    return [source.split(",", 1) for source in re.findall(r'(?:src|href)="([^"]*)"', page)]


def test_json_is_the_audit(made):
    report, files = made
    told = {"model": "a & b", "data": "c < d", **report.to_dict()}
    assert json.loads(files["audit.json"]) == json.loads(json.dumps(told))


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(made):
    report, files = made
    page = files["audit.html"].decode()
    HTMLParser().feed(page)
    assert len(pictures(page)) == 3
    for kind, content in pictures(page):
        assert kind == "data:image/svg+xml;base64"
        ElementTree.fromstring(base64.b64decode(content))
    assert f"<b>{report.attack.found} of 20</b>labels changed beyond the certified radius" in page
    for figure in (
        rounded_up(report.bound, 9),
        f"{report.tightness:.4f}",
        f"{report.flips} of 20",
        "consistent",
    ):
        assert f">{figure}</b>" in page
    assert "a &amp; b" in page
    assert "<b>cat</b>" not in page
    assert "&lt;b&gt;cat&lt;/b&gt; − dog|pipe" in page


def test_markdown_has_a_row_for_each_functional(made):
    _, files = made
    rows = [line for line in files["audit.md"].decode().splitlines() if line.startswith("|")]
    # heads and rules; eleven figures, three scores and three differences, three facts
    assert len(rows) == 2 + 11 + 2 + 6 + 2 + 3
    assert all(row.replace("\\|", "").count("|") == 9 for row in rows[13:21])


def test_what_is_refuted_is_shown():
    """The claim is a hundredth of the true constant: reason and verdict are shown."""
    report, files = made_of((4, 8), 3, Claims(norm=Norm.TWO, lipschitz=0.01))
    assert report.verdict == "refuted"
    for file in ("audit.html", "audit.md"):
        assert b"exceeds the claimed constant" in files[file]
        assert b"refuted" in files[file]


def test_witnesses_of_images_are_pictures():
    _, files = made_of((64, 8), 2, attacked=0)
    found = [content for kind, content in pictures(files["audit.html"].decode()) if "png" in kind]
    assert len(found) == 2 * 3  # two scores and their difference, each with two inputs
    assert base64.b64decode(found[0]).startswith(b"\x89PNG")


def test_a_capped_estimate_is_shown_as_capped(monkeypatch):
    monkeypatch.setattr("lipmodel.audit.survey.estimate_right_end", lambda maxima: 100.0)
    _, files = made_of((4, 8), 3, attacked=0)
    assert files["audit.html"].decode().count(", capped at the bound") == 6


@pytest.mark.parametrize("classes", [1, 25])
def test_one_score_and_many_are_drawn_too(classes):
    assert made_of((4, 8), classes, attacked=5)[1]["audit.html"]


def test_no_bound_is_shown_smaller_than_it_is():
    """A bound of 1.00000005 is not 1; nor is a slope that was found shown larger."""
    report, files = made_of((6, 16, 16), 2, attacked=0)
    rows = re.findall(r"<tr><td>(.*)</td></tr>", files["audit.html"].decode())
    shown = [[float(cell) for cell in row.split("</td><td>")[1:4:2]] for row in rows[: len(report.per_pair)]]
    pairs = sorted(report.per_pair, key=lambda pair: -pair.tightness)
    assert any(float(f"{pair.bound:.6g}") < pair.bound for pair in pairs), "else this says nothing"
    for (bound, slope), pair in zip(shown, pairs, strict=True):
        assert pair.bound <= bound <= pair.bound * (1 + 1e-5)
        assert slope <= pair.observed_slope
