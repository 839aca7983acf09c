from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.dataset import labelled
from lipmodel.network import ops
from lipmodel.network.metadata import Claims
from lipmodel.network.writer import to_bytes, write_model
from lipmodel.norms import Norm
from lipmodel.training.export.onnx_export import export, largest_difference, to_graph
from lipmodel.training.scaling import find_scale, in_units_of_the_data, scaled
from tests.training.small import small_network

SPREAD = np.array([0.003, 0.9, 7.0, 600.0, 1.0, 1.0])


def uneven(rows=400):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(rows, 6)) * SPREAD + 3.0
    inputs[:, 4] = rng.integers(0, 2, rows)
    inputs[:, 5] = 12.5
    return labelled("uneven", inputs, np.arange(rows) % 2, None, "mixed")


def test_scales_are_the_nearest_powers_of_two():
    assert find_scale(uneven(), "columns").tolist() == [
        0.25,
        1,
        8,
        512,
        1,
        1,
    ]  # a quarter of the median, 0.9, at least
    assert find_scale(uneven(), "none").tolist() == [1] * 6
    common = find_scale(uneven(), "common")
    assert common.tolist() == [256] * 6  # √(600² / 6) = 245
    huge = labelled("huge", np.array([[1e38], [-1e38]]), [0, 1], None, "")
    assert find_scale(huge, "columns").tolist() == [2.0**60]


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("scaling", ["columns", "common"])
def test_the_exported_file_keeps_the_constant_in_the_units_of_the_data(norm, outputs, scaling):
    network, data = small_network(norm, outputs=outputs, lipschitz=1.5), uneven()
    scale = find_scale(data, scaling)
    graph = in_units_of_the_data(to_graph(network), scale)
    _, predictor = export(graph, Claims(norm=norm, lipschitz=1.5))
    assert 0.2 < predictor.bounds(norm).bound_global <= 1.5
    # the formula, in float64 from the torch network's own modules
    x = data.inputs.astype(np.float64)
    expected = float(scale.min()) * network.double()(torch.from_numpy(x / scale)).detach().numpy()
    limit = max(1.0, np.abs(expected).max())
    assert np.abs(predictor.predict(x).scores - expected).max() < 1e-5 * limit
    network.float()
    assert largest_difference(scaled(network, scale), predictor, torch.from_numpy(data.inputs)) < 1e-5 * limit
    assert predictor.predict(x).radii.certified_radius.max() > 0


def test_a_scale_of_one_changes_nothing():
    graph = to_graph(small_network())
    assert in_units_of_the_data(graph, np.ones(6, dtype=np.float32)) is graph


def test_scores_that_do_not_end_in_one_dense_layer_are_scaled_whole():
    """A linear part beside the network: both must be multiplied."""
    graph, scale = to_graph(small_network(outputs=3)), find_scale(uneven(), "columns")
    beside = ops.Dense(output="beside", inputs=(graph.input,), shape=(3,), weight=np.full((3, 6), 0.125))
    total = ops.Sum(output="total", inputs=(graph.output, "beside"), shape=(3,))
    whole = replace(graph, ops=(*graph.ops, beside, total), output="total")
    predictors = [
        CertifiedPredictor(to_bytes(write_model(g, np.float32)))
        for g in (whole, in_units_of_the_data(whole, scale))
    ]
    x = uneven().inputs.astype(np.float64)
    f, g = predictors[0].predict(x / scale).scores, predictors[1].predict(x).scores
    assert np.allclose(g, float(scale.min()) * f, rtol=1e-12)
    assert predictors[1].bounds(Norm.TWO).bound_global <= predictors[0].bounds(Norm.TWO).bound_global * (
        1 + 1e-9
    )
