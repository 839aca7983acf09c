"""Scaled bounds: one more norm of the features, in which a chain of dense layers is often tighter.

The maps between two dense layers are 1-Lipschitz in more norms than l2. Sorting a group of numbers v
keeps their mean and brings the residuals of two groups no further apart; so for any a, b > 0 per group, with

    T v = a mean(v) + b (v - mean(v)),        ‖T sort(v) - T sort(v')‖_2 <= ‖T v - T v'‖_2 .

For maps entry by entry that are 1-Lipschitz (Relu, Clip, Abs, …) a group is one entry. Therefore, for
layers W_1, …, W_k with such maps T_1, …, T_k after them and rows w of the head, f_i - f_j moves by at most

    ‖T_k⁻¹ (w_i - w_j)‖_2  ∏_{l>1} ‖T_l W_l T_{l-1}⁻¹‖_2  ‖T_1 W_1‖_{s→2} L_s

for each unit of change of the input, L_s the constants of what the chain begins at. The best T gives the
bound of LipSDP (Fazlyab et al. 2019; for sorted groups Pauli et al. 2024); any T gives a bound. So T is
found in plain float32 (``search.py``), and only the norms are proved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from lipmodel.certify.head import FeatureBound, Head, Indices
from lipmodel.certify.norms.layers import bound_norm, observed_least_norm
from lipmodel.certify.scaling.search import find_weights
from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op, missing_rule
from lipmodel.norms import (
    Array,
    Norm,
    bound_equivalence,
    bound_vector_norm,
    gamma,
    inflate,
    up,
    vector_norm,
)

MIN_GAIN, MAX_LOSS = 1e-3, 1.5
"""Minimum relative gain for some pair; maximum ratio of product to best bound for a search."""
EVEN = 1e-3
"""No search where ‖W‖_2 of every layer is so little above the root mean square of its singular values."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A dense layer of a chain, and the map after it.

    Attributes:
        dense: the layer.
        before: (g, G) indices of each group in the layer's output, in order of the first of them.
        after: (g, G) indices of the same entries in the tensor that the next layer reads.
    """

    dense: ops.Dense
    before: Indices
    after: Indices


@dataclass(frozen=True, eq=False)
class ScaledBound:
    """Weights of groups, and the norms proved with them.

    Attributes:
        layers: the chain.
        weights: (2, g) per layer: a and b of each group.
        first: T_1 W_1 as computed.
        rounding_slack: how far that may be from the exact one, in the Frobenius norm.
        bound_hidden: never below the product of the other layers' norms.
    """

    layers: tuple[Layer, ...]
    weights: tuple[Array, ...]
    first: ops.Dense
    rounding_slack: float
    bound_hidden: float

    def feature_bound(self, head: Head, begin: Mapping[Norm, float]) -> FeatureBound:
        """Return the bound in the norm ‖T_k ·‖_2, from the constants where the chain begins."""
        size = self.first.weight.shape[1]
        bounds = []
        for s in [_source(begin)] if _source(begin) is Norm.ONE else [Norm.TWO, Norm.INF]:
            widened = up(self.rounding_slack * bound_equivalence(s, Norm.TWO, size))
            bounds.append(up(up(bound_norm(self.first, s, Norm.TWO) + widened) * begin[s]))
        last, weights = self.layers[-1], self.weights[-1]
        # ‖v‖ <= max(a, b) ‖T⁻¹v‖: the error of a row, relative to the row in the new coordinates.
        spread = float(weights.max() / weights.min()) * (1.0 + 2.0**-50)
        roundings = int(spread * (head.roundings + 3 * (last.after.shape[1] + 5))) + 1
        rows = weigh(head.rows, last.after, 1.0 / weights)
        scaled = replace(head, rows=rows, roundings=roundings, _distances={})
        return FeatureBound(scaled, Norm.TWO, float(up(min(bounds) * self.bound_hidden)))


def find_scaled_bound(
    head: Head, constants: Mapping[str | None, Mapping[Norm, float]], feature_bounds: Sequence[FeatureBound]
) -> tuple[ScaledBound, FeatureBound] | None:
    """Return a scaled bound below the other bounds for some pair; None where the search finds none.

    Args:
        head: head of the graph.
        constants: L_s of every tensor of the graph's body.
        feature_bounds: bounds in other norms.
    """
    layers = chain(head.body)
    if not layers:
        return None
    first = layers[0].dense
    begin = constants[first.inputs[0]]
    source = _source(begin)
    observed = observed_least_norm(first, source, Norm.TWO) * begin[source]
    for layer in layers[1:]:
        observed *= observed_least_norm(layer.dense, Norm.TWO, Norm.TWO)
    without = np.min([_some_pairs(feature_bound) for feature_bound in feature_bounds], axis=0)
    if not (_some_pairs(FeatureBound(head, Norm.TWO, observed)) < MAX_LOSS * without).any():
        return None
    if all(_is_even(layer.dense) for layer in layers):
        return None
    scaled_bound = _find(head, source)
    if scaled_bound is None:
        return None
    feature_bound = scaled_bound.feature_bound(head, begin)
    gains = (_some_pairs(feature_bound) < without * (1.0 - MIN_GAIN)).any()
    return (scaled_bound, feature_bound) if gains else None


def _some_pairs(feature_bound: FeatureBound) -> Array:
    """Return (M,) about the constants of differences of neighbouring scores: a few of many pairs."""
    rows = feature_bound.head.rows
    return vector_norm(rows - np.roll(rows, 1, axis=0), feature_bound.norm.dual) * feature_bound.constant


def _source(begin: Mapping[Norm, float]) -> Norm:
    """Return the norm to use where a chain begins: ‖W‖_{1→2} <= ‖W‖_2, so l1 where L_1 <= L_2."""
    return Norm.ONE if begin[Norm.ONE] <= begin[Norm.TWO] else Norm.TWO


def _is_even(dense: ops.Dense) -> bool:
    mean = np.linalg.norm(dense.weight) / min(dense.weight.shape) ** 0.5
    return bool(bound_norm(dense, Norm.TWO, Norm.TWO) <= mean * (1.0 + EVEN))


@lru_cache(maxsize=8)  # the same for inputs measured in l2 and in linf
def _find(head: Head, source: Norm) -> ScaledBound | None:
    layers = chain(head.body)
    norms = [bound_norm(layer.dense, Norm.TWO if n else source, Norm.TWO) for n, layer in enumerate(layers)]
    weights = find_weights(
        [layer.dense.weight for layer in layers],
        [(layer.before, layer.after) for layer in layers],
        head.rows[head.owners >= 0],
        norms,
        by_columns=source is Norm.ONE,
    )
    return None if weights is None else prove(layers, weights)


# --- the chain -----------------------------------------------------------------------------


def chain(body: Graph) -> tuple[Layer, ...]:
    """Return the dense layers that make the features one after the other, as far back as the chain goes."""
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
    """Return ``before`` and ``after`` of a :class:`Layer` for the operations after it, or None."""
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
            case (
                ops.Dense() | ops.Scale() | ops.LeakyRelu() | ops.Conv() | ops.AveragePool() | ops.MaxPool()
                | ops.Sort() | ops.SortingNetwork() | ops.Extremum() | ops.ReduceExtremum() | ops.Sum()
                | ops.Concat() | ops.Select()
            ):  # fmt: skip
                return None
            case _:
                raise missing_rule(op, "scaled norms")
    if single and groups.shape[1] > 1:
        return None  # maps of single entries do not keep the mean
    groups = groups[np.argsort(groups.min(axis=1))]
    return groups, np.argsort(places.ravel())[groups]


# --- bounds -------------------------------------------------------------------------------


def weigh(vectors: Array, groups: Indices, weights: Array) -> Array:
    """Return (…, n) T v of each vector v, group after group; off by at most 3γ_{G+3} max(a, b) ‖v‖_2.

    An entry is b v + (a - b) m: m takes G roundings, a - b one, the products and the sum one each; and in
    l2, b ‖v‖ + (a + b) ‖m‖ <= 3 max(a, b) ‖v‖.
    """
    picked = vectors[..., groups]
    a, b = weights[..., None]
    weighed = b * picked + (a - b) * picked.mean(axis=-1, keepdims=True)
    return np.asarray(weighed.reshape(*vectors.shape[:-1], -1))


def prove(layers: tuple[Layer, ...], weights: tuple[Array, ...]) -> ScaledBound:
    """Return the bound that any weights > 0 prove."""
    hidden, first, rounding_slack = 1.0, layers[0].dense, 0.0
    for number, layer in enumerate(layers):
        matrix, off = _scaled(layers, weights, number)
        dense = replace(layer.dense, weight=matrix)
        if number == 0:
            first, rounding_slack = dense, off
        else:
            norm = bound_norm(dense, Norm.TWO, Norm.TWO)
            hidden = up(hidden * up(norm + off))
    return ScaledBound(layers, weights, first, rounding_slack, float(hidden))


def _scaled(layers: tuple[Layer, ...], weights: tuple[Array, ...], number: int) -> tuple[Array, float]:
    """Return T_l W_l T_{l-1}⁻¹ as computed, and a bound on its error in the Frobenius norm.

    Twice vectors are weighed, the second time with one rounding more of each 1/a and 1/b.
    """
    layer, own = layers[number], weights[number]
    matrix = layer.dense.weight
    largest, roundings = own.max() * bound_vector_norm(matrix.ravel(), Norm.TWO), layer.before.shape[1] + 3
    if number:
        after, inverse = layers[number - 1].after, 1.0 / weights[number - 1]
        matrix = weigh(matrix, after, inverse)
        largest, roundings = largest * inverse.max(), roundings + after.shape[1] + 5
    return weigh(matrix.T, layer.before, own).T, float(inflate(3.0 * gamma(roundings) * largest, 5))
