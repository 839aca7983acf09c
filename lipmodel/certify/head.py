"""Head of a network, for the Lipschitz constants of *differences* of scores.

Most networks end in a linear layer: score = row of weights · features + bias. Some have several
scores per class and answer the class of the largest (prototypes): a maximum over groups comes last.
Both are one :class:`Head`: raw scores, each owned by a class, linear in one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from lipmodel.network import ops
from lipmodel.network.ops import MAX_SCORES, Graph, Op
from lipmodel.network.window import Shape
from lipmodel.norms import Array, Norm, bound_pairwise_distances, bound_vector_norm, gamma, inflate, up

Indices = np.ndarray[Any, np.dtype[np.intp]]


@dataclass(frozen=True, eq=False)
class Head:
    """Raw scores = rows @ features + constant; a class's score is the largest of those it owns.

    A binary classifier [batch, 1] with score f counts as two classes with scores 0 and f; its first
    row is zeros.

    Attributes:
        body: the graph that makes the features.
        ops: the operations from features to raw scores: at most one Dense, then Scale and Shift.
        scores: the tensor of raw scores in the graph (without the 0 of a binary classifier).
        rows: (M, n) rows of weights, each off in every norm by at most γ_k times its size.
        roundings: k; 0 where the rows are the weights themselves.
        bound_size: (M, n) upper bounds whose norms are the sizes of the rows; None where these are the norms
            of the rows.
        owners: (M,) the class of each raw score; -1 where it belongs to none.
        binary: whether the graph has the one output of a binary classifier.
    """

    body: Graph
    ops: tuple[Op, ...]
    scores: str
    rows: Array = field(repr=False)
    roundings: int
    owners: Indices
    binary: bool
    bound_size: Array | None = field(default=None, repr=False)

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return int(self.owners.max()) + 1

    @cached_property
    def _one_each(self) -> bool:
        return np.array_equal(self.owners, np.arange(self.classes))

    def row_norms(self, norm: Norm) -> Array:
        """Return (M,) upper bounds on the norm of each exact row."""
        norms = bound_vector_norm(self.rows, norm, axis=1)
        if self.bound_size is None:
            return np.asarray(inflate(norms, self.roundings))
        return np.asarray(up(norms + self._row_errors(norm)))

    def row_sizes(self, norm: Norm) -> Array:
        """Return (M,) upper bounds on the norm of each row of ``bound_size``, or else of ``rows``; cached."""
        if norm not in self._sizes:
            sizes = self.rows if self.bound_size is None else self.bound_size
            self._sizes[norm] = bound_vector_norm(sizes, norm, axis=1)
        return self._sizes[norm]

    def _row_errors(self, norm: Norm) -> Array:
        """Return (M,) upper bounds on the norm of each row's error."""
        sizes = self.row_norms(norm) if self.bound_size is None else self.row_sizes(norm)
        return np.asarray(inflate(gamma(self.roundings) * sizes, 2))

    def distances(self, norm: Norm) -> Array:
        """Return (M, M) upper bounds on the norm of each difference of two exact rows; cached."""
        if norm not in self._distances:
            distances = bound_pairwise_distances(self.rows, norm)
            if self.roundings:
                rounding_slack = self._row_errors(norm)
                distances = up(distances + up(rounding_slack[:, None] + rounding_slack[None, :]))
            self._distances[norm] = distances
        return self._distances[norm]

    _distances: dict[Norm, Array] = field(default_factory=dict, repr=False)
    _sizes: dict[Norm, Array] = field(default_factory=dict, repr=False)

    def raw_scores(self, computed: Array) -> Array:
        """Return raw scores (N, M) from the tensor ``scores``: the 0 of a binary classifier in front."""
        flat = computed.reshape(len(computed), -1)
        return np.hstack([np.zeros((len(flat), 1)), flat]) if self.binary else flat

    def best(self, raw: Array) -> Indices:
        """Return (N,) the index of the largest raw score that a class owns, the first of equals."""
        return np.asarray(np.where(self.owners >= 0, raw, -np.inf).argmax(axis=1), dtype=np.intp)

    def class_scores(self, raw: Array) -> Array:
        """Return (N, K) the largest raw score of each class."""
        if self._one_each:
            return raw
        return np.stack([raw[:, self.owners == k].max(axis=1) for k in range(self.classes)], axis=1)

    def output(self, raw: Array) -> Array:
        """Return the class scores as the graph gives them: (N, K), or (N, 1) of a binary classifier."""
        scores = self.class_scores(raw)
        return scores[:, 1:] if self.binary else scores


