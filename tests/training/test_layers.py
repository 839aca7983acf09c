from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from lipmodel.errors import RecipeError
from lipmodel.norms import Norm
from lipmodel.training.activations import AbsoluteValue, Householder, NActivation, full_sort, max_min
from lipmodel.training.constraints import NormalisedRows, RowNorm, SpectralNorm, Stiefel
from lipmodel.training.convolutions import AOLConv, PointwiseConv, ScaledAveragePool, SpatialShift
from lipmodel.training.heads import LinearHead, PrototypeHead
from lipmodel.training.layers import (
    ConstrainedDense,
    Monotone,
    PositionalBias,
    PrincipalComponents,
    Residual,
    Shift,
    keep_constraints,
)
from lipmodel.training.losses import MultiClassHinge
from tests.seeds import shifted


def dense_network():
    torch.manual_seed(shifted(0))
    return nn.Sequential(
        Shift(torch.full((6,), 0.5)),
        ConstrainedDense(6, 8, Stiefel()),
        max_min(),
        ConstrainedDense(8, 8, SpectralNorm()),
        full_sort(),
        Residual(ConstrainedDense(8, 8, Stiefel()), Householder(8), NActivation(8)),
        LinearHead(8, 3, NormalisedRows(norm=Norm.TWO)),
    )


def image_network():
    torch.manual_seed(shifted(0))
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.PixelUnshuffle(2),
        PositionalBias((1, 4, 4)),
        PointwiseConv(4, 8, Stiefel()),
        SpatialShift(),
        AOLConv(8, 8),
        AbsoluteValue(0.5),
        Residual(PointwiseConv(8, 8, Stiefel()), max_min()),
        ScaledAveragePool(2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        PrototypeHead(8, 3, 4),
    )


NETWORKS = {"dense": (dense_network, 6), "image": (image_network, 64)}


def batch(size, samples=32):
    generator = torch.Generator().manual_seed(shifted(1))
    return torch.rand(samples, size, generator=generator), torch.randint(3, (samples,), generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.SGD])
def test_ordinary_loops_keep_the_constraints(name, optimiser):
    build, size = NETWORKS[name]
    network, (inputs, labels) = build(), batch(size)
    steps = optimiser(network.parameters(), lr=0.01)
    keep_constraints(steps, network)
    losses = []
    for _ in range(30):
        steps.zero_grad()
        loss = MultiClassHinge(0.5)(network(inputs), labels)
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for module in network.modules():
        if isinstance(module, PrototypeHead):
            assert module.weight.norm(dim=1).max() <= 1 + 1e-6
        elif isinstance(module, LinearHead):
            assert torch.allclose(module.weight.norm(dim=1), torch.ones(3))
        elif isinstance(module, ConstrainedDense):
            assert torch.linalg.matrix_norm(module.weight, 2) <= 1 + 2e-3  # one retraction a step


def test_removed_hooks_project_no_more_and_a_second_network_is_left_alone():
    first, second = dense_network(), dense_network()
    steps = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=5.0)
    handle = keep_constraints(steps, first)
    (first(batch(6)[0]).sum() + second(batch(6)[0]).sum()).backward()
    steps.step()
    assert first[6].weight.norm(dim=1).max() <= 1 + 1e-6
    assert second[6].weight.norm(dim=1).max() > 1.1
    handle.remove()
    steps.step()
    assert first[6].weight.norm(dim=1).max() > 1.1


