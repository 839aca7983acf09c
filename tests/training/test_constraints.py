from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lipmodel.norms import Norm, bound_operator_norm
from lipmodel.training.constraints import NormalisedRows, RowNorm, SpectralNorm, Stiefel, project_rows_l1
from tests.exact import bounds_spectral_norm
from tests.seeds import shifted

rows = arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-5, 5, width=32)
)


def l1_projection_by_bisection(row, radius):
    """Find the threshold of the soft thresholding by bisection, not by sorting."""
    if np.abs(row).sum() <= radius:
        return row
    low, high = 0.0, np.abs(row).max()
    for _ in range(200):
        middle = (low + high) / 2
        if np.maximum(np.abs(row) - middle, 0).sum() > radius:
            low = middle
        else:
            high = middle
    return np.sign(row) * np.maximum(np.abs(row) - high, 0)


@given(rows, st.floats(0.1, 3))
def test_l1_projection_equals_bisection(weight, radius):
    ours = project_rows_l1(torch.from_numpy(weight), radius).numpy()
    for row, projected in zip(weight, ours, strict=True):
        assert np.allclose(projected, l1_projection_by_bisection(row, radius), atol=1e-9)


@given(rows, st.sampled_from(list(Norm)), st.floats(0.1, 3), st.integers(0, 1000))
def test_no_point_of_the_set_is_nearer_than_the_projection(weight, norm, radius, seed):
    constraint = RowNorm(radius, norm=norm)
    projected = constraint.project(torch.from_numpy(weight)).numpy()
    order = {"1": 1, "2": 2, "inf": np.inf}[norm]
    assert (np.linalg.norm(projected, ord=order, axis=1) <= radius * (1 + 1e-12)).all()
    rng = np.random.default_rng(seed)
    for _ in range(20):  # the variational inequality of a projection on a convex set
        other = rng.normal(size=weight.shape)
        other *= radius * rng.random() / np.linalg.norm(other, ord=order, axis=1, keepdims=True)
        assert (((weight - projected) * (other - projected)).sum(axis=1) <= 1e-9).all()


@pytest.mark.parametrize("shape", [(8, 8), (3, 9), (9, 3), (1, 5), (5, 1)])
@pytest.mark.parametrize("radius", [1.0, 2.5])
def test_the_retraction_comes_back_to_the_nearest_orthogonal_matrix(shape, radius):
    constraint = Stiefel(radius)
    generator = torch.Generator().manual_seed(shifted(0))
    weight = constraint.initial(*shape, generator).double()
    assert torch.allclose(
        torch.linalg.svdvals(weight), torch.full((min(shape),), radius, dtype=torch.float64), atol=1e-5
    )
    moved = weight + 0.02 * radius * torch.randn(*shape, generator=generator, dtype=torch.float64)
    left, _, right = torch.linalg.svd(moved, full_matrices=False)
    once = constraint.project(moved)
    assert torch.linalg.norm(once - radius * left @ right) < 0.2 * torch.linalg.norm(
        moved - radius * left @ right
    )
    for _ in range(5):
        once = constraint.project(once)
    assert torch.allclose(once, radius * left @ right, atol=1e-9)


