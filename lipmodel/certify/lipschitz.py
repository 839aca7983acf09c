"""From a graph and a norm to sound upper bounds on how fast scores, and differences of scores, move.

For a threat norm p each tensor t carries, for every norm s in {1, 2, inf}, a number L_s with

    ‖t(x) - t(x')‖_s <= L_s ‖x - x'‖_p    for all inputs x, x'.

An operation turns the three numbers of its inputs into three of its output, each the least over
the norms it may be reached from; so the best "working norm" is found by itself, layer by layer.
The last linear layer is kept apart: the constant of f_i - f_j is ‖w_i - w_j‖_{s*} L_s, not twice
the constant of a score. Anil, Lucas, Grosse 2019; Tsuzuku, Sato, Sugiyama 2018 (margins).

All arithmetic rounds upwards, from the verified norms of ``lipmodel.norms``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lipmodel.certify import ops
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

Constants = Mapping[Norm, float]
"""A bound L_s for each norm s of a tensor."""


@dataclass(frozen=True, eq=False)
class LipschitzBounds:
    """What is proved of one graph in one norm.

    Attributes:
        norm: the norm p of the input.
        bound_global: no score moves by more than this times the l_p size of a change.
        bound_per_pair: (K, K), symmetric, zero diagonal: the same of each difference of scores.
            A binary classifier [batch, 1] counts as two classes with scores 0 and f.
        bound_layers: for each operation with weights, its name and its own operator norm, p→2 or
            p→inf for those that read the input and within l2 or linf for the rest.
    """

    norm: Norm
    bound_global: float
    bound_per_pair: Array
    bound_layers: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class Head:
    """The linear end of a graph: scores = rows @ tensor + constant.

    Attributes:
        tensor: name of the tensor the linear part reads.
        rows: (K, n), each entry within ``roundings`` relative roundings of the exact one.
        roundings: 0 where the rows are the weights themselves.
        ops: the operations of the linear part, in order: at most one Dense, then Scale and Shift.
    """

    tensor: str
    rows: Array
    roundings: int
    ops: tuple[Op, ...]

    def bound_rows(self) -> Array:
        """(K, n): never below the magnitude of each exact entry."""
        return np.asarray(inflate(np.abs(self.rows), self.roundings))

    def bound_differences(self, i: int) -> Array:
        """(K, n): never below the magnitude of each entry of the exact row i minus each other row."""
        difference = inflate(np.abs(self.rows[i] - self.rows), 1)
        if not self.roundings:
            return np.asarray(difference)
        magnitudes = np.abs(self.rows[i]) + np.abs(self.rows)
        return np.asarray(up(difference + inflate(gamma(self.roundings) * magnitudes, 4)))


def linear_head(graph: Graph) -> Head:
    """Walks back from the scores over Scale and Shift to a Dense, where there is one.

    A graph that does not end so has the identity for its rows: still sound, less tight. Of a binary
    classifier [batch, 1] the rows are two, 0 and the one there is: scores 0 and f.
    """
    made = {op.output: op for op in graph.ops}
    consumers = graph.consumers()
    name, taken = graph.output, []
    factors, roundings = np.ones(graph.output_shape[0]), 0
    rows = np.eye(len(factors))
    while (op := made.get(name)) is not None and (name == graph.output or len(consumers[name]) == 1):
        if isinstance(op, ops.Scale):
            factors = factors / op.factor if op.divide else factors * op.factor
            roundings += 1
        elif isinstance(op, ops.Dense) and len(op.shape) == 1:
            rows, roundings = op.weight, roundings + (1 if roundings else 0)
        elif not isinstance(op, ops.Shift):
            break
        taken.append(op)
        name = op.inputs[0]
        if isinstance(op, ops.Dense):
            break
    rows = factors[:, None] * rows
    if len(rows) == 1:
        rows = np.vstack([np.zeros_like(rows), rows])
    return Head(name, rows, roundings, tuple(reversed(taken)))


def bound_lipschitz(graph: Graph, norm: Norm) -> LipschitzBounds:
    """Bounds the Lipschitz constants of the scores and of their differences, in the norm given."""
    head = linear_head(graph)
    tail = {op.output for op in head.ops}
    constants: dict[str, Constants] = {
        graph.input: {s: bound_equivalence(norm, s, graph.input_size) for s in Norm}
    }
    layers: list[tuple[str, float]] = []
    for op in graph.ops:
        if isinstance(op, ops.Dense | ops.Scale):
            source = norm if op.inputs[0] == graph.input else _working(norm)
            layers.append((op.node or op.output, _bound_linear(op, source, _working(norm))))
        if op.output not in tail:
            constants[op.output] = _tighten(_propagate(op, [constants[i] for i in op.inputs]), op.size)
    before = constants[head.tensor]
    pairs = np.stack([_bound_functionals(head.bound_differences(i), before) for i in range(len(head.rows))])
    np.fill_diagonal(pairs, 0.0)
    return LipschitzBounds(
        norm=norm,
        bound_global=float(_bound_functionals(head.bound_rows(), before).max()),
        bound_per_pair=np.maximum(pairs, pairs.T),
        bound_layers=tuple(layers),
    )


def _working(norm: Norm) -> Norm:
    """The norm that layers after the first are usually bounded in: inf for inf, else 2."""
    return Norm.INF if norm is Norm.INF else Norm.TWO


def _bound_functionals(rows: Array, before: Constants) -> Array:
    """Of each linear functional |<row, t>|: the least of ‖row‖_{s*} L_s over s."""
    each = [up(bound_vector_norm(rows, s.dual, axis=1) * before[s]) for s in Norm]
    return np.asarray(np.min(each, axis=0))


def _propagate(op: Op, inputs: list[Constants]) -> Constants:
    """The three constants of an operation's output from those of its inputs."""
    match op:
        case ops.Dense():
            return {t: min(_times(_bound_linear(op, s, t), inputs[0][s]) for s in Norm) for t in Norm}
        case ops.Scale():
            return {s: _times(_bound_linear(op, s, s), inputs[0][s]) for s in Norm}
        case ops.Extremum() | ops.Concat():
            # |max(a, b) - max(a', b')| <= max(|a - a'|, |b - b'|) entrywise, as a Concat at worst
            return {s: _joined(s, [constants[s] for constants in inputs]) for s in Norm}
        case ops.Sum():
            return {s: float(up(inputs[0][s] + inputs[1][s])) for s in Norm}
        case (
            ops.Shift() | ops.Clip() | ops.Abs() | ops.Negate() | ops.Sort() | ops.SortingNetwork()
            | ops.ReduceExtremum() | ops.Select() | ops.Reshape() | ops.Transpose()
        ):  # fmt: skip
            # 1-Lipschitz in every l_s: entrywise 1-Lipschitz maps; rearrangements; and sorting, of
            # which keeping some entries is a projection. Select takes each entry at most once.
            return inputs[0]
        case _:
            raise NotImplementedError(f"no Lipschitz bound is given for {type(op).__name__}")


def _bound_linear(op: ops.Dense | ops.Scale, source: Norm, target: Norm) -> float:
    """Operator norm source→target of a Scale, or of a Dense, which may act on many rows at once."""
    if isinstance(op, ops.Scale):
        factor = inflate(1.0 / np.abs(op.factor).min(), 1) if op.divide else np.abs(op.factor).max()
        return _times(float(factor), bound_equivalence(source, target, op.size))
    # A block-diagonal matrix of r equal blocks: r^(1/t - 1/s) for t < s, else 1 (as for vectors of size r).
    blocks = math.prod(op.shape[:-1])
    return _times(op.bound_norm(source, target), bound_equivalence(source, target, blocks))


def _joined(norm: Norm, constants: list[float]) -> float:
    return float(bound_vector_norm(np.asarray(constants), norm))


def _tighten(constants: Constants, size: int) -> Constants:
    """Lets each constant follow from another: ‖v‖_s <= equivalence(r, s) ‖v‖_r."""
    return {s: min(_times(bound_equivalence(r, s, size), constants[r]) for r in Norm) for s in Norm}


def _times(a: float, b: float) -> float:
    """A product rounded upwards; exact where a factor is 1."""
    return a * b if a == 1.0 or b == 1.0 else float(up(a * b))
