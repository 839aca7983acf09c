"""Radii: the formula with its roundings, its edges, and attacks on radii that are attained."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lipmodel.certify.head import linear_head
from lipmodel.certify.lipschitz import bound_lipschitz
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.radius import RadiusRule
from lipmodel.certify.rounding import FORMATS, bound_rounding
from lipmodel.norms import MIN_DISTANCE, Norm, vector_norm
from tests.exact import evaluate
from tests.networks import float32, groupsort_net, linear_net, to_file

NORMS = list(Norm)


def radii_of(graph, scores, inputs, norm=Norm.TWO):
    working = Norm.INF if norm is Norm.INF else Norm.TWO
    head = linear_head(graph)
    rule = RadiusRule(
        head.owners,
        bound_lipschitz(graph, norm),
        bound_rounding(graph, working, FORMATS[np.float64]),
        input_size=graph.input_size,
    )
    return rule(head.raw_scores(np.asarray(scores, dtype=float)), np.asarray(inputs, dtype=float))


IDENTITY = linear_net(np.eye(3))


def test_formula_on_a_net_known_by_heart():
    """For f = x, the distance to the nearest face of the class's cone: margin / √2."""
    result = radii_of(IDENTITY, [[3.0, 1.0, 2.0]], [[3.0, 1.0, 2.0]])
    assert result.label[0] == 0
    assert result.runner_up[0] == 2
    assert result.margin[0] <= 1.0
    assert result.certified_radius[0] == pytest.approx(1 / 2**0.5, rel=1e-12)
    assert result.certified_radius[0] < 1 / 2**0.5


def test_the_runner_up_sets_the_radius_even_where_its_score_is_not_second():
    graph = linear_net([[1.0, 0.0], [-10.0, 0.0], [1.0, -0.1]], [1.0, 0.0, 0.0])
    result = radii_of(graph, [[1.0, 0.0, 0.95]], [[0.0, 0.0]])
    assert result.runner_up[0] == 1
    assert result.margin[0] == pytest.approx(0.05)
    assert result.certified_radius[0] == pytest.approx(1 / 11)


def test_ties_abstain():
    result = radii_of(IDENTITY, [[1.0, 1.0, 0.0]], [[1.0, 1.0, 0.0]])
    assert result.certified_radius[0] == 0.0
    assert result.label[0] == 0
    assert result.runner_up[0] == 1


def test_margins_within_rounding_abstain():
    scores = [[1.0, np.nextafter(1.0, 0), 0.0]]
    assert radii_of(IDENTITY, scores, scores).certified_radius[0] == 0.0


def test_scores_that_are_not_finite_abstain():
    for bad in (np.nan, np.inf):
        with np.errstate(invalid="ignore"):
            assert radii_of(IDENTITY, [[bad, 1.0, 0.0]], [[1.0, 1.0, 0.0]]).certified_radius[0] == 0.0


def test_huge_inputs_abstain_before_they_overflow():
    result = radii_of(IDENTITY, [[1e307, 0.0, 0.0]] * 2, [[1e307, 0, 0], [1e308, 0, 0]])
    assert result.certified_radius[1] == 0.0


def test_nothing_is_certified_where_it_might_overflow():
    """With a format whose largest number allows intermediate results up to 10: 9 + r must stay below."""
    head, rounding = linear_head(IDENTITY), bound_rounding(IDENTITY, Norm.TWO, FORMATS[np.float64])
    x = np.array([[9.0, 0.0, 0.0], [11.0, 0.0, 0.0]])
    lipschitz, narrow = bound_lipschitz(IDENTITY, Norm.TWO), replace(rounding, limit=10.0)
    radii = RadiusRule(head.owners, lipschitz, narrow, input_size=3)(x, x).certified_radius
    assert 0.9 < radii[0] < 1.0
    assert radii[1] == 0.0


def test_a_constant_classifier_has_a_large_finite_radius():
    graph = linear_net(np.zeros((2, 2)), [1.0, 0.0])
    result = radii_of(graph, [[1.0, 0.0]], [[0.0, 0.0]])
    assert 1e300 < result.certified_radius[0] < np.inf


