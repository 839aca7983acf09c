"""Ascent on networks whose constant is known."""

from __future__ import annotations

import numpy as np
import pytest

from lipmodel.audit.ascent import ascend, steepest
from lipmodel.audit.gradient import GradientEngine
from lipmodel.norms import Norm, vector_norm
from tests.audit.known import KNOWN, orthant

NORMS = list(Norm)


def climb(graph, norm=Norm.TWO, steps=120, seed=0):
    rng = np.random.default_rng(seed)
    starts = rng.uniform(-1.0, 1.0, size=(4, graph.input_size))
    engine = GradientEngine(graph)
    return engine, ascend(engine, np.ones((4, 1)), starts, norm, scale=2.0, steps=steps, rng=rng)


@pytest.mark.parametrize("name", KNOWN)
def test_finds_the_true_constant(name):
    graph, constant = KNOWN[name](np.random.default_rng(7))
    engine, (found, where) = climb(graph)
    assert 0.99 * constant <= found.max() <= constant * (1 + 1e-7)
    assert vector_norm(engine(where, np.ones((4, 1)))[1], Norm.TWO) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize(("norm", "constant"), [(Norm.ONE, None), (Norm.INF, None)])
def test_other_norms(norm, constant):
    """Of the orthant network, wholly on, the gradient is wQ."""
    graph, _ = orthant(12)(np.random.default_rng(3))
    first, _, last = graph.ops
    constant = vector_norm(last.weight @ first.weight, norm.dual)[0]
    patterns = ((np.arange(2**12)[:, None] >> np.arange(12)) & 1) * last.weight
    constant = vector_norm(patterns @ first.weight, norm.dual).max()
    found = climb(graph, norm, steps=60)[1][0].max()
    assert 0.97 * constant <= found <= constant * (1 + 1e-7)


def test_finds_more_than_as_many_random_points():
    graph, constant = orthant(64)(np.random.default_rng(0))
    engine, (found, _) = climb(graph, steps=60)
    points = np.random.default_rng(1).uniform(-1.0, 1.0, size=(4 * (4 * 60 + 1), 64))
    sampled = vector_norm(engine(points, np.ones((len(points), 1)))[1], Norm.TWO).max()
    assert found.max() > sampled + 0.03 * constant


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_direction_has_length_one_and_attains_the_dual_norm(norm):
    g = np.random.default_rng(0).normal(size=(20, 5))
    d = steepest(g, norm)
    assert vector_norm(d, norm) == pytest.approx(np.ones(20))
    assert (d * g).sum(axis=1) == pytest.approx(vector_norm(g, norm.dual))
    assert (steepest(0 * g, norm) == 0).all()
