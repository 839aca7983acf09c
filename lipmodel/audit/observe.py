"""Observe gradient norms of a network at given points, and slopes between pairs of points.

A gradient norm is a lower bound on the true Lipschitz constant up to its rounding error, which
:func:`bound_gradient_error` bounds, and except at kinks, where each operation by itself uses the derivative
of one adjoining linear piece. A slope between two points has no such exception: less the rounding error of
the scores, it is a lower bound on the true constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from lipmodel.audit.findings import BINS
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.lipschitz import bound_lipschitz
from lipmodel.certify.rounding import RoundingBounds
from lipmodel.network import ops
from lipmodel.network.ops import Graph, missing_rule
from lipmodel.norms import Array, Norm, bound_vector_norm, down, gamma, up, vector_norm

CHUNK_ROWS = 256
BLOCK_ROWS = 32  # points of one block maximum
FULL = 0.99  # a gradient norm of at least this share of its bound counts as full
MAX_CLASSES_FOR_ALL_PAIRS = 20


@dataclass(frozen=True, eq=False)
class Functionals:
    """The scalar functions audited: each score f_i, then each difference f_i - f_j of two scores.

    Attributes:
        cotangents: (F, K) rows v of <v, f>.
        pairs: (i, None) for score i, (i, j) for a difference, per functional.
    """

    cotangents: Array
    pairs: tuple[tuple[int, int | None], ...]


def functionals(graph: Graph) -> Functionals:
    """Return all scores and all pairs; past 20 classes, only the pairs of neighbouring indices.

    A binary classifier [batch, 1] has one functional: f, the difference of its two classes.
    """
    count = graph.output_shape[0]
    eye = np.eye(count)
    neighbours = [(i, (i + 1) % count) for i in range(count)]
    pairs = list(combinations(range(count), 2)) if count <= MAX_CLASSES_FOR_ALL_PAIRS else neighbours
    rows = [*eye, *(eye[i] - eye[j] for i, j in pairs)] if count > 1 else [*eye]
    named: list[tuple[int, int | None]] = [(i, None) for i in range(count)]
    return Functionals(np.stack(rows), (*named, *pairs) if count > 1 else tuple(named))


class Observations:
    """Statistics of every functional over points; memory does not grow with the data.

    Attributes:
        limits: (F,) certified bounds of gradient norms.
        largest: (F,) largest gradient norm.
        witness: (F, d) point of the largest gradient norm.
        point: (F,) index of that point.
        least: (F,) smallest ratio of gradient norm to bound.
        counts: (F, BINS) points by ratio; ratios above 1 count in the last bin.
        full: (F,) number of points with a ratio of at least 0.99.
        slopes: (F,) largest slope between two points.
        maxima: (F,) largest gradient norm of each block of 32 random points.
        points: number of points.
        outside: number of inputs far outside the input box in the file's metadata.
    """

    def __init__(self, limits: Array, input_size: int) -> None:
        self.limits, count = limits, len(limits)
        self.largest, self.least = np.full(count, -np.inf), np.full(count, np.inf)
        self.witness = np.zeros((count, input_size))
        self.point, self.full = np.zeros(count, dtype=np.intp), np.zeros(count, dtype=np.intp)
        self.counts = np.zeros((count, BINS), dtype=np.int64)
        self.slopes = np.zeros(count)
        self.maxima: list[Array] = []
        self.points = self.outside = 0

    def add(self, first: int, points: Array, norms: Array, *, drawn: bool) -> None:
        """Add points.

        Args:
            first: index of the first point.
            points: (n, d).
            norms: (n, F) gradient norms.
            drawn: true for random points, whose block maxima are kept.
        """
        best = norms.argmax(axis=0)
        here = norms[best, np.arange(norms.shape[1])]
        higher = here > self.largest
        self.largest[higher] = here[higher]
        self.witness[higher] = points[best[higher]]
        self.point[higher] = first + best[higher]
        ratios = self.ratios(norms)
        self.least = np.minimum(self.least, ratios.min(axis=0))
        self.full += (ratios >= FULL).sum(axis=0)
        bins = np.clip((ratios * BINS).astype(np.intp), 0, BINS - 1)
        for index in range(len(self.counts)):
            self.counts[index] += np.bincount(bins[:, index], minlength=BINS)
        if drawn:
            for start in range(0, len(points) - BLOCK_ROWS + 1, BLOCK_ROWS):
                self.maxima.append(norms[start : start + BLOCK_ROWS].max(axis=0))
        self.points += len(points)

    def merge(self, later: Observations) -> None:
        """Add the observations of the points that follow, as if :meth:`add` had seen them."""
        higher = later.largest > self.largest
        for name in ("largest", "witness", "point"):
            getattr(self, name)[higher] = getattr(later, name)[higher]
        self.least = np.minimum(self.least, later.least)
        self.slopes = np.maximum(self.slopes, later.slopes)
        self.full += later.full
        self.counts += later.counts
        self.maxima += later.maxima
        self.points += later.points
        self.outside += later.outside

    def ratios(self, norms: Array) -> Array:
        """Return gradient norms / bounds; 0 where the bound is 0."""
        return np.divide(norms, self.limits, out=np.zeros_like(norms), where=self.limits > 0)


def gradient_norms(
    engine: GradientEngine, functions: Functionals, points: Array, norm: Norm
) -> tuple[Array, Array]:
    """Return scores (n, K) and dual norms (n, F) of the gradients of every functional, at points (n, d).

    The gradient of a difference is the difference of gradients, so each point takes one forward pass and K
    backward passes.
    """
    step = max(1, min(engine.rows, CHUNK_ROWS) // engine.graph.output_shape[0])
    scores, norms = [], []
    for start in range(0, len(points), step):
        found, gradients = engine.jacobians(points[start : start + step])
        scores.append(found)
        sizes = [
            vector_norm(gradients[:, i] if j is None else gradients[:, i] - gradients[:, j], norm.dual)
            for i, j in functions.pairs
        ]
        norms.append(np.stack(sizes, axis=1))
    return np.concatenate(scores), np.concatenate(norms)


@dataclass(frozen=True, eq=False)
class Steps:
    """Pairs of points, with the scores at both.

    Attributes:
        first, second: (n, d).
        scores: (n, K) at the first points and at the second.
    """

    first: Array
    second: Array
    scores: tuple[Array, Array]


def observed_slopes(steps: Steps, cotangents: Array, rounding: RoundingBounds, norm: Norm) -> Array:
    """Return slopes (n, F): |f(x) - f(x')| / ‖x - x'‖_p of each functional <v, f>, one score or a difference.

    A bound on the rounding error is subtracted and every operation rounded down, so that the true Lipschitz
    constant is never below the slope. 0 where the two points are equal.
    """
    before, after = steps.scores
    moved = (before - after) @ cotangents.T
    owned = rounding.head.owners >= 0
    error = np.zeros(len(moved))
    for x in (steps.first, steps.second):  # a class's score errs by at most the largest error of its scores
        error += 2.0 * rounding.score_error(bound_vector_norm(x, rounding.norm, axis=1))[:, owned].max(axis=1)
    error += 2.0**-50 * (np.abs(before).max(axis=1) + np.abs(after).max(axis=1))  # of the three subtractions
    distance = bound_vector_norm(up(np.abs(steps.first - steps.second)), norm, axis=1)
    rise = np.maximum(down(np.abs(moved) - up(error)[:, None]), 0.0)
    usable = (distance > 0.0) & np.isfinite(distance)
    slopes = np.divide(rise, distance[:, None], out=np.zeros_like(rise), where=usable[:, None])
    return np.asarray(np.maximum(down(slopes), 0.0))


def pairs_within(points: Array, scores: Array, rng: np.random.Generator, rounds: int = 4) -> Iterator[Steps]:
    """Yield pairs of the points (n, d), each point in several pairs."""
    for _ in range(rounds):
        other = rng.permutation(len(points))
        yield Steps(points, points[other], (scores, scores[other]))


def bound_gradient_error(graph: Graph, norm: Norm) -> float:
    """Return a number never below the rounding error of the gradient norm of a score or a difference.

    A gradient is a product of the layers' matrices, with rows moved or dropped in between (on either side
    of a kink, the matrices are the same). In float64 its error is at most γ_k |W_1|ᵀ…|W_L|ᵀ|v|, k the
    roundings along the longest path (Higham 2002, section 3.5); that product is at most the Lipschitz
    constant of the graph with |W| for W. A norm of d entries rounds d + 2 times more.
    """
    absolute = replace(graph, ops=tuple(_absolute(op) for op in graph.ops))
    readers = max(len(ops_) for ops_ in graph.consumers().values())
    roundings = graph.input_size + 4 + sum(_roundings(op) + readers for op in graph.ops)
    return 2.0 * gamma(roundings) * bound_lipschitz(absolute, norm).bound_global


def _roundings(op: ops.Op) -> int:
    """Return the roundings of one entry of the input's cotangent in an operation's backward pass."""
    match op:
        case ops.Dense():
            return len(op.weight) + 1
        case ops.Conv():
            return len(op.kernel) // op.groups + int(op.window.readers.shape[1]) + 1
        case ops.AveragePool() | ops.MaxPool():
            return int(op.window.readers.shape[1]) + 2
        case (
            ops.Scale() | ops.Shift() | ops.Clip() | ops.Abs() | ops.Negate() | ops.LeakyRelu() | ops.Sort()
            | ops.SortingNetwork() | ops.Extremum() | ops.ReduceExtremum() | ops.Sum() | ops.Concat()
            | ops.Select() | ops.Reshape() | ops.Transpose()
        ):  # fmt: skip
            return 2  # at most a product or a quotient; masks are products with 0 and 1, which are exact
        case _:
            raise missing_rule(op, "gradient rounding errors")


def _absolute(op: ops.Op) -> ops.Op:
    match op:
        case ops.Dense():
            return replace(op, weight=np.abs(op.weight))
        case ops.Conv():
            return replace(op, kernel=np.abs(op.kernel))
        case ops.Scale():
            return replace(op, factor=np.abs(op.factor))
        case ops.LeakyRelu():
            return replace(op, slope=np.abs(op.slope))
        case (
            ops.Shift() | ops.Clip() | ops.Abs() | ops.Negate() | ops.AveragePool() | ops.MaxPool()
            | ops.Sort() | ops.SortingNetwork() | ops.Extremum() | ops.ReduceExtremum() | ops.Sum()
            | ops.Concat() | ops.Select() | ops.Reshape() | ops.Transpose()
        ):  # fmt: skip
            return op  # no weights, or none below 0, so its bound is that of |W|
        case _:
            raise missing_rule(op, "absolute weights")
