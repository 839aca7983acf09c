"""Every exported module computes its function, with a proved bound within its constant."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from lipmodel.certify.norms import convolution
from lipmodel.errors import TrainingError
from lipmodel.network import ops
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from lipmodel.training.activations import (
    AbsoluteValue,
    GroupSort,
    Householder,
    NActivation,
    full_sort,
    max_min,
)
from lipmodel.training.constraints import NormalisedRows, RowNorm, SpectralNorm, Stiefel
from lipmodel.training.convolutions import AOLConv, PointwiseConv, ScaledAveragePool, SpatialShift
from lipmodel.training.export.onnx_export import export, largest_difference, to_graph
from lipmodel.training.heads import LinearHead, PrototypeHead
from lipmodel.training.layers import ConstrainedDense, Monotone, PositionalBias, Residual, Shift, project_
from lipmodel.training.losses import certified_radius
from tests.seeds import shifted

L2 = Norm.TWO


def seeded(build):
    """Return the module with perturbed parameters, projected onto their constraints."""
    torch.manual_seed(shifted(0))
    module = build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    for _ in range(20):
        project_(module)
    return module


def head(features, **options):
    return LinearHead(features, 3, RowNorm(norm=L2), **options)


DENSE = {  # between an orthogonal layer and a head
    "maxmin": max_min,
    "groups of 4": lambda: GroupSort(group_size=4),
    "fullsort": full_sort,
    "absolute": AbsoluteValue,
    "absolute in part": lambda: AbsoluteValue(0.4),
    "householder": lambda: Householder(12),
    "n-activation": lambda: NActivation(12),
    "relu": nn.ReLU,
    "bias": lambda: PositionalBias((12,)),
    "spectral": lambda: ConstrainedDense(12, 12, SpectralNorm()),
    "residual": lambda: Residual(ConstrainedDense(12, 12, Stiefel()), max_min()),
    "residual of residuals": lambda: Residual(Residual(PositionalBias((12,))), Householder(12)),
    "identity": lambda: nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity())),
}

IMAGES = {  # of 4 channels on 8×6 places, between nothing and a head
    "pointwise": (lambda: PointwiseConv(4, 8, Stiefel()), 8 * 48),
    "narrower": (lambda: PointwiseConv(4, 2, Stiefel()), 2 * 48),
    "shift": (lambda: SpatialShift(0.25), 4 * 48),
    "shift in part": (lambda: nn.Sequential(PointwiseConv(4, 9, Stiefel()), SpatialShift()), 9 * 48),
    "aol": (lambda: AOLConv(4, 4), 4 * 48),
    "aol, wider": (lambda: AOLConv(4, 7, 5), 7 * 48),
    "space to depth": (lambda: nn.PixelUnshuffle(2), 4 * 48),
    "average": (lambda: ScaledAveragePool(2), 48),
    "maximum": (lambda: nn.MaxPool2d(2), 48),
    "bias": (lambda: PositionalBias((1, 8, 6)), 4 * 48),
    "maxmin": (max_min, 4 * 48),
    "sorted": (lambda: nn.Sequential(PointwiseConv(4, 10, Stiefel()), full_sort()), 10 * 48),
    "absolute in part": (lambda: AbsoluteValue(0.5), 4 * 48),
    "householder": (lambda: Householder(4), 4 * 48),
    "n-activation": (lambda: NActivation(4), 4 * 48),
    "residual": (lambda: Residual(AOLConv(4, 4), max_min(), SpatialShift()), 4 * 48),
}


def networks():
    for name, build in DENSE.items():
        yield pytest.param(
            lambda build=build: nn.Sequential(
                Shift(torch.full((6,), 0.3)), ConstrainedDense(6, 12, Stiefel()), build(), head(12)
            ),
            (6,),
            id=f"dense: {name}",
        )
    for name, (build, features) in IMAGES.items():
        yield pytest.param(
            lambda build=build, features=features: nn.Sequential(build(), nn.Flatten(), head(features)),
            (4, 8, 6),
            id=f"images: {name}",
        )
    yield pytest.param(
        lambda: nn.Sequential(
            Shift(torch.full((64,), 0.5)),
            nn.Unflatten(1, (1, 8, 8)),
            nn.PixelUnshuffle(2),
            PositionalBias((1, 4, 4)),
            PointwiseConv(4, 16, Stiefel()),
            SpatialShift(),
            PointwiseConv(16, 16, Stiefel()),
            max_min(),
            AOLConv(16, 16),
            AbsoluteValue(0.5),
            ScaledAveragePool(2),
            nn.Flatten(),
            PrototypeHead(64, 3, 5),
        ),
        (64,),
        id="flat images through all of it",
    )
    yield pytest.param(lambda: PrototypeHead(7, 3, 4), (7,), id="prototypes alone")
    yield pytest.param(
        lambda: nn.Sequential(nn.Sequential(Stiefel7(), max_min()), PrototypeHead(8, 3, 4)),
        (7,),
        id="prototypes on a body",
    )
    yield pytest.param(
        lambda: nn.Sequential(Stiefel7(), max_min(), LinearHead(8, 3, NormalisedRows(norm=L2))),
        (7,),
        id="normalised head",
    )


def Stiefel7():  # noqa: N802
    return ConstrainedDense(7, 8, Stiefel())


def computed(content, inputs):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]


@pytest.mark.parametrize(("build", "shape"), list(networks()))
def test_the_file_computes_the_same_and_its_bound_is_1(build, shape):
    network = seeded(build)
    graph = to_graph(network, shape)
    assert graph.input_shape == shape
    content, predictor = export(graph, Claims(norm=L2, lipschitz=1.0))  # refuses a bound above 1
    inputs = torch.randn(300, *shape, generator=torch.Generator().manual_seed(shifted(1)))
    assert np.abs(computed(content, inputs) - network(inputs).detach().numpy()).max() < 5e-6
    assert largest_difference(network, predictor, inputs) < 5e-6
    *body, last = [op for op in graph.ops if isinstance(op, ops.Dense | ops.Conv)]
    for op in (*body, last):
        matrix = matrix_of(op)
        assert np.array_equal(matrix, matrix.astype(np.float32))
        size = np.linalg.norm(matrix, axis=1).max() if op is last else np.linalg.norm(matrix, 2)
        assert size <= 1.0, op.output


def matrix_of(op):
    """Return the matrix of a Dense or a convolution: its value at every unit vector, by torch."""
    if isinstance(op, ops.Dense):
        return op.weight
    size = (op.kernel.shape[1], *op.window.spatial)
    basis = torch.eye(math.prod(size), dtype=torch.float64).reshape(-1, *size)
    values = torch.nn.functional.conv2d(basis, torch.from_numpy(op.kernel), padding=op.window.begin)
    return values.flatten(1).T.numpy()


@pytest.mark.parametrize(
    "build",
    [
        max_min,
        full_sort,
        AbsoluteValue,
        lambda: AbsoluteValue(0.3),
        lambda: Householder(8),
        lambda: NActivation(8),
        lambda: PositionalBias((8,)),
        lambda: ConstrainedDense(8, 8, Stiefel()),
    ],
)
def test_norm_preserving_modules_lose_nothing_of_the_bound(build):
    network = seeded(lambda: nn.Sequential(Stiefel7(), build(), head(8)))
    _, predictor = export(to_graph(network), Claims(norm=L2, lipschitz=1.0))
    rows = network[2].weight
    if isinstance(network[1], ConstrainedDense | PositionalBias):  # linear maps in a row are bounded as one
        if isinstance(network[1], ConstrainedDense):
            rows = rows @ network[1].weight
        rows = rows @ network[0].weight
    longest = rows.norm(dim=1).max().item()
    assert predictor.bounds(L2).bound_global == pytest.approx(longest, rel=1e-6)


def rows(norm):
    return ConstrainedDense(6, 12, RowNorm(norm=norm.dual)), ConstrainedDense(12, 12, RowNorm(norm=Norm.ONE))


@pytest.mark.parametrize("norm", list(Norm))
def test_entrywise_activations_are_exported_for_networks_of_row_norms(norm):
    """x − 2 clip(x) as one sum would be bounded by 3."""
    first, second = rows(norm)
    network = seeded(
        lambda: nn.Sequential(
            first,
            NActivation(12),
            Residual(second, AbsoluteValue(0.5)),
            LinearHead(12, 3, RowNorm(norm=Norm.ONE)),
        )
    )
    with torch.no_grad():  # kinks in the midst of things, some out of order
        network[1].kinks.copy_(0.3 * torch.randn(2, 12, generator=torch.Generator().manual_seed(shifted(2))))
    _, predictor = export(to_graph(network), Claims(norm=norm, lipschitz=1.0))
    inputs = torch.randn(500, 6, generator=torch.Generator().manual_seed(shifted(1)))
    assert largest_difference(network, predictor, inputs) < 5e-6


def test_images_in_linf():
    network = seeded(
        lambda: nn.Sequential(
            PointwiseConv(3, 8, RowNorm(norm=Norm.ONE)),
            SpatialShift(),
            NActivation(8),
            PointwiseConv(8, 8, RowNorm(norm=Norm.ONE)),
            max_min(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            LinearHead(32, 3, RowNorm(norm=Norm.ONE)),
        )
    )
    _, predictor = export(to_graph(network, (3, 4, 4)), Claims(norm=Norm.INF, lipschitz=1.0))
    inputs = torch.randn(200, 3, 4, 4, generator=torch.Generator().manual_seed(shifted(1)))
    assert largest_difference(network, predictor, inputs) < 5e-6


@pytest.mark.parametrize("outputs", [8, 5])
def test_large_almost_orthogonal_convolutions_are_exported_as_they_are(outputs):
    """Kernels too large to be unrolled are proved directly to have the norm of their scaling."""
    layer = AOLConv(8, outputs)
    with torch.no_grad():
        layer.free.copy_(torch.randn(layer.free.shape, generator=torch.Generator().manual_seed(shifted(3))))
        layer.free.mul_(torch.logspace(-2, 2, 8)[:, None, None] if outputs == 8 else 1.0)
    network = nn.Sequential(layer, nn.Flatten(), head(outputs * 32 * 32))
    with mock.patch.object(convolution, "MAX_GRAM_WORK", 0):  # after the first step: row sums prove less
        graph = to_graph(network, (8, 32, 32))
        conv = graph.ops[0]
        assert np.allclose(conv.kernel, layer.kernel.detach().numpy(), rtol=2e-6, atol=1e-7)
        assert convolution.bound_gram_iteration(conv.kernel) <= 1 + 1e-5
        _, predictor = export(graph, Claims(norm=L2, lipschitz=1.0))
        assert predictor.bounds(L2).bound_global <= 1.0


@pytest.mark.parametrize("norm", list(Norm))
def test_certified_radii_of_prototypes_are_those_trained_for(norm):
    network = seeded(lambda: nn.Sequential(Shift(torch.rand(6)), PrototypeHead(6, 3, 5, norm=norm.dual)))
    inputs = torch.rand(200, 6, generator=torch.Generator().manual_seed(shifted(1)))
    labels = torch.arange(200) % 3
    network[1].place_(network[0](inputs), labels, torch.Generator().manual_seed(shifted(0)))
    with torch.no_grad():
        network[1].weight.mul_(3.0)  # the file's rows and biases are scaled back by one factor
        network[1].bias.mul_(3.0)
    _, predictor = export(to_graph(network), Claims(norm=norm, lipschitz=1.0))
    predictions = predictor.predict(inputs.numpy(), norm)
    labels = torch.from_numpy(predictions.radii.label)
    assert torch.equal(network(inputs).argmax(dim=1), labels)
    scores, bounds = network[1].compare(network[0](inputs), labels)
    ours = certified_radius(scores, labels, bounds).detach().numpy()
    assert np.allclose(predictions.radii.certified_radius, ours, atol=2e-6)
    assert (ours > 0.01).mean() > 0.5


@pytest.mark.parametrize("norm", list(Norm))
def test_monotone_networks_are_exported_and_their_bound_counts_the_added_term(norm):
    first, second = rows(norm)
    network = seeded(
        lambda: Monotone(
            nn.Sequential(first, max_min(), second, max_min(), LinearHead(12, 1, RowNorm(norm=Norm.ONE))),
            [0, 3],
            inputs=6,
            lipschitz=1.0,
        )
    )
    added = 2 ** (1 - norm.reciprocal)  # the dual norm of two ones
    _, predictor = export(to_graph(network), Claims(norm=norm, lipschitz=1.0 + added + 1e-6))
    assert added < predictor.bounds(norm).bound_global <= 1 + added + 1e-6
    inputs = torch.randn(200, 6, generator=torch.Generator().manual_seed(shifted(1)))
    assert largest_difference(network, predictor, inputs) < 5e-6


def test_a_shift_goes_into_the_bias_of_what_follows():
    network = seeded(lambda: nn.Sequential(Shift(torch.rand(6)), ConstrainedDense(6, 3, Stiefel())))
    (only,) = to_graph(network).ops
    assert isinstance(only, ops.Dense)
    # but not where something else reads the shifted tensor too
    network = seeded(
        lambda: nn.Sequential(
            Shift(torch.rand(6)),
            Residual(ConstrainedDense(6, 6, Stiefel())),
            ConstrainedDense(6, 3, Stiefel()),
        )
    )
    graph = to_graph(network)
    assert [type(op).__name__ for op in graph.ops] == ["Shift", "Scale", "Dense", "Scale", "Sum", "Dense"]


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(4, 2)),
            (4,),
            r"Linear has no export rule; AOLConv, .* are accepted\. .*write\.register",
        ),
        (lambda: nn.Sequential(max_min(), head(4)), None, "pass input_shape to to_graph"),
        (lambda: PointwiseConv(4, 2, Stiefel()), None, "pass input_shape to to_graph"),
        (nn.Sequential, (4,), "has shape .* per sample"),
        (lambda: nn.Sequential(AOLConv(4, 4)), (4, 5, 5), r"scores of shape \[classes\] are accepted"),
        (
            lambda: nn.Sequential(AOLConv(3, 4)),
            (4, 5, 5),
            r"layer 0 \(AOLConv\) accepts images \[3, height, width\]",
        ),
        (
            lambda: nn.Sequential(head(4)),
            (5,),
            r"layer 0 \(LinearHead\) accepts samples of shape \[4\], not samples of shape",
        ),
        (
            lambda: nn.Sequential(head(4)),
            (4, 2, 2),
            r"accepts samples of shape \[4\], not samples of shape \[4, 2, 2\]",
        ),
        (lambda: PrototypeHead(4, 2, 2), (5,), r"\(PrototypeHead\) accepts samples of shape \[4\]"),
        (lambda: nn.Sequential(SpatialShift()), (5,), r"\(SpatialShift\) accepts images .* of shape \[5\]"),
        (lambda: nn.Sequential(nn.PixelUnshuffle(2)), (1, 5, 4), "5×4 pixels cannot be split"),
        (lambda: nn.Sequential(nn.MaxPool2d(2, padding=1)), (1, 4, 4), "without padding"),
        (lambda: nn.Sequential(nn.MaxPool2d(8)), (1, 4, 4), "at least 8×8 pixels"),
        (lambda: nn.Sequential(nn.Flatten(2)), (1, 4, 4), "start_dim = 1"),
        (lambda: nn.Sequential(nn.Unflatten(1, (2, 3))), (5,), r"as many numbers as \[2, 3\] has"),
        (lambda: nn.Sequential(PositionalBias((3,))), (5,), r"offset of shape \[3\] does not broadcast"),
        (lambda: Residual(ConstrainedDense(4, 3, Stiefel())), (4,), r"changes the shape \[4\] to \[3\]"),
        (lambda: Monotone(head(4), [0], inputs=4, lipschitz=1.0), (4,), r"\[1\] is accepted"),
        (lambda: nn.Sequential(Householder(4)), (6,), r"\(Householder\) accepts samples of shape \[4\]"),
        (lambda: nn.Sequential(NActivation(4)), (6,), r"\(NActivation\) accepts 4 units"),
    ],
)
def test_modules_that_do_not_fit_are_refused(network, shape, message):
    with pytest.raises(TrainingError, match=message):
        to_graph(network(), shape)


@pytest.mark.parametrize("build", [lambda: AOLConv(4, 4), lambda: PositionalBias((4, 1, 1))])
def test_weights_that_are_not_finite_are_named(build):
    network = nn.Sequential(nn.Sequential(max_min(), build()), nn.Flatten(), head(36))
    with torch.no_grad():
        next(network[0][1].parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"layer 0\.1 has a weight that is not finite"):
        to_graph(network, (4, 3, 3))
