"""The scaled witness: one more norm of the features, in which a chain of dense layers is often tighter.

What stands between two dense layers is 1-Lipschitz in more norms than l2. Sorting a group of numbers v
keeps their mean and brings what is left of two groups no further apart; so for any a, b > 0 a group, with

    T v = a mean(v) + b (v - mean(v)),        ‖T sort(v) - T sort(v')‖_2 <= ‖T v - T v'‖_2 .

For maps entry by entry that are 1-Lipschitz (Relu, Clip, Abs, …) a group is one entry. Therefore, for
layers W_1, …, W_k with such maps T_1, …, T_k after them and rows w of the head, f_i - f_j moves by at most

    ‖T_k⁻¹ (w_i - w_j)‖_2  ∏_{l>1} ‖T_l W_l T_{l-1}⁻¹‖_2  ‖T_1 W_1‖_{s→2} L_s

for each unit of change of the input, L_s the constants of what the chain begins at. The best T gives the
bound of LipSDP (Fazlyab et al. 2019; for sorted groups Pauli et al. 2024); any gives a bound. So they are
found in plain float32, and only the norms are proved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from lipmodel.certify import ops
from lipmodel.certify.head import Head, Indices, Measure
from lipmodel.certify.ops import Graph, Op
from lipmodel.norms import (
    Array,
    Norm,
    bound_equivalence,
    bound_vector_norm,
    gamma,
    inflate,
    up,
)

LEAST_GAIN, MOST_LOSS = 1e-3, 1.5
"""It must gain so much for some pair; it is not sought where the product is so far above the best bound,"""
EVEN = 1e-3
"""nor where ‖W‖_2 of every layer is so little above the root mean square of its singular values."""
POWERS, ROUNDS, PROBES, INERTIA = (2, 4, 8, 16), 5, 16, 0.6
LARGEST_LOG, DIGITS = 6.0, 4
"""Logarithms of weights are within this, and weights have so many digits, to be short in certificates."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A dense layer of a chain, and the map after it.

    Attributes:
        dense: the layer.
        before: (g, G) which of its numbers each group is of, in order of the first of them.
        after: (g, G) where these are in the tensor that the next layer reads.
    """

    dense: ops.Dense
    before: Indices
    after: Indices


@dataclass(frozen=True, eq=False)
class Witness:
    """Weights of groups, and what is proved with them.

    Attributes:
        layers: the chain.
        weights: (2, g) a layer: a and b of each group.
        first: T_1 W_1 as computed.
        doubt: how far that may be from the exact one, in the Frobenius norm.
        bound_hidden: never below the product of the other layers' norms.
    """

    layers: tuple[Layer, ...]
    weights: tuple[Array, ...]
    first: ops.Dense
    doubt: float
    bound_hidden: float

    def measure(self, head: Head, begin: Mapping[Norm, float]) -> Measure:
        """The norm ‖T_k ·‖_2 of the features, for the constants of what the chain begins at."""
        size = self.first.weight.shape[1]
        ways = []
        for s in [_source(begin)] if _source(begin) is Norm.ONE else [Norm.TWO, Norm.INF]:
            widened = up(self.doubt * bound_equivalence(s, Norm.TWO, size))
            ways.append(up(up(self.first.bound_norm(s, Norm.TWO) + widened) * begin[s]))
        last, weights = self.layers[-1], self.weights[-1]
        # ‖v‖ <= max(a, b) ‖T⁻¹v‖: what a row is off by, relative to itself in the new coordinates.
        spread = float(weights.max() / weights.min()) * (1.0 + 2.0**-50)
        roundings = int(spread * (head.roundings + 3 * (last.after.shape[1] + 5))) + 1
        rows = weigh(head.rows, last.after, 1.0 / weights)
        scaled = replace(head, rows=rows, roundings=roundings, _distances={})
        return Measure(scaled, Norm.TWO, float(up(min(ways) * self.bound_hidden)))


def find_witness(
    head: Head, constants: Mapping[str, Mapping[Norm, float]], pairs: Array
) -> tuple[Witness, Measure] | None:
    """Weights that prove less than is proved without them, for some pair; None where none are found.

    Args:
        head: of the graph.
        constants: L_s of every tensor of its body.
        pairs: (M, M) what is proved without.
    """
    layers = chain(head.body)
    if not layers or all(_is_even(layer.dense) for layer in layers):
        return None
    first = layers[0].dense
    begin = constants[first.inputs[0]]
    source = _source(begin)
    product = first.bound_norm(source, Norm.TWO) * begin[source]
    for layer in layers[1:]:
        product *= layer.dense.bound_norm(Norm.TWO, Norm.TWO)
    if not (head.distances(Norm.TWO) * product < MOST_LOSS * pairs).any():
        return None
    witness = _find(head, source)
    if witness is None:
        return None
    measure = witness.measure(head, begin)
    return (witness, measure) if (measure.bound_pairs() < pairs * (1.0 - LEAST_GAIN)).any() else None


def _source(begin: Mapping[Norm, float]) -> Norm:
    """Which norm of what a chain begins at to go by: ‖W‖_{1→2} <= ‖W‖_2, so l1 where that is no larger."""
    return Norm.ONE if begin[Norm.ONE] <= begin[Norm.TWO] else Norm.TWO


def _is_even(dense: ops.Dense) -> bool:
    mean = np.linalg.norm(dense.weight) / min(dense.weight.shape) ** 0.5
    return bool(dense.bound_norm(Norm.TWO, Norm.TWO) <= mean * (1.0 + EVEN))


# --- the chain -----------------------------------------------------------------------------


def chain(body: Graph) -> tuple[Layer, ...]:
    """The dense layers that the features are made by one after the other, as far back as they go."""
    made = {op.output: op for op in body.ops}
    layers: list[Layer] = []
    between: list[Op] = []
    name = body.output
    while (op := made.get(name)) is not None and len(op.inputs) == 1:
        if isinstance(op, ops.Dense):
            groups = _groups(reversed(between), op.size) if len(op.shape) == 1 else None
            if groups is None:
                break
            layers.insert(0, Layer(op, *groups))
            between = []
        else:
            between.append(op)
        name = op.inputs[0]
    return tuple(layers)


def _groups(between: Iterable[Op], size: int) -> tuple[Indices, Indices] | None:
    """Before and after, see :class:`Layer`, of the operations after a layer; None where one has no rule."""
    places = np.arange(size)  # which number of the layer stands where
    groups, single = places[:, None], False
    for op in between:
        match op:
            case ops.Reshape():
                places = places.reshape(op.shape)
            case ops.Transpose():
                places = places.transpose(op.permutation)
            case ops.Shift() | ops.Negate():
                pass  # a shift leaves differences as they are, and T is linear
            case ops.Clip() | ops.Abs():
                single = True
            case ops.LeakyRelu() if np.abs(op.slope).max() <= 1.0:
                single = True
            case ops.Sort() if op.k == places.shape[op.axis] and groups.shape[1] == 1:
                groups = np.moveaxis(places, op.axis, -1).reshape(-1, op.k)
            case ops.SortingNetwork() if sorted(op.joined) == [*range(len(op.wires))] and (
                op.length == sum(map(len, op.wires)) and groups.shape[1] == 1
            ):
                wires = [np.take(places, wire, axis=op.axis) for wire in op.wires]
                groups = np.stack(wires, axis=-1).reshape(-1, len(wires))
                places = np.concatenate([wires[i] for i in op.joined], axis=op.axis)
            case _:
                return None
    if single and groups.shape[1] > 1:
        return None  # what is done to each entry does not keep the mean
    groups = groups[np.argsort(groups.min(axis=1))]
    return groups, np.argsort(places.ravel())[groups]


# --- what is proved ------------------------------------------------------------------------


def weigh(vectors: Array, groups: Indices, weights: Array) -> Array:
    """(…, n) T v of each of some vectors, group after group; off by at most 3γ_{G+3} max(a, b) ‖v‖_2.

    An entry is b v + (a - b) m: m takes G roundings, a - b one, the products and the sum one each; and in
    l2, b ‖v‖ + (a + b) ‖m‖ <= 3 max(a, b) ‖v‖.
    """
    picked = vectors[..., groups]
    a, b = weights[..., None]
    weighed = b * picked + (a - b) * picked.mean(axis=-1, keepdims=True)
    return np.asarray(weighed.reshape(*vectors.shape[:-1], -1))


def prove(layers: tuple[Layer, ...], weights: tuple[Array, ...]) -> Witness:
    """What weights > 0 prove, whatever they are."""
    hidden, first, doubt = 1.0, layers[0].dense, 0.0
    for number, layer in enumerate(layers):
        matrix, off = _scaled(layers, weights, number)
        dense = replace(layer.dense, weight=matrix)
        if number == 0:
            first, doubt = dense, off
        else:
            norm = dense.bound_norm(Norm.TWO, Norm.TWO)
            hidden = up(hidden * up(norm + off))
    return Witness(layers, weights, first, doubt, float(hidden))


def _scaled(layers: tuple[Layer, ...], weights: tuple[Array, ...], number: int) -> tuple[Array, float]:
    """T_l W_l T_{l-1}⁻¹ as computed, and how far that may be from the exact one, in the Frobenius norm."""
    layer, own = layers[number], weights[number]
    matrix, lost = layer.dense.weight, 0.0
    if number:
        inverse, after = 1.0 / weights[number - 1], layers[number - 1].after
        lost = _bound_loss(matrix, after, inverse)  # one rounding more, of 1/a and 1/b
        matrix = weigh(matrix, after, inverse)
    doubt = up(_bound_loss(matrix, layer.before, own) + up(own.max() * lost))
    return weigh(matrix.T, layer.before, own).T, float(doubt)


def _bound_loss(vectors: Array, groups: Indices, weights: Array) -> float:
    norm = bound_vector_norm(vectors.ravel(), Norm.TWO)
    return float(inflate(3.0 * gamma(groups.shape[1] + 5) * weights.max() * norm, 4))


# --- how weights are found: plain arithmetic, part of no proof -------------------------------


@lru_cache(maxsize=8)  # the same for inputs measured in l2 and in linf
def _find(head: Head, source: Norm) -> Witness | None:
    layers = chain(head.body)
    with np.errstate(all="ignore"):
        weights = _search(layers, head.rows[head.owners >= 0], source)
    return None if weights is None else prove(layers, weights)


def _search(layers: tuple[Layer, ...], rows: Array, source: Norm) -> tuple[Array, ...] | None:
    """Weights that make the product small; None where it seems to be as small without.

    ‖M‖_2 is smoothed to (Σ σ^{4j})^{1/4j}, σ the singular values. By the logarithm of a row's weight its
    logarithm has the derivative p, by that of a column's -q: shares of the sum. Where all is least, the
    shares p of a layer's rows and q of the next one's columns agree; so weights move by log(q/p) / 4j, and
    j grows. Shares are those of a few random vectors, sent to and fro j times. The head counts by the
    squares of its rows less their mean, which are those of all differences.
    """
    turned = [_turn(layer.dense.weight.T, layer.before).T for layer in layers]
    turned[1:] = [_turn(w, layer.after) for w, layer in zip(turned[1:], layers[:-1], strict=True)]
    matrices: list[Any] = [w.astype(np.float32) for w in turned]
    head = np.square(_turn(rows - rows.mean(axis=0), layers[-1].after)).sum(axis=0).astype(np.float32)
    rng = np.random.default_rng(0)
    probes: list[Any] = [rng.choice([-1.0, 1.0], size=(w.shape[1], min(PROBES, w.shape[1]))) for w in turned]
    probes = [probe.astype(np.float32) for probe in probes]
    shapes = [layer.before.shape for layer in layers]
    logs = [np.zeros((2, g), np.float32) for g, _ in shapes]
    speeds = [np.zeros((2, g), np.float32) for g, _ in shapes]
    value = 0.0
    for power in np.repeat(POWERS, ROUNDS):
        scales = [_spread(np.exp(log), size) for log, (_, size) in zip(logs, shapes, strict=True)]
        value, by_rows, by_columns = 0.0, [], []
        for number, matrix in enumerate(matrices):
            scaled = scales[number][:, None] * matrix
            if number:
                scaled /= scales[number - 1]
            columns = number == 0 and source is Norm.ONE
            shares = _column_shares(scaled, power) if columns else _shares(scaled, probes[number], power)
            by_rows.append(shares[0])
            by_columns.append(shares[1])
            value += shares[2]
        by_columns.append(head / np.square(scales[-1]))
        value += 0.5 * np.log(by_columns[-1].sum())
        for number, shape in enumerate(shapes):
            p, q = _by_weight(by_rows[number], shape), _by_weight(by_columns[number + 1], shape)
            speeds[number] = INERTIA * speeds[number] + np.log(q / p) / (4 * power)
            logs[number] = np.clip(logs[number] + speeds[number], -LARGEST_LOG, LARGEST_LOG)
    without = 0.5 * np.log(head.sum())
    for number, layer in enumerate(layers):
        without += np.log(layer.dense.bound_norm(Norm.TWO if number else source, Norm.TWO))
    if not value < without:  # the value is of norms from below; NaN where float32 was too narrow
        return None
    return tuple(_rounded(np.exp(log.astype(np.float64))) for log in logs)


def _turn(vectors: Array, groups: Indices) -> Array:
    """Each group in orthonormal coordinates of which the first is along (1, …, 1)."""
    size = groups.shape[1]
    basis = np.linalg.qr(np.column_stack([np.ones(size), np.eye(size)[:, :-1]]))[0]
    return np.asarray((vectors[..., groups] @ basis).reshape(*vectors.shape[:-1], -1))


def _spread(weights: Any, size: int) -> Any:
    """a, then b for each of the other coordinates of a group."""
    return np.concatenate([weights[0][:, None], np.repeat(weights[1][:, None], size - 1, axis=1)], 1).ravel()


def _by_weight(shares: Any, shape: tuple[int, ...]) -> Any:
    """(2, g): together 1, and none 0."""
    each = shares.reshape(shape)
    sums = np.stack([each[:, 0], each[:, 1:].sum(axis=1)])
    return sums / sums.sum() + 1e-3 / len(each)


def _shares(matrix: Any, x: Any, power: int) -> tuple[Any, Any, float]:
    """Of rows and of columns, and the logarithm of about ‖M‖_2."""
    y = x
    for _ in range(power):
        y = matrix @ x
        y /= np.linalg.norm(y)
        x = matrix.T @ y
    columns = np.square(x).sum(axis=1)
    return np.square(y).sum(axis=1), columns, 0.5 * float(np.log(columns.sum()))


def _column_shares(matrix: Any, power: int) -> tuple[Any, Any, float]:
    """The same of ‖M‖_{1→2}, the largest of the columns' lengths, smoothed alike."""
    squares = np.square(matrix)
    lengths = squares.sum(axis=0)
    squares *= (lengths / lengths.max()) ** (2 * power - 1)
    return squares.sum(axis=1), squares.sum(axis=0), 0.5 * float(np.log(lengths.max()))


def _rounded(weights: Array) -> Array:
    return np.array([[float(f"{w:.{DIGITS}g}") for w in row] for row in weights])
