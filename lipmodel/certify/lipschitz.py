"""Sound upper bounds on the Lipschitz constants of scores and of differences of scores.

For a threat set (norm p, scale s, ``threat.py``) each tensor t carries, for every norm q in {1, 2, inf}, a
number L_q with

    ‖t(x) - t(x')‖_q <= L_q ‖u‖_p    for all inputs x and x' = x + s∘u.

An operation turns the three numbers of its inputs into three of its output, each the least over
the norms it may be reached from; so the best "working norm" is found by itself, layer by layer.
Linear maps in a row count as one (``linear_runs.py``).
The last linear layer is kept apart: the constant of f_i - f_j is ‖w_i - w_j‖_{s*} L_s, not twice
the constant of a score. Anil, Lucas, Grosse 2019; Tsuzuku, Sato, Sugiyama 2018 (margins).

All arithmetic rounds upwards, from the verified norms of ``lipmodel.norms``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from lipmodel.certify.head import FeatureBound, Head, linear_head
from lipmodel.certify.linear_runs import LinearRun, bound_change, follow, threat_run
from lipmodel.certify.norms.layers import bound_norm, observed_least_norm
from lipmodel.certify.scaling.bound import ScaledBound, find_scaled_bound
from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op, missing_rule
from lipmodel.norms import (
    Array,
    Norm,
    bound_equivalence,
    bound_vector_norm,
    inflate,
    up,
)
from lipmodel.threat import Threat, as_threat

Constants = Mapping[Norm, float]
"""A bound L_s for each norm s of a tensor."""


@dataclass(frozen=True)
class LayerBound:
    """Operator norm of one operation with weights.

    Attributes:
        node: its name in the file.
        bound: its operator norm, from the norm of the input for those that read it, else within l2
            (linf where the input is measured in linf).
        unevenness: ratio of that norm to the average effect of the operation: ‖W‖_2 over the
            root mean square of its singular values, or the largest row sum over the mean one. 1 loses
            nothing; the layer where it is largest is the one to train or constrain better.
    """

    node: str
    bound: float
    unevenness: float


@dataclass(frozen=True)
class Entrywise:
    """A tensor whose entry i is a function of entry i of another alone: t_i = g_i(source_i).

    Such a tensor is slope-Lipschitz in the other in every l_s, whatever the functions.

    Attributes:
        source: name of the other.
        slope: |g_i(u) - g_i(v)| <= slope |u - v| for all i.
    """

    source: str
    slope: float


@dataclass(frozen=True, eq=False)
class LipschitzBounds:
    """Proved Lipschitz constants of one graph for one threat set.

    Attributes:
        threat: the threat set.
        bound_global: no score moves by more than this times the size of a change.
        head: where the scores come from.
        feature_bounds: Lipschitz constant of the features, in each norm that is of use.
        scaled_bound: source of the last feature bound, where that is in a scaled norm.
        layers: operator norm of each operation with weights, in order.
    """

    threat: Threat
    bound_global: float
    head: Head
    feature_bounds: tuple[FeatureBound, ...]
    scaled_bound: ScaledBound | None
    layers: tuple[LayerBound, ...]

    @cached_property
    @np.errstate(over="ignore", invalid="ignore")
    def bound_per_score_pair(self) -> Array:
        """Return (M, M) the constant of each difference of raw scores (``head.py``); zero diagonal."""
        # |<row, t(x) - t(x')>| <= ‖row‖_{s*} L_s ‖x - x'‖_p, whichever s is best.
        pairs = np.min([feature_bound.bound_pairs() for feature_bound in self.feature_bounds], axis=0)
        np.fill_diagonal(pairs, 0.0)
        return np.asarray(pairs)

    @cached_property
    def bound_per_pair(self) -> Array:
        """Return (K, K) the constant of each difference of class scores; symmetric, zero diagonal.

        That of a difference of maxima is at most the largest of its pairs. A binary classifier [batch, 1]
        counts as two classes with scores 0 and f.
        """
        pairs, owners, classes = self.bound_per_score_pair, self.head.owners, range(self.head.classes)
        if np.array_equal(owners, np.arange(len(owners))):
            return pairs
        rows = [pairs[owners == i].max(axis=0) for i in classes]
        return np.array([[rows[i][owners == j].max() if i != j else 0.0 for j in classes] for i in classes])


@np.errstate(over="ignore", invalid="ignore")  # an infinite bound is a bound: nothing is certified with it
def bound_lipschitz(graph: Graph, threat: Threat | Norm) -> LipschitzBounds:
    """Return bounds on the Lipschitz constants of scores and of their differences, for a threat set."""
    threat = as_threat(threat)
    head, norm = linear_head(graph), threat.norm
    constants, runs = _tensors(head.body, threat)
    layers: list[LayerBound] = []
    for op in (*head.body.ops, *head.ops):
        if isinstance(op, ops.Dense | ops.Conv | ops.Scale):
            source = norm if op.inputs[0] == graph.input else _working(norm)
            bound = _bound_linear(op, source, _working(norm))
            layers.append(LayerBound(op.node or op.output, bound, _unevenness(op, norm)))
    before = constants[head.body.output]
    feature_bounds = [FeatureBound(head, s, before[s]) for s in useful_norms(before, head.rows.shape[1])]
    run = runs.get(head.body.output)
    if run is not None and run.maps:  # the scores are linear in an earlier tensor
        begin = constants[run.source]
        feature_bounds += run.feature_bounds(head, begin, useful_norms(begin, run.weight.shape[-1]))
    scaled_bound = None
    if found := find_scaled_bound(head, constants, feature_bounds):
        scaled_bound, scaled = found
        feature_bounds.append(scaled)
    scores = np.min([feature_bound.bound_scores() for feature_bound in feature_bounds], axis=0)
    return LipschitzBounds(
        threat=threat,
        bound_global=float(scores[head.owners >= 0].max()),
        head=head,
        feature_bounds=tuple(feature_bounds),
        scaled_bound=scaled_bound,
        layers=tuple(layers),
    )


def bound_tensors(graph: Graph, threat: Threat | Norm) -> dict[str | None, Constants]:
    """Return the constants of every tensor of a graph, by name, and of the change u by the name None."""
    return _tensors(graph, as_threat(threat))[0]


def _tensors(graph: Graph, threat: Threat) -> tuple[dict[str | None, Constants], dict[str, LinearRun]]:
    """Return the constants of :func:`bound_tensors`, and the run of linear maps that makes each tensor."""
    constants: dict[str | None, Constants] = {
        graph.input: {s: bound_change(threat, s, graph.input_size) for s in Norm}
    }
    runs: dict[str, LinearRun] = {}
    if (run := threat_run(threat)) is not None:
        runs[graph.input] = run
        constants[None] = {s: bound_equivalence(threat.norm, s, len(run.weight)) for s in Norm}
    entrywise: dict[str, Entrywise] = {}
    for op in graph.ops:
        function = _entrywise(op, [entrywise.get(name, Entrywise(name, 1.0)) for name in op.inputs])
        if function is None:
            after = _propagate(op, [constants[name] for name in op.inputs])
        else:
            entrywise[op.output] = function
            after = {s: _times(function.slope, constants[function.source][s]) for s in Norm}
        before = runs.get(op.inputs[0])
        run = follow(before, op) or follow(None, op)
        if run is not None:
            runs[op.output] = run
            if run.maps > 1:
                after = _least_over_norms(
                    run.bound, run.observed_least, constants[run.source], after, op.size
                )
        constants[op.output] = _tighten(after, op.size)
    return constants, runs


def useful_norms(constants: Constants, size: int) -> list[Norm]:
    """Return the norms s that can attain the minimum over s of ‖row‖_{s*} L_s, for rows of a size.

    ‖row‖_{s*} is least for s = 1 and largest for s = inf, so a norm whose constant is no better than
    the next is left out.
    """
    return [
        s
        for s in Norm
        if s is Norm.TWO
        or constants[s] < constants[Norm.TWO] * bound_equivalence(Norm.TWO, s, size) * (1 - 1e-9)
    ]


def _unevenness(op: ops.Dense | ops.Conv | ops.Scale, norm: Norm) -> float:
    """See :class:`LayerBound`; a plain number for people, part of no proof."""
    if isinstance(op, ops.Scale):
        factor = np.abs(1.0 / op.factor if op.divide else op.factor)
        return float(factor.max() / factor.mean()) if factor.any() else 1.0
    rows = op.weight if isinstance(op, ops.Dense) else op.kernel.reshape(len(op.kernel), -1)
    if not rows.any():
        return 1.0
    if norm is Norm.INF:
        sums = np.abs(rows).sum(axis=1)
        return float(sums.max() / sums.mean())
    largest = bound_norm(op, Norm.TWO, Norm.TWO) if isinstance(op, ops.Dense) else np.linalg.norm(rows, 2)
    with np.errstate(divide="ignore"):  # the squares of tiny weights underflow
        return float(largest / np.linalg.norm(rows) * min(rows.shape) ** 0.5)


def _working(norm: Norm) -> Norm:
    """Return the norm that layers after the first are usually bounded in: inf for inf, else 2."""
    return Norm.INF if norm is Norm.INF else Norm.TWO


def _entrywise(op: Op, inputs: list[Entrywise]) -> Entrywise | None:
    """Return the output as entrywise functions of one tensor, or None.

    Functions of one number that are joined again count by their slopes: the maximum of several is as
    steep as the steepest, where a Concat of as many tensors would count them all.
    """
    source, slope = inputs[0].source, inputs[0].slope
    if any(each.source != source for each in inputs):
        return None
    match op:
        case ops.Shift() | ops.Clip() | ops.Abs() | ops.Negate():
            return inputs[0]  # slopes of at most 1, of Clip also where its ends are the wrong way round
        case ops.LeakyRelu():
            return Entrywise(source, _times(slope, max(1.0, float(np.abs(op.slope).max()))))
        case ops.Scale():
            return Entrywise(source, _times(slope, _bound_linear(op, Norm.INF, Norm.INF)))
        case ops.Extremum():
            # max_k g_k(u) <= max_k (g_k(v) + slope_k |u - v|) <= max_k g_k(v) + max_k slope_k |u - v|
            return Entrywise(source, max(each.slope for each in inputs))
        case ops.Sum():
            return Entrywise(source, float(up(slope + inputs[1].slope)))
        case (
            ops.Dense() | ops.Conv() | ops.AveragePool() | ops.MaxPool() | ops.Sort() | ops.SortingNetwork()
            | ops.ReduceExtremum() | ops.Concat() | ops.Select() | ops.Reshape() | ops.Transpose()
        ):  # fmt: skip
            return None
        case _:
            raise missing_rule(op, "entrywise slopes")


def _propagate(op: Op, inputs: list[Constants]) -> Constants:
    """Return the three constants of an operation's output from those of its inputs, unless entrywise."""
    match op:
        case ops.Dense() | ops.Conv():
            return _through(op, inputs[0])
        case ops.AveragePool():
            return {s: _times(bound_average(op, s), inputs[0][s]) for s in Norm}
        case ops.MaxPool():
            # As many times as windows may share an entry: their maxima side by side, ‖·‖_s of m copies.
            copies = op.window.readers.shape[1]
            return {s: _times(bound_equivalence(Norm.INF, s, copies), inputs[0][s]) for s in Norm}
        case ops.Extremum() | ops.Concat():
            # |max(a, b) - max(a', b')| <= max(|a - a'|, |b - b'|) entrywise, as a Concat at worst
            return {s: _joined(s, [constants[s] for constants in inputs]) for s in Norm}
        case ops.Sum():
            return {s: float(up(inputs[0][s] + inputs[1][s])) for s in Norm}
        case (
            ops.Sort() | ops.SortingNetwork() | ops.ReduceExtremum()
            | ops.Select() | ops.Reshape() | ops.Transpose()
        ):  # fmt: skip
            # 1-Lipschitz in every l_s: rearrangements; and sorting, of which keeping some entries is a
            # projection. Select takes each entry at most once.
            return inputs[0]
        case _:
            raise missing_rule(op, "Lipschitz constants")


