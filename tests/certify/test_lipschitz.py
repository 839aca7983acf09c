"""Lipschitz bounds: exact where they can be, never below a slope that is attained, per pair."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lipmodel.certify.head import linear_head
from lipmodel.certify.lipschitz import bound_lipschitz, bound_tensors
from lipmodel.certify.norms import layers
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.network import ops
from lipmodel.network.execution import Execution
from lipmodel.network.ops import Graph
from lipmodel.network.reader.read import read_onnx
from lipmodel.norms import Norm, vector_norm
from tests.certify.test_graph import READ
from tests.exact import evaluate, rational
from tests.networks import dense, entrywise_tree, float32, groupsort_net, linear_net, n_activation, to_file

NORMS = list(Norm)


def slopes(graph, norm, count=4000, spread=1.0):
    """Observed |Δ(f_i - f_j)| / ‖Δx‖ between random points, near and far, along random and sparse directions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, graph.input_size)) * spread
    step = rng.normal(size=x.shape)
    step[::3] = np.sign(step[::3])
    step[1::3] = np.eye(graph.input_size)[rng.integers(graph.input_size, size=len(step[1::3]))]
    y = x + step * 10.0 ** rng.uniform(-3, 1, size=(count, 1))
    execution = Execution(graph, np.float64)
    moved = execution.scores(x) - execution.scores(y)
    if moved.shape[1] == 1:
        moved = np.hstack([0 * moved, moved])
    distance = vector_norm(x - y, norm)
    return np.abs(moved[:, :, None] - moved[:, None, :]) / distance[:, None, None]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", READ)