def test_weights_are_projected_every_second_step_if_requested():
    network = dense_network()
    steps = torch.optim.SGD(network.parameters(), lr=5.0)
    keep_constraints(steps, network, every=2)
    network(batch(6)[0]).sum().backward()
    returned = []
    for _ in range(4):
        steps.step()
        returned.append(network[6].weight.norm(dim=1).max().item() <= 1 + 1e-6)
    assert returned == [False, True, False, True]


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_changes_in_a_forward_pass(name):
    build, size = NETWORKS[name]
    network, (inputs, _) = build(), batch(size)
    before = copy.deepcopy(network.state_dict())
    training = network.train()(inputs)
    evaluated = network.eval()(inputs)
    assert torch.equal(training, evaluated)
    assert list(before) == list(network.state_dict())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_saved_loaded_copied_and_pickled(name):
    build, size = NETWORKS[name]
    network, (inputs, _) = build(), batch(size)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    expected = network(inputs)
    copied = copy.deepcopy(network)
    assert torch.equal(copied(inputs), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(inputs), expected)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    loaded = build()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(loaded(inputs), expected)
    # what was copied learns by itself, and so does what was copied from
    steps = torch.optim.SGD(copied.parameters(), lr=0.1)
    keep_constraints(steps, copied)
    copied(inputs).sum().backward()
    steps.step()
    assert torch.equal(network(inputs), expected)
    assert not torch.equal(copied(inputs), expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("default")  # of the compiler's own
def test_compiled_networks_compute_and_learn_the_same(name, backend):
    build, size = NETWORKS[name]
    network, (inputs, labels) = build(), batch(size)
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    plain = network(inputs)
    assert torch.allclose(compiled(inputs), plain, atol=1e-6)
    gradients = torch.autograd.grad(MultiClassHinge(0.5)(plain, labels), list(network.parameters()))
    compiled_loss = MultiClassHinge(0.5)(compiled(inputs), labels)
    for mine, theirs in zip(
        torch.autograd.grad(compiled_loss, list(network.parameters())), gradients, strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_a_residual_is_a_convex_combination():
    inner = ConstrainedDense(4, 4, Stiefel(), generator=torch.Generator().manual_seed(shifted(0)))
    residual = Residual(inner)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(shifted(1)))
    assert residual.share.item() == 0.5
    with torch.no_grad():
        residual.logit.fill_(1.0)
    share = 1 / (1 + np.exp(-1.0))
    assert torch.allclose(residual(x), (1 - share) * x + share * inner(x), atol=1e-6)
    residual(x).sum().backward()
    assert residual.logit.grad is not None


def test_monotone_networks_never_fall_along_their_features():
    torch.manual_seed(shifted(0))
    network = Monotone(
        nn.Sequential(
            ConstrainedDense(5, 16, RowNorm(norm=Norm.ONE)),
            max_min(),
            ConstrainedDense(16, 16, RowNorm(norm=Norm.ONE)),
            max_min(),
            LinearHead(16, 1, RowNorm(2.0, norm=Norm.ONE)),
        ),
        [1, 4],
        inputs=5,
        lipschitz=2.0,
    )
    x = torch.randn(500, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    assert (gradient[:, [1, 4]] >= -1e-6).all()
    plain = torch.autograd.grad(network.network(x).sum(), x)[0]
    assert torch.allclose(gradient - plain, torch.tensor([0.0, 2, 0, 0, 2]), atol=1e-6)
    assert (plain[:, [1, 4]] < -0.01).any()  # which without the term would fall somewhere
    for lipschitz in (0.1, 0.3, 1 / 3, 0.7):  # not numbers of float32
        direction = Monotone(nn.Identity(), [0], inputs=1, lipschitz=lipschitz).direction
        assert lipschitz <= direction.item() <= lipschitz * (1 + 1e-6)
    for features in ([], [0, 0], [5], [-1]):
        with pytest.raises(RecipeError, match="distinct indices from 0 to 4"):
            Monotone(nn.Identity(), features, inputs=5, lipschitz=1.0)
    with pytest.raises(RecipeError, match="Lipschitz constant is 0"):
        Monotone(nn.Identity(), [0], inputs=5, lipschitz=0.0)


def test_principal_components_are_those_of_numpy_and_keep_distances_in_their_plane():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))).float()
    layer = PrincipalComponents(6, 3)
    layer.fit_(x)
    _, _, rows = np.linalg.svd((x - x.mean(dim=0)).double().numpy(), full_matrices=False)
    assert np.allclose(np.abs((layer.directions.double().numpy() * rows[:3]).sum(axis=1)), 1.0, atol=1e-6)
    assert torch.allclose(layer.directions @ layer.directions.T, torch.eye(3), atol=1e-6)
    assert layer(x).shape == (200, 3)
    assert not list(layer.parameters())
    for outputs in (0, 7):
        with pytest.raises(RecipeError, match=f"{outputs} principal components of 6 inputs"):
            PrincipalComponents(6, outputs)