def _through(op: ops.Dense | ops.Conv, before: Constants) -> Constants:
    """Return the three constants after a linear operation, each from the best of the three before."""

    def observed_least(source: Norm, target: Norm) -> float:
        return observed_least_norm(op, source, target) if isinstance(op, ops.Dense) else 0.0

    def bound(source: Norm, target: Norm) -> float:
        return _bound_linear(op, source, target)

    return _least_over_norms(bound, observed_least, before, dict.fromkeys(Norm, math.inf), op.size)


def _least_over_norms(
    bound: Callable[[Norm, Norm], float],
    observed_least: Callable[[Norm, Norm], float],
    before: Constants,
    after: Constants,
    size: int,
) -> Constants:
    """Return the constants after a linear map, each from the best of the three before or those known already.

    Norms with a closed form come first. The rest may take a spectral norm, in time that grows with the third
    power of the width; a network whose rows are bounded for linf does not need it. So a bound is found only
    where the least that it can come to would gain.

    Args:
        bound: upper bound on the norm of the map, by norms of its input and output.
        observed_least: about the least that ``bound`` can be.
        before: constants of the input of the map.
        after: constants of its output that are known already.
        size: size of the output.
    """
    result = dict(after)
    closed_first = sorted(product(Norm, Norm), key=lambda st: st[0] is not Norm.ONE and st[1] is not Norm.INF)
    for s, t in closed_first:
        if _times(observed_least(s, t), before[s]) < _tighten(result, size)[t]:
            result[t] = min(result[t], _times(bound(s, t), before[s]))
    return result


