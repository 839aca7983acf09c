"""A slower, tighter tier: linear bounds that hold on one ball, mixed with the Lipschitz constants.

A functional <λ, t> of a tensor is followed backwards through the pieces of a network to a linear
function of an earlier tensor that is nowhere larger on the ball ‖x' - x‖_p <= r (CROWN: Zhang et al.
2018; Fast-Lin: Weng et al. 2018; Wong, Kolter 2018). At every tensor t on the way through which all
passes, it may stop and let the Lipschitz constants take over, for every s in {1, 2, inf}:

    <λ, t(x')> + c  >=  <λ, t(x)> + c - r ‖λ‖_{s*} L_s(t).

The best of all stops counts. The input is one (there the bound is CROWN's); the features that the
classes' scores are linear in another (there it is that of ``radius.py``), so neither is ever better.

Kinks are relu(d), d in [l, u] on the ball, bounded the same way, kink by kink and layer by layer:
max(a, b) = b + relu(a - b) and min(a, b) = a - relu(a - b) sort. What is put below them stands in
``lines.py``: chords and lines αd, the α of the last functionals adjusted row by row (Xu et al. 2021);
or secants through the value at x, which make a local Lipschitz constant of the bound, and whose doubt
the constants pay for in one norm together instead of kink by kink.

Coefficients are float64 numbers taken as exact; what was lost in computing them is at most γ_k of
their absolute values, times what the tensor can hold, and is subtracted from c (``backward.py``).
All of it bounds the exact function on the real ball; ``tighten.py`` turns that into radii.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from lipmodel.certify import lipschitz, rounding
from lipmodel.certify.head import Indices
from lipmodel.certify.rounding import FORMATS
from lipmodel.certify.tight import primitives as pieces
from lipmodel.certify.tight.functionals import MANY, Ball, Kinks, Scatter, Way, bound_reach
from lipmodel.certify.tight.primitives import Piece
from lipmodel.certify.tight.relaxations import Lines, chords, nearest, relax, swing
from lipmodel.certify.tight.slope_gradients import ascent
from lipmodel.deadline import Deadline
from lipmodel.network.ops import Graph, missing_rule
from lipmodel.network.session import open_session
from lipmodel.network.writer import OnnxBuilder, to_bytes
from lipmodel.norms import Array, Norm, bound_equivalence, bound_vector_norm, down, gamma, inflate, up

STEPS, FIRST_STEP = 12, 0.5
ROWS, ENTRIES = 512, 2**23
"""Functionals followed at a time, and entries of them in one tensor; bounds memory and the time of a step."""


class LocalBounds:
    """Bounds on balls about single inputs, of one graph in one norm.

    Attributes:
        norm: p, of the balls.

    Raises:
        UnsupportedError: the graph has an operation that is not taken apart.
    """

    def __init__(self, graph: Graph, norm: Norm, threads: int = 1) -> None:
        self.norm = norm
        self.graph = graph
        self.pieces = pieces.take_apart(graph)
        self._working = Norm.INF if norm is Norm.INF else Norm.TWO
        self._constants = lipschitz.bound_tensors(graph, norm)
        self._tracks = rounding.bound_tensors(graph, self._working, FORMATS[np.float64])
        self._threads = threads
        self._scatters = [
            Scatter(p, self.pieces[p.inputs[0]].size) if isinstance(p, pieces.Gather) else None
            for p in self.pieces
        ]
        widest = max(piece.size for piece in self.pieces)
        self._rows = max(1, min(ROWS, ENTRIES // widest))
        # The tensor of the graph whose constants a piece has: its own, or those of what it rearranges.
        self._named: list[str | None] = []
        for piece in self.pieces:
            self._named.append(piece.name if piece.like is None else self._named[piece.like])

    @cached_property
    def _session(self) -> Any:
        """Session that computes every tensor; a graph without a kink never needs it."""
        return open_session(_write_all_tensors(self.graph), self._threads)

    @property
    def bends(self) -> bool:
        """Whether there is a kink at all; of a linear function nothing more is known than its constants."""
        return any(isinstance(piece, pieces.Relu | pieces.Exchange) for piece in self.pieces)

    def centre(self, x: Array) -> list[Array | None]:
        """Every tensor at x (d,): as onnxruntime computes it, or rearranged from that, which is exact."""
        outputs = [op.output for op in self.graph.ops]
        given = {self.graph.input: x.reshape(1, *self.graph.input_shape)}
        computed = dict(zip(outputs, self._session.run(outputs, given), strict=True)) | given
        centre: list[Array | None] = []
        for piece in self.pieces:
            value = None
            if piece.name is not None:
                value = computed[piece.name].ravel()
            elif piece.like is not None and (before := centre[piece.inputs[0]]) is not None:
                match piece:
                    case pieces.Gather():
                        value = before[piece.indices]
                    case pieces.Exchange():
                        value = before.copy()
                        value[piece.first] = np.maximum(before[piece.first], before[piece.second])
                        value[piece.second] = np.minimum(before[piece.first], before[piece.second])
                    case _:
                        raise missing_rule(piece, "rearranged primitives")
            centre.append(value)
        return centre

    def ball(self, centre: list[Array | None], radius: float, deadline: Deadline | None = None) -> Ball:
        """The closed ball about the input of a centre, before anything is known of its kinks."""
        x = centre[0]
        assert x is not None
        norm = bound_vector_norm(x, self._working)
        size = up(norm + up(bound_equivalence(self.norm, self._working, len(x)) * radius))
        error, reach = [], []
        for piece, name in zip(self.pieces, self._named, strict=True):
            if name is not None:
                track = self._tracks[name]
                error.append(float(track.error.at(norm)))
                reach.append(float(up(track.size.at(size) + track.error.at(size))))
            else:
                error.append(np.inf)
                reach.append(bound_reach(piece, [reach[i] for i in piece.inputs]))
        return Ball(radius, float(size), centre, error, reach, deadline=deadline or Deadline())

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # NaN and infinity prove nothing below
    def bound_below(self, ball: Ball, rows: Array, wanted: Array | float = -np.inf) -> Array:
        """(R,): never above <row, scores(x')> of the exact scores, for any x' of the ball.

        Args:
            ball: the ball.
            rows: (R, M).
            wanted: (R,) bounds that are enough; where a row is not there, its lines are adjusted to it.

        Raises:
            OutOfTimeError, CancelledError: by the deadline of the ball.
        """
        last = len(self.pieces) - 1
        for number in range(last + 1):
            if isinstance(self.pieces[number], pieces.Relu | pieces.Exchange) and number not in ball.kinks:
                ball.kinks[number] = self._bound_kinks(ball, number)
        bounds, wanted = np.empty(len(rows)), np.broadcast_to(wanted, len(rows))
        for chunk in self._chunks(np.arange(len(rows))):
            bounds[chunk] = self._lower(ball, last, rows[chunk])
            if ball.kinks and ball.centre[0] is not None:
                bounds[chunk] = self._adjusted(ball, last, rows[chunk], bounds[chunk], wanted[chunk])
        return bounds

    def _chunks(self, which: Indices) -> Iterator[Indices]:
        """As many functionals at a time as memory is meant for."""
        return (which[i : i + self._rows] for i in range(0, len(which), self._rows))

    def _adjusted(self, ball: Ball, start: int, rows: Array, bounds: Array, wanted: Array) -> Array:
        """(R,) bounds raised by moving the lower lines of each row (α-CROWN: Xu et al. 2021).

        Whatever the slopes, each bound holds; so the steps need no proof, only the bounds do.
        """
        missing = np.flatnonzero(~(bounds > wanted))
        slopes = {
            number: np.tile(nearest(low, high), (len(missing), 1))
            for number, (low, high) in ball.kinks.items()
        }
        for step in range(STEPS):
            if not len(missing):
                break
            way = Way(ball, start, rows[missing])
            bounds[missing] = np.fmax(bounds[missing], self.follow(way, slopes))
            uphill = ascent(self.pieces, way, self.norm)
            length = FIRST_STEP * (1.0 - step / STEPS)
            kept = ~(bounds[missing] > wanted[missing])
            missing = missing[kept]
            slopes = {
                number: np.clip(alpha + length * uphill[number], 0.0, 1.0)[kept]
                for number, alpha in slopes.items()
            }
        return bounds

    def _bound_kinks(self, ball: Ball, number: int) -> Kinks:
        """Bounds on the kinks of a piece: first at its own input, then through all for those left open."""
        piece = self.pieces[number]
        count = len(piece.first) if isinstance(piece, pieces.Exchange) else piece.size
        low, high = np.full(count, -np.inf), np.full(count, np.inf)
        for shallow in (True, False):
            still_open = np.flatnonzero((low < 0.0) & (high > 0.0))
            for chunk in self._chunks(still_open):
                rows = _arguments(piece, self.pieces[piece.inputs[0]].size, chunk)
                start = piece.inputs[0]
                low[chunk] = np.fmax(low[chunk], self._lower(ball, start, rows, shallow=shallow))
                high[chunk] = np.fmin(high[chunk], -self._lower(ball, start, -rows, shallow=shallow))
        return low, high

    def _lower(self, ball: Ball, start: int, rows: Array, *, shallow: bool = False) -> Array:
        """(R,): never above <row, t(x')> on the ball, t the tensor ``start``; the best over lower lines."""
        lines: tuple[Lines, ...] = ("secants",) if shallow else ("nearest", "parallel", "secants")
        bounds = [self.follow(Way(ball, start, rows), line, shallow=shallow) for line in lines]
        return np.asarray(np.fmax.reduce(bounds))

    def follow(self, way: Way, lines: Lines, *, shallow: bool = False) -> Array:
        """(R,): never above the functionals of a way on its ball: the best of all stops, or the first."""
        best = np.full(len(way.constant), -np.inf)
        for number in range(max(way.rows), -1, -1):
            if number not in way.rows:
                continue
            if len(way.rows) == 1 and way.ball.centre[number] is not None:
                best = np.fmax(best, self._stop(number, way))
                if shallow:
                    break
            if number:
                way.ball.deadline.check()
                self._step(number, way, lines)
        return best

    def _stop(self, number: int, way: Way) -> Array:
        """Lets the Lipschitz constants of a tensor bound what is left of the way."""
        ball, rows, name = way.ball, way.rows[number], self._named[number]
        centre = ball.centre[number]
        assert centre is not None
        assert name is not None
        value = rows @ centre
        doubt = inflate(gamma(len(centre) + 2) * (np.abs(rows) @ np.abs(centre)), len(centre) + 4)
        constants = self._constants[name]
        norms = [self.norm] if number == 0 else lipschitz.useful_norms(constants, len(centre))
        speed = np.min([up(bound_vector_norm(rows, s.dual) * constants[s]) for s in norms], axis=0)
        off = up(bound_vector_norm(rows, self._working.dual) * ball.error[number]) if number else 0.0
        return np.asarray(down(down(way.constant + down(value - doubt)) - up(up(ball.radius * speed) + off)))

    def _step(self, number: int, way: Way, lines: Lines) -> None:
        """Replaces a tensor by what it is made of."""
        piece, rows = self.pieces[number], way.rows.pop(number)
        n = rows.shape[1]
        match piece:
            case pieces.Matrix():
                m, _ = piece.weight.shape
                blocks = rows.reshape(len(rows), n // m, m)
                absolute = np.abs(blocks).sum(axis=1)
                weight = absolute @ np.abs(piece.weight).sum(axis=1)
                way.add(piece.inputs[0], (blocks @ piece.weight).reshape(len(rows), -1), m, weight)
                if piece.bias is not None:
                    way.add_constant(rows, np.tile(piece.bias, n // m))
            case pieces.Factor():
                product = rows / piece.factor if piece.divide else rows * piece.factor
                way.add(piece.inputs[0], product, 1, np.abs(product).sum(axis=1))
            case pieces.Offset():
                way.add(piece.inputs[0], rows)
                way.add_constant(rows, piece.offset)
            case pieces.Gather():
                scatter = self._scatters[number]
                assert scatter is not None
                weight = np.abs(rows).sum(axis=1)
                way.add(piece.inputs[0], scatter(rows), scatter.most - 1, weight)
            case pieces.Join():
                sizes = [self.pieces[i].size for i in piece.inputs]
                for i, part in zip(piece.inputs, np.split(rows, np.cumsum(sizes)[:-1], axis=1), strict=True):
                    way.add(i, part)
            case pieces.Plus():
                for i in piece.inputs:
                    way.add(i, rows)
            case pieces.Relu():
                way.add(piece.inputs[0], self._bend(number, rows, way, lines))
            case pieces.Exchange():
                first, second = rows[:, piece.first], rows[:, piece.second]
                # first·max + second·min = first·b + second·a + (first - second) relu(a - b), and a
                # factor rounded down makes it no larger, since relu(d) >= 0.
                bend = np.where(first == second, 0.0, down(first - second))
                slope = self._bend(number, bend, way, lines)
                passed = rows.copy()
                passed[:, piece.first], passed[:, piece.second] = second + slope, first - slope
                way.add(piece.inputs[0], passed, 1, np.abs(passed).sum(axis=1))
            case _:
                raise missing_rule(piece, "relaxations")

    def _bend(self, number: int, bend: Array, way: Way, lines: Lines) -> Array:
        """The slopes ν of lines in d below bend·relu(d), (R, kinks); their constants go to the way."""
        piece, ball = self.pieces[number], way.ball
        before = piece.inputs[0]
        low, high = ball.kinks[number]
        centre = ball.centre[before]
        if lines != "secants" or centre is None:
            if isinstance(lines, Mapping):
                below = lines[number]
            else:
                below = chords(low, high) if lines == "parallel" else nearest(low, high)
            slope, constant = relax(bend, low, high, below)
            way.add_constant_terms(constant)
            way.lines[number] = bend, slope, constant
            return slope
        pair = isinstance(piece, pieces.Exchange)
        at = centre[piece.first] - centre[piece.second] if isinstance(piece, pieces.Exchange) else centre
        error = up(up(np.abs(at) * 2.0**-52) + 2.0 * ball.error[before])
        at = np.clip(at, low, high)  # no farther from any d in [low, high]
        slope, doubt = swing(bend, low, high, at)
        # bend·relu(d) >= bend·relu(at) + slope (d - at) - doubt |d - at|
        way.add_constant(bend, np.maximum(at, 0.0))
        way.add_constant(slope, -at)
        each = inflate(doubt @ up(np.maximum(up(high - at), up(at - low))), MANY)
        name = self._named[before]
        assert name is not None
        # … or all |d - at| at once: |d(x') - d(x)| by the constants of the tensor, and the error of at.
        constants, n = self._constants[name], len(centre)
        spread = np.hstack([doubt, doubt]) if pair else doubt
        speed = np.min(
            [
                up(bound_vector_norm(spread, s.dual) * constants[s])
                for s in lipschitz.useful_norms(constants, n)
            ],
            axis=0,
        )
        off = inflate(doubt @ error, MANY)
        way.constant = down(way.constant - np.fmin(each, up(up(ball.radius * speed) + off)))
        return slope


def _arguments(piece: Piece, size: int, which: Indices) -> Array:
    """(len(which), size): the arguments d of those kinks of a piece, as functionals of its input."""
    rows, line = np.zeros((len(which), size)), np.arange(len(which))
    match piece:
        case pieces.Relu():
            rows[line, which] = 1.0
        case pieces.Exchange():
            rows[line, piece.first[which]], rows[line, piece.second[which]] = 1.0, -1.0
        case _:
            raise missing_rule(piece, "nonlinearities")
    return rows


def _write_all_tensors(graph: Graph) -> bytes:
    """The program that computes the scores, with every tensor on the way an output."""
    builder = OnnxBuilder(np.float64, graph)
    for op in graph.ops:
        builder.emit(op, op.inputs, op.output)
    outputs = [builder.value_info(op.output, op.shape) for op in graph.ops]
    return to_bytes(builder.model([builder.value_info(graph.input, graph.input_shape)], outputs))
