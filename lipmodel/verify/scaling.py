"""The weights of a certificate's ``scaling``, and the Lipschitz constant that they prove.

With T v = a mean(v) + b (v - mean(v)) for each group v of a layer's numbers that is sorted after it (of one
number where none are), T f(v) - T f(v') is never longer in l2 than T v - T v' is: sorting keeps the mean,
and is 1-Lipschitz. So for the layers W_1, …, W_k that end in the features, whatever a, b > 0,

    ‖T_k (t(x) - t(x'))‖_2 <= ∏_{l>1} ‖T_l W_l T_{l-1}⁻¹‖_2  ‖T_1 W_1‖_{s→2}  L_s ‖x - x'‖_p .

Where T_l W_l T_{l-1}⁻¹ is not of float64 numbers, some float64 matrix M near it stands for it:

    T_l W_l T_{l-1}⁻¹ = M + R T_{l-1}⁻¹,  R := T_l W_l - M T_{l-1},

and R, in which nothing is divided, is computed in integers, and so are its squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from flint import arb

from lipmodel.certificates.format import Scaling
from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op, missing_rule
from lipmodel.norms import Norm
from lipmodel.threat import Threat
from lipmodel.verify.exact_numbers import Exact, Float64s, Integers, aligned, exact, norm_ratio
from lipmodel.verify.layer_norms import MatrixNorms
from lipmodel.verify.linear_head import union
from lipmodel.verify.lipschitz import Layers, lipschitz_constants


class ScalingError(ValueError):
    """Why weights do not fit a network."""


@dataclass(frozen=True)
class Weighted:
    """Weights of one tensor's groups.

    Attributes:
        groups: (g, G) places of each group's numbers in the tensor.
        weights: (2, g): a and b.
    """

    groups: Integers
    weights: Float64s

    def times(self, rows: Exact) -> Exact:
        """T v of each row v, group after group; G T v = b G v + (a - b) Σ v."""
        size = self.groups.shape[1]
        picked = rows.numerators[:, self.groups]
        weights = exact(self.weights)
        a, b = weights.numerators[:, None, :, None]
        result = b * size * picked + (a - b) * picked.sum(axis=2, keepdims=True)
        return Exact(result.reshape(len(result), -1), rows.denominator * weights.denominator * size)

    def rounded(self, rows: Float64s, power: int) -> Float64s:
        """About T v or T⁻¹ v of each row, group after group."""
        picked = rows[:, self.groups]
        a, b = (self.weights**power)[:, None, :, None]
        mean = picked.mean(axis=2, keepdims=True)
        return np.asarray((a * mean + b * (picked - mean)).reshape(len(rows), -1))

    def inverse_norm(self, row: list[arb]) -> arb:
        """‖T⁻¹ v‖_2, of squares of the mean and of what is left."""
        total = arb(0)
        for group, a, b in zip(self.groups.tolist(), *self.weights.tolist(), strict=True):
            values = [row[place] for place in group]
            mean = sum(values, arb(0)) / len(values)
            total += len(values) * (mean / a) ** 2
            if len(values) > 1:
                total += sum(((v - mean) ** 2 for v in values), arb(0)) / arb(b) ** 2
        return total.sqrt()


def scaled(
    body: Graph, scaling: tuple[Scaling, ...], layers: Layers, threat: Threat
) -> Callable[[list[arb]], arb] | None:
    """Return a bound on the Lipschitz constant of row · features, by row, as weights prove it; None without.

    The features move by at most a constant in the norm ‖T_k ·‖_2.

    Raises:
        ScalingError: they are not for the dense layers that the features come from.
    """
    made = {op.output: op for op in body.ops}
    chain: list[ops.Dense] = []
    for entry in scaling:
        op = made.get(entry.tensor)
        if not isinstance(op, ops.Dense) or len(op.shape) != 1:
            raise ScalingError(f"'{entry.tensor}' is not made by a dense layer before the last")
        chain.append(op)
    ends = [*(op.inputs[0] for op in chain[1:]), body.output]
    before: Weighted | None = None
    constant = arb(1)
    for entry, op, end in zip(scaling, chain, ends[: len(chain)], strict=True):
        own, after = _after(body, op, end, entry)
        if before is None:
            start = lipschitz_constants(replace(body, output=op.inputs[0]).pruned(), layers, threat).constants
            matrix, residual = _matrix(op.weight, own, None)
            norms, n = MatrixNorms(matrix), op.weight.shape[1]
            ways = {s: norms.norm(s, Norm.TWO) + residual * norm_ratio(s, Norm.TWO, n) for s in Norm}
            constant = min(ways[s] * start[s] for s in Norm)
        else:
            matrix, residual = _matrix(op.weight, own, before)
            constant *= MatrixNorms(matrix).spectral + residual
        before = after
    features = before
    return None if features is None else lambda row: features.inverse_norm(row) * constant


def _matrix(weight: Float64s, own: Weighted, before: Weighted | None) -> tuple[Float64s, arb]:
    """M near T_l W T_{l-1}⁻¹, and ‖R T_{l-1}⁻¹‖_F; T_{l-1} is the identity where there is none."""
    near = own.rounded(weight.T, 1).T
    if before is not None:
        near = before.rounded(near, -1)
    if not np.isfinite(near).all():
        raise ScalingError("weights and a layer are too large together")
    left, right = own.times(exact(weight.T)), exact(near)
    left = Exact(left.numerators.T, left.denominator)
    if before is None:
        (a, b), denominator = aligned(left, right)
        return near, arb(int(np.square(a - b).sum())).sqrt() / denominator
    # M has its columns group after group, T W where the tensor has them.
    left = Exact(left.numerators[:, before.groups.ravel()], left.denominator)
    right = replace(before, groups=np.arange(near.shape[1]).reshape(before.groups.shape)).times(right)
    (a, b), denominator = aligned(left, right)
    groups = (a - b).reshape(len(near), *before.groups.shape)
    size = groups.shape[2]
    # In a group ‖T⁻¹v‖² = (Σ v)² / G a² + (Σ v² - (Σ v)² / G) / b².
    means, squares = np.square(groups.sum(axis=2)).sum(axis=0), np.square(groups).sum(axis=(0, 2))
    total = arb(0)
    for mean, square, *weights in zip(means, squares, *before.weights.tolist(), strict=True):
        of_mean, of_rest = (arb(w) ** 2 for w in weights)
        total += arb(int(mean)) / of_mean + arb(int(size * square - mean)) / of_rest
    return near, (total / size).sqrt() / denominator


def _after(body: Graph, dense: Op, end: str, entry: Scaling) -> tuple[Weighted, Weighted]:
    """The groups in what a layer makes, and in what the operations after it make of that."""
    made = {op.output: op for op in body.ops}
    between: list[Op] = []
    while end != dense.output:
        op = made.get(end)
        if op is None or len(op.inputs) != 1:
            raise ScalingError(f"'{dense.output}' is not all that the next of its layers is made from")
        between.insert(0, op)
        end = op.inputs[0]
    # What each entry may depend on, of what the layer makes.
    sources = np.empty(dense.size, dtype=object)
    sources[:] = [frozenset([place]) for place in range(dense.size)]
    keeps_means = True
    for op in between:
        sources, keeps = _send(op, sources)
        sources, keeps_means = sources.reshape(op.shape), keeps_means and keeps
    places: dict[frozenset[int], list[int]] = {}
    for place, source in enumerate(sources.ravel()):
        places.setdefault(source, []).append(place)
    groups = sorted(places, key=min)
    sizes = {len(group) for group in groups} | {len(places[group]) for group in groups}
    if len(sizes) > 1 or len(groups) * sizes.pop() != dense.size:
        raise ScalingError(f"what follows '{dense.output}' does not keep the numbers of its groups")
    if len(groups[0]) > 1 and not keeps_means:
        raise ScalingError(f"what follows '{dense.output}' does not keep the means of its groups")
    if not len(groups) == len(entry.mean) == len(entry.rest):
        raise ScalingError(f"the numbers of '{dense.output}' are in {len(groups)} groups")
    weights = np.array([entry.mean, entry.rest])
    first = np.array([sorted(group) for group in groups])
    return Weighted(first, weights), Weighted(np.array([places[group] for group in groups]), weights)


def _send(op: Op, x: Integers) -> tuple[Integers, bool]:
    """Send sets through an operation; return them, and whether the operation keeps the mean of each group.

    Raises:
        ScalingError: the operation is neither 1-Lipschitz entry by entry, nor sorts, nor rearranges.
    """
    match op:
        case ops.Reshape() | ops.Shift() | ops.Negate():
            return x, True
        case ops.Clip() | ops.Abs():
            return x, False
        case ops.LeakyRelu() if np.abs(op.slope).max() <= 1.0:
            return x, False
        case ops.Transpose():
            return x.transpose(op.permutation), True
        case ops.Sort():
            joined = union.reduce(x, axis=op.axis, keepdims=True)
            return np.asarray(np.repeat(joined, op.k, axis=op.axis)), True
        case ops.SortingNetwork():
            wires = [x.take(wire, axis=op.axis) for wire in op.wires]
            return np.concatenate([np.asarray(union.reduce(wires))] * len(op.joined), axis=op.axis), True
        case (
            ops.Dense() | ops.Scale() | ops.LeakyRelu() | ops.Conv() | ops.AveragePool() | ops.MaxPool()
            | ops.Extremum() | ops.ReduceExtremum() | ops.Sum() | ops.Concat() | ops.Select()
        ):  # fmt: skip
            raise ScalingError(f"'{op.output}' is made by an operation that no weights are known for")
        case _:
            raise missing_rule(op, "verified scaled norms")
