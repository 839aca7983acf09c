from __future__ import annotations

import numpy as np
import pytest
import torch

from lipmodel.errors import RecipeError
from lipmodel.norms import Norm
from lipmodel.training.layers import ConstrainedDense, PositionalBias, project_
from lipmodel.training.losses import certified_radius
from lipmodel.training.network import build_network, compare, initialise_
from lipmodel.training.recipes import NetworkRecipe
from tests.seeds import shifted
from tests.training.small import small_network

ORDER = {Norm.ONE: 1, Norm.TWO: 2, Norm.INF: torch.inf}
CASES = [(Norm.ONE, "rows"), (Norm.TWO, "rows"), (Norm.TWO, "orthogonal"), (Norm.INF, "rows")]


@pytest.mark.parametrize(("norm", "constraint"), CASES)
@pytest.mark.parametrize("lipschitz", [1.0, 3.0])
def test_no_score_and_no_difference_of_scores_moves_faster_than_it_may(norm, constraint, lipschitz):
    network = small_network(norm, constraint=constraint, lipschitz=lipschitz).double()
    generator = torch.Generator().manual_seed(shifted(2))
    x = torch.randn(2000, 6, generator=generator, dtype=torch.float64)
    y = (
        x
        + torch.randn(2000, 6, generator=generator, dtype=torch.float64)
        * 10 ** torch.linspace(-3, 1, 2000)[:, None]
    )
    moved = network(x) - network(y)
    size = torch.linalg.vector_norm(x - y, ord=ORDER[norm], dim=1)[:, None]
    assert (moved.abs() <= size * lipschitz * (1 + 1e-4)).all()
    between = (moved[:, :, None] - moved[:, None, :]).abs()
    assert (between <= size[:, :, None] * network[-1].pair_bounds() * (1 + 1e-3) + 1e-5).all()


def test_orthogonal_group_sort_networks_keep_the_norm_of_gradients_and_relu_networks_do_not():
    sizes = {}
    for activation in ("maxmin", "relu"):
        network = small_network(widths=(16, 16, 16), outputs=1, activation=activation)
        x = torch.randn(100, 6, generator=torch.Generator().manual_seed(shifted(0)), requires_grad=True)
        head = network[-1]
        (gradient,) = torch.autograd.grad(network[:-1](x), x, head.weight.expand(100, -1))
        # what is left of the head's row after 16×16 orthogonal layers and a 16×6 one with orthonormal columns
        (before_first,) = torch.autograd.grad(
            network[2:-1](z := network[:2](x)), z, head.weight.expand(100, -1)
        )
        sizes[activation] = (before_first.norm(dim=1) / head.weight.norm()).detach().numpy()
        assert (gradient.norm(dim=1) <= head.weight.norm() * (1 + 1e-5)).all()
    assert np.allclose(sizes["maxmin"], 1.0, atol=1e-4)
    assert (sizes["relu"] < 0.9).all()


@pytest.mark.parametrize(("norm", "constraint"), CASES)
def test_pair_bounds_are_the_norms_of_differences_of_rows(norm, constraint):
    network = small_network(norm, constraint=constraint)
    rows = network[-1].weight.detach().double().numpy()
    order = 2 if constraint == "orthogonal" else 1
    expected = [[np.linalg.norm(a - b, ord=order) for b in rows] for a in rows]
    bounds = network[-1].pair_bounds()
    assert np.allclose(bounds.detach().numpy(), expected, atol=1e-5)
    assert (bounds.diagonal() == 0).all()
    bounds.sum().backward()
    assert torch.isfinite(network[-1].weight.grad).all()


BODIES = {
    "prototypes on pixels": {"widths": (), "head": "prototypes", "prototypes": 3},
    "prototypes on a body": {"widths": (16, 24), "head": "prototypes", "prototypes": 3},
    "normalised": {"head": "normalised"},
    "householder": {"activation": "householder"},
    "absolute": {"activation": "absolute"},
    "n-activation": {"activation": "n-activation"},
}


# A rotation is no isometry in linf: recipes refuse Householder with rows.
COMBINED = [
    (name, *case) for name in BODIES for case in CASES if not (name == "householder" and case[1] == "rows")
]


@pytest.mark.parametrize(("name", "norm", "constraint"), COMBINED)
def test_recipes_choose_heads_and_activations_that_keep_the_constant(name, norm, constraint):
    network = small_network(norm, constraint=constraint, lipschitz=2.0, **BODIES[name]).double()
    generator = torch.Generator().manual_seed(shifted(2))
    x = torch.randn(500, 6, generator=generator, dtype=torch.float64)
    y = x + torch.randn(500, 6, generator=generator, dtype=torch.float64) / 10
    initialise_(network, x, torch.arange(500) % 4, generator)
    moved = network(x) - network(y)
    size = torch.linalg.vector_norm(x - y, ord=ORDER[norm], dim=1)[:, None]
    assert (moved.abs() <= 2.0 * size * (1 + 1e-4)).all()
    labels = network(x).argmax(dim=1)
    scores, bounds = compare(network, x, labels)
    # what is certified at x by these bounds is not lost at y
    near = certified_radius(scores, labels, bounds) > size[:, 0] * (1 + 1e-3) + 1e-5
    assert near.any()
    assert torch.equal(network(y).argmax(dim=1)[near], labels[near])


def test_convolutional_bodies_halve_images_while_they_can():
    recipe = NetworkRecipe(widths=(8, 12, 16), constraint="orthogonal", body="convolutional")
    network = build_network(
        recipe,
        norm=Norm.TWO,
        lipschitz=1.0,
        mean=torch.zeros(1 * 12 * 20),
        outputs=3,
        generator=torch.Generator().manual_seed(shifted(0)),
        input_shape=(12, 20),
    )
    assert [tuple(m.bias.shape) for m in network if isinstance(m, PositionalBias)] == [
        (1, 6, 10), (1, 3, 5), (1, 3, 5),
    ]  # fmt: skip
    assert network(torch.rand(2, 240)).shape == (2, 3)
    assert len(list(network.parameters())) == 3 * 5 + 2
    for shape in (None, (12, 21), (240,)):
        with pytest.raises(RecipeError, match=r"images \[height, width\]"):
            build_network(
                recipe,
                norm=Norm.TWO,
                lipschitz=1.0,
                mean=torch.zeros(240),
                outputs=3,
                generator=torch.Generator(),
                input_shape=shape,
            )


def test_prototypes_are_for_several_scores():
    with pytest.raises(RecipeError, match="not a binary one"):
        small_network(outputs=1, head="prototypes", prototypes=2)


def test_project_brings_every_layer_back():
    network = small_network(Norm.INF)
    dense = [layer for layer in network if isinstance(layer, ConstrainedDense)]
    with torch.no_grad():
        for layer in dense:
            layer.weight.mul_(5)
    assert all(layer.weight.abs().sum(dim=1).max() > 1.1 for layer in dense)
    project_(network)
    assert all(layer.weight.abs().sum(dim=1).max() <= 1 + 1e-6 for layer in dense)


def test_widths_that_do_not_come_out_even_are_refused_before_training():
    with pytest.raises(RecipeError, match="15 units cannot be split into groups of 2"):
        small_network(widths=(15,))
    with pytest.raises(RecipeError, match="into 5 equal groups"):
        small_network(widths=(16,), activation="groupsort", number_of_groups=5)
