"""Lipschitz constants of tensors, layer by layer: the rules of ``docs/certificate.md``, section 2, in balls.

A tensor carries, for each norm q, a bound L_q on ‖t(x) - t(x')‖_q / ‖u‖_p for changes x' - x = s∘u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from flint import arb

from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op, missing_rule
from lipmodel.norms import Norm
from lipmodel.threat import Threat
from lipmodel.verify.evaluation import positions
from lipmodel.verify.exact_numbers import exact, largest, norm_ratio, reciprocal, vector_norm
from lipmodel.verify.layer_norms import ConvolutionNorms, MatrixNorms
from lipmodel.verify.linear_maps import LinearMaps, change_norm, threat_maps

Constants = dict[Norm, arb]
Layers = dict[str, MatrixNorms | ConvolutionNorms]
"""The norms of each Dense and Conv, by the tensor it makes."""


@dataclass(frozen=True)
class OutputBounds:
    """Proved Lipschitz constants of a graph's output.

    Attributes:
        constants: L_q of the output, for each norm q.
        maps: the output as a linear function of an earlier tensor; None if the last operation is not linear.
        begin: the constants of that tensor.
    """

    constants: Constants
    maps: LinearMaps | None
    begin: Constants

    def lipschitz(self, row: list[arb]) -> arb:
        """At least the Lipschitz constant of <row, output>: ‖row‖_{q*} L_q for the best q."""
        bounds = [vector_norm(row, q.dual) * self.constants[q] for q in Norm]
        if self.maps is not None:
            earlier = self.maps.row(row)
            bounds += [vector_norm(earlier, q.dual) * self.begin[q] for q in Norm]
        return min(bounds)


def lipschitz_constants(graph: Graph, layers: Layers, threat: Threat) -> OutputBounds:
    """Return upper bounds on the Lipschitz constants of the output, for the changes of a threat set."""
    constants: dict[str | None, Constants] = {
        graph.input: {s: change_norm(threat, s, graph.input_size) for s in Norm}
    }
    maps: dict[str, LinearMaps] = {}
    if (scale := threat_maps(threat)) is not None:
        maps[graph.input] = scale
        changed = int(np.count_nonzero(threat.scales))
        constants[None] = {s: norm_ratio(threat.norm, s, changed) for s in Norm}
    slopes: dict[str, tuple[str, arb]] = {}
    for op in graph.ops:
        before = [slopes.get(name, (name, arb(1))) for name in op.inputs]
        of = before[0][0]
        slope = _slope(op, [s for _, s in before]) if all(name == of for name, _ in before) else None
        if slope is None:
            after = _after(op, [constants[name] for name in op.inputs], layers)
        else:
            slopes[op.output] = of, slope
            after = {s: slope * constants[of][s] for s in Norm}
        linear = maps.get(op.inputs[0], LinearMaps(op.inputs[0], None, ())).then(op)
        if linear is not None and (linear.ops or linear.scale):
            maps[op.output] = linear
            if linear.count > 1:
                begin = constants[linear.source]
                after = {t: min(after[t], *(linear.norm(s, t) * begin[s] for s in Norm)) for t in Norm}
        # ‖v‖_s <= sup ‖·‖_s/‖·‖_r ‖v‖_r: each constant may follow from another.
        constants[op.output] = {s: min(norm_ratio(r, s, op.size) * after[r] for r in Norm) for s in Norm}
    last = maps.get(graph.output)
    return OutputBounds(constants[graph.output], last, {} if last is None else constants[last.source])


def _slope(op: Op, before: list[arb]) -> arb | None:
    """Return a bound on the slope of each entry as a function of one number, from those of the inputs."""
    match op:
        case ops.Shift() | ops.Clip() | ops.Abs() | ops.Negate() | ops.Extremum():
            return largest(before)  # one of several functions, wherever: never steeper than all of them
        case ops.Scale():
            return largest(factors(op)) * before[0]
        case ops.LeakyRelu():
            return steepest(op) * before[0]
        case ops.Sum():
            return before[0] + before[1]
        case (
            ops.Dense() | ops.Conv() | ops.AveragePool() | ops.MaxPool() | ops.Sort() | ops.SortingNetwork()
            | ops.ReduceExtremum() | ops.Concat() | ops.Select() | ops.Reshape() | ops.Transpose()
        ):  # fmt: skip
            return None
        case _:
            raise missing_rule(op, "verified entrywise slopes")


def _after(op: Op, inputs: list[Constants], layers: Layers) -> Constants:
    x = inputs[0]
    match op:
        case ops.Dense() | ops.Conv():
            # A Dense acts on each of some rows alike: a block-diagonal matrix.
            blocks = math.prod(op.shape[:-1]) if isinstance(op, ops.Dense) else 1
            weight = layers[op.output]
            return {t: min(weight.norm(s, t) * norm_ratio(s, t, blocks) * x[s] for s in Norm) for t in Norm}
        case ops.AveragePool():
            return {s: average_norm(op, s) * x[s] for s in Norm}
        case ops.MaxPool():
            return {s: norm_ratio(Norm.INF, s, shared(op)) * x[s] for s in Norm}
        case ops.Extremum() | ops.Concat():
            # |max(a, b) - max(a', b')| <= max(|a - a'|, |b - b'|): no more than the two side by side
            return {s: vector_norm([c[s] for c in inputs], s) for s in Norm}
        case ops.Sum():
            return {s: inputs[0][s] + inputs[1][s] for s in Norm}
        case (
            ops.Sort() | ops.SortingNetwork() | ops.ReduceExtremum()
            | ops.Select() | ops.Reshape() | ops.Transpose()
        ):  # fmt: skip
            # Rearrangements, and sorts of disjoint entries of which some are kept
            return x
        case _:
            raise missing_rule(op, "verified Lipschitz constants")


def factors(op: ops.Scale) -> list[arb]:
    """Return the absolute factors of a Scale."""
    value = reciprocal(op.factor) if op.divide else exact(op.factor)
    return [abs(v) for v in value.balls()]


def steepest(op: ops.LeakyRelu) -> arb:
    """The largest slope, at least 1."""
    return largest([arb(1), *(abs(v) for v in exact(op.slope).balls())])


def shared(op: ops.MaxPool) -> int:
    """Return the maximum number of windows that read one entry: their maxima are those of so many copies."""
    seen = positions(op)
    return int(np.bincount(seen[seen >= 0]).max())


def average_norm(op: ops.AveragePool, norm: Norm) -> arb:
    """Rows of averaging sum to at most 1; columns to what windows share; in l2 the root of the product."""
    if norm is Norm.INF:
        return arb(1)
    seen = positions(op)
    counts = np.where(op.count_padding, seen.shape[1], (seen >= 0).sum(axis=1))
    common = math.lcm(*(int(c) for c in counts))
    shares = np.zeros(math.prod(op.window.spatial), dtype=object)
    for places, count in zip(seen, counts, strict=True):
        shares[places[places >= 0]] += common // int(count)
    columns = arb(int(shares.max())) / common
    return columns if norm is Norm.ONE else columns.sqrt()
