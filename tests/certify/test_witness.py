"""The scaled witness: exact arithmetic on its norms, slopes that no weights exceed, gains where there are any."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.head import linear_head
from lipmodel.certify.lipschitz import bound_lipschitz, bound_tensors
from lipmodel.certify.norms.layers import bound_norm
from lipmodel.certify.scaling import bound as witness
from lipmodel.network import ops
from lipmodel.network.ops import Graph
from lipmodel.network.reader.read import read_onnx
from lipmodel.norms import Norm, gamma, vector_norm
from tests.exact import evaluate, is_positive_semidefinite, rational
from tests.networks import (
    dense,
    groupsort,
    groupsort_net,
    linear_net,
    relu,
    to_file,
    top_k,
    uneven,
    with_activation,
)

NORMS = list(Norm)
RNG = np.random.default_rng(0)


def one(kind, **members):
    return lambda name, x, size: [kind(output=name, inputs=(x,), shape=(size,), **members)]


def shifted_and_negated(name, x, size):
    return [
        ops.Negate(output=f"{name}_negated", inputs=(x,), shape=(size,)),
        *top_k(f"{name}_top", f"{name}_negated", size, 2),
        ops.Shift(output=name, inputs=(f"{name}_top",), shape=(size,), offset=np.arange(float(size))),
    ]


def transposed(name, x, size):
    """Columns of a table sorted, and the table read column by column."""
    shape = (4, size // 4)
    return [
        ops.Reshape(output=f"{name}_table", inputs=(x,), shape=shape),
        ops.Sort(output=f"{name}_sorted", inputs=(f"{name}_table",), shape=shape, axis=0, k=4, largest=False),
        ops.Transpose(output=f"{name}_turned", inputs=(f"{name}_sorted",), shape=shape[::-1], permutation=(1, 0)),
        ops.Reshape(output=name, inputs=(f"{name}_turned",), shape=(size,)),
    ]  # fmt: skip


BETWEEN = {
    "pairs": lambda name, x, size: [groupsort(name, x, size, 2)],
    "groups of 4": lambda name, x, size: [groupsort(name, x, size, 4)],
    "top k": top_k,
    "negated pairs, shifted": shifted_and_negated,
    "columns": transposed,
    "everything": lambda name, x, size: top_k(name, x, size, size),
    "relu": relu,
    "abs": one(ops.Abs),
    "leaky": one(ops.LeakyRelu, slope=np.array(-0.5)),
    "nothing": lambda name, x, size: [],
}
BARRED = {
    "steep": one(ops.LeakyRelu, slope=np.array(1.5)),
    "relu after sorting": lambda name, x, size: [groupsort(f"{name}_s", x, size, 2), *relu(name, f"{name}_s", size)],
    "sorted twice": lambda name, x, size: [groupsort(f"{name}_s", x, size, 2), *top_k(name, f"{name}_s", size, 4)],
    "scaled": one(ops.Scale, factor=np.array(0.5)),
}  # fmt: skip


def net(make, widths=(3, 8, 8), seed=0):
    """Gaussian weights, and what ``make`` makes between them (nothing: one layer after the other)."""
    graph = groupsort_net(widths, 3, seed=seed)
    rng = np.random.default_rng(seed)
    layers = [
        replace(op, weight=rng.normal(size=op.weight.shape)) if isinstance(op, ops.Dense) else op
        for op in with_activation(graph, make).ops
    ]
    made = {graph.input, *(op.output for op in layers)}
    last = {op.output: op.inputs[0] for op in graph.ops}
    layers = [
        op if op.inputs[0] in made else replace(op, inputs=(last[op.inputs[0]],)) for op in layers
    ]  # over what is not there
    return replace(graph, ops=tuple(layers))


def random_weights(layers, rng, spread=1.0):
    return tuple(np.exp(rng.normal(size=(2, len(layer.before))) * spread) for layer in layers)


def groups_exactly(vectors, groups, a, b):
    """T v of each row v of fractions, group after group."""
    parts = []
    for group, mean, rest in zip(groups.tolist(), a, b, strict=True):
        picked = vectors[:, group]
        middle = picked.sum(axis=1, keepdims=True) / len(group)
        parts.append(mean * middle + rest * (picked - middle))
    return np.concatenate(parts, axis=1)


def exactly(layers, weights, number):
    """T_l W_l T_{l-1}⁻¹ in fractions."""
    matrix = rational(layers[number].dense.weight)
    if number:
        a, b = rational(weights[number - 1])
        matrix = groups_exactly(matrix, layers[number - 1].after, 1 / a, 1 / b)
    return groups_exactly(matrix.T, layers[number].before, *rational(weights[number])).T


def is_bound(matrix, bound):
    gram = matrix.T @ matrix
    return is_positive_semidefinite(Fraction(bound) ** 2 * np.eye(len(gram), dtype=object) - gram)


@pytest.mark.parametrize("name", BETWEEN)
def test_what_stands_between_is_1_lipschitz_in_every_weighted_norm(name):
    """In fractions: no pair of vectors is further apart after it than before, with weights far apart."""
    graph = net(BETWEEN[name])
    layers = witness.chain(linear_head(graph).body)
    layer = layers[0]
    second = [op.output for op in graph.ops].index(layers[1].dense.output)
    first, last = graph.ops[0], graph.ops[second - 1]
    between = Graph(input=first.output, input_shape=first.shape, ops=graph.ops[1:second], output=last.output)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(2, 8))
        before, after = [rational(point) for point in points], [evaluate(between, point) for point in points]
        a, b = rational(random_weights([layer], rng, spread=3.0)[0])
        apart, moved = (
            groups_exactly((v[0] - v[1])[None], groups, a, b)[0]
            for v, groups in ((before, layer.before), (after, layer.after))
        )
        assert sum(m * m for m in moved) <= sum(m * m for m in apart)


@pytest.mark.parametrize("name", BARRED)
def test_a_chain_begins_after_what_no_weights_are_known_for(name):
    graph = net(BARRED[name])
    assert witness.chain(linear_head(graph).body) == ()
    assert bound_lipschitz(graph, Norm.TWO).scaled_bound is None


def test_a_chain_may_begin_in_the_middle():
    graph = groupsort_net((4, 8, 8, 8), 3)
    layers = list(graph.ops)
    layers[1] = ops.LeakyRelu(output="z0", inputs=("a0",), shape=(8,), slope=np.array(2.0))
    graph = uneven(replace(graph, ops=tuple(layers)), spread=1.5)
    bounds = bound_lipschitz(graph, Norm.TWO)
    assert [layer.dense.output for layer in bounds.scaled_bound.layers] == ["a1", "a2"]
    assert bounds.bound_global < 0.9 * plainly(graph, Norm.TWO)[1].max()


@pytest.mark.parametrize("name", BETWEEN)
def test_norms_are_never_below_the_exact_ones(name):
    for seed in range(4):
        graph = net(BETWEEN[name], seed=seed)
        head = linear_head(graph)
        layers = witness.chain(head.body)
        weights = random_weights(layers, np.random.default_rng(seed))
        proved = witness.prove(layers, weights)
        assert is_bound(exactly(layers, weights, 1), proved.bound_hidden)
        assert not is_bound(exactly(layers, weights, 1), proved.bound_hidden * (1 - 1e-10))
        first = exactly(layers, weights, 0)
        assert is_bound(first, bound_norm(proved.first, Norm.TWO, Norm.TWO) + proved.rounding_slack)


def test_roundings_of_scaled_entries_are_paid_for():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        head = linear_head(net(BETWEEN["groups of 4"], seed=seed))
        layers = witness.chain(head.body)
        weights = random_weights(layers, rng, spread=4.0)
        for number in (0, 1):
            computed, doubt = witness._scaled(layers, weights, number)
            off = rational(computed) - exactly(layers, weights, number)
            assert 0 < sum(e * e for e in off.ravel()) <= Fraction(doubt) ** 2
            assert Fraction(doubt) ** 2 <= 10**6 * sum(e * e for e in off.ravel()) * 10**6


def test_rows_of_the_head_are_those_of_the_inverse_weights():
    for seed in range(8):
        head = linear_head(net(BETWEEN["groups of 4"], seed=seed))
        layers = witness.chain(head.body)
        weights = random_weights(layers, np.random.default_rng(seed), spread=3.0)
        scaled = witness.prove(layers, weights).feature_bound(head, dict.fromkeys(NORMS, 1.0)).head
        a, b = rational(weights[-1])
        expected = groups_exactly(rational(head.rows), layers[-1].after, 1 / a, 1 / b)
        error = Fraction(gamma(scaled.roundings))
        for row, right in zip(rational(scaled.rows), expected, strict=True):
            assert sum((r - e) ** 2 for r, e in zip(row, right, strict=True)) <= error**2 * sum(
                e * e for e in right
            )
        distance = rational(scaled.distances(Norm.TWO))
        for i, j in ((0, 1), (1, 2)):
            assert distance[i, j] ** 2 >= sum(
                (x - y) ** 2 for x, y in zip(expected[i], expected[j], strict=True)
            )


def steepest(graph, x, norm):
    """(N, M, M): how fast each difference of scores moves at each of some points, by its gradient."""
    engine, count = GradientEngine(graph), graph.output_shape[0]
    rows = [engine(x, np.tile(np.eye(count)[i], (len(x), 1)))[1].reshape(len(x), -1) for i in range(count)]
    slopes = np.stack(rows, axis=1)
    return vector_norm(slopes[:, :, None] - slopes[:, None, :], norm.dual)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(BETWEEN)), st.integers(0, 2**32 - 1), st.floats(0.0, 3.0), st.sampled_from(NORMS)
)
def test_whatever_the_weights_no_slope_is_steeper(name, seed, spread, norm):
    rng = np.random.default_rng(seed)
    graph = net(BETWEEN[name], widths=(3, 8, 8), seed=seed)
    head = linear_head(graph)
    layers = witness.chain(head.body)
    weights = random_weights(layers, rng, spread)
    begin = bound_tensors(head.body, norm)[graph.input]
    bound = witness.prove(layers, weights).feature_bound(head, begin).bound_pairs()
    observed = steepest(graph, rng.normal(size=(200, 3)) * 3.0, norm).max(axis=0)
    assert (observed <= bound * (1 + 1e-12)).all()


def test_slopes_attain_the_bound_where_weights_are_right():
    """Orthogonal layers behind factors of groups: with their reciprocals for weights nothing is lost."""
    for seed in range(3):
        graph = uneven(groupsort_net((8, 8, 8), 3, seed=seed), seed=seed, spread=1.5)
        head = linear_head(graph)
        layers = witness.chain(head.body)
        weights, before = [], np.ones(8)
        for layer in layers:
            before = vector_norm(layer.dense.weight * before, Norm.TWO)
            weights.append(np.tile(4.0 / before[layer.before[:, 0]], (2, 1)))
        begin = dict.fromkeys(NORMS, 1.0) | {Norm.ONE: 8**0.5}
        bound = witness.prove(layers, tuple(weights)).feature_bound(head, begin).bound_pairs()
        observed = steepest(graph, np.random.default_rng(seed).normal(size=(20, 8)), Norm.TWO).max(axis=0)
        assert (observed <= bound * (1 + 1e-12)).all()
        assert (observed >= bound * (1 - 1e-5) - 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pairs", "groups of 4", "top k", "relu"])
def test_slopes_climbed_to_stay_below_what_is_found(name, norm):
    graph = uneven(net(BETWEEN[name], widths=(4, 16, 16)), spread=1.5)
    bounds = bound_lipschitz(graph, norm)
    assert bounds.scaled_bound is not None
    rng = np.random.default_rng(1)
    x, best = rng.normal(size=(400, 4)), np.zeros((3, 3))
    for _ in range(15):  # from where slopes are steepest to places nearby, and so on
        pairs = steepest(graph, x, norm)
        best = np.maximum(best, pairs.max(axis=0))
        order = np.argsort(-pairs.max(axis=(1, 2)))[:40]
        x = np.repeat(x[order], 10, axis=0) + rng.normal(size=(400, 4)) * 0.3
    assert (best <= bounds.bound_per_pair * (1 + 1e-12)).all()
    assert best.max() > 0.2 * bounds.bound_per_pair.max()


# --- what is gained ------------------------------------------------------------------------


def plainly(graph, norm):
    """Bounds with and without the witness, of pairs of different classes."""
    bounds = bound_lipschitz(graph, norm)
    ordinary = [
        m for m in bounds.feature_bounds if bounds.scaled_bound is None or m is not bounds.feature_bounds[-1]
    ]
    without = np.min([m.bound_pairs() for m in ordinary], axis=0)
    different = ~np.eye(len(without), dtype=bool)
    return bounds.bound_per_score_pair[different], without[different]


@pytest.fixture(scope="module")
def trained():
    """An ordinary network for digits: no constraint, no penalty."""
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

    class MaxMin(nn.Module):
        def forward(self, v):
            a, b = v.chunk(2, -1)
            return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], -1)

    net = nn.Sequential(nn.Linear(64, 64), MaxMin(), nn.Linear(64, 64), MaxMin(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(15):
        for batch in torch.randperm(len(x)).split(128):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert (net(x).argmax(1) == y).double().mean() > 0.95
    (w0, b0, w1, b1, w2, b2) = (p.detach().double().numpy() for p in net.parameters())
    layers = (
        dense("a0", "input", w0, b0), groupsort("z0", "a0", 64, 2),
        dense("a1", "z0", w1, b1), groupsort("z1", "a1", 64, 2), dense("scores", "z1", w2, b2),
    )  # fmt: skip
    return Graph(input="input", input_shape=(64,), ops=layers, output="scores")


@pytest.mark.parametrize("norm", NORMS)
def test_an_ordinarily_trained_network_gains_a_tenth(trained, norm):
    with_it, without = plainly(trained, norm)
    assert (with_it <= without).all()
    assert (with_it / without).mean() < 0.9


@pytest.mark.parametrize("size", [1, 2, 4])
def test_factors_of_groups_are_found(size):
    """Orthogonal layers hidden behind factors: the bound is nearly the one without them."""
    graph = groupsort_net((8, 16, 16), 3, group_size=max(size, 2))
    graph = with_activation(graph, relu) if size == 1 else graph
    hidden = uneven(graph, spread=1.0)
    with_it, without = plainly(hidden, Norm.TWO)
    assert (without > 5.0 * plainly(graph, Norm.TWO)[0]).all()
    assert (with_it < 1.1 * plainly(graph, Norm.TWO)[0]).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "graph",
    [
        groupsort_net((64, 128, 128), 10), groupsort_net((16, 16, 16), 4, group_size=4),
        with_activation(groupsort_net((32, 64, 64), 5), relu), linear_net(np.eye(3)),
    ],
)  # fmt: skip
def test_nothing_changes_where_layers_are_orthogonal(graph, norm):
    assert bound_lipschitz(graph, norm).scaled_bound is None
    with_it, without = plainly(graph, norm)
    assert (with_it == without).all()


def test_linf_networks_are_as_they_were():
    graph = groupsort_net((16, 32, 32), 4, kind="rows")
    with_it, without = plainly(graph, Norm.INF)
    assert (with_it <= without).all()


@pytest.mark.parametrize("scale", [1e30, 1e154, 1e-30, 1e-160, 0.0])
def test_layers_of_any_size_are_no_trouble(scale):
    graph = uneven(groupsort_net((4, 8, 8), 3))
    layers = tuple(replace(op, weight=op.weight * scale) if op.output == "a1" else op for op in graph.ops)
    with_it, without = plainly(replace(graph, ops=layers), Norm.TWO)
    assert (with_it <= without).all()


def test_read_back_from_a_file_it_is_the_same():
    graph = uneven(groupsort_net((4, 8, 8), 3))
    ours, read = bound_lipschitz(graph, Norm.TWO), bound_lipschitz(read_onnx(to_file(graph)).graph, Norm.TWO)
    assert (ours.bound_per_pair == read.bound_per_pair).all()
    for a, b in zip(ours.scaled_bound.weights, read.scaled_bound.weights, strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("norm", NORMS)
def test_mixtures_are_measured_alike(norm):
    graph = uneven(groupsort_net((4, 8, 8), 6), spread=1.5)
    scaled = bound_lipschitz(graph, norm).feature_bounds[-1]
    weights = np.array([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
    bound = scaled.bound_mixtures(np.array([0, 1, 2]), weights, np.array([4, 5]))
    rows = rational(weights) @ rational(scaled.head.rows[:3]) - rational(scaled.head.rows[[4, 5]])
    for value, row in zip(bound, rows, strict=True):
        exact = sum(e * e for e in row) * Fraction(scaled.constant) ** 2
        assert exact <= Fraction(float(value)) ** 2 <= exact * Fraction(1 + 1e-9)
    assert bound[1] == pytest.approx(scaled.bound_pairs()[0, 5], rel=1e-10)
