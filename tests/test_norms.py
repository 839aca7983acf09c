"""Norms re-derived naively, and bounds compared with exact rational arithmetic."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lipmodel import norms
from lipmodel.norms import (
    Norm,
    bound_absolute_operator_norm,
    bound_equivalence,
    bound_operator_norm,
    bound_spectral_norm,
    bound_vector_norm,
    down,
    gamma,
    inflate,
    observed_spectral_norm,
    up,
    vector_norm,
)
from tests.exact import bounds_spectral_norm, operator_norm, rational
from tests.networks import float32, orthogonal

NORMS = list(Norm)
finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
moderate = st.floats(-1e6, 1e6, width=32)


def exact_norm_is_at_most(values, norm, bound):
    """Decide exactly: Σ|x|, Σx² against bound², max|x|."""
    x, b = [abs(Fraction(float(v))) for v in values], Fraction(float(bound))
    if norm is Norm.ONE:
        return sum(x) <= b
    if norm is Norm.TWO:
        return sum(v * v for v in x) <= b * b
    return max(x, default=Fraction(0)) <= b


@pytest.mark.parametrize("norm", NORMS)
def test_vector_norms_rederived(norm):
    x = [3.0, -4.0, 0.5]
    naive = {Norm.ONE: 7.5, Norm.TWO: (9 + 16 + 0.25) ** 0.5, Norm.INF: 4.0}[norm]
    assert vector_norm(x, norm) == pytest.approx(naive, rel=1e-15)
    assert vector_norm([-2.0], norm) == 2.0
    assert vector_norm([0.0, 0.0], norm) == 0.0
    assert vector_norm([], norm) == 0.0
    assert bound_vector_norm([], norm) == 0.0


@pytest.mark.parametrize(
    ("norm", "names"),
    [
        (Norm.ONE, ["1", "l1", "L1", 1, 1.0]),
        (Norm.TWO, ["2", "l2", "L2", 2, 2.0]),
        (Norm.INF, ["inf", "linf", "Linf", "INF", np.inf]),
    ],
)
def test_norms_are_parsed_by_all_their_names_and_shown_by_one(norm, names):
    assert {Norm.parse(name) for name in [*names, norm, norm.symbol]} == {norm}
    assert norm.symbol in names


@pytest.mark.parametrize("name", ["3", "", "l", "ll1", "two", 3, 1.5, -np.inf, np.nan, True, None, ["1"]])
def test_anything_else_is_no_norm(name):
    with pytest.raises(ValueError, match=re.escape(f"unknown norm {name!r}; l1, l2 and linf are accepted")):
        Norm.parse(name)


def test_dual_norms():
    assert [n.dual for n in NORMS] == [Norm.INF, Norm.TWO, Norm.ONE]
    assert all(n.reciprocal + n.dual.reciprocal == 1 for n in NORMS)


@given(x=hnp.arrays(np.float64, st.integers(1, 12), elements=finite), norm=st.sampled_from(NORMS))
def test_vector_bound_is_never_below_the_exact_norm(x, norm):
    with np.errstate(over="ignore"):
        bound = bound_vector_norm(x, norm)
    if np.isfinite(bound):
        assert exact_norm_is_at_most(x, norm, bound)


@given(x=hnp.arrays(np.float64, (3, 5), elements=moderate), norm=st.sampled_from(NORMS))
def test_vector_bound_is_tight(x, norm):
    assert (bound_vector_norm(x, norm, axis=1) <= vector_norm(x, norm, axis=1) * (1 + 1e-13) + 1e-300).all()


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1.0, 1e200])
def test_l2_bound_neither_overflows_nor_underflows(scale):
    x = np.array([3.0, 4.0]) * scale
    assert exact_norm_is_at_most(x, Norm.TWO, bound_vector_norm(x, Norm.TWO))
    assert bound_vector_norm(x, Norm.TWO) <= 5 * scale * (1 + 1e-12) + 1e-299


def test_the_exact_check_can_catch():
    x = np.full(7, 0.1)
    assert not exact_norm_is_at_most(x, Norm.TWO, down(vector_norm(x, Norm.TWO) * (1 - 1e-15)))
    w = np.random.default_rng(0).normal(size=(5, 5))
    assert not bounds_spectral_norm(w, np.linalg.norm(w, 2) * (1 - 1e-14))


@given(k=st.integers(1, 10**7))
def test_gamma_is_never_below_the_exact_one(k):
    exact = Fraction(k, 2**53) / (1 - Fraction(k, 2**53))
    assert exact <= Fraction(gamma(k)) <= exact * (1 + Fraction(1, 10**14))


def test_gamma_refuses_too_many_roundings():
    with pytest.raises(ValueError, match="too many"):
        gamma(2**24, 2.0**-24)


@given(terms=hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1e6)))
def test_inflate_pays_for_a_sum(terms):
    total = 0.0
    for term in terms:
        total += term
    assert sum(map(Fraction, terms.tolist())) <= Fraction(float(inflate(total, len(terms) - 1)))


def test_directed_rounding():
    assert down(1.0) < 1.0 < up(1.0)
    assert up(0.0) > 0.0


@pytest.mark.parametrize("source", NORMS)
@pytest.mark.parametrize("target", NORMS)
@pytest.mark.parametrize("shape", [(3, 4), (5, 2), (1, 1), (1, 6), (6, 1)])
def test_operator_bounds_hold_on_every_vector_tried(source, target, shape):
    rng = np.random.default_rng(hash((str(source), str(target), shape)) % 2**32)
    w = rng.normal(size=shape)
    bound = bound_operator_norm(w, source, target)
    x = np.vstack(
        [rng.normal(size=(500, shape[1])), rng.choice([-1.0, 1.0], (500, shape[1])), np.eye(shape[1])]
    )
    slopes = vector_norm(x @ w.T, target) / vector_norm(x, source)
    assert slopes.max() <= bound * (1 + 1e-12)
    assert bound <= 3 * slopes.max()  # not a vacuous bound either
    if (exact := operator_norm(w, source, target)) is not None:
        assert exact <= bound <= exact * (1 + 1e-10)


@pytest.mark.parametrize("source", NORMS)
@pytest.mark.parametrize("target", NORMS)
def test_operator_bound_of_nothing_is_nothing(source, target):
    assert bound_operator_norm(np.zeros((3, 2)), source, target) == 0.0
    assert bound_operator_norm(np.zeros((0, 2)), source, target) == 0.0


def test_row_and_column_bounds_are_exact_rationally():
    w = np.random.default_rng(1).normal(size=(6, 9))
    rows = max(sum(abs(v) for v in row) for row in rational(w))
    columns = max(sum(abs(v) for v in column) for column in rational(w).T)
    assert rows <= Fraction(bound_operator_norm(w, Norm.INF, Norm.INF))
    assert columns <= Fraction(bound_operator_norm(w, Norm.ONE, Norm.ONE))


def matrices():
    rng = np.random.default_rng(7)
    for trial in range(300):
        m, n = rng.integers(1, 7, size=2)
        kind = trial % 6
        if kind == 0:
            w = rng.normal(size=(m, n))
        elif kind == 1:
            w = float32(orthogonal(rng, m, n))
        elif kind == 2:
            w = rng.integers(-3, 4, size=(m, n)).astype(float)
        elif kind == 3:
            w = np.outer(rng.normal(size=m), rng.normal(size=n))  # rank one
        elif kind == 4:
            w = rng.normal(size=(m, n)) * 10.0 ** rng.integers(-200, 200)
        else:
            w = rng.normal(size=(m, n)) * 10.0 ** rng.uniform(-8, 0, size=(m, n))
        yield w


def test_spectral_bound_is_never_below_the_exact_norm():
    """Compare with an exact LDLᵀ of s²I - WᵀW; a bare SVD fails this test, so the test can fail."""
    svd_failures = 0
    for w in matrices():
        assert bounds_spectral_norm(w, bound_spectral_norm(w)), w
        svd_failures += not bounds_spectral_norm(w, np.linalg.norm(w, 2))
    assert svd_failures > 10


@pytest.mark.parametrize("shape", [(64, 2), (64, 1), (40, 40)])
def test_spectral_bound_of_larger_matrices(shape):
    w = float32(np.random.default_rng(3).normal(size=shape))
    if shape != (40, 40):
        assert bounds_spectral_norm(w, bound_spectral_norm(w))
    assert bound_spectral_norm(w) <= np.linalg.norm(w, 2) * (1 + 1e-11)


@pytest.mark.parametrize("n", [128, 512])
def test_spectral_bound_of_orthogonal_layers_is_tight(n):
    w = orthogonal(np.random.default_rng(0), n, n)
    assert bound_spectral_norm(w) - 1 < 1e-9


def by_cholesky(monkeypatch):
    """Bound every matrix of two columns and rows by Cholesky; return the list that collects the results."""
    found, bound = [], norms._bound_by_cholesky
    monkeypatch.setattr(norms, "MANY_COLUMNS", 1)
    monkeypatch.setattr(norms, "_bound_by_cholesky", lambda w: found.append(bound(w)) or found[-1])
    return found


def test_spectral_bound_by_cholesky_is_never_below_the_exact_norm(monkeypatch):
    found = by_cholesky(monkeypatch)
    for w in matrices():
        bound = bound_spectral_norm(w)
        assert bounds_spectral_norm(w, bound), w
        assert bound <= np.linalg.norm(w, 2) * (1 + 1e-12)
    assert len(found) > 200
    assert None not in found


@pytest.mark.parametrize("factor", [0.0, 0.8, 1.1])
def test_spectral_bound_trusts_neither_cholesky_nor_lanczos(factor, monkeypatch):
    found = by_cholesky(monkeypatch)
    w = np.random.default_rng(0).normal(size=(9, 6))
    cholesky, largest = np.linalg.cholesky, np.linalg.norm(w / 2, 2) ** 2
    monkeypatch.setattr(np.linalg, "cholesky", lambda a: factor * cholesky(a + 9.0 * np.eye(6)))
    for value in (0.5 * largest, largest, 2.0 * largest):
        monkeypatch.setattr(norms, "_lanczos", lambda _, value=value: (value, 0.0))
        assert bounds_spectral_norm(w, bound_spectral_norm(w))
    assert None not in found


@pytest.mark.parametrize("rank", [1, 64])
def test_spectral_bound_by_cholesky_is_the_formula(rank, monkeypatch):
    """‖W‖ = 1: s is γ_m ‖W‖_F² above that, the same again is for G, and γ_n ‖R‖_F² for RRᵀ."""
    found = by_cholesky(monkeypatch)
    w = np.diag([1.0] * rank + [0.0] * (64 - rank))
    paid = bound_spectral_norm(w) ** 2 - 1.0
    expected = gamma(64) * (2.0 * rank + 64.0 - rank)
    assert 0.99 * expected < paid < 1.2 * expected
    assert None not in found


def test_spectral_bound_of_a_matrix_that_cholesky_fails_of_is_that_by_singular_vectors(monkeypatch):
    w = np.random.default_rng(0).normal(size=(9, 6))
    expected = bound_spectral_norm(w)
    monkeypatch.setattr(norms, "MANY_COLUMNS", 1)
    for lanczos in (lambda _: (0.0, 0.0), lambda _: (np.nan, np.nan), lambda _: (100.0, 1.0)):
        monkeypatch.setattr(norms, "_lanczos", lanczos)
        assert bound_spectral_norm(w) == expected


def test_spectral_bound_of_wide_layers_is_tight():
    rng = np.random.default_rng(0)
    for w in (rng.normal(size=(520, 560)), orthogonal(rng, 520, 520), np.ones((520, 520))):
        assert np.linalg.norm(w, 2) <= bound_spectral_norm(w) <= np.linalg.norm(w, 2) * (1 + 1e-10)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 5)])
def test_observed_spectral_norm_comes_near_from_below(shape):
    w = np.random.default_rng(2).normal(size=shape)
    assert 0.9 * np.linalg.norm(w, 2) < observed_spectral_norm(w) <= np.linalg.norm(w, 2) * (1 + 1e-12)
    assert observed_spectral_norm(np.zeros(shape)) == observed_spectral_norm(w * 1e200) == 0.0


def test_spectral_bound_refuses_entries_that_are_not_finite():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            bound_spectral_norm(np.array([[1.0, bad]]))


@pytest.mark.parametrize("norm", NORMS)
def test_absolute_operator_bound(norm):
    w = np.random.default_rng(5).normal(size=(4, 6))
    assert bound_absolute_operator_norm(w, norm) >= bound_operator_norm(np.abs(w), norm, norm) * (1 - 1e-9)


def test_absolute_spectral_bound_is_never_below_the_exact_norm():
    """Bounds hold and are tight for full, sparse, block and zero-column matrices of all sizes."""
    rng = np.random.default_rng(6)
    for _ in range(150):
        w = rng.normal(size=rng.integers(1, 8, 2)) * (rng.random() < 0.7 or 10.0 ** rng.integers(-150, 150))
        w *= rng.random(w.shape) < rng.choice([0.3, 1.0])
        w *= 10.0 ** rng.integers(-3, 4, size=w.shape[1])
        bound = bound_absolute_operator_norm(w, Norm.TWO)
        assert bounds_spectral_norm(np.abs(w), bound)
        if w.all():
            assert not bounds_spectral_norm(np.abs(w), bound * 0.99)


@given(
    x=hnp.arrays(np.float64, st.integers(1, 9), elements=moderate),
    source=st.sampled_from(NORMS),
    target=st.sampled_from(NORMS),
)
def test_equivalence_of_norms(x, source, target):
    limit = bound_equivalence(source, target, len(x)) * bound_vector_norm(x, source)
    assert vector_norm(x, target) <= limit * (1 + 1e-14) + 1e-300
    ones = np.ones(len(x))
    attained = max(vector_norm(v, target) / vector_norm(v, source) for v in (ones, np.eye(len(x))[0]))
    assert attained == pytest.approx(bound_equivalence(source, target, len(x)))