def test_the_retraction_survives_steps_that_plain_newton_schulz_does_not():
    weight = 3.0 * torch.eye(4, dtype=torch.float64)  # 1.5·3 − 0.5·27 = −9, and worse from there
    constraint = Stiefel()
    for _ in range(30):
        weight = constraint.project(weight)
    assert torch.allclose(weight, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("norm", [Norm.ONE, Norm.INF])
@pytest.mark.parametrize("radius", [1.0, 0.3, 7.0])
def test_finished_rows_are_in_their_set_in_exact_arithmetic(norm, radius):
    rng = np.random.default_rng(0)
    constraint = RowNorm(radius, norm=norm)
    weight = constraint.project(torch.from_numpy(rng.normal(size=(40, 30)) * 3 * radius)).numpy()

    def longest(matrix):
        exact = [[abs(Fraction(float(v))) for v in row] for row in matrix]
        return max(sum(row) if norm is Norm.ONE else max(row) for row in exact)

    finished = constraint.finish(weight)
    assert np.array_equal(finished, finished.astype(np.float32))
    assert longest(finished) <= Fraction(radius)
    assert np.abs(finished - weight).max() <= 1e-6 * radius
    if norm is Norm.ONE:  # rounding alone does not do
        assert longest(weight.astype(np.float32)) > Fraction(radius)


@pytest.mark.parametrize("shape", [(6, 6), (4, 7), (7, 4)])
def test_finished_orthogonal_matrices_have_their_norm_in_exact_arithmetic(shape):
    constraint = Stiefel()
    weight = constraint.initial(*shape, torch.Generator().manual_seed(shifted(0))).double().numpy()
    weight = weight + 1e-4 * np.random.default_rng(0).normal(size=shape)
    finished = constraint.finish(weight)
    assert np.array_equal(finished, finished.astype(np.float32))
    assert bounds_spectral_norm(finished, 1.0)
    assert not bounds_spectral_norm(finished, 1.0 - 1e-5)  # nor was more given away than need be
    assert not bounds_spectral_norm(weight, 1.0)


@pytest.mark.parametrize("shape", [(6, 6), (4, 7), (7, 4), (1, 5)])
@pytest.mark.parametrize("radius", [1.0, 2.5])
def test_the_spectral_projection_cuts_singular_values_and_leaves_the_rest(shape, radius):
    weight = 3 * radius * np.random.default_rng(0).normal(size=shape)
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    expected = (left * np.minimum(values, radius)) @ right
    constraint = SpectralNorm(radius)
    assert values.max() > radius
    assert np.allclose(constraint.project(torch.from_numpy(weight)).numpy(), expected, atol=1e-12)
    finished = constraint.finish(weight)
    assert np.array_equal(finished, finished.astype(np.float32))
    assert np.allclose(finished, expected, atol=1e-6 * radius)
    assert bounds_spectral_norm(finished, radius)
    inside = 0.9 * radius / values.max() * weight
    assert np.allclose(constraint.project(torch.from_numpy(inside)).numpy(), inside, atol=1e-12)
    assert np.allclose(constraint.finish(inside), inside, atol=1e-6 * radius)


@given(rows, st.sampled_from(list(Norm)), st.floats(0.1, 3))
def test_normalised_rows_keep_their_directions_and_have_the_radius_for_their_norm(weight, norm, radius):
    constraint = NormalisedRows(radius, norm=norm)
    projected = constraint.project(torch.from_numpy(weight)).numpy()
    order = {"1": 1, "2": 2, "inf": np.inf}[norm]
    for row, ours in zip(weight, projected, strict=True):
        size = np.linalg.norm(row, ord=order)
        if size > 1e-30:
            assert np.allclose(ours, row * (radius / size), rtol=1e-9)
        else:
            assert np.linalg.norm(ours, ord=order) <= radius * (1 + 1e-9)
    finished = constraint.finish(projected)
    assert (np.linalg.norm(finished, ord=order, axis=1) <= radius).all()
    assert np.allclose(finished, projected, atol=1e-6 * radius)


@pytest.mark.parametrize(
    "constraint",
    [RowNorm(2.0, norm=Norm.ONE), NormalisedRows(2.0, norm=Norm.TWO), Stiefel(2.0), SpectralNorm(2.0)],
)
def test_constraints_say_which_operator_norm_they_bound(constraint):
    weight = constraint.finish(
        constraint.initial(5, 4, torch.Generator().manual_seed(shifted(0))).double().numpy()
    )
    assert 0 < bound_operator_norm(weight, *constraint.norms) <= 2.0


def test_initial_rows_are_in_their_set_and_sparse_in_l1():
    for norm in Norm:
        weight = RowNorm(norm=norm).initial(64, 64, torch.Generator().manual_seed(shifted(0)))
        again = RowNorm(norm=norm).project(weight)
        assert torch.allclose(weight, again, atol=1e-6)
    sparse = RowNorm(norm=Norm.ONE).initial(64, 64, torch.Generator().manual_seed(shifted(0)))
    assert 1 <= (sparse != 0).sum(dim=1).double().mean() <= 8
