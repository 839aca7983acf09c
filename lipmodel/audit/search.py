"""Looks for the largest gradient norm: over points given, and by hill climbing from the best of them.

What is found is a lower bound on the true Lipschitz constant, up to the rounding of the gradient
itself, which :func:`bound_gradient_error` bounds. It is evidence: it can refute a claim, not prove it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify import ops
from lipmodel.certify.lipschitz import bound_lipschitz
from lipmodel.certify.ops import Graph
from lipmodel.norms import Array, Norm, gamma, vector_norm

CHUNK_ROWS = 256
MAX_CLASSES_FOR_ALL_PAIRS = 20


@dataclass(frozen=True, eq=False)
class Functionals:
    """The scalar functions audited: each score f_i, then each difference f_i - f_j of two scores.

    Attributes:
        cotangents: (F, K): the rows v of <v, f>.
        pairs: per functional (i, None) for score i, (i, j) for a difference.
    """

    cotangents: Array
    pairs: tuple[tuple[int, int | None], ...]


def functionals(graph: Graph) -> Functionals:
    """All scores and all pairs; past 20 classes, the pairs of neighbouring indices only.

    Of a binary classifier [batch, 1] there is one: f, which is the difference of its two classes.
    """
    count = graph.output_shape[0]
    eye = np.eye(count)
    neighbours = [(i, (i + 1) % count) for i in range(count)]
    pairs = list(combinations(range(count), 2)) if count <= MAX_CLASSES_FOR_ALL_PAIRS else neighbours
    rows = [*eye, *(eye[i] - eye[j] for i, j in pairs)] if count > 1 else [*eye]
    named: list[tuple[int, int | None]] = [(i, None) for i in range(count)]
    return Functionals(np.stack(rows), (*named, *pairs) if count > 1 else tuple(named))


@dataclass(frozen=True, eq=False)
class Observed:
    """Gradient norms seen.

    Attributes:
        largest: (F,) the largest of each functional.
        witness: (F, d) where.
        norms: (N, F) at each point.
    """

    largest: Array
    witness: Array
    norms: Array


def observe_gradients(engine: GradientEngine, functions: Functionals, points: Array, norm: Norm) -> Observed:
    """Dual norms of the gradients of every functional at every point (N, d).

    The gradient of a difference is the difference of gradients, so only K are computed a point.
    """
    count = engine.graph.output_shape[0]
    norms = np.empty((len(points), len(functions.pairs)))
    for start in range(0, len(points), CHUNK_ROWS):
        chunk = points[start : start + CHUNK_ROWS]
        gradients = np.stack(
            [engine(chunk, np.tile(row, (len(chunk), 1)))[1] for row in np.eye(count)], axis=1
        )
        for index, (i, j) in enumerate(functions.pairs):
            gradient = gradients[:, i] if j is None else gradients[:, i] - gradients[:, j]
            norms[start : start + len(chunk), index] = vector_norm(gradient, norm.dual)
    best = norms.argmax(axis=0)
    return Observed(norms.max(axis=0), points[best], norms)


def climb(
    engine: GradientEngine,
    functions: Functionals,
    start: Observed,
    norm: Norm,
    scale: float,
    steps: int,
    seed: int,
) -> Observed:
    """Raises the gradient norm of each functional from where it was largest.

    A piecewise linear function has no second derivative to climb, so this goes along the function:
    each step tries to move up and down the gradient's steepest direction and in a random one, by
    lengths from ``scale`` down to a thousandth of it, and keeps what raised the norm.
    """
    rng = np.random.default_rng(seed)
    x, v = start.witness.copy(), functions.cotangents
    g = engine(x, v)[1]
    best = vector_norm(g, norm.dual)
    for step in range(steps):
        length = scale * 10.0 ** (-3.0 * step / max(1, steps - 1))
        random = rng.normal(size=x.shape)
        for direction in (steepest(g, norm), -steepest(g, norm), steepest(random, norm)):
            trial = x + length * direction
            moved = engine(trial, v)[1]
            found = vector_norm(moved, norm.dual)
            better = found > best
            x, g, best = (
                np.where(better[:, None], trial, x),
                np.where(better[:, None], moved, g),
                np.maximum(found, best),
            )
    return Observed(best, x, best[None, :])


def steepest(gradient: Array, norm: Norm) -> Array:
    """The direction of l_p length 1 along which a linear function grows fastest, row by row.

    <g, d> = ‖g‖_{p*}: g/‖g‖ for l2, sign(g) for linf, one signed coordinate for l1; 0 where g is 0.
    """
    if norm is Norm.INF:
        return np.sign(gradient)
    if norm is Norm.TWO:
        length = vector_norm(gradient, norm)[:, None]
        return np.divide(gradient, length, out=np.zeros_like(gradient), where=length > 0)
    direction = np.zeros_like(gradient)
    rows, columns = np.arange(len(gradient)), np.abs(gradient).argmax(axis=1)
    direction[rows, columns] = np.sign(gradient[rows, columns])
    return direction


def bound_gradient_error(graph: Graph, norm: Norm) -> float:
    """Never below the rounding error of an observed gradient norm of a score or of a difference.

    A gradient is a product of the layers' matrices, with rows moved or dropped in between (whichever
    side of a kink rounding puts an input on, the matrices are the same). In float64 it is off by at
    most γ_k |W_1|ᵀ…|W_L|ᵀ|v|, k the roundings along the longest path (Higham 2002, section 3.5); that
    product is at most the Lipschitz constant of the graph with |W| for W. A norm of d entries rounds
    d + 2 times more.
    """
    absolute = replace(graph, ops=tuple(_absolute(op) for op in graph.ops))
    roundings = graph.input_size + 4
    for op in graph.ops:
        roundings += op.weight.shape[0] + 2 if isinstance(op, ops.Dense) else 2
    return 2.0 * gamma(roundings) * bound_lipschitz(absolute, norm).bound_global


def _absolute(op: ops.Op) -> ops.Op:
    if isinstance(op, ops.Dense):
        return replace(op, weight=np.abs(op.weight))
    return replace(op, factor=np.abs(op.factor)) if isinstance(op, ops.Scale) else op
