"""Verdicts, bounds and radii of the corpus are those recorded; see ``verdicts.py``."""

from __future__ import annotations

import copy

import pytest

from tests.corpus.verdicts import files, recorded, same, verdict

FILES, RECORDED = files(), recorded()
NAMES = sorted(FILES)
PARTS = 8


def test_every_file_has_a_recorded_verdict():
    assert FILES.keys() == RECORDED.keys()


@pytest.mark.parametrize("part", range(PARTS))
def test_verdicts_bounds_and_radii_are_those_recorded(part):
    changed = [name for name in NAMES[part::PARTS] if not same(RECORDED[name], verdict(FILES[name]))]
    assert not changed, "list the reason: python -m tests.corpus.verdicts --reason …"


def test_a_larger_radius_another_label_or_another_verdict_is_a_change():
    certified = next(v for v in RECORDED.values() if v["verdict"] == "certified")
    assert same(certified, copy.deepcopy(certified))
    larger = copy.deepcopy(certified)
    larger["norms"]["2"]["certified_radius"][0] += 1e-3
    other = copy.deepcopy(certified)
    other["labels"][0] += 1
    refused = {"verdict": "refused", "error": "UnsupportedError", "operator": "Cast"}
    assert not any(same(certified, changed) for changed in (larger, other, refused))