def test_binary_label_is_the_sign():
    graph = linear_net([[2.0, 0.0]])
    result = radii_of(graph, [[2.0], [-2.0], [0.0]], [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    assert result.label.tolist() == [1, 0, 0]
    assert result.certified_radius[:2] == pytest.approx([1.0, 1.0], rel=1e-12)
    assert result.certified_radius[2] == 0.0


@given(
    scores=st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3),
    norm=st.sampled_from(NORMS),
)
def test_radius_is_below_the_exact_formula(scores, norm):
    """For exact scores of f = x, the radius never exceeds min_j (f_c - f_j) / ‖e_c - e_j‖, exactly."""
    result = radii_of(IDENTITY, [scores], [scores], norm)
    label, radius = int(result.label[0]), Fraction(float(result.certified_radius[0]))
    exact = [Fraction(s) for s in scores]
    gap = min(exact[label] - exact[j] for j in range(3) if j != label)
    if norm is Norm.ONE:
        assert radius <= gap
    elif norm is Norm.INF:
        assert radius * 2 <= gap
    else:
        assert radius**2 * 2 <= gap**2
    if gap > 0:
        assert radius < gap  # strictly inside
        assert radius > 0 or gap < Fraction(1, 10**9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("exponent", [0, 300, 470, 490, 520, 530, 535, 540, 600, 950, 990])
def test_no_radius_is_so_small_that_a_caller_may_not_measure_it(norm, exponent):
    """The input mirrored at the boundary has another label; its distance, in float64, is beyond the radius."""
    predictor = CertifiedPredictor(to_file(linear_net([[1.0, 0.0]])))
    x = np.linspace(1.0, 2.0, 40)[:, None] * [2.0**-exponent, 0.0]
    together = predictor.predict(x, norm).radii
    alone = [predictor.predict(row[None], norm).radii for row in x]  # in floats, from now on
    assert (together.label != predictor.predict(-x, norm).radii.label).all()
    distance = vector_norm(x - -x, norm, axis=1)
    for radius in (together.certified_radius, np.concatenate([one.certified_radius for one in alone])):
        assert (distance > radius)[radius > 0.0].all()
        assert (radius > 0.0).all() or exponent > 470


def test_the_least_distances_are_those_that_flushing_cannot_shorten():
    """d·2⁻¹⁰²² of l1, or of the square of l2, is less than the slack for callers, of up to 2²⁴ numbers."""
    for size in (1, 2**24):
        slack = Fraction(size + 4, 2**52) / 2
        assert Fraction(size, 2**1022) < slack * Fraction(MIN_DISTANCE[Norm.ONE])
        assert Fraction(size, 2**1022) < slack * Fraction(MIN_DISTANCE[Norm.TWO]) ** 2


OWNERS = {
    "one score a class": [0, 1, 2, 3],
    "several": [0, 0, 1, 2],
    "two classes": [1, 0, 0, 1],
    "most": [0, 1, 1, 1],
}
SCORES = st.lists(
    st.one_of(st.floats(-4, 4, width=16), st.floats(), st.sampled_from([1.0, 1.0 + 2.0**-52, 0.0, -0.0])),
    min_size=4,
    max_size=4,
)


def rule_for(owners, norm):
    graph = linear_net(np.random.default_rng(1).normal(size=(4, 4)))
    working = Norm.INF if norm is Norm.INF else Norm.TWO
    rounding = bound_rounding(graph, working, FORMATS[np.float64])
    return RadiusRule(np.array(OWNERS[owners]), bound_lipschitz(graph, norm), rounding, input_size=4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("owners", OWNERS)
def test_one_input_alone_is_certified_as_in_a_batch(owners, norm):
    """Bit for bit, whatever the scores: equal, far apart, huge, infinite or no numbers."""
    rule = rule_for(owners, norm)
    rule(np.eye(4), np.eye(4))  # from now on it may use floats
    assert rule._floats is not None

    @given(scores=SCORES, size=st.sampled_from([0.0, 1e-300, 1.0, 1e150, 1e307]))
    @example(scores=[0.0, 0.0, 0.0, 1.7e308], size=1.0)  # the radius is where inputs overflow
    def same(scores, size):
        scores, x = np.array([scores]), np.array([[size, -size / 3, 0.0, size / 7]])
        with np.errstate(all="ignore"):
            alone, together = rule(scores, x), rule(np.repeat(scores, 3, axis=0), np.repeat(x, 3, axis=0))
        for one, many in zip(alone, together, strict=True):
            assert one.dtype == many.dtype
            np.testing.assert_array_equal(one, many[:1])

    same()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dimension", [2, 16, 64])
def test_attained_radii_hold_exactly(norm, dimension):
    """Linear nets: a step of the claimed length straight at the boundary, decided in exact arithmetic.

    The naive rule, margin over the constant, is broken by the same steps, so the test can fail.
    """
    rng = np.random.default_rng(dimension)
    weight = float32(rng.normal(size=(2, dimension)))
    graph = linear_net(weight, rng.normal(size=2))
    predictor = CertifiedPredictor(to_file(graph))
    x = float32(rng.normal(size=(300, dimension)))
    result = predictor.predict(x, norm)
    exact_l = vector_norm(weight[0] - weight[1], norm.dual)
    naive = np.abs(result.scores[:, 0] - result.scores[:, 1]) / exact_l
    broken = {"ours": 0, "naive": 0}
    for row, label, ours, theirs in zip(
        x, result.radii.label, result.radii.certified_radius, naive, strict=True
    ):
        gap = evaluate(graph, row)
        gap = gap[label] - gap[1 - label]
        difference = [Fraction(float(a)) - Fraction(float(b)) for a, b in zip(*weight, strict=True)]
        for name, radius in (("ours", ours), ("naive", theirs)):
            reach = Fraction(float(radius))
            if norm is Norm.TWO:
                broken[name] += reach**2 * sum(d * d for d in difference) > gap**2
            else:
                dual = max(map(abs, difference)) if norm is Norm.ONE else sum(map(abs, difference))
                broken[name] += reach * dual > gap
        assert ours > 0.999 * theirs or theirs < 1e-6
    assert broken["ours"] == 0
    assert broken["naive"] > 20


@pytest.mark.parametrize("norm", NORMS)
def test_radius_does_not_depend_on_the_batch(norm):
    predictor = CertifiedPredictor(to_file(groupsort_net((4, 8), 3)))
    x = np.random.default_rng(0).normal(size=(50, 4))
    whole = predictor.predict(x, norm).radii
    one = [predictor.predict(row[None], norm).radii.certified_radius[0] for row in x]
    assert whole.certified_radius == pytest.approx(one, rel=1e-12)