@dataclass(frozen=True, eq=False)
class FeatureBound:
    """Lipschitz constant of the features in a norm s, and thereby of scores and their differences.

    Attributes:
        head: head with rows in the coordinates in which features are measured.
        norm: s.
        constant: L_s, never below ‖t(x) - t(x')‖_s / ‖x - x'‖_p.
    """

    head: Head
    norm: Norm
    constant: float

    def bound_scores(self) -> Array:
        """Return (M,) upper bounds on the Lipschitz constant of each raw score, ‖w_i‖_{s*} L_s."""
        return np.asarray(up(self.head.row_norms(self.norm.dual) * self.constant))

    def bound_pairs(self) -> Array:
        """Return (M, M) upper bounds on the constants of differences of raw scores, ‖w_i - w_j‖_{s*} L_s."""
        return np.asarray(up(self.head.distances(self.norm.dual) * self.constant))

    def bound_mixtures(self, targets: Indices, weights: Array, competitors: Indices) -> Array:
        """Return (J,) upper bounds on the constants of Σ λ_i F_i - F_j, with weights λ (J, I)."""
        head, dual = self.head, self.norm.dual
        rows = weights @ head.rows[targets] - head.rows[competitors]
        # Off by at most γ_k of Σ λ_i |w_i| + |w_j|; in norm, of that of their norms.
        sizes = head.row_sizes(dual)
        roundings = len(targets) + 2 + head.roundings
        rounding_slack = inflate(
            gamma(roundings) * (weights @ sizes[targets] + sizes[competitors]), len(targets) + 3
        )
        return np.asarray(up(up(bound_vector_norm(rows, dual, axis=1) + rounding_slack) * self.constant))


@lru_cache(maxsize=4)  # bounds in several norms and formats ask for the head of the same graph
def linear_head(graph: Graph) -> Head:
    """Return the head of a graph: from the output back over a maximum, then over Scale and Shift to a Dense.

    A graph that does not end so has the identity for its rows: still sound, less tight.
    """
    made = {op.output: op for op in graph.ops}
    consumers = graph.consumers()
    scores, owners = _before_the_maximum(graph, made)
    name, taken = scores, []
    size = owners.size
    factors, roundings, rows = np.ones(size), 0, np.eye(size)
    while (op := made.get(name)) is not None and len(op.shape) == 1:
        if name != scores and len(consumers[name]) > 1:
            break
        if isinstance(op, ops.Scale):
            with np.errstate(over="ignore", under="ignore"):
                product = factors / op.factor if op.divide else factors * op.factor
            # Within this range nothing was lost to underflow; beyond it the head begins after this
            # operation, which is then bounded like any other.
            zero = (factors == 0.0) | ((op.factor == 0.0) & (not op.divide))
            if not (zero | ((np.abs(product) > 2.0**-400) & (np.abs(product) < 2.0**400))).all():
                break
            factors, roundings = product, roundings + 1
        elif isinstance(op, ops.Dense):
            rows, roundings = op.weight, roundings + (1 if roundings else 0)
        elif not isinstance(op, ops.Shift):
            break
        taken.append(op)
        name = op.inputs[0]
        if isinstance(op, ops.Dense):
            break
    rows = factors[:, None] * rows
    owners = owners.ravel()
    binary = graph.output_shape == (1,)
    if binary:
        rows = np.vstack([np.zeros((1, rows.shape[1])), rows])
        owners = np.concatenate([[0], np.where(owners == 0, 1, -1)]).astype(np.intp)
    return Head(
        body=replace(graph, output=name).pruned(),
        ops=tuple(reversed(taken)),
        scores=scores,
        rows=rows,
        roundings=roundings,
        owners=owners,
        binary=binary,
    )


def _before_the_maximum(graph: Graph, made: dict[str, Op]) -> tuple[str, Indices]:
    """Return the tensor of raw scores, and an array of its shape with the class that owns each.

    Follows the output back through reshapes and transposes to one maximum over groups (ReduceMax, a
    TopK of one, or Max of slices) and through reshapes and transposes again to a tensor of one axis.
    Where there is no such maximum, the raw scores are the class scores.
    """
    shapes = graph.shapes()
    name, owners, maxima = graph.output, np.arange(graph.output_shape[0], dtype=np.intp), 0
    while (op := made.get(name)) is not None:
        before = shapes[op.inputs[0]]
        if isinstance(op, ops.Reshape):
            owners = owners.reshape(before)
        elif isinstance(op, ops.Transpose):
            owners = owners.transpose(np.argsort(op.permutation))
        elif isinstance(op, ops.ReduceExtremum) and op.kind == "max":
            kept = tuple(1 if axis in op.axes else d for axis, d in enumerate(before))
            owners = np.broadcast_to(owners.reshape(kept), before)
            maxima += 1
        elif isinstance(op, ops.Sort) and op.k == 1 and op.largest:
            owners = np.broadcast_to(owners, before)
            maxima += 1
        elif isinstance(op, ops.Extremum) and (joined := _slices(op, owners, made, shapes)):
            name, owners = joined
            maxima += 1
            continue
        else:
            break
        name = op.inputs[0]
    if not maxima or owners.ndim != 1 or owners.size > MAX_SCORES:
        return graph.output, np.arange(graph.output_shape[0], dtype=np.intp)
    return name, owners


def _slices(
    op: ops.Extremum, owners: Indices, made: dict[str, Op], shapes: dict[str, Shape]
) -> tuple[str, Indices] | None:
    """Return the tensor whose disjoint slices a maximum is over, and the owners of its entries, or None."""
    if op.kind != "max":
        return None
    slices = [made.get(name) for name in op.inputs]
    selects = [s for s in slices if isinstance(s, ops.Select)]
    if len(selects) != len(slices) or len({(s.inputs, s.axis) for s in selects}) != 1:
        return None
    if not ops.distinct(i for s in selects for i in s.indices):
        return None
    source, axis = selects[0].inputs[0], selects[0].axis
    spread = np.full(shapes[source], -1, dtype=np.intp)
    for select in selects:
        spread[(slice(None),) * axis + (list(select.indices),)] = owners
    return source, spread
