"""The box of a Clip in front of a network, which no change of the input leaves.

Clipping by coordinate is a projection, |clip(x')_k - clip(x)_k| <= |x'_k - x_k|. So for F = G∘clip and a
change x' - x = s∘u with ‖u‖_p <= r, also clip(x') - clip(x) = s∘u' with ‖u'‖_p <= r: a proof about G for
the changes of clip(x) that stay in the box K is one about F for every change of x, inside K or not. No caller
promises anything.

For a difference of scores that is linear on K, v the gradient and m the margin less all rounding errors, the
answer may turn only where -<v, δ> >= m for a δ = s∘u with z + δ in K, z = clip(x). With w = |s∘v| and, by
column, the room t_k >= 0 that u_k has in the direction in which the difference falls, the radius is proved
where

    h(r) = max { <w, u> : ‖u‖_p <= r, 0 <= u_k <= t_k } < m.

For any μ > 0, h(r) <= Σ max over [0, t_k] of (w_k u - μ u²) + μ r² in l2, and h(r) <= Σ t_k max(w_k - μ, 0) +
μ r in l1; in linf, h(r) = Σ w_k min(r, t_k). The best μ, found in plain floats, makes both exact; any μ
proves a radius. Source of the l2 form: Voráček, Hein 2022 (nearest prototypes in [0, 1]^d).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lipmodel.network import ops
from lipmodel.network.ops import Graph
from lipmodel.norms import Array, Norm, bound_vector_norm, gamma, inflate, up, vector_norm
from lipmodel.threat import Threat

ROUNDS = 30
"""Maximum steps towards the best μ; each adds columns without room left, mostly there are 3 to 6."""
SUPPORT_ROUNDS = 4
LEAST_RADIUS = 2.0**-500
"""Radius up to which h(r) is bounded without the box, since r² may underflow."""
LEAST_MARGIN, LARGEST_GRADIENT = 2.0**-500, 2.0**400
"""Range of margins and gradients in which underflow costs less than 2^-80 of the margin."""


@dataclass(frozen=True, eq=False)
class Box:
    """The box K = {z : low <= z <= high} of a graph that clips its input first.

    Attributes:
        low: (d,) lower ends; -inf where there is none.
        high: (d,) upper ends; inf where there is none.
        behind: the graph G of the scores as a function of the clipped input.
    """

    low: Array
    high: Array
    behind: Graph

    def clip(self, x: Array) -> Array:
        """Return inputs (N, d) or (d,) as the graph clips them, exactly."""
        return np.clip(x, self.low, self.high)

    def bound_size(self, norm: Norm) -> float:
        """Return an upper bound on the norm of every point of the box; infinite for an unbounded box."""
        return float(bound_vector_norm(np.maximum(np.abs(self.low), np.abs(self.high)), norm))

    def room(self, z: Array, threat: Threat) -> tuple[Array, Array]:
        """Return upper bounds on how far each changed column may go down and up within the box.

        Args:
            z: (N, d) clipped inputs.
            threat: threat set, which gives the units of the results (N, changed columns).
        """
        changed = threat.changed
        down, up = (z - self.low)[:, changed], (self.high - z)[:, changed]
        if threat.scale is not None:
            down, up = down / threat.scales[changed], up / threat.scales[changed]
        # Two roundings; a division by a scale loses less than the last term to underflow.
        return tuple(side * (1.0 + 2.0**-50) + 2.0**-1000 for side in (down, up))  # type: ignore[return-value]


def find_box(graph: Graph) -> Box | None:
    """Return the box of a graph if only a Clip, or reshapes in front of one, read the input; else None.

    Clips in a row, such as a Max and a Min with constants, count as one where their ends leave something
    between them. At least one column needs an end; a Clip with crossed ends is no projection.
    """
    low, high = np.full(graph.input_size, -np.inf), np.full(graph.input_size, np.inf)
    front: set[str] = set()
    box = None
    for op in _sole_readers(graph):
        front.add(op.output)
        if isinstance(op, ops.Clip):
            low, high = (
                np.maximum(low, _ends(op.low, op, -np.inf)),
                np.minimum(high, _ends(op.high, op, np.inf)),
            )
            if not ((low <= high) & (low < np.inf) & (high > -np.inf)).all():  # NaN compares false
                break
            rest = tuple(later for later in graph.ops if later.output not in front)
            box = Box(low, high, replace(graph, input=op.output, input_shape=op.shape, ops=rest))
    return box if box is not None and (np.isfinite(box.low) | np.isfinite(box.high)).any() else None


def _sole_readers(graph: Graph) -> Iterator[ops.Clip | ops.Reshape]:
    """Yield the Clips and reshapes from the input on, while each is the sole reader of the one before."""
    readers, name = graph.consumers(), graph.input
    while name != graph.output and len(readers[name]) == 1:
        op = readers[name][0]
        if not isinstance(op, ops.Clip | ops.Reshape):
            return
        yield op
        name = op.output


def _ends(ends: Array | None, op: ops.Clip, missing: float) -> Array:
    return np.full(op.size, missing) if ends is None else np.broadcast_to(ends, op.shape).ravel()


@np.errstate(all="ignore")  # what overflows or is no number proves nothing
def radius_in_box(rows: Array, below: Array, above: Array, margins: Array, norm: Norm) -> tuple[Array, Array]:
    """Return (P,) proved radii r with their multipliers μ; r is infinite where no point turns the answer.

    Args:
        rows: (P, n) gradients s∘v of differences of scores in the coordinates of u.
        below: (P, n) or (n,) room of each column downwards, and
        above: upwards, in the units of u.
        margins: (P,) margins less all errors, those of ``rows`` included.
        norm: p.

    Returns:
        Radii r > 0 with h(r) < m, and μ; r is 0 where nothing is proved, μ where no point turns the answer.
    """
    w, t = np.abs(rows), np.where(rows < 0.0, above, below)  # where a row is 0 it uses no room
    find = {Norm.ONE: _in_l1, Norm.TWO: _in_l2, Norm.INF: _in_linf}[norm]
    radius, multiplier = find(w, t, margins)
    everything = inflate(np.where(w > 0.0, w * t, 0.0).sum(axis=1), w.shape[1] + 1)
    radius = np.where(everything < margins, np.inf, radius)
    multiplier = np.where(everything < margins, 0.0, multiplier)
    proved = (radius > 0.0) & (margins > LEAST_MARGIN) & (w.max(axis=1, initial=0.0) < LARGEST_GRADIENT)
    return np.where(proved, radius, 0.0), np.where(proved, multiplier, 0.0)


@np.errstate(all="ignore")  # a bound that is no number is replaced by the one without a box
def support_in_box(rows: Array, below: Array, above: Array, radius: float, norm: Norm) -> Array:
    """Return (R,) upper bounds on h(r), by how much linear functions fall within a radius and the box.

    Args:
        rows: (R, n) their gradients in the coordinates of u, taken as exact.
        below: (n,) room of each column downwards, and
        above: upwards, in the units of u.
        radius: r.
        norm: p.
    """
    n = rows.shape[1]
    w, t = np.abs(rows), np.where(rows < 0.0, above, below)
    bound = up(radius * bound_vector_norm(w, norm.dual, axis=1))
    if not radius > LEAST_RADIUS:
        return np.asarray(bound)
    match norm:
        case Norm.INF:
            boxed = inflate((w * np.minimum(t, radius)).sum(axis=1), n + 1)
        case Norm.ONE:  # the columns of the largest w up to a total of r; then μ is the next
            order = np.argsort(-w, axis=1)
            total = np.cumsum(np.take_along_axis(t, order, axis=1), axis=1)
            last = np.minimum((total < radius).sum(axis=1), n - 1)
            mu = np.take_along_axis(w, np.take_along_axis(order, last[:, None], axis=1), axis=1)
            excess = np.where(w > mu, t * up(w - mu), 0.0).sum(axis=1)
            boxed = up(inflate(excess, n + 1) + up(mu[:, 0] * radius))
        case Norm.TWO:  # ‖min(t, τw)‖ = r, from below, and h(r) <= <w, c> + (r² - ‖c‖²) / 2τ for every τ
            squares, tau = w * w, radius / vector_norm(w, norm, axis=1)
            for _ in range(SUPPORT_ROUNDS):
                full = tau[:, None] * w > t
                rest = radius * radius - np.where(full, t * t, 0.0).sum(axis=1)
                step = np.sqrt(rest / np.where(full, 0.0, squares).sum(axis=1))
                tau = np.where((step > tau) & (step < np.inf), step, tau)
            change = np.minimum(t, tau[:, None] * w)
            fallen, square = np.vecdot(w, change), np.vecdot(change, change)
            size = fallen + (radius * radius + square) / tau
            boxed = fallen + 0.5 * (radius * radius - square) / tau + inflate(gamma(n + 12) * size, 4)
    everything = inflate(np.where(w > 0.0, w * t, 0.0).sum(axis=1), n + 1)
    return np.asarray(np.fmin(np.fmin(bound, boxed), everything))


def _in_l2(w: Array, t: Array, margins: Array) -> tuple[Array, Array]:
    """Return the radii of :func:`radius_in_box` in l2.

    With τ = 1/2μ the best change is min(t_k, τ w_k). <w, min(t, τw)> = m is concave in τ, so that Newton's
    steps from the solution without a box increase to the root. For every τ, r² = 2τ (m - <w, c>) + ‖c‖², with
    c = min(t, τw); the rounding of c changes this by less than 2^-100 of it, since c is the best choice.
    """
    squares = w * w
    tau = margins / squares.sum(axis=1)
    used = np.zeros(len(w), dtype=np.intp)
    for _ in range(ROUNDS):
        full = tau[:, None] * w > t
        count = full.sum(axis=1)
        if (count == used).all():
            break
        used = count
        rest = margins - np.where(full, w * t, 0.0).sum(axis=1)
        step = rest / np.where(full, 0.0, squares).sum(axis=1)
        tau = np.where((step > tau) & (step < np.inf), step, tau)
    change = np.minimum(t, tau[:, None] * w)
    reached, square = np.vecdot(w, change), np.vecdot(change, change)
    slack = inflate(gamma(w.shape[1] + 12) * (2.0 * tau * (margins + reached) + square), 4)
    radius = np.sqrt(np.maximum(2.0 * tau * (margins - reached) + square - slack, 0.0)) * (1.0 - 2.0**-50)
    return np.where(np.isfinite(radius), radius, 0.0), 0.5 / tau


def _in_linf(w: Array, t: Array, margins: Array) -> tuple[Array, Array]:
    """Return the radii of :func:`radius_in_box` in linf, and the sum of w over columns with room left.

    For any set S of columns, h(r) <= Σ over S of w_k t_k + r Σ over the others of w_k.
    """
    n = w.shape[1]
    radius = np.zeros(len(w))
    used = np.full(len(w), -1)
    slope = w.sum(axis=1)
    for _ in range(ROUNDS):
        full = t <= radius[:, None]
        count = full.sum(axis=1)
        if (count == used).all():
            break
        used = count
        reached = inflate(np.where(full, w * t, 0.0).sum(axis=1), n + 1)
        slope = inflate(np.where(full, 0.0, w).sum(axis=1), n)
        step = (margins - reached) * (1.0 - 2.0**-52) / slope * (1.0 - 2.0**-51)
        radius = np.where(step > radius, step, radius)
    return np.where(np.isfinite(radius), radius, 0.0), slope


def _in_l1(w: Array, t: Array, margins: Array) -> tuple[Array, Array]:
    """Return the radii of :func:`radius_in_box` in l1: columns are used in order of w, the largest first."""
    n = w.shape[1]
    order = np.argsort(-w, axis=1)
    sorted_w, sorted_t = np.take_along_axis(w, order, axis=1), np.take_along_axis(t, order, axis=1)
    reached = np.cumsum(np.where(sorted_w > 0.0, sorted_w * sorted_t, 0.0), axis=1)
    last = np.minimum((reached < margins[:, None]).sum(axis=1), n - 1)
    mu = np.take_along_axis(sorted_w, last[:, None], axis=1)[:, 0]
    excess = np.where(w > mu[:, None], t * up(w - mu[:, None]), 0.0)
    left = (margins - inflate(excess.sum(axis=1), n + 2)) * (1.0 - 2.0**-52)
    radius = left / mu * (1.0 - 2.0**-51)
    return np.where(np.isfinite(radius), radius, 0.0), mu
