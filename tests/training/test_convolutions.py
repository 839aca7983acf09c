from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lipmodel.errors import RecipeError
from lipmodel.training.constraints import Stiefel
from lipmodel.training.convolutions import (
    AOLConv,
    PointwiseConv,
    ScaledAveragePool,
    SpatialShift,
    almost_orthogonal,
)
from tests.seeds import shifted


def matrix_of(function, shape):
    """Return the matrix of a linear map of images: its value at every unit vector."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        return (function(basis) - function(torch.zeros(1, *shape, dtype=torch.float64))).flatten(1).T.numpy()


def isometric(matrix, *, rows):
    gram = matrix @ matrix.T if rows else matrix.T @ matrix
    return np.allclose(gram, np.eye(len(gram)), atol=1e-6)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (4, 9), (9, 4)])
def test_a_pointwise_convolution_is_orthogonal(inputs, outputs):
    layer = PointwiseConv(
        inputs, outputs, Stiefel(), generator=torch.Generator().manual_seed(shifted(0))
    ).double()
    matrix = matrix_of(layer, (inputs, 3, 4))
    assert isometric(matrix, rows=outputs <= inputs)
    x = torch.randn(2, inputs, 3, 4, dtype=torch.float64)
    by_place = torch.einsum("mn,bnhw->bmhw", layer.weight, x) + layer.bias[:, None, None]
    assert torch.allclose(layer(x), by_place)


@pytest.mark.parametrize("share", [0.25, 0.125, 0.01])
def test_a_shift_is_a_permutation_that_moves_each_share_its_way(share):
    shift = SpatialShift(share)
    x = torch.randn(2, 9, 3, 4)
    y, part = shift(x), int(9 * share)
    groups = [slice(i * part, (i + 1) * part) for i in range(4)] + [slice(4 * part, None)]
    assert torch.equal(y[:, groups[0]], x[:, groups[0]][:, :, [2, 0, 1]])  # down, around the edge
    assert torch.equal(y[:, groups[1]], x[:, groups[1]][:, :, [1, 2, 0]])
    assert torch.equal(y[:, groups[2]], x[:, groups[2]][..., [3, 0, 1, 2]])
    assert torch.equal(y[:, groups[3]], x[:, groups[3]][..., [1, 2, 3, 0]])
    assert torch.equal(y[:, groups[4]], x[:, groups[4]])
    matrix = matrix_of(shift, (9, 3, 4))
    assert (matrix.sum(axis=0) == 1).all()
    assert (matrix.sum(axis=1) == 1).all()
    assert set(np.unique(matrix)) == {0.0, 1.0}


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (2, 5), (5, 2)])
def test_almost_orthogonal_convolutions_never_raise_the_l2_norm(size, inputs, outputs):
    generator = torch.Generator().manual_seed(shifted(size))
    layer = AOLConv(inputs, outputs, size, generator=generator).double()
    start = matrix_of(layer, (inputs, 6, 5))
    assert isometric(start, rows=outputs <= inputs)  # nothing is lost at first
    for scale in (0.1, 10.0):  # nor does the size of the free kernel matter
        with torch.no_grad():
            layer.free.copy_(scale * torch.randn(layer.free.shape, generator=generator, dtype=torch.float64))
        singular = np.linalg.svd(matrix_of(layer, (inputs, 6, 5)), compute_uv=False)
        assert singular.max() <= 1 + 1e-12
        assert singular.max() > 0.3


def test_the_rescaling_is_the_papers():
    """Sum the kernel's correlation with itself over shifts and channels, by loops."""
    free = np.random.default_rng(0).normal(size=(4, 3, 3, 3))
    padded = np.pad(free, ((0, 0), (0, 0), (2, 2), (2, 2)))
    sums = np.zeros(3)
    for c in range(3):
        for other in range(3):
            for i in range(5):
                for j in range(5):
                    sums[c] += abs((free[:, c] * padded[:, other, i : i + 3, j : j + 3]).sum())
    expected = free / np.sqrt(sums)[None, :, None, None]
    assert np.allclose(almost_orthogonal(torch.from_numpy(free)).numpy(), expected)
    adjoint = almost_orthogonal(torch.from_numpy(free).transpose(0, 1))
    assert np.allclose(adjoint.transpose(0, 1).numpy(), expected)
    assert torch.equal(almost_orthogonal(torch.zeros(2, 3, 3, 3)), torch.zeros(2, 3, 3, 3))


@pytest.mark.parametrize("size", [2, 3])
def test_scaled_averages_have_unit_rows(size):
    matrix = matrix_of(ScaledAveragePool(size), (2, 6, 7))
    assert isometric(matrix, rows=True)


def test_bad_layers_are_refused():
    for size in (0, 2):
        with pytest.raises(RecipeError, match="odd sizes are accepted"):
            AOLConv(2, 2, size)
    for share in (0.0, 0.3):
        with pytest.raises(RecipeError, match=r"at most 0\.25 is accepted"):
            SpatialShift(share)
