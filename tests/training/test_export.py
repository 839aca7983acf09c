from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from lipmodel.errors import TrainingError
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from lipmodel.training.export.onnx_export import export, largest_difference, to_graph
from tests.seeds import shifted
from tests.training.small import small_network

ACTIVATIONS = [
    {"activation": "maxmin"},
    {"activation": "relu"},
    {"activation": "fullsort"},
    {"activation": "groupsort", "group_size": 4},
    {"activation": "groupsort", "group_size": 8},
    {"activation": "groupsort", "number_of_groups": 2},
]


def exported(network, norm=Norm.TWO, lipschitz=1.0):
    return export(to_graph(network), Claims(norm=norm, lipschitz=lipschitz))


def weights_in_order(content):
    """Return the matrices of a file's Gemm nodes, by onnx alone."""
    graph = onnx.load_model_from_string(content).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [values[node.input[1]] for node in graph.node if node.op_type == "Gemm"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", [1, 4])
def test_the_file_computes_the_scores_of_torch(activation, outputs):
    network = small_network(outputs=outputs, **activation)
    inputs = torch.randn(10_000, 6, generator=torch.Generator().manual_seed(shifted(1)))
    content, predictor = exported(network)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    expected = network(inputs).detach().numpy()
    assert scores.shape == expected.shape == (10_000, outputs)
    assert np.abs(scores - expected).max() < 5e-6
    assert largest_difference(network, predictor, inputs) < 5e-6


def test_small_groups_become_comparators_and_large_ones_top_k():
    operators = [exported(small_network(**activation))[1].file.operators for activation in ACTIVATIONS]
    assert all("TopK" not in found and "Max" in found for found in (operators[0], operators[3], operators[4]))
    assert "TopK" in operators[2]
    assert "Max" not in operators[2]
    assert all("Gemm" in found for found in operators)


@pytest.mark.parametrize("norm", [Norm.ONE, Norm.INF])
@pytest.mark.parametrize("lipschitz", [1.0, 0.3, 5.0])
def test_the_bound_is_within_the_constant_in_exact_arithmetic(norm, lipschitz):
    """Compute ‖W1‖_{p→inf} · ∏‖Wi‖_{inf→inf} in rational numbers, from the file's bytes."""
    content, predictor = exported(small_network(norm, lipschitz=lipschitz), norm, lipschitz)
    first, *rest = [[[abs(Fraction(float(v))) for v in row] for row in w] for w in weights_in_order(content)]
    bound = max(max(row) if norm is Norm.ONE else sum(row) for row in first)
    for matrix in rest:
        bound *= max(sum(row) for row in matrix)
    assert 0.5 * lipschitz < bound <= Fraction(lipschitz)
    assert predictor.bounds(norm).bound_global <= lipschitz


@pytest.mark.parametrize("constraint", ["orthogonal", "rows"])
def test_the_bound_in_l2_is_within_the_constant_and_close_to_it(constraint):
    for lipschitz in (1.0, 0.3, 5.0):
        _, predictor = exported(
            small_network(constraint=constraint, lipschitz=lipschitz), Norm.TWO, lipschitz
        )
        bound = predictor.bounds(Norm.TWO).bound_global
        assert bound <= lipschitz
        if constraint == "orthogonal":
            assert bound >= lipschitz * (1 - 1e-5)


def test_a_bound_above_the_claim_is_refused():
    with pytest.raises(TrainingError, match=r"bound .* exceeds the Lipschitz constant 0\.9"):
        exported(small_network(), lipschitz=0.9)


def test_export_leaves_the_network_as_it_was_and_gives_the_same_bytes_again():
    network = small_network()
    before = copy.deepcopy(network.state_dict())
    first, second = exported(network)[0], exported(network)[0]
    assert first == second
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_networks_that_cannot_be_exported_are_refused():
    network = small_network()
    with pytest.raises(TrainingError, match="Tanh has no export rule"):
        to_graph(nn.Sequential(network[0], network[1], nn.Tanh(), network[3]))
    with torch.no_grad():
        network[1].weight[0, 0] = torch.nan
    with pytest.raises(TrainingError, match="layer 1 has a weight that is not finite"):
        to_graph(network)
