from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lipmodel.errors import RecipeError
from lipmodel.training.activations import (
    AbsoluteValue,
    GroupSort,
    Householder,
    NActivation,
    full_sort,
    max_min,
)
from tests.seeds import shifted


def naive(x, group_size):
    """Sort each group separately, by the definition of the layout: unit i is in group i mod n/G."""
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
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(shifted(0)))
    assert GroupSort(group_size=3).group_size(12) == 3
    assert GroupSort(number_of_groups=3).group_size(12) == 4
    assert not torch.equal(GroupSort(group_size=3)(x), GroupSort(number_of_groups=3)(x))


def test_max_min_and_full_sort():
    x = torch.tensor([[1.0, 5.0, 3.0, 2.0]])
    assert max_min()(x).tolist() == [[3, 5, 1, 2]]
    assert full_sort()(x).tolist() == [[5, 3, 2, 1]]


def gradients(activation, generator, norms):
    """Check that it is 1-Lipschitz in some norms; return inputs, cotangents of the outputs, and gradients."""
    x, y = (torch.randn(500, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    for p in norms:
        moved = torch.linalg.vector_norm(activation(x) - activation(y), ord=p, dim=1)
        assert (moved <= torch.linalg.vector_norm(x - y, ord=p, dim=1) * (1 + 1e-12)).all()
    x.requires_grad_()
    cotangent = torch.randn(500, 16, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(activation(x), x, cotangent)
    return x, cotangent, gradient


@pytest.mark.parametrize(
    "activation", [max_min(), full_sort(), GroupSort(group_size=4), GroupSort(number_of_groups=4)]
)
def test_it_is_1_lipschitz_in_each_norm_and_keeps_the_norm_of_gradients(activation):
    x, cotangent, gradient = gradients(
        activation, torch.Generator().manual_seed(shifted(1)), (1, 2, torch.inf)
    )
    # a permutation: the same numbers in another order
    assert torch.equal(gradient.sort(dim=1).values, cotangent.sort(dim=1).values)
    relu_gradient = torch.autograd.grad(torch.relu(x), x, cotangent)[0]
    assert (relu_gradient.norm(dim=1) < cotangent.norm(dim=1)).all()  # what the above can tell apart


PIECEWISE = {
    "absolute": AbsoluteValue(),
    "in part": AbsoluteValue(0.5),
    "householder": Householder(16).double(),
    "n-activation": NActivation(16).double(),
    "images": nn.Sequential(nn.Unflatten(1, (4, 2, 2)), Householder(4).double(), max_min(), nn.Flatten()),
}


@pytest.mark.parametrize("name", PIECEWISE)
def test_the_others_are_1_lipschitz_and_keep_the_norm_of_gradients(name):
    activation = PIECEWISE[name]
    generator = torch.Generator().manual_seed(shifted(1))
    with torch.no_grad():
        for parameter in activation.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    norms = (2,) if name in ("householder", "images") else (1, 2, torch.inf)
    x, cotangent, gradient = gradients(activation, generator, norms)
    assert torch.allclose(gradient.norm(dim=1), cotangent.norm(dim=1), rtol=1e-12)
    assert not torch.allclose(activation(x), x)  # which keeps norms too


@given(st.floats(-7, 7), st.tuples(st.floats(-5, 5), st.floats(-5, 5)))
def test_householder_reflects_pairs_beyond_its_line(angle, pair):
    activation = Householder(2).double()
    with torch.no_grad():
        activation.angle.fill_(angle)
    ours = activation(torch.tensor([pair], dtype=torch.float64))[0].detach().numpy()
    normal = np.array([np.sin(angle / 2), -np.cos(angle / 2)])
    mirror = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
    expected = np.array(pair) if normal @ pair > 0 else mirror @ pair
    assert np.allclose(ours, expected, atol=1e-12)


def test_householder_starts_as_max_min():
    x = torch.randn(20, 6, 3, 3, generator=torch.Generator().manual_seed(shifted(0)))
    assert torch.allclose(Householder(6)(x), max_min()(x), atol=1e-6)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=2), st.floats(-5, 5))
def test_n_activation_is_its_three_pieces(kinks, x):
    activation = NActivation(1).double()
    with torch.no_grad():
        activation.kinks.copy_(torch.tensor(kinks, dtype=torch.float64).reshape(2, 1))
    low, high = sorted(np.float64(k) for k in kinks)
    expected = x - 2 * low if x <= low else -x if x <= high else x - 2 * high
    assert activation(torch.tensor([[x]], dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-12)


def test_absolute_values_are_of_the_first_units():
    x = -torch.ones(1, 5)
    assert AbsoluteValue()(x).tolist() == [[1, 1, 1, 1, 1]]
    assert AbsoluteValue(0.5)(x).tolist() == [[1, 1, -1, -1, -1]]


@pytest.mark.parametrize("activation", [max_min(), full_sort(), GroupSort(number_of_groups=2)])
def test_images_are_sorted_place_by_place(activation):
    x = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(shifted(0)))
    places = x.permute(0, 2, 3, 1).reshape(-1, 6)
    assert torch.equal(activation(x), activation(places).reshape(3, 4, 5, 6).permute(0, 3, 1, 2))


def test_bad_units_and_shares_are_refused():
    for units in (0, 3):
        with pytest.raises(RecipeError, match=f"{units} units cannot be split into pairs"):
            Householder(units)
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(RecipeError, match="above 0, at most 1 is accepted"):
            AbsoluteValue(share)


def test_bad_groups_are_refused():
    for arguments in ({}, {"group_size": 2, "number_of_groups": 2}, {"group_size": 0}):
        with pytest.raises(RecipeError, match="either a group_size or a number_of_groups"):
            GroupSort(**arguments)
    with pytest.raises(
        RecipeError, match="10 units cannot be split into groups of 4; choose a divisor of 10"
    ):
        GroupSort(group_size=4)(torch.zeros(1, 10))
    with pytest.raises(RecipeError, match="into 4 equal groups"):
        GroupSort(number_of_groups=4).group_size(10)
