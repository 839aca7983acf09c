"""Mixtures of own scores: exact distances by another solver, exact arithmetic on cancelling rows, attacks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.descent import ProjectedGradientDescent
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.tight.mixtures import Mixer, _adding_up
from lipmodel.network.writer import to_bytes, write_model
from lipmodel.norms import Norm
from lipmodel.threat import BALLS
from tests.networks import float32, groupsort_net, prototypes, to_file

NORMS = list(Norm)


def nearest_prototypes(seed, d=3, classes=3, each=6):
    rng = np.random.default_rng(seed)
    rows = float32(rng.normal(size=(classes * each, d)))
    return rows, float32(-0.5 * (rows**2).sum(axis=1)), classes


ROWS, BIAS, CLASSES = nearest_prototypes(0)
PREDICTOR = CertifiedPredictor(to_file(prototypes(ROWS, BIAS, CLASSES)))
X = np.random.default_rng(1).normal(size=(30, 3))


def distance(norm, differences, leads):
    """Of the polyhedron {δ: <differences_i, δ> + leads_i <= 0 for all i} from 0, by a general solver."""
    d = differences.shape[1]
    if norm is Norm.TWO:
        start = linprog(np.zeros(d), differences, -leads, bounds=(None, None))
        if not start.success:
            return np.inf
        halves = {"type": "ineq", "fun": lambda v: -(differences @ v + leads), "jac": lambda _: -differences}
        options = {"ftol": 1e-15, "maxiter": 500}
        found = minimize(
            lambda v: v @ v, start.x, jac=lambda v: 2 * v, constraints=halves, method="SLSQP", options=options
        )
        return np.sqrt(found.fun)
    if norm is Norm.ONE:
        found = linprog(np.ones(2 * d), np.hstack([differences, -differences]), -leads)
    else:
        box = np.vstack([np.eye(d), -np.eye(d)])
        above = np.vstack(
            [np.hstack([differences, np.zeros((len(leads), 1))]), np.hstack([box, -np.ones((2 * d, 1))])]
        )
        free = [(None, None)] * d + [(0, None)]
        found = linprog(np.append(np.zeros(d), 1.0), above, np.append(-leads, np.zeros(2 * d)), bounds=free)
    return found.fun if found.success else np.inf


@pytest.mark.parametrize("norm", NORMS)
def test_reach_is_at_most_the_distance_to_where_the_rival_wins(norm):
    """And in l2 attains it, where the best pair alone falls short; in l1 and linf it is a pair's or better."""
    raw, label = PREDICTOR.predict(X, norm).raw_scores, PREDICTOR.predict(X, norm).radii.label
    gained = 0
    for scores, x, answered in zip(raw, X, label, strict=True):
        mixed, alone = (
            PREDICTOR.mixer(norm).class_margins(scores, x, answered, mix=mix) for mix in (True, False)
        )
        assert (mixed.pair_radius >= alone.pair_radius).all()
        nearest = mixed.pair_radius.argmin()
        own = np.flatnonzero(PREDICTOR.head.owners == PREDICTOR.head.owners[mixed.targets[0]])
        j = mixed.competitors[nearest]
        exact = distance(norm, ROWS[own] - ROWS[j], scores[own] - scores[j])
        assert mixed.pair_radius[nearest] <= exact * (1 + 1e-6) + 1e-9
        if norm is Norm.TWO:
            assert mixed.pair_radius[nearest] == pytest.approx(exact, rel=1e-5)
        gained += alone.pair_radius.min() < 0.999 * mixed.pair_radius.min()
    assert gained > (5 if norm is Norm.TWO else 0)


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_stay_inside_and_come_near(norm):
    radii = PREDICTOR.predict(X, norm, tighten=True)
    task = AttackTask(PREDICTOR, GradientEngine(PREDICTOR.file.graph), X, BALLS[norm])
    radius = radii.radii.certified_radius
    assert "mixture" in radii.tightening.method
    assert not ProjectedGradientDescent(radius)(task).flipped.any()
    assert ProjectedGradientDescent(radius * 1.3)(task).flipped.mean() > 0.5


def test_over_a_body_mixtures_and_local_bounds_go_together():
    body = groupsort_net((4, 8), 8).ops[:-1]
    rows = float32(np.random.default_rng(2).normal(size=(12, 8)))
    predictor = CertifiedPredictor(to_file(prototypes(rows, np.zeros(12), 3, body)))
    x = np.random.default_rng(3).normal(size=(40, 4))
    fast, slow = predictor.predict(x), predictor.predict(x, tighten=True)
    assert (slow.radii.certified_radius >= fast.radii.certified_radius).all()
    assert {"local", "mixture"} & set(slow.tightening.method)
    task = AttackTask(predictor, GradientEngine(predictor.file.graph), x, BALLS[Norm.TWO])
    assert not ProjectedGradientDescent(slow.radii.certified_radius)(task).flipped.any()


@given(
    st.lists(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), min_size=1, max_size=4),
)
def test_weights_add_up_exactly(weights):
    for row in _adding_up(np.array(weights)):
        assert sum(Fraction(w) for w in row) == 1
        assert all(w >= 0 and (Fraction(w) * 2**20).denominator == 1 for w in row)


@pytest.mark.parametrize("norm", NORMS)
def test_constant_of_a_mixture_whose_rows_cancel(norm):
    """½a + ½b - c where all but one part in 10¹⁵ cancels: never below the exact norm, in rationals."""
    rng = np.random.default_rng(4)
    for _ in range(50):
        part = rng.normal(size=4)
        c = rng.normal(size=4)
        rows = np.stack([c + part, c - part * (1 + rng.uniform(-1e-15, 1e-15, size=4)), c])
        mixer = Mixer(*_head_of(rows, norm))
        bound = Fraction(
            float(mixer._bound_lipschitz(np.array([0, 1]), np.array([[0.5, 0.5]]), np.array([2]))[0])
        )
        entries = [
            Fraction(a) / 2 + Fraction(b) / 2 - Fraction(c) for a, b, c in zip(*rows.tolist(), strict=True)
        ]
        if norm is Norm.TWO:
            assert bound**2 >= sum(e * e for e in entries)
        else:
            assert bound >= (max if norm is Norm.ONE else sum)(abs(e) for e in entries)
        assert bound <= Fraction(1, 10**13)


def _head_of(rows, norm):
    rows = np.vstack([rows, np.zeros_like(rows[:1])])
    content = to_bytes(write_model(prototypes(rows, np.zeros(4), 2), np.float64))
    predictor = CertifiedPredictor(content)
    return predictor.head, predictor.rule(norm)
