"""Gradients from the ONNX graph, held against torch autograd and against difference quotients."""

from __future__ import annotations

import numpy as np
import pytest

from lipmodel.audit.gradient import GradientEngine
from lipmodel.network import ops
from lipmodel.network.execution import Execution
from lipmodel.network.reader.read import read_onnx
from tests.certify.test_graph import READ
from tests.networks import groupsort_net

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("name", READ)
def test_gradient_is_the_difference_quotient(name):
    """Piecewise linear: within a piece a central difference is exact up to float64 rounding."""
    graph = read_onnx(READ[name]).graph
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, graph.input_size))
    v = rng.normal(size=(40, graph.output_shape[0]))
    scores, gradient = GradientEngine(graph)(x, v)
    execution = Execution(graph, np.float64)
    assert (scores == execution.scores(x)).all()
    step = 1e-6
    for i in range(graph.input_size):
        e = np.eye(graph.input_size)[i] * step
        quotient = ((execution.scores(x + e) - execution.scores(x - e)) * v).sum(axis=1) / (2 * step)
        assert np.median(np.abs(quotient - gradient[:, i])) < 1e-7
        assert np.mean(np.abs(quotient - gradient[:, i]) > 1e-7) < 0.05  # a kink may lie within a step


@pytest.mark.parametrize("group_size", [2, 3, 4, 8])
def test_gradient_equals_autograd(group_size):
    graph = groupsort_net((5, 24, 48), 4, group_size=group_size)
    rng = np.random.default_rng(1)
    x, v = rng.normal(size=(500, 5)), rng.normal(size=(500, 4))
    tensor = torch.tensor(x, requires_grad=True)
    z = tensor
    for op in graph.ops:
        if isinstance(op, ops.Dense):
            z = z @ torch.tensor(op.weight).T + torch.tensor(op.bias)
        else:
            n = z.shape[1]
            z = z.reshape(-1, group_size, n // group_size).sort(dim=1, descending=True)[0].reshape(-1, n)
    (z * torch.tensor(v)).sum().backward()
    scores, gradient = GradientEngine(graph)(x, v)
    assert np.abs(scores - z.detach().numpy()).max() < 1e-12
    assert np.abs(gradient - tensor.grad.numpy()).max() < 1e-12


@pytest.mark.parametrize("name", READ)
def test_one_way_forward_serves_many_cotangents(name):
    graph = read_onnx(READ[name]).graph
    engine, rng = GradientEngine(graph), np.random.default_rng(0)
    x = rng.normal(size=(7, graph.input_size))
    owners = np.array([3, 0, 6, 3, 3], dtype=np.int64)
    v = rng.normal(size=(5, graph.output_shape[0]))
    scores, gradients = engine(x, v, owners)
    apart_scores, apart = engine(x[owners], v)
    assert np.allclose(scores[owners], apart_scores, rtol=1e-13, atol=1e-13)
    assert np.allclose(gradients, apart, rtol=1e-13, atol=1e-13)
    _, every = engine.jacobians(x)
    for k, row in enumerate(np.eye(graph.output_shape[0])):
        assert np.allclose(every[:, k], engine(x, np.tile(row, (7, 1)))[1], rtol=1e-13, atol=1e-13)
    assert engine.jacobians(x[:0])[1].shape == (0, graph.output_shape[0], graph.input_size)
    assert (engine.scores(x) == scores).all()


def test_an_operation_without_a_derivative_is_an_error():
    graph = groupsort_net((4, 8), 3)
    assert GradientEngine(graph)

    strange = type(graph)(
        input="input", input_shape=(2,), ops=(ops.Op(output="y", inputs=("input",), shape=(2,)),), output="y"
    )
    with pytest.raises(NotImplementedError, match="Op"):
        GradientEngine(strange)
