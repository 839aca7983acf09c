"""A slower, tighter tier: linear bounds that hold on one ball, mixed with the Lipschitz constants.

A functional <λ, t> of a tensor is followed backwards through the primitives of a network to a linear
function of an earlier tensor that is nowhere larger on the ball x' - x = s∘u, ‖u‖_p <= r (CROWN: Zhang et al.
2018; Fast-Lin: Weng et al. 2018; Wong, Kolter 2018). At every tensor t on which alone the functional then
depends, the pass may stop and let the Lipschitz constants take over, for every s in {1, 2, inf}:

    <λ, t(x')> + c  >=  <λ, t(x)> + c - r ‖λ‖_{s*} L_s(t).

The best of all stops counts. The input is one (there the bound is CROWN's); the features that the
classes' scores are linear in another (there it is that of ``radius.py``), so neither is ever better.

Nonlinearities are relu(d), d in [l, u] on the ball, bounded the same way, one by one and layer by layer:
max(a, b) = b + relu(a - b) and min(a, b) = a - relu(a - b) sort. Their relaxations are in
``relaxations.py``: upper relaxations and lower relaxations αd, the α of the last functionals
adjusted row by row (Xu et al. 2021); or secants through the value at x, which make a local Lipschitz
constant of the bound, and whose slack the constants pay for in one norm together instead of one by one.

Coefficients are float64 numbers taken as exact; the error of computing them is at most γ_k of
their absolute values, times the magnitude of the tensor, and is subtracted from c (``functionals.py``).
Behind a Clip of the input (``box.py``) the ball is one about the clipped input, cut to the box: linear
functions are least over both together, from the intervals of the first nonlinearities on.

All of it bounds the exact function on the real ball; ``tightener.py`` turns that into radii.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lipmodel.certify import lipschitz, rounding
from lipmodel.certify.box import Box, support_in_box
from lipmodel.certify.head import Indices
from lipmodel.certify.linear_runs import bound_change
from lipmodel.certify.rounding import FORMATS
from lipmodel.certify.tight import primitives
from lipmodel.certify.tight.functionals import (
    MANY,
    ArgumentBounds,
    BackwardPass,
    Ball,
    Scatter,
    bound_magnitude,
)
from lipmodel.certify.tight.primitives import Primitive
from lipmodel.certify.tight.relaxations import Relaxation, nearest, relax, relax_secant, upper_slopes
from lipmodel.certify.tight.slope_gradients import slope_gradients
from lipmodel.deadline import Deadline
from lipmodel.network.ops import Graph, missing_rule
from lipmodel.network.session import open_session
from lipmodel.network.writer import to_bytes, write_model
from lipmodel.norms import Array, Norm, bound_vector_norm, down, gamma, inflate, up
from lipmodel.threat import Threat, as_threat

STEPS, FIRST_STEP = 12, 0.5
ROWS, ENTRIES = 512, 2**23
"""Maximum functionals followed at a time, and their entries in one tensor: limits on memory and time."""


class LocalBounds:
    """Bounds on balls about single inputs, of one graph for one threat set.

    Attributes:
        threat: threat set of the balls.
        box: box of a Clip in front, which ``graph`` is behind; None without one.

    Raises:
        UnsupportedError: the graph has an operation that is not decomposed into primitives.
    """

    def __init__(self, graph: Graph, threat: Threat | Norm, threads: int = 1, box: Box | None = None) -> None:
        self.threat, self.box = as_threat(threat), box
        norm = self.threat.norm
        self.graph = graph
        self.primitives = primitives.decompose(graph)
        self._working = Norm.INF if norm is Norm.INF else Norm.TWO
        self._constants = lipschitz.bound_tensors(graph, self.threat)
        self._tracks = rounding.bound_tensors(graph, self._working, FORMATS[np.float64])
        self._threads = threads
        self._scatters = {
            number: Scatter(p, self.primitives[p.inputs[0]].size)
            for number, p in enumerate(self.primitives)
            if isinstance(p, primitives.Gather)
        }
        widest = max(primitive.size for primitive in self.primitives)
        self._rows = max(1, min(ROWS, ENTRIES // widest))
        # The tensor of the graph whose constants a primitive has: its own, or the tensor that it rearranges.
        self._named: list[str | None] = []
        for primitive in self.primitives:
            self._named.append(primitive.name if primitive.like is None else self._named[primitive.like])

    @cached_property
    def _session(self) -> Any:
        """Return a session that computes every tensor; a graph without nonlinearities never needs it."""
        model = write_model(self.graph, np.float64, [op.output for op in self.graph.ops])
        return open_session(to_bytes(model), self._threads)

    @property
    def has_nonlinearities(self) -> bool:
        """Return whether there is any nonlinearity; without one local bounds gain nothing."""
        return any(isinstance(primitive, primitives.Nonlinearity) for primitive in self.primitives)

    def centre(self, x: Array) -> list[Array | None]:
        """Return every tensor at x (d,), as onnxruntime computes it, or an exact rearrangement of that.

        With a box number 0 is the clipped input.
        """
        x = x if self.box is None else self.box.clip(x)
        outputs = [op.output for op in self.graph.ops]
        given = {self.graph.input: x.reshape(1, *self.graph.input_shape)}
        computed = dict(zip(outputs, self._session.run(outputs, given), strict=True)) | given
        centre: list[Array | None] = []
        for primitive in self.primitives:
            value = None
            if primitive.name is not None:
                value = computed[primitive.name].ravel()
            elif primitive.like is not None and (before := centre[primitive.inputs[0]]) is not None:
                match primitive:
                    case primitives.Gather():
                        value = before[primitive.indices]
                    case primitives.CompareExchange():
                        value = before.copy()
                        value[primitive.first] = np.maximum(before[primitive.first], before[primitive.second])
                        value[primitive.second] = np.minimum(
                            before[primitive.first], before[primitive.second]
                        )
                    case _:
                        raise missing_rule(primitive, "rearranged primitives")
            centre.append(value)
        return centre

    def ball(self, centre: list[Array | None], radius: float, deadline: Deadline | None = None) -> Ball:
        """Return the closed ball about the input of a centre, without bounds on nonlinearities."""
        x = centre[0]
        assert x is not None
        norm, size = bound_vector_norm(x, self._working), self.bound_size(x, radius, self._working)
        error, magnitude = [], []
        for primitive, name in zip(self.primitives, self._named, strict=True):
            if name is not None:
                track = self._tracks[name]
                error.append(float(track.error.at(norm)))
                magnitude.append(float(up(track.size.at(size) + track.error.at(size))))
            else:
                error.append(np.inf)
                magnitude.append(bound_magnitude(primitive, [magnitude[i] for i in primitive.inputs]))
        return Ball(radius, float(size), centre, error, magnitude, deadline=deadline or Deadline())

    @np.errstate(over="ignore")  # an infinite bound certifies nothing
    def bound_size(self, x: Array, radius: float, norm: Norm) -> Array:
        """Return an upper bound on the norm of every input of the ball about x (d,), within the box."""
        size = up(bound_vector_norm(x, norm) + up(bound_change(self.threat, norm, len(x)) * radius))
        return np.asarray(size if self.box is None else np.minimum(size, self.box.bound_size(norm)))

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # NaN and infinity prove nothing below
    def bound_below(self, ball: Ball, rows: Array, wanted: Array | float = -np.inf) -> Array:
        """Return (R,) lower bounds on <row, scores(x')> of the exact scores, for every x' of the ball.

        Args:
            ball: the ball.
            rows: (R, M) functionals of the scores.
            wanted: (R,) bounds that suffice; the lower relaxations of a row are adjusted up to there.

        Raises:
            OutOfTimeError, CancelledError: raised by the deadline of the ball.
        """
        last = len(self.primitives) - 1
        for number, primitive in enumerate(self.primitives):
            if isinstance(primitive, primitives.Nonlinearity) and number not in ball.arguments:
                ball.arguments[number] = self._bound_arguments(ball, number)
        bounds, wanted = np.empty(len(rows)), np.broadcast_to(wanted, len(rows))
        for chunk in self._chunks(np.arange(len(rows))):
            bounds[chunk] = self._lower(ball, last, rows[chunk])
            if ball.arguments and ball.centre[0] is not None:
                bounds[chunk] = self._adjusted(ball, last, rows[chunk], bounds[chunk], wanted[chunk])
        return bounds

    def _chunks(self, which: Indices) -> Iterator[Indices]:
        """Yield as many functionals at a time as memory allows."""
        return (which[i : i + self._rows] for i in range(0, len(which), self._rows))

    def _adjusted(self, ball: Ball, start: int, rows: Array, bounds: Array, wanted: Array) -> Array:
        """Return (R,) bounds raised by adjusting lower relaxations by row (α-CROWN: Xu et al. 2021).

        Whatever the slopes, each bound holds; so the steps need no proof, only the bounds do.
        """
        missing = np.flatnonzero(~(bounds > wanted))
        slopes = {
            number: np.tile(nearest(low, high), (len(missing), 1))
            for number, (low, high) in ball.arguments.items()
        }
        for step in range(STEPS):
            if not len(missing):
                break
            backward = BackwardPass(ball, start, rows[missing])
            bounds[missing] = np.fmax(bounds[missing], self.follow(backward, slopes))
            uphill = slope_gradients(self.primitives, backward, self.threat, self.box)
            length = FIRST_STEP * (1.0 - step / STEPS)
            kept = ~(bounds[missing] > wanted[missing])
            missing = missing[kept]
            slopes = {
                number: np.clip(alpha + length * uphill[number], 0.0, 1.0)[kept]
                for number, alpha in slopes.items()
            }
        return bounds

    def _bound_arguments(self, ball: Ball, number: int) -> ArgumentBounds:
        """Return bounds on the arguments of nonlinearities: from the tensor before, then through all."""
        primitive = self.primitives[number]
        count = len(primitive.first) if isinstance(primitive, primitives.CompareExchange) else primitive.size
        low, high = np.full(count, -np.inf), np.full(count, np.inf)
        for shallow in (True, False):
            still_open = np.flatnonzero((low < 0.0) & (high > 0.0))
            for chunk in self._chunks(still_open):
                rows = _arguments(primitive, self.primitives[primitive.inputs[0]].size, chunk)
                start = primitive.inputs[0]
                low[chunk] = np.fmax(low[chunk], self._lower(ball, start, rows, shallow=shallow))
                high[chunk] = np.fmin(high[chunk], -self._lower(ball, start, -rows, shallow=shallow))
        return low, high

    def _lower(self, ball: Ball, start: int, rows: Array, *, shallow: bool = False) -> Array:
        """Return (R,) lower bounds on <row, t(x')>, t the tensor ``start``: the best over relaxations."""
        relaxations: tuple[Relaxation, ...] = ("secants",) if shallow else ("nearest", "parallel", "secants")
        bounds = [
            self.follow(BackwardPass(ball, start, rows), relaxation, shallow=shallow)
            for relaxation in relaxations
        ]
        return np.asarray(np.fmax.reduce(bounds))

    def follow(self, backward: BackwardPass, relaxations: Relaxation, *, shallow: bool = False) -> Array:
        """Return (R,) lower bounds on functionals: the best over all tensors to stop at, or the first."""
        best = np.full(len(backward.constant), -np.inf)
        for number in range(max(backward.rows), -1, -1):
            if number not in backward.rows:
                continue
            if len(backward.rows) == 1 and backward.ball.centre[number] is not None:
                best = np.fmax(best, self._stop(number, backward))
                if shallow:
                    break
            if number:
                backward.ball.deadline.check()
                self._step(number, backward, relaxations)
        return best

    def _stop(self, number: int, backward: BackwardPass) -> Array:
        """Return lower bounds on functionals of one tensor from its Lipschitz constants."""
        ball, rows, name = backward.ball, backward.rows[number], self._named[number]
        centre = ball.centre[number]
        assert centre is not None
        assert name is not None
        value = rows @ centre
        rounding_slack = inflate(gamma(len(centre) + 2) * (np.abs(rows) @ np.abs(centre)), len(centre) + 4)
        if number:
            norms = lipschitz.useful_norms(self._constants[name], len(centre))
            lipschitz_bound = self._bound_lipschitz(name, rows, norms)
            fallen = up(
                up(ball.radius * lipschitz_bound)
                + up(bound_vector_norm(rows, self._working.dual) * ball.error[number])
            )
        else:
            fallen = self._fall(rows, centre, ball.radius)
        return np.asarray(down(down(backward.constant + down(value - rounding_slack)) - fallen))

    def _fall(self, rows: Array, x: Array, radius: float) -> Array:
        """Return (R,) upper bounds on <row, x> - <row, x'> for x' in the ball and the box."""
        changed = rows[:, self.threat.changed]
        if self.threat.scale is not None:
            changed = np.copysign(
                inflate(np.abs(changed) * self.threat.scales[self.threat.changed], 1), changed
            )
        if self.box is None:  # <rows, s∘u> over ‖u‖_p <= 1 is exactly ‖s∘rows‖_{p*}
            return np.asarray(up(radius * bound_vector_norm(changed, self.threat.norm.dual)))
        below, above = self.box.room(x[None], self.threat)
        return support_in_box(changed, below[0], above[0], radius, self.threat.norm)

    def _bound_lipschitz(self, name: str, rows: Array, norms: Sequence[Norm]) -> Array:
        """Return (R,) Lipschitz constants of functionals of a tensor, by the best of some norms."""
        bounds = [up(bound_vector_norm(rows, s.dual) * self._constants[name][s]) for s in norms]
        return np.asarray(np.min(bounds, axis=0))

    def _step(self, number: int, backward: BackwardPass, relaxations: Relaxation) -> None:
        """Replace a tensor by its inputs."""
        primitive, rows = self.primitives[number], backward.rows.pop(number)
        n = rows.shape[1]
        match primitive:
            case primitives.Matrix():
                m, _ = primitive.weight.shape
                blocks = rows.reshape(len(rows), n // m, m)
                absolute = np.abs(blocks).sum(axis=1)
                weight = absolute @ np.abs(primitive.weight).sum(axis=1)
                backward.add(
                    primitive.inputs[0], (blocks @ primitive.weight).reshape(len(rows), -1), m, weight
                )
                if primitive.bias is not None:
                    backward.add_constant(rows, np.tile(primitive.bias, n // m))
            case primitives.Factor():
                product = rows / primitive.factor if primitive.divide else rows * primitive.factor
                backward.add(primitive.inputs[0], product, 1, np.abs(product).sum(axis=1))
            case primitives.Offset():
                backward.add(primitive.inputs[0], rows)
                backward.add_constant(rows, primitive.offset)
            case primitives.Gather():
                scatter = self._scatters[number]
                weight = np.abs(rows).sum(axis=1)
                backward.add(primitive.inputs[0], scatter(rows), scatter.most - 1, weight)
            case primitives.Join():
                sizes = [self.primitives[i].size for i in primitive.inputs]
                for i, part in zip(
                    primitive.inputs, np.split(rows, np.cumsum(sizes)[:-1], axis=1), strict=True
                ):
                    backward.add(i, part)
            case primitives.Plus():
                for i in primitive.inputs:
                    backward.add(i, rows)
            case primitives.Relu():
                backward.add(primitive.inputs[0], self._relax(number, rows, backward, relaxations))
            case primitives.CompareExchange():
                first, second = rows[:, primitive.first], rows[:, primitive.second]
                # first·max + second·min = first·b + second·a + (first - second) relu(a - b), and a
                # factor rounded down makes it no larger, since relu(d) >= 0.
                coefficient = np.where(first == second, 0.0, down(first - second))
                slope = self._relax(number, coefficient, backward, relaxations)
                passed = rows.copy()
                passed[:, primitive.first], passed[:, primitive.second] = second + slope, first - slope
                backward.add(primitive.inputs[0], passed, 1, np.abs(passed).sum(axis=1))
            case _:
                raise missing_rule(primitive, "relaxations")

    def _relax(
        self, number: int, coefficient: Array, backward: BackwardPass, relaxations: Relaxation
    ) -> Array:
        """Return slopes ν, (R, n), of relaxations of c·relu(d); their constants are added to the pass."""
        primitive, ball = self.primitives[number], backward.ball
        before = primitive.inputs[0]
        low, high = ball.arguments[number]
        centre = ball.centre[before]
        if relaxations != "secants" or centre is None:
            if isinstance(relaxations, Mapping):
                below = relaxations[number]
            else:
                below = upper_slopes(low, high) if relaxations == "parallel" else nearest(low, high)
            slope, constant = relax(coefficient, low, high, below)
            backward.add_constant_terms(constant)
            backward.relaxations[number] = coefficient, slope, constant
            return slope
        pair = primitive if isinstance(primitive, primitives.CompareExchange) else None
        at = centre[pair.first] - centre[pair.second] if pair else centre
        error = up(up(np.abs(at) * 2.0**-52) + 2.0 * ball.error[before])
        at = np.clip(at, low, high)  # no farther from any d in [low, high]
        slope, rounding_slack = relax_secant(coefficient, low, high, at)
        # bend·relu(d) >= bend·relu(at) + slope (d - at) - doubt |d - at|
        backward.add_constant(coefficient, np.maximum(at, 0.0))
        backward.add_constant(slope, -at)
        each = inflate(rounding_slack @ up(np.maximum(up(high - at), up(at - low))), MANY)
        name = self._named[before]
        assert name is not None
        # … or all |d - at| at once: |d(x') - d(x)| by the constants of the tensor, and the error of at.
        spread = np.hstack([rounding_slack, rounding_slack]) if pair else rounding_slack
        norms = lipschitz.useful_norms(self._constants[name], len(centre))
        lipschitz_bound = self._bound_lipschitz(name, spread, norms)
        off = inflate(rounding_slack @ error, MANY)
        backward.constant = down(
            backward.constant - np.fmin(each, up(up(ball.radius * lipschitz_bound) + off))
        )
        return slope


def _arguments(primitive: Primitive, size: int, which: Indices) -> Array:
    """Return the arguments d of the nonlinearities ``which`` of a primitive, as functionals of its input.

    Shape (len(which), size).
    """
    rows, relaxation = np.zeros((len(which), size)), np.arange(len(which))
    match primitive:
        case primitives.Relu():
            rows[relaxation, which] = 1.0
        case primitives.CompareExchange():
            rows[relaxation, primitive.first[which]], rows[relaxation, primitive.second[which]] = 1.0, -1.0
        case _:
            raise missing_rule(primitive, "nonlinearities")
    return rows
