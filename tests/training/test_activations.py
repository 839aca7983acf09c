from __future__ import annotations

import numpy as np
import pytest
import torch

from lipmodel.errors import RecipeError
from lipmodel.training.activations import GroupSort, full_sort, max_min


def naive(x, group_size):
    """Each group sorted by itself, by the layout's words: unit i is in group i mod n/G."""
    n = len(x)
    groups = n // group_size
    y = np.empty(n)
    for g in range(groups):
        members = [i for i in range(n) if i % groups == g]
        y[members] = sorted((x[i] for i in members), reverse=True)
    return y


@pytest.mark.parametrize("group_size", [1, 2, 3, 4, 6, 12])
def test_both_parametrisations_sort_as_the_layout_says(group_size):
    x = np.random.default_rng(0).normal(size=(20, 12))
    expected = np.array([naive(row, group_size) for row in x])
    for activation in (GroupSort(group_size=group_size), GroupSort(number_of_groups=12 // group_size)):
        assert np.array_equal(activation(torch.from_numpy(x)).numpy(), expected)


def test_size_and_number_are_two_things():
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    assert GroupSort(group_size=3).group_size(12) == 3
    assert GroupSort(number_of_groups=3).group_size(12) == 4
    assert not torch.equal(GroupSort(group_size=3)(x), GroupSort(number_of_groups=3)(x))


def test_max_min_and_full_sort():
    x = torch.tensor([[1.0, 5.0, 3.0, 2.0]])
    assert max_min()(x).tolist() == [[3, 5, 1, 2]]
    assert full_sort()(x).tolist() == [[5, 3, 2, 1]]


@pytest.mark.parametrize(
    "activation", [max_min(), full_sort(), GroupSort(group_size=4), GroupSort(number_of_groups=4)]
)
def test_it_is_1_lipschitz_in_each_norm_and_keeps_the_norm_of_gradients(activation):
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(500, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    for p in (1, 2, torch.inf):
        moved = torch.linalg.vector_norm(activation(x) - activation(y), ord=p, dim=1)
        assert (moved <= torch.linalg.vector_norm(x - y, ord=p, dim=1) * (1 + 1e-12)).all()
    x.requires_grad_()
    cotangent = torch.randn(500, 16, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(activation(x), x, cotangent)
    # a permutation: the same numbers in another order
    assert torch.equal(gradient.sort(dim=1).values, cotangent.sort(dim=1).values)
    relu_gradient = torch.autograd.grad(torch.relu(x), x, cotangent)[0]
    assert (relu_gradient.norm(dim=1) < cotangent.norm(dim=1)).all()  # what the above can tell apart


def test_bad_groups_are_refused():
    for arguments in ({}, {"group_size": 2, "number_of_groups": 2}, {"group_size": 0}):
        with pytest.raises(RecipeError, match="either a group_size or a number_of_groups"):
            GroupSort(**arguments)
    with pytest.raises(
        RecipeError, match="10 units cannot be split into groups of 4; choose a divisor of 10"
    ):
        GroupSort(group_size=4)(torch.zeros(1, 10))
    with pytest.raises(RecipeError, match="equal groups, numbering 4"):
        GroupSort(number_of_groups=4).group_size(10)
