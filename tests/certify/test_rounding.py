"""The a priori rounding bound, held against exact rational evaluation."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from lipmodel.certify.head import linear_head
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.certify.rounding import FORMATS, bound_rounding
from lipmodel.network.execution import Execution
from lipmodel.network.reader.read import read_onnx
from lipmodel.norms import Norm, bound_vector_norm
from tests.certify.test_graph import READ, model, n
from tests.exact import evaluate
from tests.networks import float32, groupsort_net, linear_net

DEEP = groupsort_net((6, 16, 16, 16), 4, group_size=4, bias_scale=1.0)
CANCELLING = linear_net([[1e4, 1.0], [1e4, 1.001]], [-1e8, -1e8])
BINARY = groupsort_net((3, 8), 1)
GRAPHS = {"deep": DEEP, "cancelling": CANCELLING, "binary": BINARY} | {
    name: read_onnx(content).graph for name, content in READ.items()
}


def worst(graph, dtype, norm, count=8):
    """Largest observed error of a difference of scores, over the bound for that input."""
    rng = np.random.default_rng(1)
    x = float32(rng.normal(size=(count, graph.input_size)) * 10.0 ** rng.uniform(-2, 4, size=(count, 1)))
    head = linear_head(graph)
    computed = head.raw_scores(Execution(replace(graph, output=head.scores).pruned(), dtype).scores(x))
    bound = bound_rounding(graph, norm, FORMATS[dtype])
    largest = 0.0
    for row, scores in zip(x, computed, strict=True):
        exact = evaluate(replace(graph, output=head.scores).pruned(), row).ravel()
        exact = np.array([0, *exact], dtype=object) if head.binary else exact
        rho = bound_vector_norm(row[None], norm, axis=1)
        off = [as_fraction(a) - b for a, b in zip(scores, exact, strict=True)]
        assert all(abs(float(e)) <= limit for e, limit in zip(off, bound.score_error(rho)[0], strict=True))
        for i in range(len(scores)):
            allowed = bound.pair_error(np.array([i]), None, rho)[0]
            for j in range(len(scores)):
                error = abs(float(off[i] - off[j]))
                assert error <= allowed[j] or i == j
                largest = max(largest, error / allowed[j] if i != j else 0.0)
    return largest


def as_fraction(value):
    return Fraction(float(value))


FLOAT64_WEIGHTS = ("float64", "cast up")
FORMATTED = [(name, np.float64) for name in GRAPHS]
FORMATTED += [(name, np.float32) for name in GRAPHS if name not in FLOAT64_WEIGHTS]


@pytest.mark.parametrize("norm", [Norm.TWO, Norm.INF])
@pytest.mark.parametrize(("name", "dtype"), FORMATTED)
def test_error_stays_within_the_bound(name, norm, dtype):
    worst(GRAPHS[name], dtype, norm)


def test_bound_is_not_vacuous():
    assert worst(CANCELLING, np.float32, Norm.TWO) > 0.02
    assert worst(BINARY, np.float32, Norm.TWO) > 0.005


def test_float64_error_is_far_below_float32():
    single, double = (bound_rounding(DEEP, Norm.TWO, FORMATS[t]) for t in (np.float32, np.float64))
    assert double.inherited.slope < single.inherited.slope * 1e-8
    assert (double.local.slope < single.local.slope * 1e-8).all()


@pytest.mark.parametrize("norm", [Norm.TWO, Norm.INF])
def test_peak_bounds_every_intermediate_result(norm):
    graph = groupsort_net((4, 8, 8), 3, bias_scale=2.0)
    bound = bound_rounding(graph, norm, FORMATS[np.float64])
    rng = np.random.default_rng(0)
    for row in rng.normal(size=(50, 4)) * 10:
        values = {graph.input: row}
        for op in graph.ops:
            prefix = type(graph)(
                input=graph.input, input_shape=graph.input_shape, ops=graph.ops, output=op.output
            ).pruned()
            values[op.output] = Execution(prefix, np.float64).scores(row[None])[0]
        peak = max(np.abs(v).max() for v in values.values())
        assert peak <= bound.magnitude.constant + bound.magnitude.slope * bound_vector_norm(row, norm)


def test_the_sum_of_an_average_pool_is_guarded_against_overflow():
    """The mean is within float32, the sum before it is not: there must be no portable radius."""
    size = 4096
    content = model(
        [n("AveragePool", "x", "m", kernel_shape=[size]), n("Flatten", "m", "f"), n("Add", ["f", "b"], "y")],
        {"b": np.array([0, 1e34], np.float32)},
        shape=("N", 2, size),
    )
    x = np.full((1, 2 * size), np.float32(8.1e34), dtype=np.float64)
    assert CertifiedPredictor(content).portable_radii(x, Norm.INF)[0] == 0.0
