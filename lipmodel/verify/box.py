"""A Clip in front of linear scores: ``docs/certificate.md``, section 6.3, in balls.

Clipping is a projection by coordinate: for x' - x = s∘u with ‖u‖_p <= r, clip(x') - clip(x) = s∘u' with
‖u'‖_p <= r and clip(x) + s∘u' in the box. So a difference of scores <v, clip(x)> + constant falls by no more
than

    l2:   Σ max over 0 <= t <= t_k of (w_k t - μ t²) + μ r²,    l1:  Σ t_k max(w_k - μ, 0) + μ r,
    linf: Σ w_k min(t_k, r),

for any μ >= 0, with w_k = |s_k v_k| and t_k the room of u_k in the direction in which it falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flint import arb

from lipmodel.network import ops
from lipmodel.network.ops import Graph
from lipmodel.norms import Norm
from lipmodel.threat import Threat
from lipmodel.verify.exact_numbers import vector_norm
from lipmodel.verify.linear_maps import LinearMaps


@dataclass(frozen=True)
class Box:
    """The box of the first operations of a graph.

    Attributes:
        low, high: ends by column; None where there is none.
        output: the tensor of clipped inputs.
    """

    low: list[arb | None]
    high: list[arb | None]
    output: str

    def clip(self, x: Sequence[float]) -> list[arb]:
        """Return the clipped input."""
        result = []
        for value, low, high in zip(map(arb, x), self.low, self.high, strict=True):
            above = value if low is None else value.max(low)
            result.append(above if high is None else above.min(high))
        return result

    def size(self, norm: Norm) -> arb | None:
        """Return the largest norm of a point of the box; None where it is unbounded."""
        ends = []
        for low, high in zip(self.low, self.high, strict=True):
            if low is None or high is None:
                return None
            ends.append(abs(low).max(abs(high)))
        return vector_norm(ends, norm)


def box_of(graph: Graph) -> Box | None:
    """Return the box of the Clips and reshapes that alone read the input in a row; None without one."""
    name, found = graph.input, None
    low, high = np.full(graph.input_size, -np.inf), np.full(graph.input_size, np.inf)
    while name != graph.output:
        readers = [op for op in graph.ops if name in op.inputs]
        if len(readers) != 1 or not isinstance(op := readers[0], ops.Clip | ops.Reshape):
            break
        name = op.output
        if isinstance(op, ops.Clip):
            if op.low is not None:
                low = np.maximum(low, np.broadcast_to(op.low, op.shape).ravel())
            if op.high is not None:
                high = np.minimum(high, np.broadcast_to(op.high, op.shape).ravel())
            if not ((low <= high) & (low < np.inf) & (high > -np.inf)).all():
                break  # crossed: no projection
            lower, upper = ([arb(v) if np.isfinite(v) else None for v in side] for side in (low, high))
            found = Box(lower, upper, name)
    return found


@dataclass(frozen=True)
class BoxedScores:
    """Features that are linear in the clipped input.

    Attributes:
        maps: the maps from the clipped input to the features, without signs.
        negated: whether the features are those of ``maps`` with the opposite sign.
    """

    maps: LinearMaps
    negated: bool

    def row(self, row: list[arb]) -> list[arb]:
        """Return the coefficients of <row, features> in the clipped input."""
        signed = [-v for v in row] if self.negated else row
        return self.maps.row(signed) if self.maps.ops else signed


def boxed_scores(body: Graph, box: Box) -> BoxedScores | None:
    """Return the output of a body as maps of the clipped input; None where it is not linear."""
    maps: LinearMaps | None = LinearMaps(box.output, None, ())
    name, negated = box.output, False
    outputs = [op.output for op in body.ops]
    if box.output not in outputs:
        return None
    for op in body.ops[outputs.index(box.output) + 1 :]:
        if op.inputs != (name,) or maps is None:
            return None
        name, maps, negated = op.output, maps.then(op), negated ^ isinstance(op, ops.Negate)
    return None if maps is None else BoxedScores(maps, negated)


def fall(row: list[arb], box: Box, z: list[arb], threat: Threat, radius: arb, multiplier: arb) -> arb:
    """Return how far <row, clip(x')> may lie below <row, clip(x)>, at most."""
    scale = threat.scale or (1.0,) * len(row)
    total = arb(0)
    for v, low, high, value, s in zip(row, box.low, box.high, z, map(arb, scale), strict=True):
        if s == 0 or v == 0:
            continue
        w = abs(v * s)
        below = None if low is None else (value - low) / s
        above = None if high is None else (high - value) / s
        if v > 0:
            room = below
        elif v < 0:
            room = above
        else:
            room = None if below is None or above is None else below.max(above)
        total += _most(w, room, threat.norm, radius, multiplier)
    if threat.norm is Norm.TWO:
        total += multiplier * radius * radius
    elif threat.norm is Norm.ONE:
        total += multiplier * radius
    return total


def _most(w: arb, room: arb | None, norm: Norm, radius: arb, multiplier: arb) -> arb:
    """Return one column's term of the sums above; none moves by more than r."""
    room = radius if room is None else radius.min(room)
    match norm:
        case Norm.INF:
            return w * room
        case Norm.ONE:
            if w <= multiplier:
                return arb(0)
            return room * (w - multiplier).max(arb(0))
        case Norm.TWO:
            if w >= 2 * multiplier * room:
                return room * (w - multiplier * room)
            return w * w / (4 * multiplier)  # as 0 <= w < 2 μ t, μ > 0
