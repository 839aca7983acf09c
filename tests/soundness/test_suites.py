"""Each suite at a small size: naive rules are broken, ours are not and still certify almost everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lipmodel.norms import Norm
from lipmodel.threat import BALLS, Threat
from tests.soundness import nets, suites
from tests.soundness.rules import NAIVE, OURS, OURS_SINGLE, PORTABLE


@pytest.mark.parametrize("in_scales", [False, True], ids=["balls", "scaled threat sets"])
@pytest.mark.parametrize("suite", suites.SUITES)
def test_ours_holds_where_naive_rules_break(suite, in_scales):
    norms = itertools.cycle(Norm)
    total = suites.added(
        suites.run(suite, net, norms=[next(norms)], count=128, in_scales=in_scales)
        for net in suites.nets_of(suite)
    )
    for rule in (OURS, PORTABLE, OURS_SINGLE):
        assert (total[rule.name].wrong, total[rule.name].flipped) == (0, 0), total
    for rule in NAIVE:
        assert total[rule.name].wrong + total[rule.name].flipped > 0, total
    if suite not in suites.MAY_ABSTAIN:
        assert total[OURS.name].share >= 0.99, total
    assert total[OURS.name].inputs >= 400


@pytest.mark.parametrize("norm", list(Norm))
def test_what_is_within_a_radius_is_decided_exactly(norm):
    x, step = np.zeros(3), np.array([0.6, 0.8, 0.0])
    length = {Norm.ONE: 1.4, Norm.TWO: 1.0, Norm.INF: 0.8}[norm]
    assert suites.within(x, step, length * (1 + 1e-15), BALLS[norm])
    assert not suites.within(x, step, length * (1 - 1e-15), BALLS[norm])
    for scaled, frozen in ((Threat(norm, (0.5, 0.5, 0.0)), False), (Threat(norm, (0.5, 0.0, 1.0)), True)):
        assert suites.within(x, step, 2.0 * length * (1 + 1e-15), scaled) is not frozen
        assert not suites.within(x, step, 2.0 * length * (1 - 1e-15), scaled)


def test_exact_labels_know_a_tie():
    graph = nets.linear_net([[1.0, 0.0], [0.0, 1.0]])
    third = 1.0 / 3.0
    inputs = np.array([[third, third], [np.nextafter(third, 1), third], [third, 1.0]])
    assert suites.exact_labels(graph, inputs).tolist() == [-1, 0, 1]