def _bound_linear(op: ops.Dense | ops.Conv | ops.Scale, source: Norm, target: Norm) -> float:
    """Return a bound on the operator norm source→target; a Dense may act on many rows at once."""
    if isinstance(op, ops.Scale):
        factor = inflate(1.0 / np.abs(op.factor).min(), 1) if op.divide else np.abs(op.factor).max()
        return _times(float(factor), bound_equivalence(source, target, op.size))
    if isinstance(op, ops.Conv):
        return bound_norm(op, source, target)
    # A block-diagonal matrix of r equal blocks: r^(1/t - 1/s) for t < s, else 1 (as for vectors of size r).
    blocks = math.prod(op.shape[:-1])
    return _times(bound_norm(op, source, target), bound_equivalence(source, target, blocks))


def bound_average(op: ops.AveragePool, norm: Norm) -> float:
    """Return a bound on the operator norm of averaging: rows sum to at most 1, columns to shared windows."""
    shares = np.append(1.0 / np.repeat(op.counts, op.window.taps), 0.0)
    columns = float(inflate(shares[op.window.readers].sum(axis=1).max(), op.window.readers.shape[1] + 1))
    return {Norm.INF: 1.0, Norm.ONE: columns, Norm.TWO: float(up(np.sqrt(columns)))}[norm]


def _joined(norm: Norm, constants: list[float]) -> float:
    return float(bound_vector_norm(np.asarray(constants), norm))


def _tighten(constants: Constants, size: int) -> Constants:
    """Return constants, each at most as implied by another: ‖v‖_s <= equivalence(r, s) ‖v‖_r."""
    return {s: min(_times(bound_equivalence(r, s, size), constants[r]) for r in Norm) for s in Norm}


def _times(a: float, b: float) -> float:
    """Return a product rounded upwards; exact where a factor is 0 (even if the other overflowed) or 1."""
    if a == 0.0 or b == 0.0:
        return 0.0
    return a * b if a == 1.0 or b == 1.0 else float(up(a * b))