def test_no_observed_slope_exceeds_the_bound(name, norm):
    graph = read_onnx(READ[name]).graph
    bound = bound_lipschitz(graph, norm).bound_per_pair
    assert (slopes(graph, norm).max(axis=0) <= bound * (1 + 1e-7) + 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
def test_linear_nets_attain_their_pair_constants(norm):
    """For f = Wx the constant of f_i - f_j is ‖w_i - w_j‖ in the dual norm, no more."""
    rng = np.random.default_rng(2)
    weight = float32(rng.normal(size=(4, 6)))
    bound = bound_lipschitz(linear_net(weight), norm)
    expected = vector_norm(weight[:, None, :] - weight[None, :, :], norm.dual)
    assert np.allclose(bound.bound_per_pair, expected, rtol=1e-12)
    assert (bound.bound_per_pair >= expected).all()
    assert bound.bound_global == pytest.approx(vector_norm(weight, norm.dual).max(), rel=1e-12)


def test_pairs_are_tighter_than_twice_a_score():
    weight = np.eye(3)
    assert bound_lipschitz(linear_net(weight), Norm.TWO).bound_per_pair.max() == pytest.approx(2**0.5)
    assert bound_lipschitz(linear_net(weight), Norm.ONE).bound_per_pair.max() == pytest.approx(1.0)


def test_binary_pair_is_the_score_itself():
    bound = bound_lipschitz(linear_net([[3.0, 4.0]]), Norm.TWO)
    assert bound.bound_per_pair.shape == (2, 2)
    assert bound.bound_per_pair[0, 1] == pytest.approx(5.0)
    assert bound.bound_global == pytest.approx(5.0)


def test_linf_bound_lies_between_an_attained_slope_and_the_product_of_row_sums():
    """In rationals. Non-negative weights move furthest along (1, …, 1), where the slope is known."""
    graph = groupsort_net((4, 8, 8), 3, kind="rows", bias_scale=0.0)
    for op in graph.ops:
        if isinstance(op, ops.Dense):
            np.abs(op.weight, out=op.weight)
    product = Fraction(1)
    for op in graph.ops:
        if isinstance(op, ops.Dense):
            product *= max(sum(row) for row in rational(op.weight))
    attained = max(evaluate(graph, np.ones(4)))
    bound = Fraction(bound_lipschitz(graph, Norm.INF).bound_global)
    assert attained <= bound <= product * (1 + Fraction(1, 10**13))
    assert attained > product * Fraction(999, 1000)


@pytest.mark.parametrize("norm", NORMS)
def test_no_norm_is_looser_than_its_neighbours_allow(norm):
    """‖·‖_2 <= ‖·‖_1: what is proved for l2 changes holds of l1 changes too."""
    graph = groupsort_net((6, 12, 12), 3)
    bounds = {n: bound_lipschitz(graph, n).bound_global for n in NORMS}
    assert bounds[Norm.ONE] <= bounds[Norm.TWO] * (1 + 1e-12)
    assert bounds[Norm.TWO] <= bounds[Norm.INF] * (1 + 1e-12)
    assert bounds[Norm.INF] <= bounds[Norm.TWO] * 6**0.5 * (1 + 1e-12)


@pytest.fixture
def spectral(monkeypatch):
    """Shapes of the matrices whose spectral norm is bounded, where all but two rows or columns are many."""
    shapes, bound = [], layers.bound_spectral_norm
    monkeypatch.setattr(layers, "MANY_COLUMNS", 2)
    monkeypatch.setattr(layers, "bound_spectral_norm", lambda w: shapes.append(w.shape) or bound(w))
    return shapes


def rows_net(seed=0, width=48):
    """Each row's absolute values add up to at most 1, most of it in one entry, as trained for linf."""
    rng = np.random.default_rng(seed)
    graph = groupsort_net((16, width, width), 3, seed=seed, kind="rows")
    for op in graph.ops:
        if isinstance(op, ops.Dense):
            m, n = op.weight.shape
            np.divide(op.weight, 4.0 * np.abs(op.weight).sum(axis=1, keepdims=True), out=op.weight)
            op.weight[np.arange(m), rng.integers(n, size=m)] = 0.75
    return graph


def test_rows_bounded_for_linf_need_no_spectral_norm(spectral):
    """It takes time that grows with the third power of the width; rows with the square, as weights do."""
    predictor = CertifiedPredictor(to_file(rows_net()))
    bound = predictor.bounds(Norm.INF)
    assert 0.9 < bound.bound_global <= 1 + 1e-6
    assert predictor.rounding().norm is Norm.INF
    assert spectral == []
    predictor.bounds(Norm.TWO)
    assert (48, 48) in spectral


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_is_lost_where_no_spectral_norm_is_found(norm, spectral, monkeypatch):
    graphs = [
        rows_net(),
        rows_net(1),
        groupsort_net((6, 16, 16), 4),
        groupsort_net((6, 16, 16), 4, kind="rows"),
    ]
    for file in map(to_file, graphs):
        found = []
        for observed in (layers.observed_spectral_norm, lambda _: 0.0):
            monkeypatch.setattr(layers, "observed_spectral_norm", observed)
            predictor = CertifiedPredictor(file)
            rounding, constants = predictor.rounding(), bound_tensors(predictor.file.graph, norm)
            found.append((constants, rounding.norm, rounding.inherited))
        assert found[0] == found[1]


def test_scale_after_the_last_layer_counts_per_class():
    weight = float32(np.random.default_rng(0).normal(size=(3, 5)))
    factor = np.array([1.0, -2.0, 0.5])
    scaled = Graph(
        input="input",
        input_shape=(5,),
        ops=(
            dense("a", "input", weight),
            ops.Scale(output="b", inputs=("a",), shape=(3,), factor=factor),
            ops.Shift(output="scores", inputs=("b",), shape=(3,), offset=np.ones(3)),
        ),
        output="scores",
    )
    folded = bound_lipschitz(linear_net(factor[:, None] * weight), Norm.TWO)
    bound = bound_lipschitz(scaled, Norm.TWO)
    assert np.allclose(bound.bound_per_pair, folded.bound_per_pair, rtol=1e-12)
    assert linear_head(scaled).body.output == "input"


def test_a_shared_last_layer_is_not_taken_for_the_head():
    """Where the layer below the scores is read twice, the walk back must stop at it."""
    shared = dense("a", "input", np.eye(3))
    graph = Graph(
        input="input",
        input_shape=(3,),
        ops=(
            shared,
            ops.Abs(output="b", inputs=("a",), shape=(3,)),
            ops.Sum(output="scores", inputs=("a", "b"), shape=(3,)),
        ),
        output="scores",
    )
    assert linear_head(graph).body.output == "scores"
    observed = slopes(graph, Norm.TWO).max()
    assert observed <= bound_lipschitz(graph, Norm.TWO).bound_per_pair.max()
    assert observed > 1.9


def test_layers_are_reported_one_by_one():
    bound = bound_lipschitz(groupsort_net((4, 8, 8), 3), Norm.TWO)
    assert [layer.node for layer in bound.layers] == ["a0", "a1", "scores"]
    assert all(layer.bound == pytest.approx(1, abs=1e-6) for layer in bound.layers)
    assert all(layer.unevenness == pytest.approx(1, abs=1e-6) for layer in bound.layers)


@pytest.mark.parametrize(("norm", "expected"), [(Norm.TWO, 3 * (2 / 10) ** 0.5), (Norm.INF, 3 / 2)])
def test_uneven_layers_are_told(norm, expected):
    bound = bound_lipschitz(linear_net([[3.0, 0.0], [0.0, 1.0]]), norm)
    assert bound.layers[0].unevenness == pytest.approx(expected)


# --- functions entry by entry --------------------------------------------------------------


def test_slopes_of_functions_entry_by_entry_are_never_above_their_bound():
    """In rationals, entry by entry; and the bound is one number, whatever the norm."""
    nearly = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        graph = entrywise_tree(rng, 3)
        (bound,) = {bound_tensors(graph, norm)[graph.output][norm] for norm in NORMS}
        observed = Fraction(0)
        for _ in range(12):
            x = float32(rng.normal(size=3))
            y = float32(x + rng.normal(size=3) * 10.0 ** rng.uniform(-3, 1))
            moved = evaluate(graph, x) - evaluate(graph, y)
            observed = max(observed, *(abs(moved) / abs(rational(x) - rational(y))))
        assert observed <= Fraction(bound)
        nearly += observed > Fraction(bound) * Fraction(999, 1000)
    assert nearly > 50


@pytest.mark.parametrize("norm", NORMS)
def test_maxima_of_one_entry_are_as_steep_as_the_steepest(norm):
    first = dense("x", "input", np.eye(2))
    steeper = ops.Scale(output="s", inputs=("e",), shape=(2,), factor=np.array([-3.0, 0.5]))
    join = ops.Extremum(output="y", inputs=("e_lower", "s", "x"), shape=(2,), kind="max")
    layers = (first, *n_activation("e", "x", 2), steeper, join)
    constants = bound_tensors(Graph("input", (2,), layers, "y"), norm)
    assert constants["e"][norm] == pytest.approx(1.0, rel=1e-12)
    assert constants["y"][norm] == pytest.approx(3.0, rel=1e-12)


@pytest.mark.parametrize("join", [ops.Sum, lambda **parts: ops.Extremum(**parts, kind="max")])
@pytest.mark.parametrize("norm", NORMS)
def test_functions_of_different_tensors_are_not_counted_by_their_slopes(join, norm):
    """Of the larger of two layers, which the first is no measure of."""
    layers = (
        dense("a", "input", np.eye(2)),
        dense("b", "input", 10.0 * np.eye(2)),
        join(output="y", inputs=("a", "b"), shape=(2,)),
        dense("scores", "y", np.eye(2)),
    )
    graph = Graph("input", (2,), layers, "scores")
    assert slopes(graph, norm).max() > 9.9
    assert slopes(graph, norm).max() <= bound_lipschitz(graph, norm).bound_per_pair.max() * (1 + 1e-7)


def test_slopes_that_overflow_are_no_bound_of_0_or_nan():
    scales = [
        ops.Scale(output=f"s{i}", inputs=(f"s{i - 1}" if i else "input",), shape=(1,), factor=np.array(by))
        for i, by in enumerate((1e200, 1e200, 0.0))
    ]
    sum_ = ops.Sum(output="y", inputs=("s1", "s2"), shape=(1,))
    constants = bound_tensors(Graph("input", (1,), (*scales, sum_), "y"), Norm.TWO)
    assert constants["s2"][Norm.TWO] == 0.0
    assert constants["y"][Norm.TWO] == np.inf
